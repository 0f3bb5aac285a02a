//! Orders that are sent again, through tonic's own channel.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use seawall_idempotency::SetKeyLayer;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_api::shop::{NewOrder, create};
use tower::Layer;

async fn connect() -> Channel {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(tonic_api::serve(listener));
    let server = Endpoint::from_shared(format!("http://{address}")).unwrap();
    server.connect().await.unwrap()
}

fn order(article: &str, number: u32, key: Option<&'static str>) -> Request<NewOrder> {
    let mut request = Request::new(NewOrder {
        article: article.to_owned(),
        number,
    });
    let metadata = request.metadata_mut();
    metadata.insert("authorization", "Bearer ada".parse().unwrap());
    if let Some(key) = key {
        metadata.insert("idempotency-key", key.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn an_order_that_is_sent_again_is_made_once_and_its_answer_repeated() {
    let channel = connect().await;
    let first = create(channel.clone(), order("tea", 1, Some("k1")))
        .await
        .unwrap();
    assert_eq!(first.metadata().get("idempotency-replayed"), None);
    let again = create(channel.clone(), order("tea", 1, Some("\"k1\"")))
        .await
        .unwrap();
    assert_eq!(
        again.metadata().get("idempotency-replayed").unwrap(),
        "true"
    );
    assert_eq!(again.get_ref(), first.get_ref());
    assert_eq!((again.get_ref().id, again.get_ref().attempt), (1, 1));

    let other = create(channel, order("coffee", 1, Some("k1")))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::InvalidArgument);
    assert_eq!(
        other.metadata().get("idempotency-problem").unwrap(),
        "mismatch"
    );
}

#[tokio::test]
async fn an_error_is_an_answer_unless_nothing_was_done() {
    let channel = connect().await;
    let none = create(channel.clone(), order("tea", 0, Some("k1")))
        .await
        .unwrap_err();
    let again = create(channel.clone(), order("tea", 0, Some("k1")))
        .await
        .unwrap_err();
    assert_eq!(
        again.metadata().get("idempotency-replayed").unwrap(),
        "true"
    );
    assert_eq!(
        (again.code(), again.message()),
        (none.code(), none.message())
    );
    assert_eq!(again.code(), Code::InvalidArgument);

    let moon = create(channel, order("moon", 1, Some("k2")))
        .await
        .unwrap_err();
    assert_eq!(moon.code(), Code::Unavailable);
}

#[tokio::test]
async fn an_order_needs_a_key_which_a_client_gives_it() {
    let channel = connect().await;
    let missing = create(channel.clone(), order("tea", 1, None))
        .await
        .unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
    assert_eq!(
        missing.metadata().get("idempotency-problem").unwrap(),
        "key-missing"
    );

    let channel = SetKeyLayer::http().layer(channel);
    let made = create(channel, order("tea", 1, None)).await.unwrap();
    assert_eq!((made.get_ref().id, made.get_ref().attempt), (1, 1));
}
