//! The laws of a service and a layer: readiness, shared state, cancellation, errors.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use seawall_idempotency::{BoxError, Error, IdempotencyLayer, InFlight, MemoryStore, StoreError};
use support::{Message, On, Trouble, Troubled, call, layer, message, ours, settle, spawn};
use tokio::{sync::Semaphore, time::sleep};
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, Service, ServiceBuilder, service_fn};
use tower_test::mock;

const SECOND: Duration = Duration::from_secs(1);

fn memory() -> MemoryStore {
    MemoryStore::with_capacity(1_000)
}

#[tokio::test(start_paused = true)]
async fn is_ready_when_the_inner_service_is() {
    let (mut service, mut handle) = mock::spawn_layer::<Message, String, _>(layer(memory()));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
}

/// Panics when it is called without being readied, and loses its readiness when cloned.
#[derive(Default)]
struct Strict {
    ready: bool,
    readied: Arc<AtomicU64>,
    calls: Arc<AtomicU64>,
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            ready: false,
            readied: Arc::clone(&self.readied),
            calls: Arc::clone(&self.calls),
        }
    }
}

impl Service<Message> for Strict {
    type Response = String;
    type Error = BoxError;
    type Future = std::future::Ready<Result<String, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if !std::mem::replace(&mut self.ready, true) {
            self.readied.fetch_add(1, SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Message) -> Self::Future {
        assert!(
            std::mem::take(&mut self.ready),
            "called without being readied"
        );
        std::future::ready(Ok(format!("call {}", self.calls.fetch_add(1, SeqCst) + 1)))
    }
}

#[tokio::test(start_paused = true)]
async fn calls_the_instance_that_was_readied_and_readies_it_once() {
    let inner = Strict::default();
    let mut service = layer(memory()).layer(inner.clone());
    assert_eq!(call(&mut service, message("a")).await.unwrap(), "call 1");
    assert_eq!(inner.readied.load(SeqCst), 1);
    assert_eq!(call(&mut service, message("b")).await.unwrap(), "call 2");
    assert_eq!(inner.readied.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_gives_its_place_back_and_readies_a_fresh_instance_afterwards() {
    let store = memory();
    let wait = layer(store).in_flight(InFlight::Wait(60 * SECOND));
    let places = Arc::new(Semaphore::new(2));
    let inner = ServiceBuilder::new()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::with_semaphore(
            Arc::clone(&places),
        ))
        .service_fn(|m: Message| async move {
            sleep(SECOND).await;
            Ok::<_, BoxError>(if m.attempt == 1 { "undone" } else { "done" }.to_owned())
        });
    let service = wait.layer(inner);
    let first = spawn(service.clone(), message("a"));
    settle().await;
    let second = spawn(service.clone(), message("a"));
    settle().await;
    assert_eq!(places.available_permits(), 1, "only who works has a place");
    assert_eq!(first.await.unwrap().unwrap(), "undone");
    assert_eq!(
        second.await.unwrap().unwrap(),
        "done",
        "the second executes, readied again"
    );
    assert_eq!(places.available_permits(), 2);
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_records_and_tasks() {
    let inner = Strict::default();
    let layer = layer(memory());
    let mut one = layer.layer(inner.clone());
    let mut two = layer.clone().layer(inner.clone());
    assert_eq!(call(&mut one, message("a")).await.unwrap(), "call 1");
    assert_eq!(call(&mut two, message("a")).await.unwrap(), "call 1");
    assert_eq!(inner.calls.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn dropped_at_every_poll_no_key_is_wedged_and_what_began_is_finished() {
    for on in [
        None,
        Some((On::Claim, Trouble::ReplyLost)),
        Some((On::Complete, Trouble::ReplyLost)),
    ] {
        let drops = support::Drops::default();
        if let Some((on, trouble)) = on {
            drops.trouble_each(on, trouble);
        }
        let most = drops.run().await;
        assert!(most >= 2, "it was dropped before and after it began");
        assert_eq!(drops.wedged(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_that_was_never_polled_did_nothing() {
    let store = Troubled::default();
    let mut service = layer(store.clone()).layer(Strict::default());
    assert_ready_ok!(
        tokio_test::task::spawn(std::future::poll_fn(|cx| service.poll_ready(cx))).poll()
    );
    drop(service.call(message("a")));
    settle().await;
    assert_eq!(store.claims(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_inner_service_arrives_as_itself() {
    let mut service = layer(memory()).layer(service_fn(|_: Message| async {
        Err::<String, _>(std::io::Error::other("the inner one"))
    }));
    let error = call(&mut service, message("a")).await.unwrap_err();
    assert_eq!(
        error.downcast_ref::<std::io::Error>().unwrap().to_string(),
        "the inner one"
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_layer_is_typed_and_keeps_its_source() {
    let store = Troubled::default();
    store.down(true);
    let mut service = layer(store).layer(Strict::default());
    let error = call(&mut service, message("a")).await.unwrap_err();
    let source = error
        .source()
        .unwrap()
        .downcast_ref::<StoreError>()
        .unwrap();
    assert_eq!(
        std::error::Error::source(source).unwrap().to_string(),
        "connection refused"
    );
    assert!(matches!(ours(error), Error::Store(_)));
}

#[test]
fn futures_errors_and_handles_can_be_sent() {
    fn is_send<T: Send + 'static>() {}
    is_send::<seawall_idempotency::ResponseFuture<String, BoxError>>();
    is_send::<Error>();
    is_send::<seawall_idempotency::Lease>();
    is_send::<seawall_idempotency::Tasks>();
}

#[test]
fn settings_that_cannot_work_are_refused_with_what_is_wrong() {
    use seawall_idempotency::ConfigError;
    let new = || IdempotencyLayer::new(memory());
    let wrong = |layer: Result<_, ConfigError>| -> ConfigError { layer.map(|_| ()).unwrap_err() };
    assert_eq!(
        wrong(new().try_lease(Duration::ZERO)),
        ConfigError::LeaseTooShort(Duration::ZERO)
    );
    let (lease, keep_for) = (10 * SECOND, 5 * SECOND);
    let expected = ConfigError::LeaseBeyondRetention { lease, keep_for };
    assert_eq!(wrong(new().lease(lease).try_keep_for(keep_for)), expected);
    assert_eq!(wrong(new().keep_for(keep_for).try_lease(lease)), expected);
    assert!(matches!(
        wrong(new().try_keep_for(Duration::MAX)),
        ConfigError::RetentionTooLong(Duration::MAX)
    ));
    assert_eq!(
        MemoryStore::try_with_capacity(0).map(|_| ()).unwrap_err(),
        ConfigError::NoCapacity
    );
    // A retention below the default lease is no mistake, and shortens it.
    assert!(new().try_keep_for(SECOND).is_ok());
}

#[test]
#[should_panic(expected = "a lease of 0ns cannot be renewed in time")]
fn a_setting_in_code_panics_with_what_is_wrong() {
    let _ = IdempotencyLayer::new(memory()).lease(Duration::ZERO);
}
