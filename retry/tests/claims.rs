//! The claims of this crate, each with its figure.

mod support;

use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use seawall_retry::{Attempt, Backoff, BoxError, Budget, Class, Jitter, RetryLayer};
use support::{Busy, call, seconds};
use tokio::time::Instant;
use tower::{Layer, Service, service_fn};

#[test]
fn backoff_exact() {
    let backoff = Backoff::exponential(seconds(1))
        .cap(seconds(300))
        .attempts(1000);
    let expected = [1, 2, 4, 8, 16, 32, 64, 128, 256]
        .into_iter()
        .chain(std::iter::repeat(300));
    let delays: Vec<_> = backoff.delays().collect();
    assert_eq!(delays.len(), 999);
    let wrong = delays
        .iter()
        .zip(expected)
        .filter(|(delay, exact)| **delay != seconds(*exact));
    let mismatches = wrong.count();
    println!("figure retry/backoff-exact: {mismatches}");
    assert_eq!(mismatches, 0);
}

/// The largest chi-square of 10,000 first waits in 100 equal bins, over jitters and seeds. With 99
/// degrees of freedom 148.2 is exceeded by one uniform sample of a thousand.
#[test]
fn jitter_chi_square() {
    let mut largest = 0.0_f64;
    // Each with the range of its first wait, in seconds.
    for (jitter, low, high) in [
        (Jitter::Full, 0.0, 1.0),
        (Jitter::Equal, 0.5, 1.0),
        (Jitter::Decorrelated, 1.0, 3.0),
    ] {
        for seed in 0..3 {
            let backoff = Backoff::exponential(seconds(1)).jitter(jitter).seed(seed);
            let mut bins = [0_u32; 100];
            for wait in first_waits(backoff) {
                let bin = (wait - low) / (high - low) * 100.0;
                bins[(bin as usize).min(99)] += 1;
            }
            let chi_square = bins.iter().map(|n| (f64::from(*n) - 100.0).powi(2) / 100.0);
            largest = largest.max(chi_square.sum());
        }
    }
    println!("figure retry/jitter-chi-square: {largest:.1}");
    assert!(largest <= 148.2);
}

/// The largest correlation, either way, between the first waits of neighbouring sessions, and between the
/// waits of one session as shares of their ranges. Of independent ones 0.04 is four standard deviations.
#[test]
fn jitter_correlation() {
    let mut largest = 0.0_f64;
    for seed in 0..3 {
        for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
            let backoff = Backoff::exponential(seconds(1)).jitter(jitter).seed(seed);
            let waits = first_waits(backoff);
            let (even, odd): (Vec<_>, Vec<_>) = waits.chunks(2).map(|two| (two[0], two[1])).unzip();
            largest = largest.max(correlation(&even, &odd).abs());
            largest = largest.max(correlation(&waits[1..], &waits[..waits.len() - 1]).abs());
        }
        let backoff = Backoff::exponential(seconds(1))
            .jitter(Jitter::Full)
            .seed(seed);
        let (first, second): (Vec<_>, Vec<_>) = (0..10_000)
            .map(|session| {
                let mut waits = backoff.session(session);
                let mut share = |of: f64| waits.next().map_or(0.0, |wait| wait.as_secs_f64() / of);
                (share(1.0), share(2.0))
            })
            .unzip();
        largest = largest.max(correlation(&first, &second).abs());
    }
    println!("figure retry/jitter-correlation: {largest:.4}");
    assert!(largest <= 0.04);
}

/// The first waits of 10,000 sessions, in seconds.
fn first_waits(backoff: Backoff) -> Vec<f64> {
    (0..10_000)
        .filter_map(|session| backoff.session(session).next())
        .map(|wait| wait.as_secs_f64())
        .collect()
}

fn correlation(xs: &[f64], ys: &[f64]) -> f64 {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (x, y) = (mean(xs), mean(ys));
    let product = |a: &[f64], a_mean: f64, b: &[f64], b_mean: f64| {
        std::iter::zip(a, b)
            .map(|(a, b)| (a - a_mean) * (b - b_mean))
            .sum::<f64>()
    };
    product(xs, x, ys, y) / (product(xs, x, xs, x) * product(ys, y, ys, y)).sqrt()
}

