//! Refusals as gRPC clients get to see them.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http_body_util::BodyExt;
use seawall_ratelimit::{Apply, MemoryStore, Plan, Quota, RateLimitLayer, Respond, Rule};
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};

async fn answer(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::from("message")))
}

/// The fields of a response; a refusal has nothing else, and its status is always 200.
async fn headers(
    limits: &RateLimitLayer<MemoryStore, impl Apply<Request<Body>>, Respond>,
) -> HeaderMap {
    let mut service = limits.layer(service_fn(answer));
    let request = Request::default();
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let (head, body) = response.into_parts();
    let refused = head.headers.contains_key("grpc-status");
    assert_eq!(http_body::Body::is_end_stream(&body), refused);
    assert_eq!(body.collect().await.unwrap().to_bytes().is_empty(), refused);
    head.headers
}

fn with(rule: Rule) -> RateLimitLayer<MemoryStore, impl Apply<Request<Body>>, Respond> {
    RateLimitLayer::new(MemoryStore::with_capacity(10))
        .rule(rule)
        .grpc()
}

#[tokio::test(start_paused = true)]
async fn over_the_limit_is_resource_exhausted_with_the_wait() {
    let limits = with(Rule::new(
        "100% of all",
        Quota::new(1, Duration::from_secs(16)),
    ));
    let passed = headers(&limits).await;
    assert!(!passed.contains_key("grpc-status"));
    assert_eq!(passed["ratelimit"], r#""100% of all";r=0;t=17"#);

    advance(Duration::from_micros(1_500)).await;
    let refused = headers(&limits).await;
    assert_eq!(refused["content-type"], "application/grpc");
    assert_eq!(refused["grpc-status"], "8");
    let message = refused["grpc-message"].to_str().unwrap();
    assert_eq!(
        message,
        "over the rate limit of 100%25 of all; there is room in 16.9985s"
    );
    // Up to a millisecond late, and never early.
    assert_eq!(refused["grpc-retry-pushback-ms"], "16999");

    let details = refused["grpc-status-details-bin"].as_bytes();
    let details = BASE64_STANDARD_NO_PAD.decode(details).unwrap();
    let message = "over the rate limit of 100% of all; there is room in 16.9985s";
    let name = "type.googleapis.com/google.rpc.RetryInfo";
    let mut expected = vec![0x08, 8, 0x12, message.len() as u8];
    expected.extend_from_slice(message.as_bytes());
    // Any { type_url, value: RetryInfo { Duration { seconds: 16, nanos: 998500000 } } }
    let info = [0x0a, 8, 0x08, 16, 0x10, 0xa0, 0xcd, 0x8f, 0xdc, 0x03];
    expected.extend([
        0x1a,
        (2 + name.len() + 2 + info.len()) as u8,
        0x0a,
        name.len() as u8,
    ]);
    expected.extend_from_slice(name.as_bytes());
    expected.extend([0x12, info.len() as u8]);
    expected.extend(info);
    assert_eq!(details, expected);
}

#[tokio::test(start_paused = true)]
async fn what_no_waiting_helps_is_not_to_be_tried_again() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(10))
        .rule(Rule::new("all", Quota::per_second(1)).cost(|_: &Request<Body>| 2))
        .grpc();
    let refused = headers(&limits).await;
    assert_eq!(refused["grpc-status"], "8");
    assert_eq!(refused["grpc-retry-pushback-ms"], "-1");

    let limits = RateLimitLayer::new(MemoryStore::with_capacity(10))
        .rule(Rule::new("all", Quota::per_second(1)).plan(|_: &Request<Body>, _| Plan::Denied))
        .grpc();
    let refused = headers(&limits).await;
    assert_eq!(refused["grpc-status"], "7");
    assert_eq!(refused["grpc-message"], "denied by all");
    assert_eq!(refused["grpc-retry-pushback-ms"], "-1");
}

#[tokio::test(start_paused = true)]
async fn the_pushback_is_never_zero() {
    let limits = with(Rule::new("all", Quota::new(1, Duration::from_millis(1))));
    headers(&limits).await;
    advance(Duration::from_micros(999)).await;
    let refused = headers(&limits).await;
    assert_eq!(refused["grpc-retry-pushback-ms"], "1");
}
