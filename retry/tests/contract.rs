//! The laws that a service and a layer keep: readiness, shared state, cancellation, panics.

mod support;

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use seawall_retry::{Backoff, BoxError, Budget, Retry, RetryError, RetryLayer, Stopped};
use support::{Busy, call, seconds};
use tokio_test::{assert_pending, assert_ready_ok};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_test::mock;

fn layer(attempts: u32) -> RetryLayer {
    RetryLayer::new(Backoff::exponential(seconds(1)).attempts(attempts))
}

#[tokio::test(start_paused = true)]
async fn is_ready_when_the_inner_service_is() {
    let (mut service, mut handle) = mock::spawn_layer::<u32, u32, _>(layer(3));
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn readies_the_inner_service_before_each_attempt() {
    /// Panics when it is called without being readied, and loses its readiness when cloned.
    struct Strict {
        ready: bool,
        calls: Arc<AtomicU32>,
    }

    impl Clone for Strict {
        fn clone(&self) -> Self {
            Self {
                ready: false,
                calls: Arc::clone(&self.calls),
            }
        }
    }

    impl Service<()> for Strict {
        type Response = u32;
        type Error = Busy;
        type Future = std::future::Ready<Result<u32, Busy>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Busy>> {
            self.ready = true;
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            assert!(
                std::mem::take(&mut self.ready),
                "called without being readied"
            );
            let calls = self.calls.fetch_add(1, SeqCst) + 1;
            std::future::ready(if calls < 4 { Err(Busy) } else { Ok(calls) })
        }
    }

    let mut service = layer(5).layer(Strict {
        ready: false,
        calls: Arc::default(),
    });
    assert_eq!(call(&mut service, ()).await.unwrap(), 4);
    // The instance that was called can be readied and called again.
    assert_eq!(call(&mut service, ()).await.unwrap(), 5);
}

#[tokio::test(start_paused = true)]
async fn layering_twice_shares_one_budget() {
    let budget = Budget::ratio(0.1).burst(2);
    let layer = layer(2).budget(budget.clone());
    let failing = service_fn(|()| async { Err::<(), _>(Busy) });
    let mut services = [layer.layer(failing), layer.clone().layer(failing)];

    for stopped in [Stopped::Exhausted, Stopped::Budget] {
        for service in &mut services {
            let error = call(service, ()).await.unwrap_err();
            assert_eq!(RetryError::find(&error).unwrap().stopped, stopped);
        }
    }
    assert_eq!(budget.balance(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_passes_through_and_is_not_retried() {
    let calls = AtomicU32::new(0);
    let mut service = layer(5).layer(service_fn(|()| {
        calls.fetch_add(1, SeqCst);
        async {
            if true {
                panic!("broken")
            } else {
                Err::<(), _>(Busy)
            }
        }
    }));
    let panic = AssertUnwindSafe(call(&mut service, ()))
        .catch_unwind()
        .await
        .unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"broken"));
    assert_eq!(calls.load(SeqCst), 1);
}

/// Counts the requests that are alive.
#[derive(Debug)]
struct Tracked(Arc<()>);

impl Clone for Tracked {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_poll_it_leaks_no_request_no_permit_and_no_retry() {
    let alive = Arc::new(());
    let budget = Budget::ratio(0.5).burst(4);
    // The permit is taken by `poll_ready` and held by the instance that was readied.
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(service_fn(|_: Tracked| async {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            Err::<(), _>(Busy)
        }));
    let layer = layer(4)
        .budget(budget.clone())
        .deadline(seconds(60))
        .attempt_timeout(seconds(5));
    let service = layer.layer(inner);
    let before = std::cell::Cell::new(0.0_f64);

    let result = test_support::drop_at_every_poll(
        || {
            before.set(budget.balance());
            let mut service = service.clone();
            let request = Tracked(Arc::clone(&alive));
            async move { call(&mut service, request).await }
        },
        async |polls| {
            assert_eq!(
                Arc::strong_count(&alive),
                1,
                "a request leaked after {polls} polls"
            );
            let mut probe = service.clone();
            probe.ready().await.expect("the permit is free again");
            // A retry is spent only by an attempt that was made, and those are whole numbers.
            let spent = before.get() - budget.balance();
            assert!(
                (0.0..=3.0).contains(&spent) && spent.fract() == 0.0,
                "{spent} retries spent"
            );
            while budget.balance() < 4.0 {
                budget.deposit();
            }
        },
    )
    .await;
    let error = result.unwrap_err();
    assert_eq!(RetryError::find(&error).unwrap().attempts, 4);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_planned_and_dropped_goes_back_into_the_budget() {
    let budget = Budget::ratio(0.5).burst(4);
    let mut service = layer(4)
        .budget(budget.clone())
        .layer(service_fn(|()| async { Err::<(), _>(Busy) }));
    let mut waiting = tokio_test::task::spawn(call(&mut service, ()));
    assert_pending!(waiting.poll());
    assert_eq!(budget.balance(), 3.0, "one retry is planned");
    drop(waiting);
    assert_eq!(budget.balance(), 4.0);
}

#[tokio::test(start_paused = true)]
async fn calls_of_different_layers_on_one_thread_keep_to_their_own_settings() {
    let failing = service_fn(|()| std::future::ready(Err::<(), _>(Busy)));
    let budgets = [1, 2, 3].map(|burst| Budget::ratio(0.1).burst(burst));
    let mut services: Vec<_> = std::iter::zip(&budgets, 2..)
        .map(|(budget, attempts)| layer(attempts).budget(budget.clone()).layer(failing))
        .collect();
    for service in &mut services {
        // Some end before the next begins, some while others run.
        drop(service.call(()));
    }
    let calls: Vec<_> = services
        .iter_mut()
        .map(|service| service.call(()))
        .collect();
    let ends = futures_util::future::join_all(calls).await;
    for (end, attempts) in std::iter::zip(ends, 2..) {
        assert_eq!(
            RetryError::find(&end.unwrap_err()).unwrap().attempts,
            attempts
        );
    }
    assert!(budgets.iter().all(|budget| budget.balance() == 0.0));
}

#[tokio::test(start_paused = true)]
async fn a_call_outlives_its_service_and_nothing_of_the_user_outlives_the_call() {
    let owned = Arc::new(());
    let held = Arc::clone(&owned);
    let budget = Budget::ratio(0.5).burst(2);
    let layer = layer(2)
        .budget(budget.clone())
        .classify(move |_: Result<&(), &BoxError>| {
            let _ = &held;
            seawall_retry::Class::Transient
        });
    let mut service = layer.layer(service_fn(|()| std::future::ready(Err::<(), _>(Busy))));
    let running = service.call(());
    drop((layer, service));
    running.await.unwrap_err();
    assert_eq!(budget.balance(), 1.0);
    assert_eq!(Arc::strong_count(&owned), 1);
}

#[test]
fn the_service_and_its_future_can_be_sent_and_shared() {
    fn sent<T: Send + Sync>(_: &T) {}
    let service = layer(2).layer(service_fn(|()| std::future::ready(Ok::<(), Busy>(()))));
    sent(&service);
    sent(&service.clone().call(()));
}

#[test]
fn everything_can_be_debugged_without_asking_it_of_the_parts() {
    let layer = layer(2).classify(|_: Result<&(), &BoxError>| seawall_retry::Class::Success);
    let service = layer.clone().layer(());
    assert!(format!("{layer:?} {service:?}").contains("attempts: 2"));
    let _: &Retry<(), _, _, _, _, _> = &service;
}