#[test]
fn cap_exceeded() {
    let mut rng = fastrand::Rng::with_seed(1);
    let mut spans = rng.fork();
    let mut up_to_years = || {
        let bits = spans.u32(1..63);
        Duration::from_nanos(spans.u64(1..=1 << bits))
    };
    let mut exceeded = 0;
    for _ in 0..5_000 {
        let base = up_to_years();
        let cap = base.saturating_add(up_to_years());
        let jitters = [
            Jitter::None,
            Jitter::Full,
            Jitter::Equal,
            Jitter::Decorrelated,
        ];
        let backoff = Backoff::exponential(base)
            .cap(cap)
            .factor(1.0 + rng.f64() * 9.0)
            .attempts(u32::MAX)
            .jitter(jitters[rng.usize(..4)]);
        let late = [backoff.delay(u32::MAX), backoff.delay(rng.u32(..))];
        exceeded += backoff
            .delays()
            .take(100)
            .chain(late)
            .filter(|delay| *delay > cap)
            .count();
    }
    println!("figure retry/cap-exceeded: {exceeded}");
    assert_eq!(exceeded, 0);
}

/// Windows, of all that begin and end between two rounds of 64 racing threads, in which there were too
/// many retries.
#[test]
fn budget_exceeded() {
    const THREADS: u64 = 64;
    const ROUNDS: usize = 20;
    const BURST: u32 = 7;
    let mut exceeded = 0;
    for ratio in [0.01, 0.1, 0.33, 0.6, 1.0] {
        let budget = Budget::ratio(ratio).burst(BURST);
        let barrier = Barrier::new(THREADS as usize);
        let rounds: Vec<[AtomicU64; 2]> = (0..ROUNDS).map(|_| Default::default()).collect();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (budget, barrier, rounds) = (&budget, &barrier, &rounds);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(thread);
                    for [retries, successes] in rounds {
                        // Between two barriers lies a span of which the counts are exact.
                        barrier.wait();
                        for _ in 0..100 {
                            if rng.bool() {
                                successes.fetch_add(1, Relaxed);
                                budget.deposit();
                            } else if let Some(withdrawal) = budget.withdraw() {
                                withdrawal.spend();
                                retries.fetch_add(1, Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let counts: Vec<[u64; 2]> = rounds
            .into_iter()
            .map(|round| round.map(AtomicU64::into_inner))
            .collect();
        for from in 0..ROUNDS {
            let (mut retries, mut successes) = (0, 0);
            for round in &counts[from..] {
                retries += round[0];
                successes += round[1];
                let bound = ratio * successes as f64 + f64::from(BURST);
                exceeded += u32::from(retries as f64 > bound);
            }
        }
    }
    println!("figure retry/budget-exceeded: {exceeded}");
    assert_eq!(exceeded, 0);
}

/// How far retries for each success are from the ratio when 64 threads pay in and take out what there is.
#[test]
fn budget_racing_error() {
    let mut largest = 0.0_f64;
    for ratio in [0.01, 0.05, 0.1, 0.25, 0.333, 0.5, 0.6, 0.75, 0.999, 1.0] {
        let budget = Budget::ratio(ratio).burst(100);
        while let Some(withdrawal) = budget.withdraw() {
            withdrawal.spend();
        }
        let retries = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..64 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        budget.deposit();
                        if let Some(withdrawal) = budget.withdraw() {
                            withdrawal.spend();
                            retries.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        let measured = retries.into_inner() as f64 / (64.0 * 2_000.0);
        largest = largest.max((measured - ratio).abs());
    }
    println!("figure retry/budget-racing-error: {largest:.5}");
    assert!(largest <= 0.001);
}

/// Retries that came earlier than the server had asked for, whatever the backoff.
#[tokio::test(start_paused = true)]
async fn earlier_than_asked() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut early = 0;
    for _ in 0..500 {
        let base = Duration::from_millis(rng.u64(1..60_000));
        let jitters = [Jitter::Full, Jitter::Equal, Jitter::Decorrelated];
        let backoff = Backoff::exponential(base)
            .cap(base + Duration::from_millis(rng.u64(..300_000)))
            .jitter(jitters[rng.usize(..3)])
            .seed(rng.u64(..));
        let asked = Duration::from_millis(rng.u64(..400_000));
        let times = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&times);
        let mut service = RetryLayer::new(backoff)
            .classify(move |_: Result<&(), &BoxError>| Class::Throttled(asked))
            .layer(service_fn(move |()| {
                noted.lock().expect("no panic").push(Instant::now());
                std::future::ready(Err::<(), _>(Busy))
            }));
        call(&mut service, ()).await.unwrap_err();
        let times = times.lock().expect("no panic");
        early += times
            .windows(2)
            .filter(|two| two[1] - two[0] < asked)
            .count();
    }
    println!("figure retry/earlier-than-asked: {early}");
    assert_eq!(early, 0);
}

/// Through the layer, where the service fails whenever there is a retry to be had.
#[tokio::test(start_paused = true)]
async fn budget_ratio_error() {
    let mut largest = 0.0_f64;
    for ratio in [0.01, 0.05, 0.1, 0.25, 0.333, 0.5, 0.6, 0.75, 0.999, 1.0] {
        let budget = Budget::ratio(ratio);
        while let Some(withdrawal) = budget.withdraw() {
            withdrawal.spend();
        }
        let retries = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&retries);
        // Two calls a round: one succeeds, one fails and is repeated if the budget allows.
        let mut service = RetryLayer::new(Backoff::exponential(seconds(1)).attempts(2))
            .budget(budget)
            .stamp(|request: &mut (bool, u32), attempt: Attempt| request.1 = attempt.number)
            .classify(|outcome: Result<&bool, &BoxError>| match outcome {
                Ok(true) => Class::Success,
                _ => Class::Transient,
            })
            .layer(service_fn(move |(succeeds, attempt): (bool, u32)| {
                counted.fetch_add(attempt - 1, Relaxed);
                std::future::ready(Ok::<_, Busy>(succeeds))
            }));
        let rounds = 10_000;
        for _ in 0..rounds {
            call(&mut service, (true, 0)).await.unwrap();
            call(&mut service, (false, 0)).await.unwrap();
        }
        let measured = f64::from(retries.load(Relaxed)) / f64::from(rounds);
        largest = largest.max((measured - ratio).abs());
    }
    println!("figure retry/budget-ratio-error: {largest:.5}");
    assert!(largest <= 0.001);
}

/// Clones beyond the n - 1 that n attempts need.
#[tokio::test(start_paused = true)]
async fn last_attempt_clones() {
    struct Request(Arc<AtomicU32>);
    impl Clone for Request {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Relaxed);
            Self(Arc::clone(&self.0))
        }
    }
    let mut surplus = 0;
    for attempts in 1..=10 {
        let clones = Arc::new(AtomicU32::new(0));
        let mut service = RetryLayer::new(Backoff::exponential(seconds(1)).attempts(attempts))
            .layer(service_fn(|_: Request| {
                std::future::ready(Err::<(), _>(Busy))
            }));
        call(&mut service, Request(Arc::clone(&clones)))
            .await
            .unwrap_err();
        surplus += clones.load(Relaxed).abs_diff(attempts - 1);
    }
    println!("figure retry/last-attempt-clones: {surplus}");
    assert_eq!(surplus, 0);
}

