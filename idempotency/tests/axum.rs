//! The layer around real axum routes, over real connections where the wire matters.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::State,
    http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use seawall_idempotency::{Fence, IdempotencyLayer, Lease, LeaseState, MemoryStore};
use tower::{Service, ServiceBuilder, ServiceExt};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");

#[derive(Clone, Default)]
struct Orders(Arc<AtomicU64>);

async fn create(
    State(Orders(count)): State<Orders>,
    Fence(attempt): Fence,
    lease: Lease,
    Json(order): Json<serde_json::Value>,
) -> impl IntoResponse {
    assert_eq!(lease.state(), LeaseState::Held);
    let number = count.fetch_add(1, Ordering::SeqCst);
    let body = serde_json::json!({ "number": number, "attempt": attempt, "item": order["item"] });
    (
        StatusCode::CREATED,
        [(header::SET_COOKIE, "session=1")],
        Json(body),
    )
}

fn app(orders: Orders) -> Router {
    let once = IdempotencyLayer::http(MemoryStore::with_capacity(1_000))
        .scope(header::AUTHORIZATION)
        .keep_for(Duration::from_secs(60));
    Router::new()
        .route("/orders", post(create))
        .route("/refunds", post(create))
        .route(
            "/orders",
            get(async |State(Orders(n)): State<Orders>| n.load(Ordering::SeqCst).to_string()),
        )
        .layer(ServiceBuilder::new().layer(once))
        .with_state(orders)
}

fn order(path: &str, key: &str, item: &str) -> Request<Body> {
    Request::post(path)
        .header(KEY, format!("\"{key}\""))
        .header(header::AUTHORIZATION, "Bearer alice")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(format!("{{\"item\":\"{item}\"}}")))
        .unwrap()
}

async fn send(app: &mut Router, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let service: &mut Router = app;
    let response: Response<Body> = <Router as ServiceExt<Request<Body>>>::ready(service)
        .await
        .unwrap()
        .call(request)
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    (
        parts.status,
        parts.headers,
        to_bytes(body, usize::MAX).await.unwrap(),
    )
}

#[tokio::test]
async fn a_router_with_the_layer_executes_once_and_repeats_the_answer() {
    let orders = Orders::default();
    let mut app = app(orders.clone());

    let (status, headers, first) = send(&mut app, order("/orders", "a", "boat")).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(headers.contains_key(header::SET_COOKIE));
    assert!(!headers.contains_key("idempotency-replayed"));

    let (status, headers, again) = send(&mut app, order("/orders", "a", "boat")).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(first, again);
    assert_eq!(headers["idempotency-replayed"], "true");
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    assert!(!headers.contains_key(header::SET_COOKIE));
    assert_eq!(orders.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_routes_of_a_router_share_one_store_although_each_is_layered_by_itself() {
    let orders = Orders::default();
    let mut app = app(orders.clone());
    let (status, ..) = send(&mut app, order("/orders", "a", "boat")).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, headers, body) = send(&mut app, order("/refunds", "a", "boat")).await;
    assert_eq!(
        status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "the same key on another route"
    );
    assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(problem["status"], 422);
    assert!(
        problem["type"]
            .as_str()
            .unwrap()
            .ends_with("#variant.Mismatch"),
        "{problem}"
    );
    assert_eq!(orders.0.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn other_methods_and_requests_without_a_key_pass_through() {
    let orders = Orders::default();
    let mut app = app(orders.clone());
    let mut get = order("/orders", "a", "boat");
    *get.method_mut() = Method::GET;
    assert_eq!(send(&mut app, get).await.2, "0");
    let mut plain = order("/orders", "a", "boat");
    plain.headers_mut().remove(KEY);
    let (status, _, body) = send(&mut app, plain).await;
    assert_eq!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR,
        "the handler asks for a fence"
    );
    assert_eq!(body, "this request has no idempotency claim");
}
