//! A service that is slow for a while, in virtual time: with and without retries, until its backlog is gone.
//!
//! It serves one request after the other, 100 a second, and is asked for 85. For ten seconds it can do
//! only 20. Clients wait a second for an answer and then give up, which the service does not notice: what
//! is queued is worked off, wanted or not.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use seawall_retry::{Backoff, Budget, Jitter, RetryLayer};
use tokio::time::{Instant, sleep_until};
use tower::{Layer, Service, ServiceExt, service_fn};

const EVERY: Duration = Duration::from_nanos(1_000_000_000 / 85);
const FROM: Duration = Duration::from_secs(20);
const UNTIL: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(1);
/// Nobody looks longer.
const END: Duration = Duration::from_secs(180);

/// How long after the brownout the queue is empty for the first time.
async fn recovery(attempts: u32, budget: Option<Budget>) -> Option<Duration> {
    let start = Instant::now();
    let free = Arc::new(Mutex::new(start));
    let queue = Arc::clone(&free);
    let backoff = Backoff::exponential(Duration::from_millis(100))
        .attempts(attempts)
        .jitter(Jitter::Full)
        .seed(1);
    let layer = RetryLayer::new(backoff).attempt_timeout(PATIENCE);
    let layer = match budget {
        Some(budget) => layer.budget(budget),
        None => layer,
    };
    let service = layer.layer(service_fn(move |()| {
        let mut free = queue.lock().expect("no panic");
        let begins = (*free).max(Instant::now());
        let brownout = (start + FROM..start + UNTIL).contains(&begins);
        *free = begins + Duration::from_millis(if brownout { 50 } else { 10 });
        let done = *free;
        async move {
            sleep_until(done).await;
            Ok::<_, std::io::Error>(())
        }
    }));

    let mut at = start;
    while at < start + END {
        sleep_until(at).await;
        if at >= start + UNTIL && *free.lock().expect("no panic") <= at {
            return Some(at - (start + UNTIL));
        }
        let service = service.clone();
        tokio::spawn(async move {
            let mut service = service;
            let answer = service.ready().await.expect("always ready").call(()).await;
            drop(answer);
        });
        at += EVERY;
    }
    None
}

#[tokio::test(start_paused = true)]
async fn brownout_recovery() {
    let alone = recovery(1, None)
        .await
        .expect("without retries it recovers");
    let retried = recovery(4, Some(Budget::ratio(0.1)))
        .await
        .expect("under a budget it recovers");
    let ratio = retried.as_secs_f64() / alone.as_secs_f64();
    println!("figure retry/brownout-recovery: {ratio:.3}");
    assert!(ratio <= 1.25, "{retried:?} instead of {alone:?}");
}

/// The same retries without the budget: what it is for. This fails when a budget is not wired in, as the
/// test above then looks like this one.
#[tokio::test(start_paused = true)]
async fn brownout_without_budget() {
    let recovered = recovery(4, None).await;
    let word = recovered.map_or("never", |_| "recovers");
    println!("figure retry/brownout-without-budget: {word}");
    assert_eq!(word, "never");
}

/// No answer at all for a while: what is sent meanwhile is next to nothing more.
#[tokio::test(start_paused = true)]
async fn outage_amplification() {
    let calls = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let down = Arc::new(AtomicBool::new(true));
    let (counted, is_down) = (Arc::clone(&calls), Arc::clone(&down));
    let inner = service_fn(move |()| {
        counted.fetch_add(1, Relaxed);
        let answer = if is_down.load(Relaxed) {
            Err(std::io::Error::other("down"))
        } else {
            Ok(())
        };
        std::future::ready(answer)
    });
    // Three layers on one way, four attempts each: 64 calls for one without budgets.
    let layer = |_| {
        RetryLayer::new(Backoff::constant(Duration::from_millis(10)).attempts(4))
            .budget(Budget::ratio(0.1))
            .classify(
                |outcome: Result<&(), &seawall_retry::BoxError>| match outcome {
                    Ok(()) => seawall_retry::Class::Success,
                    Err(_) => seawall_retry::Class::Transient,
                },
            )
    };
    let mut service = layer(1).layer(layer(2).layer(layer(3).layer(inner)));
    let requests = 10_000;
    for _ in 0..requests {
        let _ = service.ready().await.expect("always ready").call(()).await;
    }
    let amplification = f64::from(calls.load(Relaxed)) / f64::from(requests);
    println!("figure retry/outage-amplification: {amplification:.4}");
    assert!(amplification <= 1.01);
}
