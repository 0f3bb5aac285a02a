//! Settings and answers that cannot be right: refused when built, with what is wrong, or ignored as the
//! docs say. Never a panic, never a wait longer than the cap.

mod support;

use std::{sync::Mutex, time::Duration};

use seawall_retry::{
    Backoff, BoxError, Budget, Budgets, Class, ConfigError, HedgeLayer, RetryError, RetryLayer,
    Stopped,
};
use support::{Busy, call, seconds};
use tokio::time::Instant;
use tower::{Layer, service_fn};

#[test]
fn settings_are_refused_with_what_is_wrong() {
    fn of<T>(result: Result<T, ConfigError>) -> Option<ConfigError> {
        result.err()
    }
    let backoff = Backoff::exponential(seconds(1));
    let layer = || RetryLayer::new(backoff);
    let zero = Duration::ZERO;
    for (setting, refused, names) in [
        ("no base", of(Backoff::try_exponential(zero)), "base"),
        ("no constant wait", of(Backoff::try_constant(zero)), "base"),
        (
            "no fibonacci base",
            of(Backoff::try_fibonacci(zero)),
            "base",
        ),
        ("zero attempts", of(backoff.try_attempts(0)), "attempt"),
        ("cap below base", of(backoff.try_cap(seconds(1) / 2)), "cap"),
        ("no cap", of(backoff.try_cap(zero)), "cap"),
        ("shrinking", of(backoff.try_factor(0.9)), "factor"),
        ("negative factor", of(backoff.try_factor(-2.0)), "factor"),
        ("factor NaN", of(backoff.try_factor(f64::NAN)), "factor"),
        (
            "endless factor",
            of(backoff.try_factor(f64::INFINITY)),
            "factor",
        ),
        ("ratio zero", of(Budget::try_ratio(0.0)), "ratio"),
        ("ratio below zero", of(Budget::try_ratio(-0.1)), "ratio"),
        ("ratio above one", of(Budget::try_ratio(1.01)), "ratio"),
        ("ratio NaN", of(Budget::try_ratio(f64::NAN)), "ratio"),
        (
            "ratio endless",
            of(Budget::try_ratio(f64::INFINITY)),
            "ratio",
        ),
        (
            "ratio next to nothing",
            of(Budget::try_ratio(1e-300)),
            "ratio",
        ),
        ("no burst", of(Budget::ratio(0.1).try_burst(0)), "burst"),
        ("ratio by key", of(Budgets::try_ratio(2.0)), "ratio"),
        (
            "no burst by key",
            of(Budgets::ratio(0.1).try_burst(0)),
            "burst",
        ),
        ("no deadline", of(layer().try_deadline(zero)), "deadline"),
        (
            "no attempt time",
            of(layer().try_attempt_timeout(zero)),
            "timeout",
        ),
        (
            "hedge at once",
            of(HedgeLayer::try_after(zero, Budget::ratio(0.1))),
            "hedge",
        ),
    ] {
        let error = refused.unwrap_or_else(|| panic!("{setting} is taken"));
        assert!(error.message().contains(names), "{setting}: {error}");
    }
    // At the edge, and allowed.
    assert!(backoff.try_cap(seconds(1)).is_ok());
    assert!(backoff.try_attempts(u32::MAX).is_ok());
    assert!(Budget::try_ratio(1.0).is_ok());
    assert!(Budget::ratio(0.1).try_burst(u32::MAX).is_ok());
    // A base above the default cap is its own cap.
    assert_eq!(Backoff::exponential(seconds(900)).delay(3), seconds(900));
}

#[test]
#[should_panic(expected = "at least one attempt")]
fn a_wrong_setting_in_code_panics_with_what_is_wrong() {
    let _ = Backoff::exponential(seconds(1)).attempts(0);
}

/// What the server asks for, in seconds; how the call ends, and how long it takes.
#[tokio::test(start_paused = true)]
async fn an_absurd_wait_is_neither_made_nor_cut_short() {
    let cap = 300;
    for (asked, stopped, took) in [
        (0, Stopped::Exhausted, 1),
        (cap, Stopped::Exhausted, cap),
        (cap + 1, Stopped::Throttled(seconds(cap + 1)), 0),
        (u64::MAX, Stopped::Throttled(seconds(u64::MAX)), 0),
    ] {
        let start = Instant::now();
        let mut service = RetryLayer::new(Backoff::exponential(seconds(1)).attempts(2))
            .classify(move |_: Result<&(), &BoxError>| Class::Throttled(seconds(asked)))
            .layer(service_fn(|()| std::future::ready(Err::<(), _>(Busy))));
        let error = call(&mut service, ()).await.unwrap_err();
        assert_eq!(RetryError::find(&error).unwrap().stopped, stopped);
        assert_eq!(start.elapsed(), seconds(took), "asked for {asked} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_in_the_past_ends_the_call_with_its_first_attempt() {
    let past = Instant::now();
    tokio::time::advance(seconds(3600)).await;
    let now = Instant::now();
    let calls = Mutex::new(0);
    let mut service = RetryLayer::new(Backoff::exponential(seconds(1)))
        .deadline_of(|deadline: &Instant| Some(*deadline))
        .layer(service_fn(|_: Instant| {
            *calls.lock().unwrap() += 1;
            std::future::ready(Err::<(), _>(Busy))
        }));
    let error = call(&mut service, past).await.unwrap_err();
    let why = RetryError::find(&error).unwrap();
    assert_eq!((why.stopped, why.attempts), (Stopped::Deadline, 1));
    assert_eq!((now.elapsed(), *calls.lock().unwrap()), (Duration::ZERO, 1));
}

/// An iterator of waits may be anything.
#[tokio::test(start_paused = true)]
async fn waits_of_ones_own_end_at_the_cap_and_with_the_attempts() {
    type Own = fn() -> Box<dyn Iterator<Item = Duration> + Send + Sync>;
    for (own, attempts, took) in [
        ((|| Box::new(std::iter::empty())) as Own, 1, 0),
        (|| Box::new(std::iter::repeat(Duration::MAX)), 5, 4 * 300),
        (|| Box::new(std::iter::repeat(Duration::ZERO)), 5, 0),
    ] {
        let start = Instant::now();
        let mut service = RetryLayer::new(Backoff::exponential(seconds(1)))
            .waits(own)
            .layer(service_fn(|()| std::future::ready(Err::<(), _>(Busy))));
        let error = call(&mut service, ()).await.unwrap_err();
        assert_eq!(RetryError::find(&error).unwrap().attempts, attempts);
        assert_eq!(start.elapsed(), seconds(took));
    }
}
