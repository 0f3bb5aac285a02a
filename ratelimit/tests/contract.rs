//! The laws of a service: readiness, the readied instance, cancellation, errors.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::cell::Cell;
use std::future::{Future, Ready, poll_fn, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use seawall_ratelimit::window::{SlidingWindow, Terms};
use seawall_ratelimit::{
    BoxError, Charges, Decision, MemoryStore, Policy, Quota, RateLimitError, RateLimitLayer, Rule,
    Store, StoreError, Verdict,
};
use test_support::drop_at_every_poll;
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt};
use tower_test::{assert_request_eq, mock};

fn one_a_minute() -> Rule {
    Rule::new("all", Quota::per_minute(1))
}

fn memory() -> MemoryStore {
    MemoryStore::with_capacity(16)
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_when_the_service_is() {
    let layer = RateLimitLayer::new(memory()).rule(one_a_minute());
    let (mut service, mut handle) =
        mock::spawn_with::<&str, &str, _, _>(|inner| layer.layer(inner));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());

    let mut answer = task::spawn(service.call("hello"));
    assert_pending!(answer.poll());
    assert_request_eq!(handle, "hello").send_response("world");
    assert_eq!(answer.await.unwrap(), "world");
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_does_not_reach_the_service() {
    let layer = RateLimitLayer::new(memory()).rule(one_a_minute());
    let (mut service, mut handle) =
        mock::spawn_with::<&str, &str, _, _>(|inner| layer.layer(inner));
    assert_ready_ok!(service.poll_ready());
    let first = service.call("first");
    assert_request_eq!(handle, "first").send_response("answer");
    first.await.unwrap();

    assert_ready_ok!(service.poll_ready());
    let error = service.call("second").await.unwrap_err();
    assert!(matches!(
        RateLimitError::find(&error),
        Some(RateLimitError::Refused(_))
    ));
    handle.allow(1);
    assert!(task::spawn(handle.next_request()).poll().is_pending());
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_service_comes_through() {
    let layer = RateLimitLayer::new(memory()).rule(one_a_minute());
    let (mut service, mut handle) =
        mock::spawn_with::<&str, &str, _, _>(|inner| layer.layer(inner));
    assert_ready_ok!(service.poll_ready());
    let answer = service.call("hello");
    assert_request_eq!(handle, "hello").send_error("broken");
    let error = answer.await.unwrap_err();
    assert_eq!(error.to_string(), "broken");
    assert!(RateLimitError::find(&error).is_none());
}

/// Says who was readied, and panics when another is called.
#[derive(Debug)]
struct Picky {
    readied: bool,
    calls: Rc<Cell<usize>>,
    reserved: Rc<Cell<usize>>,
}

impl Picky {
    fn new() -> Self {
        Self {
            readied: false,
            calls: Rc::default(),
            reserved: Rc::default(),
        }
    }
}

impl Clone for Picky {
    fn clone(&self) -> Self {
        Self {
            readied: false,
            calls: Rc::clone(&self.calls),
            reserved: Rc::clone(&self.reserved),
        }
    }
}

impl Drop for Picky {
    fn drop(&mut self) {
        if self.readied {
            self.reserved.set(self.reserved.get() - 1);
        }
    }
}

impl Service<()> for Picky {
    type Response = ();
    type Error = BoxError;
    type Future = Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if !self.readied {
            self.readied = true;
            self.reserved.set(self.reserved.get() + 1);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        assert!(self.readied, "an instance was called that nobody readied");
        self.readied = false;
        self.reserved.set(self.reserved.get() - 1);
        self.calls.set(self.calls.get() + 1);
        ready(Ok(()))
    }
}

/// A store that answers after some polls.
#[derive(Clone, Debug)]
struct Slow {
    polls: usize,
    answer: fn() -> Result<Decision, StoreError>,
}

impl Store for Slow {
    type Scope = ();
    type Deciding = Pin<Box<dyn Future<Output = Result<Decision, StoreError>>>>;

    fn scope(&self, _: &Policy) {}

    fn decide(&self, charges: &Charges<'_, ()>) -> Verdict<Self::Deciding> {
        assert_eq!(charges.len(), 1);
        let (mut polls, answer) = (self.polls, self.answer);
        Verdict::Later(Box::pin(poll_fn(move |cx| {
            if polls == 0 {
                return Poll::Ready(answer());
            }
            polls -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })))
    }
}

fn passes() -> Result<Decision, StoreError> {
    Ok(Decision::empty())
}

fn is_full() -> Result<Decision, StoreError> {
    let mut window = SlidingWindow::new(Terms::new(Quota::per_second(1), 0));
    window.charge(0, 1);
    let mut decision = Decision::empty();
    decision.push(0, window.decide(0, 1));
    Ok(decision)
}

fn is_out() -> Result<Decision, StoreError> {
    Err(StoreError::Unavailable("no answer".into()))
}

fn slow(
    answer: fn() -> Result<Decision, StoreError>,
) -> RateLimitLayer<Slow, impl seawall_ratelimit::Apply<()>> {
    RateLimitLayer::new(Slow { polls: 3, answer }).rule(one_a_minute())
}

#[tokio::test]
async fn the_instance_that_was_readied_is_called() {
    let picky = Picky::new();
    let mut at_once = RateLimitLayer::new(memory())
        .rule(one_a_minute())
        .layer(picky.clone());
    at_once.ready().await.unwrap().call(()).await.unwrap();
    let mut later = slow(passes).layer(picky.clone());
    for _ in 0..3 {
        later.ready().await.unwrap().call(()).await.unwrap();
    }
    assert_eq!((picky.calls.get(), picky.reserved.get()), (4, 0));
}

#[tokio::test]
async fn what_a_refused_call_had_reserved_is_given_back() {
    let picky = Picky::new();
    let mut service = slow(is_full).layer(picky.clone());
    let error = service.ready().await.unwrap().call(()).await.unwrap_err();
    assert!(matches!(
        RateLimitError::find(&error),
        Some(RateLimitError::Refused(_))
    ));
    assert_eq!((picky.calls.get(), picky.reserved.get()), (0, 0));
}

#[tokio::test]
async fn a_refusal_at_once_leaves_the_instance_ready() {
    let picky = Picky::new();
    let mut service = RateLimitLayer::new(memory())
        .rule(one_a_minute())
        .layer(picky.clone());
    service.ready().await.unwrap().call(()).await.unwrap();
    service.ready().await.unwrap().call(()).await.unwrap_err();
    assert_eq!(
        picky.reserved.get(),
        1,
        "it is still that of the service, for its next call"
    );
    drop(service);
    assert_eq!(picky.reserved.get(), 0);
}

#[tokio::test]
async fn a_store_that_does_not_decide_is_an_error_with_its_source() {
    let mut service = slow(is_out).layer(Picky::new());
    let error = service.ready().await.unwrap().call(()).await.unwrap_err();
    let Some(RateLimitError::Store(store)) = RateLimitError::find(&error) else {
        panic!("{error}");
    };
    let cause = std::error::Error::source(store).expect("the cause is kept");
    assert_eq!(cause.to_string(), "no answer");
}

#[tokio::test]
async fn dropping_the_future_at_any_poll_leaks_nothing() {
    for answer in [passes, is_full, is_out] {
        let picky = Picky::new();
        let service = slow(answer).layer(picky.clone());
        let _ = drop_at_every_poll(
            || {
                let mut service = service.clone();
                async move { service.ready().await?.call(()).await }
            },
            async |polls| assert_eq!(picky.reserved.get(), 0, "after {polls} polls"),
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_its_counters() {
    let layer = RateLimitLayer::new(memory()).rule(one_a_minute());
    let mut one = layer.layer(Picky::new());
    let mut other = layer.clone().layer(Picky::new());
    let mut third = one.clone();
    one.ready().await.unwrap().call(()).await.unwrap();
    other.ready().await.unwrap().call(()).await.unwrap_err();
    third.ready().await.unwrap().call(()).await.unwrap_err();
}

#[test]
fn what_ought_to_cross_threads_does() {
    fn crosses<T: Send + Sync + 'static>(_: &T) {}
    let layer = RateLimitLayer::new(memory()).rule(one_a_minute());
    crosses(&layer);
    crosses(&layer.checker());
    let service = layer.layer(tower::service_fn(async |(): ()| Ok::<(), BoxError>(())));
    crosses(&service);
}
