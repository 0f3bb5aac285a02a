//! The laws that a service and a layer keep: readiness, shared state, cancellation.

mod support;

use std::task::{Context, Poll};

use seawall_dlq::{BoxError, DeadLetterLayer, MemorySink, NotWritten, Outcome, Queue};
use support::{Broken, Message, SlowSink, all, call};
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, Service, service_fn};
use tower_test::mock;

fn sink() -> MemorySink {
    MemorySink::with_capacity(100)
}

#[tokio::test]
async fn is_ready_when_the_inner_service_is() {
    let layer = DeadLetterLayer::new(sink()).capture(Message::to_letter);
    let (mut service, mut handle) = mock::spawn_layer::<Message, (), _>(layer);
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
}

/// Panics when it is called without being readied, and loses its readiness when cloned.
#[derive(Debug)]
struct Strict {
    ready: bool,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self { ready: false }
    }
}

impl Service<Message> for Strict {
    type Response = ();
    type Error = Broken;
    type Future = std::future::Ready<Result<(), Broken>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Message) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being readied"
        );
        std::future::ready(Ok(()))
    }
}

#[tokio::test]
async fn calls_the_instance_that_was_readied() {
    let layer = DeadLetterLayer::new(sink()).capture(Message::to_letter);
    let mut service = layer.layer(Strict { ready: false });
    for offset in 0..3 {
        let outcome = call(&mut service, Message::new(offset, "order"))
            .await
            .unwrap();
        assert_eq!(
            outcome,
            Outcome::Done(()),
            "a panic would have been a letter"
        );
    }
}

#[tokio::test]
async fn layering_twice_shares_one_sink() {
    let sink = sink();
    let layer = DeadLetterLayer::new(sink.clone()).capture(Message::to_letter);
    let broken = service_fn(|_: Message| async { Err::<(), _>(Broken) });
    for (offset, mut service) in [(1, layer.layer(broken)), (2, layer.clone().layer(broken))] {
        let outcome = call(&mut service, Message::new(offset, "order"))
            .await
            .unwrap();
        assert!(outcome.dead_lettered().is_some());
    }
    assert_eq!(sink.depth().await.unwrap().letters, 2);
}

#[tokio::test]
async fn an_error_while_it_is_readied_is_no_letter() {
    struct NeverReady;
    impl Service<Message> for NeverReady {
        type Response = ();
        type Error = Broken;
        type Future = std::future::Ready<Result<(), Broken>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Broken>> {
            Poll::Ready(Err(Broken))
        }
        fn call(&mut self, _: Message) -> Self::Future {
            unreachable!("it is never ready")
        }
    }
    let sink = sink();
    let mut service = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(NeverReady);
    let error = call(&mut service, Message::new(1, "order"))
        .await
        .unwrap_err();
    assert!(error.is::<Broken>());
    assert_eq!(sink.depth().await.unwrap().letters, 0);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_it_wrote_the_letter_or_did_not_and_the_next_delivery_ends_as_one_letter()
 {
    let sink = SlowSink::new();
    let service = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(|_: Message| async {
            tokio::task::yield_now().await;
            Err::<(), _>(Broken)
        }));
    let offset = std::cell::Cell::new(0);
    let outcome = test_support::drop_at_every_poll(
        || {
            offset.set(offset.get() + 1);
            let (mut service, message) = (service.clone(), Message::new(offset.get(), "order"));
            async move { call(&mut service, message).await }
        },
        async |polls| {
            let message = Message::new(offset.get(), "order");
            let id = message.to_letter().id();
            let before = sink.letters.get(id).await.unwrap();
            assert!(before.is_none_or(|letter| letter.payload == message.payload));
            // It was not acknowledged, so it comes again.
            let again = call(&mut service.clone(), message).await.unwrap();
            assert_eq!(again, Outcome::DeadLettered(id), "after {polls} polls");
            let letters = all(&sink.letters).await;
            assert_eq!(letters.iter().filter(|letter| letter.id() == id).count(), 1);
        },
    )
    .await;
    assert!(outcome.unwrap().dead_lettered().is_some());
}

#[test]
fn the_service_and_its_future_can_be_sent_and_shared() {
    fn sent<T: Send>(_: &T) {}
    fn shared<T: Send + Sync>(_: &T) {}
    let layer = DeadLetterLayer::new(sink()).capture(Message::to_letter);
    let service = layer.layer(service_fn(|_: Message| {
        std::future::ready(Ok::<(), Broken>(()))
    }));
    shared(&service);
    sent(&service.clone().call(Message::new(1, "order")));
    assert!(format!("{layer:?} {service:?}").contains("MemorySink"));
}

#[test]
fn errors_can_be_found_in_a_chain() {
    let error: BoxError = Broken.into();
    assert!(NotWritten::find(&error).is_none());
}
