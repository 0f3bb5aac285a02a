//! What HTTP clients get to see.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use proptest::prelude::*;
use seawall_ratelimit::{Fields, LimitBody, MemoryStore, Plan, Quota, RateLimitLayer, Rule, Store};
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

#[tokio::test(start_paused = true)]
async fn the_fields_of_old_tell_of_the_rule_that_has_the_least_left() {
    let layer = two_rules().legacy_fields();
    let mut service = layer.layer(service_fn(hello));
    let old = |fields: &Lines| {
        ["limit", "remaining", "reset"].map(|name| fields.of(&format!("x-ratelimit-{name}")))
    };
    let (_, fields, _) = send(&mut service, request(&[("x-user", "ada")])).await;
    assert_eq!(old(&fields), ["2", "1", "64"]);
    send(&mut service, request(&[("x-user", "ada")])).await;
    let (status, fields, _) = send(&mut service, request(&[("x-user", "ada")])).await;
    assert_eq!(status, 429);
    assert_eq!(old(&fields), ["2", "0", "64"]);
    let (_, fields, _) = send(&mut service, request(&[])).await;
    assert_eq!(old(&fields), ["100", "97", "2"]);
    let mut service = two_rules().layer(service_fn(hello));
    let (_, fields, _) = send(&mut service, request(&[])).await;
    assert_eq!(old(&fields), ["", "", ""]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_ones_own_keeps_the_fields_that_say_when() {
    let layer = two_rules().refusal(|error| {
        let mut response = axum::http::Response::new("slow down".into());
        *response.status_mut() = axum::http::StatusCode::IM_A_TEAPOT;
        let rules = error.to_string();
        let headers = response.headers_mut();
        headers.insert("x-why", rules.parse().unwrap());
        // Never early, whatever the closure thinks.
        headers.insert("retry-after", "0".parse().unwrap());
        response
    });
    let mut service = layer.layer(service_fn(hello));
    for _ in 0..2 {
        send(&mut service, request(&[("x-user", "ada")])).await;
    }
    let (status, fields, body) = send(&mut service, request(&[("x-user", "ada")])).await;
    assert_eq!((status, body.as_str()), (418, "slow down"));
    assert!(
        fields
            .of("x-why")
            .starts_with("over the rate limit of user")
    );
    assert_eq!(fields.of("retry-after"), "64");
    assert_eq!(fields.of("content-length"), "9");
    assert_eq!(fields.of("ratelimit"), r#""user";r=0;t=64, "all";r=98;t=2"#);
}

#[tokio::test(start_paused = true)]
async fn who_is_denied_is_forbidden_and_who_has_a_plan_is_told_of_it() {
    let mut service = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(
            Rule::new("user", Quota::per_minute(2))
                .by(USER)
                .plan(|request: &Request, _| {
                    match request.headers().get(USER).map(|user| user.as_bytes()) {
                        Some(b"gold") => Plan::Quota(Quota::new(7, Duration::from_secs(10))),
                        Some(b"mallory") => Plan::Denied,
                        _ => Plan::Regular,
                    }
                }),
        )
        .rule(Rule::new("all", Quota::per_hour(100)))
        .rule(Rule::new("planned", Quota::per_second(1)).shadow())
        .http()
        .layer(service_fn(hello));
    let (_, fields, _) = send(&mut service, request(&[("x-user", "ada")])).await;
    // A shadow is for the operator alone.
    assert_eq!(
        fields.of("ratelimit-policy"),
        r#""user";q=2;w=60, "all";q=100;w=3600"#
    );
    assert_eq!(
        fields.of("ratelimit"),
        r#""user";r=1;t=64, "all";r=99;t=3825"#
    );
    let (_, fields, _) = send(&mut service, request(&[("x-user", "gold")])).await;
    assert_eq!(
        fields.of("ratelimit-policy"),
        r#""user";q=7;w=10, "all";q=100;w=3600"#
    );
    assert_eq!(
        fields.of("ratelimit"),
        r#""user";r=6;t=11, "all";r=98;t=3825"#
    );
    let (status, fields, body) = send(&mut service, request(&[("x-user", "mallory")])).await;
    assert_eq!((status, fields.of("retry-after").as_str()), (403, ""));
    let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&problem["type"], &problem["detail"]),
        (&"about:blank".into(), &"denied by user".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_quota_is_told_at_once() {
    let layer = two_rules();
    let mut service = layer.layer(service_fn(hello));
    send(&mut service, request(&[])).await;
    layer.quotas().set("all", Quota::per_minute(50)).unwrap();
    let (_, fields, _) = send(&mut service, request(&[])).await;
    assert_eq!(
        fields.of("ratelimit-policy"),
        r#""user";q=2;w=60, "all";q=50;w=60"#
    );
    layer.quotas().set("user", Quota::per_second(9)).unwrap();
    let (_, fields, _) = send(&mut service, request(&[])).await;
    assert_eq!(
        fields.of("ratelimit-policy"),
        r#""user";q=9;w=1, "all";q=50;w=60"#
    );
}

/// What a parser of structured fields that is not ours makes of a list: names, and pairs of key and number.
fn parsed(field: &str) -> Vec<(String, Vec<(String, i64)>)> {
    use sfv::{BareItem, List, ListEntry, Parser};

    let list: List = Parser::new(field).parse().unwrap();
    let items = list.into_iter().map(|entry| {
        let ListEntry::Item(item) = entry else {
            panic!("an item, no inner list")
        };
        let BareItem::String(name) = item.bare_item else {
            panic!("a name is a string")
        };
        let parameters = item.params.into_iter().map(|(key, value)| {
            let BareItem::Integer(value) = value else {
                panic!("a parameter is an integer")
            };
            (key.to_string(), i64::from(value))
        });
        (name.as_str().to_owned(), parameters.collect())
    });
    items.collect()
}

proptest! {
    #[test]
    fn any_name_and_quota_make_fields_that_others_can_read(
        name in "[ !#-\\[\\]-~]{1,64}",
        limit in 1_u32..,
        millis in 1_u64..316_000_000_000,
        cost in 0_u32..5,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let quota = Quota::new(limit, Duration::from_millis(millis));
            let other = if name == "other" { "another" } else { "other" };
            let mut service = RateLimitLayer::new(MemoryStore::with_capacity(100))
                .rule(Rule::new(name.clone(), quota).cost(move |_: &Request| cost))
                .rule(Rule::new(other, Quota::per_second(9)))
                .http()
                .layer(service_fn(hello));
            let (status, fields, _) = send(&mut service, request(&[])).await;
            if status != 200 {
                return;
            }
            let seconds = millis.div_ceil(1_000) as i64;
            let policy = parsed(&fields.of("ratelimit-policy"));
            let expected = vec![("q".to_owned(), limit.into()), ("w".to_owned(), seconds)];
            assert_eq!(policy[0], (name.clone(), expected));
            let left = parsed(&fields.of("ratelimit"));
            assert_eq!((&left[0].0, &left[1].0), (&name, &other.to_owned()));
            assert_eq!(left[0].1[0], ("r".to_owned(), i64::from(limit - cost)));
            assert!(left[0].1[1].0 == "t" && left[0].1[1].1 >= 0);
        });
    }
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// The waits that were too short or nothing, of all that clients were told.
#[test]
fn retry_after_is_never_early_and_never_nothing() {
    let mut random = fastrand::Rng::with_seed(11);
    let (mut told, mut wrong) = (0_u32, 0_u32);
    paused().block_on(async {
        for _ in 0..300 {
            let quota = Quota::new(
                random.u32(1..6),
                Duration::from_micros(random.u64(1_000..90_000_000)),
            );
            let costs = random.u32(1..=quota.limit());
            let mut service = RateLimitLayer::new(MemoryStore::with_capacity(10))
                .rule(Rule::new("all", quota).cost(move |_: &Request| costs))
                .rule(Rule::new("second", Quota::per_second(3)))
                .http()
                .layer(service_fn(hello));
            for _ in 0..30 {
                let step = random.u64(0..1_500_000);
                advance(Duration::from_micros(step)).await;
                let (status, fields, _) = send(&mut service, request(&[])).await;
                if status == 200 {
                    continue;
                }
                told += 1;
                let wait: u64 = fields.of("retry-after").parse().unwrap();
                advance(Duration::from_secs(wait)).await;
                let (status, _, _) = send(&mut service, request(&[])).await;
                wrong += u32::from(wait == 0 || status != 200);
            }
        }
    });
    println!("figure ratelimit/retry-after: {wrong}");
    assert!(told > 1_000, "{told}");
    assert_eq!(wrong, 0);
}
