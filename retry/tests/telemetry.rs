//! What the layers tell: the span of each attempt, events, and counters with bounded labels.
#![cfg(all(feature = "tracing", feature = "metrics"))]

mod support;

use std::{
    future::pending,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
    time::Duration,
};

use seawall_retry::{Attempt, Backoff, BoxError, Budget, Class, HedgeLayer, RetryLayer};
use support::{Busy, call, seconds};
use test_support::{Observed, observe};
use tower::{Layer, service_fn};

/// Does the work in paused time.
fn observed(work: impl AsyncFnOnce()) -> Observed {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime needs nothing here");
    observe("seawall_retry", || runtime.block_on(work()))
}

fn counted(seen: &Observed) -> Vec<(&str, f64)> {
    let metrics = seen.metrics.iter();
    metrics.map(|(name, value)| (&**name, *value)).collect()
}

fn layer(attempts: u32) -> RetryLayer {
    RetryLayer::new(Backoff::exponential(seconds(1)).attempts(attempts))
}

#[test]
fn each_retry_is_told_and_the_success_after_it_is_none() {
    let seen = observed(async || {
        let stamped = layer(5).stamp(|number: &mut u32, attempt: Attempt| *number = attempt.number);
        let mut service = stamped.layer(service_fn(|attempt: u32| {
            std::future::ready(if attempt < 3 { Err(Busy) } else { Ok(()) })
        }));
        call(&mut service, 0).await.unwrap();
    });
    assert_eq!(
        seen.events,
        [
            "DEBUG attempt failed, will retry attempts=1 wait=1s",
            "DEBUG attempt failed, will retry attempts=2 wait=2s",
        ]
    );
    assert_eq!(counted(&seen), [("seawall_retry_retries_total", 2.0)]);
}

#[test]
fn what_a_service_tells_is_in_the_span_of_its_attempt() {
    let seen = observed(async || {
        let mut service = layer(3).layer(service_fn(|()| {
            tracing::info!(target: "seawall_retry_tests", "called");
            async {
                tokio::task::yield_now().await;
                tracing::info!(target: "seawall_retry_tests", "polled");
                Err::<(), _>(Busy)
            }
        }));
        call(&mut service, ()).await.unwrap_err();
        tracing::info!(target: "seawall_retry_tests", "outside");
    });
    let told = seen.events.iter().filter(|line| line.starts_with("INFO"));
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [
            "INFO attempt{number=1}: called",
            "INFO attempt{number=1}: polled",
            "INFO attempt{number=2}: called",
            "INFO attempt{number=2}: polled",
            "INFO attempt{number=3}: called",
            "INFO attempt{number=3}: polled",
            "INFO outside",
        ]
    );
}

/// Each way to stop, by the label that it counts under.
#[test]
fn each_end_is_counted_by_its_reason() {
    let failing = || service_fn(|()| std::future::ready(Err::<(), _>(Busy)));
    let classed = |class: Class| {
        layer(3)
            .classify(move |_: Result<&(), &BoxError>| class)
            .layer(service_fn(|()| std::future::ready(Ok::<_, Busy>(()))))
    };
    let seen = observed(async || {
        call(&mut layer(1).layer(failing()), ()).await.unwrap_err();
        let budget = Budget::ratio(0.1).burst(1);
        let mut spent = layer(3).budget(budget).layer(failing());
        call(&mut spent, ()).await.unwrap_err();
        let hung = service_fn(|()| pending::<Result<(), Busy>>());
        let mut late = layer(3).deadline(seconds(1)).layer(hung);
        call(&mut late, ()).await.unwrap_err();
        let once = layer(3).clone_with(|(): &()| None);
        call(&mut once.layer(failing()), ()).await.unwrap_err();
        // Responses: the last is returned, and no failure of this layer.
        call(&mut classed(Class::Permanent), ()).await.unwrap();
        let throttled = Class::Throttled(Duration::MAX);
        call(&mut classed(throttled), ()).await.unwrap();
    });
    let stopped = |reason| (format!("seawall_retry_stopped_total reason={reason}"), 1.0);
    let mut expected = vec![("seawall_retry_retries_total".to_owned(), 1.0)];
    expected.extend(
        [
            "budget",
            "deadline",
            "exhausted",
            "permanent",
            "throttled",
            "unrepeatable",
        ]
        .map(stopped),
    );
    assert_eq!(
        seen.metrics.clone().into_iter().collect::<Vec<_>>(),
        expected
    );
    assert_eq!(seen.count(&["WARN", "gave up", "error=busy"]), 3);
    assert_eq!(
        seen.count(&["WARN", "gave up", "reason=\"deadline\""]),
        1,
        "{:?}",
        seen.events
    );
    assert_eq!(seen.count(&["DEBUG", "the last response is final"]), 2);
}

#[test]
fn a_hedge_is_told_once_and_an_answer_in_time_is_not() {
    let seen = observed(async || {
        let calls = AtomicU32::new(0);
        let layer = HedgeLayer::after(seconds(1), Budget::ratio(0.1));
        let mut service = layer.layer(service_fn(|()| {
            let first = calls.fetch_add(1, SeqCst) == 0;
            async move {
                if first {
                    pending::<()>().await;
                }
                Ok::<_, Busy>(())
            }
        }));
        call(&mut service, ()).await.unwrap();
        call(&mut service, ()).await.unwrap();
    });
    assert_eq!(counted(&seen), [("seawall_retry_hedges_total", 1.0)]);
    assert_eq!(seen.count(&["no answer yet"]), 1);
}

#[test]
fn a_call_that_succeeds_at_once_tells_nothing() {
    let seen = observed(async || {
        let mut service = layer(5)
            .budget(Budget::ratio(0.1))
            .layer(service_fn(|()| std::future::ready(Ok::<_, Busy>(()))));
        call(&mut service, ()).await.unwrap();
    });
    assert!(
        seen.events.is_empty() && seen.metrics.is_empty(),
        "{seen:?}"
    );
}
