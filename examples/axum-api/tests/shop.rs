//! Orders that are sent again.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum_api::shop::{Books, Stale, routes};
use seawall_idempotency::{Fence, IdempotencyKey, MemoryStore};
use serde_json::Value;
use tower::{Service, ServiceExt};

fn post(key: Option<&str>, body: &str) -> Request<Body> {
    let request = Request::post("/orders")
        .header("authorization", "Bearer ada")
        .header("content-type", "application/json");
    let request = match key {
        Some(key) => request.header("idempotency-key", key),
        None => request,
    };
    request.body(Body::from(body.to_owned())).unwrap()
}

async fn send(shop: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
    let mut shop = shop.clone();
    let shop = ServiceExt::<Request<Body>>::ready(&mut shop).await;
    let response = shop.unwrap().call(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
    (head.status, head.headers, json)
}

#[tokio::test]
async fn an_order_is_made_once_and_its_answer_repeated() {
    let books = Books::default();
    let shop = routes(MemoryStore::with_capacity(100), books.clone());
    let (status, headers, first) = send(
        &shop,
        post(Some("\"k1\""), r#"{"article":"tea","number":2}"#),
    )
    .await;
    assert_eq!(
        (status, &first["id"]),
        (StatusCode::CREATED, &Value::from(1))
    );
    assert_eq!(headers["idempotency-retention"], "86400");

    // The same order, written another way.
    let same = r#"{ "number": 2.0, "article": "te\u0061" }"#;
    let (status, headers, again) = send(&shop, post(Some("\"k1\""), same)).await;
    assert_eq!((status, again), (StatusCode::CREATED, first));
    assert_eq!(headers["idempotency-replayed"], "true");
    assert_eq!(headers["idempotency-retention"], "86400");

    let other = r#"{"article":"tea","number":3}"#;
    let (status, headers, problem) = send(&shop, post(Some("\"k1\""), other)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(
        problem["type"],
        "https://shop.example/docs/idempotency#mismatch"
    );
    assert_eq!(problem["retention"], 86_400);
    assert_eq!(books.orders(), 1);
}

#[tokio::test]
async fn an_order_without_a_key_is_refused() {
    let books = Books::default();
    let shop = routes(MemoryStore::with_capacity(100), books.clone());
    let order = r#"{"article":"tea","number":1}"#;
    for (key, name) in [(None, "key-missing"), (Some("k1"), "key-malformed")] {
        let (status, _, problem) = send(&shop, post(key, order)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(problem["type"].as_str().unwrap().ends_with(name));
    }
    assert_eq!(books.orders(), 0);
}

#[test]
fn books_turn_away_an_attempt_that_was_overtaken_and_make_no_order_twice() {
    let (books, key) = (Books::default(), IdempotencyKey("k1".to_owned()));
    // The first attempt stalls before it writes. The second takes over.
    books.begin(&key, Fence(1)).unwrap();
    assert_eq!(books.write(&key, Fence(2)), Ok(1));
    assert_eq!(books.write(&key, Fence(1)), Err(Stale));
    // The second wrote and died before its answer was stored: the third finds what it did.
    assert_eq!(books.write(&key, Fence(3)), Ok(1));
    assert_eq!(books.orders(), 1);
}
