//! Waiting for room instead of refusing, by paused time.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use seawall_ratelimit::{
    Apply, BoxError, Charges, Decision, MemoryScope, MemoryStore, Policy, Quota, RateLimitError,
    RateLimitLayer, Rule, Store, StoreError, Verdict, Waiting,
};
use test_support::drop_at_every_poll;
use tokio::time::{Instant, advance};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_test::{assert_request_eq, mock};

const PATIENCE: Duration = Duration::from_secs(10);

fn limits(limit: u32) -> RateLimitLayer<MemoryStore, impl Apply<u64>, Waiting> {
    RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("key", Quota::per_second(limit)).key(|key: &u64| (*key).into()))
        .wait_up_to(PATIENCE)
}

async fn echo(key: u64) -> Result<u64, BoxError> {
    Ok(key)
}

/// One call of a service of its own.
async fn call(
    layer: &RateLimitLayer<MemoryStore, impl Apply<u64>, Waiting>,
    key: u64,
) -> Result<u64, BoxError> {
    let mut service = layer.layer(service_fn(echo));
    service.ready().await?.call(key).await
}

fn refused(error: &BoxError) -> bool {
    matches!(
        RateLimitError::find(error),
        Some(RateLimitError::Refused(_))
    )
}

#[tokio::test(start_paused = true)]
async fn who_has_no_room_waits_until_there_is_and_no_longer() {
    let mut service = limits(1).layer(service_fn(echo));
    let start = Instant::now();
    for n in 0..4_u32 {
        assert_eq!(service.ready().await.unwrap().call(7).await.unwrap(), 7);
        // A whole window and the rest of the bucket; timers are as fine as a millisecond.
        let expected = Duration::from_micros(1_062_500) * n;
        let waited = start.elapsed();
        assert!(waited >= expected && waited <= expected + Duration::from_millis(80));
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_pass_in_time_is_refused_at_once() {
    let layer = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("all", Quota::per_minute(1)))
        .wait_up_to(PATIENCE);
    let mut service = layer.layer(service_fn(echo));
    service.ready().await.unwrap().call(1).await.unwrap();
    let start = Instant::now();
    let error = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert!(refused(&error));
    assert_eq!(start.elapsed(), Duration::ZERO);
    // As soon as the wait is short enough, it is worth it.
    advance(Duration::from_secs(54)).await;
    service.ready().await.unwrap().call(1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_allowed_even_if_others_are_faster() {
    let layer = limits(1);
    let mut waiters = tokio::task::JoinSet::new();
    let start = Instant::now();
    for _ in 0..40 {
        let mut service = layer.layer(service_fn(echo));
        waiters.spawn(async move {
            let answer = service.ready().await.unwrap().call(1).await;
            (answer.is_ok(), start.elapsed())
        });
    }
    let ended = waiters.join_all().await;
    let passed = ended.iter().filter(|(passed, _)| *passed).count();
    // The first at once, and one for each window and bucket of the ten seconds.
    assert_eq!(passed, 10);
    assert!(ended.iter().all(|(_, waited)| *waited <= PATIENCE));
}

#[tokio::test(start_paused = true)]
async fn the_inner_service_is_made_ready_after_the_wait() {
    let (inner, mut handle) = mock::pair::<u64, u64>();
    let mut service = limits(1).layer(inner);
    handle.allow(1);
    let mut first = task::spawn(service.ready().await.unwrap().call(1));
    assert_pending!(first.poll());
    assert_request_eq!(handle, 1).send_response(1);
    assert_ready!(first.poll()).unwrap();

    // The layer is ready though the service is not.
    handle.allow(0);
    let mut second = task::spawn(service.ready().await.unwrap().call(1));
    assert_pending!(second.poll());
    advance(Duration::from_secs(2)).await;
    assert_pending!(second.poll());
    handle.allow(1);
    assert_pending!(second.poll());
    assert_request_eq!(handle, 1).send_response(2);
    assert_eq!(assert_ready!(second.poll()).unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn so_many_wait_at_one_time_and_no_more() {
    let layer = limits(1).waiters(2);
    let mut service = layer.layer(service_fn(echo));
    service.ready().await.unwrap().call(1).await.unwrap();
    let mut one = task::spawn(call(&layer, 1));
    let mut two = task::spawn(call(&layer, 1));
    assert_pending!(one.poll());
    assert_pending!(two.poll());
    assert!(refused(&call(&layer, 1).await.unwrap_err()));
    // Other keys have room and need not wait.
    assert_eq!(call(&layer, 2).await.unwrap(), 2);
    // Who goes away makes room.
    drop(two);
    let mut three = task::spawn(call(&layer, 1));
    assert_pending!(three.poll());
    advance(Duration::from_millis(1_100)).await;
    assert_ready!(one.poll()).unwrap();
    assert_pending!(three.poll());
    advance(Duration::from_millis(1_100)).await;
    assert_ready!(three.poll()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_dropped_holds_nothing() {
    let layer = limits(2).waiters(1);
    let mut service = layer.layer(service_fn(echo));
    for _ in 0..2 {
        service.ready().await.unwrap().call(1).await.unwrap();
    }
    drop_at_every_poll(
        || call(&layer, 1),
        async |_| {
            // Neither its place nor a unit: another can wait, and gets what there is.
            let mut service = layer.layer(service_fn(echo));
            let start = Instant::now();
            service.ready().await.unwrap().call(1).await.unwrap();
            assert!(start.elapsed() <= Duration::from_millis(1_200));
        },
    )
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cost_above_the_limit_is_not_waited_for() {
    let mut service = RateLimitLayer::new(MemoryStore::with_capacity(1))
        .rule(Rule::new("all", Quota::per_second(1)).cost(|_: &u64| 2))
        .wait_up_to(Duration::MAX)
        .layer(service_fn(echo));
    let error = service.ready().await.unwrap().call(1).await.unwrap_err();
    assert!(matches!(
        RateLimitError::find(&error),
        Some(RateLimitError::CostAboveLimit(_))
    ));
}

/// The store in memory, as if it were far away.
#[derive(Clone, Debug)]
struct Far(MemoryStore);

impl Store for Far {
    type Scope = MemoryScope;
    type Deciding = Pin<Box<dyn Future<Output = Result<Decision, StoreError>>>>;

    fn scope(&self, policy: &Policy) -> MemoryScope {
        self.0.scope(policy)
    }

    fn decide(&self, charges: &Charges<'_, MemoryScope>) -> Verdict<Self::Deciding> {
        let Verdict::Now(decision) = self.0.decide(charges) else {
            panic!("memory decides at once");
        };
        let mut polls = 2;
        Verdict::Later(Box::pin(poll_fn(move |cx| {
            if polls == 0 {
                return Poll::Ready(Ok(decision.clone()));
            }
            polls -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })))
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_its_time_is_asked_again_after_the_wait() {
    let layer = RateLimitLayer::new(Far(MemoryStore::with_capacity(100)))
        .rule(Rule::new("all", Quota::per_second(1)))
        .wait_up_to(PATIENCE);
    let (inner, mut handle) = mock::pair::<u64, u64>();
    let mut service = layer.layer(inner);
    let start = Instant::now();
    for n in 0..3_u32 {
        handle.allow(0);
        let mut call = task::spawn(service.ready().await.unwrap().call(u64::from(n)));
        // Neither while it decides nor while it waits is the service asked whether it is ready.
        assert_pending!(call.poll());
        handle.allow(1);
        let answer = async {
            assert_request_eq!(handle, u64::from(n)).send_response(7);
        };
        let (answered, ()) = tokio::join!(call, answer);
        assert_eq!(answered.unwrap(), 7);
        assert!(start.elapsed() >= Duration::from_micros(1_062_500) * n);
    }
}
