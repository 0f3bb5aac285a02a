//! What HTTP clients get to see.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use seawall_ratelimit::{Fields, LimitBody, MemoryStore, Quota, RateLimitLayer, Rule, Store};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};

type Request = axum::http::Request<Body>;
type Response = axum::http::Response<Body>;

const USER: axum::http::HeaderName = axum::http::HeaderName::from_static("x-user");

fn request(fields: &[(&str, &str)]) -> Request {
    let mut request = Request::default();
    for (name, value) in fields {
        let name = axum::http::HeaderName::try_from(*name).unwrap();
        request.headers_mut().append(name, value.parse().unwrap());
    }
    request
}

async fn hello(_: Request) -> Result<Response, Infallible> {
    Ok(Response::new(Body::from("hello")))
}

struct Lines(axum::http::HeaderMap);

impl Lines {
    /// All lines of a field as one list; empty if there are none.
    fn of(&self, name: &str) -> String {
        let lines = self.0.get_all(name).iter();
        let lines: Vec<_> = lines.map(|value| value.to_str().unwrap()).collect();
        lines.join(", ")
    }
}

/// Sends one request; gives the status, the fields and the body.
async fn send<S, E>(service: &mut S, request: Request) -> (u16, Lines, String)
where
    S: Service<Request, Response = axum::http::Response<LimitBody<Body>>, Error = E>,
    E: std::fmt::Debug,
{
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    (head.status.as_u16(), Lines(head.headers), body)
}

fn two_rules()
-> RateLimitLayer<MemoryStore, impl seawall_ratelimit::Apply<Request>, seawall_ratelimit::Respond> {
    RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("user", Quota::per_minute(2)).by(USER))
        .rule(Rule::new(
            "all",
            Quota::new(100, Duration::from_millis(1_500)),
        ))
        .http()
}

#[tokio::test(start_paused = true)]
async fn an_allowed_response_tells_what_is_left() {
    let mut service = two_rules().layer(service_fn(hello));
    let (status, fields, body) = send(&mut service, request(&[("x-user", "ada")])).await;
    assert_eq!((status, body.as_str()), (200, "hello"));
    assert_eq!(
        fields.of("ratelimit-policy"),
        r#""user";q=2;w=60, "all";q=100;w=2"#
    );
    assert_eq!(fields.of("ratelimit"), r#""user";r=1;t=64, "all";r=99;t=2"#);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_does_not_apply_is_not_told_of() {
    let mut service = two_rules().layer(service_fn(hello));
    let (_, fields, _) = send(&mut service, request(&[])).await;
    assert_eq!(fields.of("ratelimit"), r#""all";r=99;t=2"#);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_a_429_that_says_when_to_come_back() {
    let mut service = two_rules().layer(service_fn(hello));
    for _ in 0..2 {
        send(&mut service, request(&[("x-user", "ada")])).await;
    }
    let (status, fields, body) = send(&mut service, request(&[("x-user", "ada")])).await;
    assert_eq!(status, 429);
    assert_eq!(fields.of("content-type"), "application/problem+json");
    assert_eq!(fields.of("content-length"), body.len().to_string());
    // The charge was in the first bucket of 3.75 s, which counts until 63.75 s.
    assert_eq!(fields.of("retry-after"), "64");
    assert_eq!(fields.of("ratelimit"), r#""user";r=0;t=64, "all";r=98;t=2"#);
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        problem["type"],
        "https://iana.org/assignments/http-problem-types#quota-exceeded"
    );
    assert_eq!(problem["status"], 429);
    assert_eq!(problem["violated-policies"], serde_json::json!(["user"]));
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_never_early_and_never_zero() {
    let quota = Quota::new(1, Duration::from_millis(10));
    let mut service = RateLimitLayer::new(MemoryStore::with_capacity(1))
        .rule(Rule::new("all", quota))
        .http()
        .layer(service_fn(hello));
    send(&mut service, request(&[])).await;
    advance(Duration::from_micros(9_999)).await;
    let (status, fields, _) = send(&mut service, request(&[])).await;
    assert_eq!((status, fields.of("retry-after").as_str()), (429, "1"));
}

#[tokio::test(start_paused = true)]
async fn a_cost_above_the_limit_has_no_retry_after() {
    let mut service = RateLimitLayer::new(MemoryStore::with_capacity(1))
        .rule(Rule::new("all", Quota::per_minute(5)).cost(|_: &Request| 6))
        .http()
        .layer(service_fn(hello));
    let (status, fields, body) = send(&mut service, request(&[])).await;
    assert_eq!((status, fields.of("retry-after").as_str()), (429, ""));
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["violated-policies"], serde_json::json!(["all"]));
}

#[tokio::test(start_paused = true)]
async fn the_fields_can_be_left_out() {
    let told = async |fields| {
        let mut service = two_rules().fields(fields).layer(service_fn(hello));
        let user = [("x-user", "ada")];
        let (_, allowed, _) = send(&mut service, request(&user)).await;
        send(&mut service, request(&user)).await;
        let (_, refused, _) = send(&mut service, request(&user)).await;
        assert_eq!(refused.of("retry-after"), "64");
        [allowed.of("ratelimit"), refused.of("ratelimit")].map(|field| !field.is_empty())
    };
    assert_eq!(told(Fields::Always).await, [true, true]);
    assert_eq!(told(Fields::OnRefusal).await, [false, true]);
    assert_eq!(told(Fields::Never).await, [false, false]);
}

#[tokio::test(start_paused = true)]
async fn two_layers_both_tell_of_their_rules() {
    let layer = |name| {
        RateLimitLayer::new(MemoryStore::with_capacity(1))
            .rule(Rule::new(name, Quota::per_minute(5)))
            .http()
    };
    let inner = layer("inner").layer(service_fn(hello));
    let mut service = layer("outer").layer(inner);
    let response = service
        .ready()
        .await
        .unwrap()
        .call(request(&[]))
        .await
        .unwrap();
    let lines = response.headers().get_all("ratelimit").iter().count();
    assert_eq!(lines, 2);
}

/// A store that is out for good.
#[derive(Clone, Debug)]
struct Out;

impl Store for Out {
    type Scope = ();
    type Deciding =
        std::future::Ready<Result<seawall_ratelimit::Decision, seawall_ratelimit::StoreError>>;

    fn scope(&self, _: &seawall_ratelimit::Policy) {}

    fn decide(
        &self,
        _: &seawall_ratelimit::Charges<'_, ()>,
    ) -> seawall_ratelimit::Verdict<Self::Deciding> {
        let error = seawall_ratelimit::StoreError::Unavailable("gone".into());
        seawall_ratelimit::Verdict::Later(std::future::ready(Err(error)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_decide_is_a_503() {
    let mut service = RateLimitLayer::new(Out)
        .rule(Rule::new("all", Quota::per_minute(5)))
        .http()
        .layer(service_fn(hello));
    let (status, fields, body) = send(&mut service, request(&[])).await;
    assert_eq!(
        (status, fields.of("content-type").as_str()),
        (503, "application/problem+json")
    );
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(problem["status"], 503);
    assert!(!body.contains("gone"), "causes are not for clients");
}
