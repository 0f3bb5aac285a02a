//! The layer in a real axum router.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use http_body_util::BodyExt;
use seawall_ratelimit::{ClientIp, MemoryStore, Quota, RateLimitLayer, Rule};
use tower::{Service, ServiceBuilder, ServiceExt};

const USER_ID: HeaderName = HeaderName::from_static("x-user-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

fn get_from(path: &str, user: &str) -> Request {
    Request::get(path)
        .header(USER_ID, user)
        .body(Body::empty())
        .unwrap()
}

async fn status(app: &mut Router, request: Request) -> StatusCode {
    let service: &mut Router = <Router as ServiceExt<Request>>::ready(app).await.unwrap();
    service.call(request).await.unwrap().status()
}

#[tokio::test(start_paused = true)]
async fn all_routes_of_a_router_share_one_limiter() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
        .rule(Rule::new("user", Quota::per_minute(3)).by(USER_ID))
        .rule(Rule::new("ip", Quota::per_minute(10_000)).by(ClientIp::behind_proxies(1)))
        .rule(Rule::new("api-key", Quota::per_minute(100_000)).by(API_KEY))
        .http();
    // axum applies the layer to each route on its own.
    let mut app = Router::new()
        .route("/a", get(async || "a"))
        .route("/b", get(async || "b"))
        .route("/c", get(async || "c").post(async || "c"))
        .layer(ServiceBuilder::new().layer(limits));

    for path in ["/a", "/b", "/c"] {
        assert_eq!(
            status(&mut app, get_from(path, "ada")).await,
            StatusCode::OK
        );
    }
    for path in ["/a", "/b", "/c", "/nowhere"] {
        let refused = status(&mut app, get_from(path, "ada")).await;
        assert_eq!(refused, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
    assert_eq!(
        status(&mut app, get_from("/a", "bob")).await,
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_of_one_route_and_a_clone_on_another_share_one_limiter() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
        .rule(Rule::new("user", Quota::per_minute(1)).by(USER_ID))
        .http();
    let mut app = Router::new()
        .route("/a", get(async || "a").layer(limits.clone()))
        .route("/b", get(async || "b").layer(limits))
        .route("/free", get(async || "free"));
    assert_eq!(
        status(&mut app, get_from("/a", "ada")).await,
        StatusCode::OK
    );
    assert_eq!(
        status(&mut app, get_from("/b", "ada")).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(
        status(&mut app, get_from("/free", "ada")).await,
        StatusCode::OK
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_passes_through_whole() {
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
        .rule(Rule::new("user", Quota::per_minute(1)).by(USER_ID))
        .http();
    let text = "wall".repeat(10_000);
    let body = text.clone();
    let mut app = Router::new()
        .route("/a", get(async move || body))
        .layer(limits);
    let service: &mut Router = <Router as ServiceExt<Request>>::ready(&mut app)
        .await
        .unwrap();
    let response = service.call(get_from("/a", "ada")).await.unwrap();
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        text
    );
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn routers_on_one_redis_share_one_limiter() {
    let server = test_support::Redis::start().await;
    let client = redis::Client::open(server.url()).unwrap();
    let router = async || {
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        let patient =
            seawall_redis::Client::shared(connection).deadline(std::time::Duration::from_secs(30));
        let limits = RateLimitLayer::new(seawall_ratelimit::RedisStore::from(patient))
            .rule(Rule::new("user", Quota::per_hour(2)).by(USER_ID))
            .http();
        Router::new().route("/a", get(async || "a")).layer(limits)
    };
    let (mut one, mut other) = (router().await, router().await);
    assert_eq!(
        status(&mut one, get_from("/a", "ada")).await,
        StatusCode::OK
    );
    assert_eq!(
        status(&mut other, get_from("/a", "ada")).await,
        StatusCode::OK
    );
    for app in [&mut one, &mut other] {
        assert_eq!(
            status(app, get_from("/a", "ada")).await,
            StatusCode::TOO_MANY_REQUESTS
        );
        assert_eq!(status(app, get_from("/a", "bob")).await, StatusCode::OK);
    }
}