/// Allocations of a call that succeeds at once, with everything set.
#[test]
fn allocations() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _entered = runtime.enter();
    let backoff = Backoff::exponential(seconds(1))
        .attempts(5)
        .jitter(Jitter::Full);
    let layer = RetryLayer::new(backoff)
        .budget(Budget::ratio(0.1))
        .classify(|outcome: Result<&u32, &BoxError>| Class::of(outcome))
        .stamp(|request: &mut u32, attempt: Attempt| *request += attempt.number);
    let inner = service_fn(|request: u32| std::future::ready(Ok::<u32, Busy>(request)));
    let mut plain = layer.clone().layer(inner);
    let mut timed = layer
        .deadline(seconds(60))
        .attempt_timeout(seconds(5))
        .layer(inner);

    let mut context = Context::from_waker(Waker::noop());
    let allocations = test_support::count_allocations(|| {
        for request in 0..1000 {
            assert!(plain.poll_ready(&mut context).is_ready());
            let answer = std::pin::pin!(plain.call(request)).poll(&mut context);
            assert!(matches!(answer, Poll::Ready(Ok(answer)) if answer == request + 1));
            assert!(timed.poll_ready(&mut context).is_ready());
            let answer = std::pin::pin!(timed.call(request)).poll(&mut context);
            assert!(matches!(answer, Poll::Ready(Ok(answer)) if answer == request + 1));
        }
    });
    println!("figure retry/allocations: {allocations}");
    assert_eq!(allocations, 0);
}
