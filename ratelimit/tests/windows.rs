//! The windows that a rule can ask for by name, each against an oracle that remembers everything.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, FakeRelativeClock};
use proptest::prelude::*;
use seawall_ratelimit::window::{Gcra, Outcome, SlidingCounter, SlidingLog, Terms, Wait};
use seawall_ratelimit::{
    ConfigError, Decision, MemoryStore, Quota, RateLimitError, RateLimitLayer, Rule, Store,
    Verdict, WindowKind,
};
use tokio::time::advance;

/// Steps of time, and costs.
fn trace() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let step = prop_oneof![
        4 => 0_u64..200,
        4 => 0_u64..40_000,
        1 => 0_u64..400_000,
    ];
    prop::collection::vec((step, 0_u32..5), 1..120)
}

fn quota() -> impl Strategy<Value = Quota> {
    (1_u32..30, 1_000_u64..200_000)
        .prop_map(|(limit, micros)| Quota::new(limit, Duration::from_micros(micros)))
}

fn window(terms: Terms) -> u64 {
    terms.window().as_micros() as u64
}

/// All that was admitted, ever.
#[derive(Default)]
struct History(Vec<(u64, u32)>);

impl History {
    /// Units after `from` and up to `to`.
    fn between(&self, from: Option<u64>, to: u64) -> u64 {
        let inside = |at: u64| from.is_none_or(|from| at > from) && at <= to;
        let inside = self.0.iter().filter(|(at, _)| inside(*at));
        inside.map(|(_, units)| u64::from(*units)).sum()
    }

    /// The most units in spans that begin and end with an admission, over what each may hold.
    fn most_over(&self, bound: impl Fn(u64) -> f64) -> f64 {
        let mut most = f64::MIN;
        for (n, (from, _)) in self.0.iter().enumerate() {
            let mut units = 0;
            for (to, more) in &self.0[n..] {
                units += more;
                most = most.max(f64::from(units) - bound(to - from));
            }
        }
        most
    }
}

/// That a refusal ends when it says, and not a microsecond earlier.
fn ends_then(now: u64, outcome: Outcome, passes_at: impl Fn(u64) -> bool) {
    match outcome.wait() {
        Wait::None => assert!(passes_at(now)),
        Wait::Micros(wait) => {
            assert!(wait > 0 && !passes_at(now + wait - 1) && passes_at(now + wait));
        }
        Wait::Forever => assert!(!passes_at(now + 1_000_000_000)),
    }
}

/// That everything is there again when it says, and not a microsecond earlier.
fn is_back_then(now: u64, outcome: Outcome, used_at: impl Fn(u64) -> u64) {
    let reset = outcome.reset().as_micros() as u64;
    assert_eq!(used_at(now + reset), 0);
    assert!(reset == 0 || used_at(now + reset - 1) > 0);
}

proptest! {
    #[test]
    fn a_log_is_what_one_would_count_by_hand(quota in quota(), trace in trace()) {
        let terms = Terms::new(quota, 0);
        let limit = u64::from(quota.limit());
        let (mut log, mut history, mut now) = (SlidingLog::new(terms), History::default(), 1_000_000);
        for (step, cost) in trace {
            now += step;
            let used = history.between(Some(now - window(terms)), now);
            prop_assert_eq!(log.used(now), used);
            let outcome = log.decide(now, cost);
            prop_assert_eq!(outcome.passes(), used + u64::from(cost) <= limit);
            let taken = if outcome.passes() { cost } else { 0 };
            prop_assert_eq!(u64::from(outcome.remaining()), limit - used - u64::from(taken));
            ends_then(now, outcome, |then| log.decide(then, cost).passes());
            if outcome.passes() {
                log.charge(now, cost);
                if cost > 0 {
                    history.0.push((now, cost));
                }
            }
            is_back_then(now, outcome, |then| log.used(then));
        }
    }

    #[test]
    fn two_buckets_weigh_what_one_would_by_hand(quota in quota(), trace in trace()) {
        let terms = Terms::new(quota, 0);
        let (limit, whole) = (u64::from(quota.limit()), window(terms));
        let mut counter = SlidingCounter::new(terms);
        let (mut history, mut now) = (History::default(), 0);
        for (step, cost) in trace {
            now += step;
            let start = now / whole * whole;
            let current = history.between(start.checked_sub(1), now);
            let before = match start {
                0 => 0,
                _ => history.between((start - whole).checked_sub(1), start - 1),
            };
            let weighed = current * whole + before * (start + whole - now);
            prop_assert_eq!(counter.used(now), weighed.div_ceil(whole));
            let outcome = counter.decide(now, cost);
            prop_assert_eq!(outcome.passes(), weighed + u64::from(cost) * whole <= limit * whole);
            ends_then(now, outcome, |then| counter.decide(then, cost).passes());
            if outcome.passes() {
                counter.charge(now, cost);
                if cost > 0 {
                    history.0.push((now, cost));
                }
            }
            is_back_then(now, outcome, |then| counter.used(then));
        }
        let bound = |span: u64| limit as f64 * (1.0 + span as f64 / whole as f64) + 1.0;
        prop_assert!(history.most_over(bound) <= 0.0);
    }

    #[test]
    fn a_bucket_of_tokens_decides_as_governor_does(
        limit in 1_u32..30,
        sixteenths in 1_u64..1_000,
        trace in trace(),
    ) {
        // A token is a whole number of microseconds, so that both have the same.
        let token = Duration::from_micros(16 * sixteenths);
        let terms = Terms::new(Quota::new(limit, (token * limit).max(Duration::from_millis(1))), 0);
        let token = terms.window() / limit;
        prop_assume!(token * limit == terms.window());
        let burst = NonZeroU32::new(limit).unwrap();
        let theirs = governor::Quota::with_period(token).unwrap().allow_burst(burst);
        let clock = FakeRelativeClock::default();
        let governor = governor::RateLimiter::direct_with_clock(theirs, clock.clone());

        let (mut bucket, mut history, mut now) = (Gcra::new(terms), History::default(), 0);
        for (step, cost) in trace {
            now += step;
            clock.advance(Duration::from_micros(step));
            let outcome = bucket.decide(now, cost);
            ends_then(now, outcome, |then| bucket.decide(then, cost).passes());
            if let Some(cells) = NonZeroU32::new(cost) {
                match governor.check_n(cells) {
                    Ok(Ok(_)) => prop_assert_eq!(outcome.wait(), Wait::None),
                    Ok(Err(until)) => {
                        let wait = until.wait_time_from(clock.now()).as_nanos().div_ceil(1_000);
                        prop_assert_eq!(outcome.wait(), Wait::Micros(wait as u64));
                    }
                    Err(_) => prop_assert_eq!(outcome.wait(), Wait::Forever),
                }
            }
            if outcome.passes() {
                bucket.charge(now, cost);
                if cost > 0 {
                    history.0.push((now, cost));
                }
            }
            is_back_then(now, outcome, |then| bucket.used(then));
        }
        let whole = window(terms) as f64;
        let bound = |span: u64| f64::from(limit) * (1.0 + span as f64 / whole);
        prop_assert!(history.most_over(bound) <= 0.0);
    }

    /// New terms never let more through than what is left of them by what was consumed.
    #[test]
    fn other_terms_remember_what_was_consumed(
        old in quota(), new in quota(), trace in trace(), newer: bool, later in 0_u64..400_000,
    ) {
        let (old, new) = (Terms::new(old, 3), Terms::new(new, if newer { 4 } else { 2 }));
        let mut now = 0;
        let mut log = SlidingLog::new(old);
        let (mut counter, mut bucket) = (SlidingCounter::new(old), Gcra::new(old));
        for (step, cost) in trace {
            now += step;
            if log.decide(now, cost).passes() {
                log.charge(now, cost);
            }
            if counter.decide(now, cost).passes() {
                counter.charge(now, cost);
            }
            if bucket.decide(now, cost).passes() {
                bucket.charge(now, cost);
            }
        }
        now += later;
        let exact = |log: &SlidingLog| (log.used(now), log.terms());
        let (used, _) = exact(&log);
        prop_assert_eq!(log.renew(new, now), newer && used > 0);
        let holds = if newer || used == 0 { new } else { old };
        prop_assert_eq!(log.terms(), holds);
        let cut = old.window().min(new.window()) == new.window();
        prop_assert!(log.used(now) == used || cut && log.used(now) < used);

        let used = counter.used(now);
        prop_assert_eq!(counter.renew(new, now), newer && used > 0);
        prop_assert_eq!(counter.terms(), if newer || used == 0 { new } else { old });
        prop_assert_eq!(counter.used(now), used);

        let used = bucket.used(now);
        prop_assert_eq!(bucket.renew(new, now), newer && used > 0);
        prop_assert_eq!(bucket.terms(), if newer || used == 0 { new } else { old });
        prop_assert_eq!(bucket.used(now), used);
    }

    /// A clock that steps back frees nothing and panics nowhere.
    #[test]
    fn a_clock_that_steps_back_frees_nothing(
        quota in quota(), moments in prop::collection::vec((0_u64..600_000, 1_u32..4), 1..80),
    ) {
        let terms = Terms::new(quota, 0);
        let mut log = SlidingLog::new(terms);
        let (mut counter, mut bucket) = (SlidingCounter::new(terms), Gcra::new(terms));
        let mut latest = 0;
        for (now, cost) in moments {
            latest = latest.max(now);
            let counts = [log.used(latest), counter.used(latest), bucket.used(latest)];
            let back = [log.used(now), counter.used(now), bucket.used(now)];
            for (back, count) in back.into_iter().zip(counts) {
                prop_assert!(back >= count);
            }
            if log.decide(now, cost).passes() {
                log.charge(now, cost);
            }
            if counter.decide(now, cost).passes() {
                counter.charge(now, cost);
            }
            if bucket.decide(now, cost).passes() {
                bucket.charge(now, cost);
            }
        }
        prop_assert!(log.used(latest) <= u64::from(quota.limit()));
    }
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let terms = Terms::new(Quota::per_second(3), 0);
    let mut log = SlidingLog::new(terms);
    log.charge(10, 1);
    log.charge(20, 2);
    log.refund(20, 1);
    // A moment at which nothing was charged, and more than was charged.
    log.refund(15, 1);
    assert_eq!(log.used(30), 2);
    log.refund(10, 5);
    assert_eq!(log.used(30), 1);

    let mut counter = SlidingCounter::new(terms);
    counter.charge(10, 3);
    counter.refund(10, 1);
    assert_eq!(counter.used(20), 2);
    counter.charge(1_000_016, 1);
    counter.refund(10, 2);
    assert_eq!(counter.used(1_000_016), 1);

    let mut bucket = Gcra::new(terms);
    bucket.charge(10, 3);
    bucket.refund(2);
    assert_eq!(bucket.used(10), 1);
    bucket.refund(9);
    assert_eq!(bucket.used(10), 0);
}

fn now<F>(verdict: Result<Verdict<F>, RateLimitError>) -> Decision {
    match verdict {
        Ok(Verdict::Now(decision)) => decision,
        _ => panic!("memory decides at once"),
    }
}

const NAMED: [WindowKind; 3] = [WindowKind::Log, WindowKind::Counter, WindowKind::Gcra];

// One trace for the store and for the pure windows, with a rule of each kind at once.
#[tokio::test(start_paused = true)]
async fn the_store_decides_as_the_windows_do() {
    let quota = Quota::new(7, Duration::from_millis(320));
    let rule = |name, kind| {
        Rule::new(name, quota)
            .key(|key: &u64| (*key).into())
            .window(kind)
    };
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
        .rule(rule("log", WindowKind::Log))
        .rule(rule("counter", WindowKind::Counter))
        .rule(rule("bucket", WindowKind::Gcra))
        .checker();
    let terms = Terms::new(quota, 0);
    let fresh = (
        SlidingLog::new(terms),
        SlidingCounter::new(terms),
        Gcra::new(terms),
    );
    let mut keys = vec![fresh; 4];
    let mut random = fastrand::Rng::with_seed(3);
    let (mut moment, mut refused) = (0, 0);
    for _ in 0..4_000 {
        let step = random.u64(0..40_000);
        advance(Duration::from_micros(step)).await;
        moment += step;
        let key = random.usize(0..4);
        let decision = now(limits.decide(&(key as u64)));
        let (log, counter, bucket) = &mut keys[key];
        let asked = |cost| {
            [
                log.decide(moment, cost),
                counter.decide(moment, cost),
                bucket.decide(moment, cost),
            ]
        };
        let passes = asked(1).iter().all(Outcome::passes);
        assert_eq!(decision.passes(), passes);
        for ((_, told), (one, none)) in decision.iter().zip(asked(1).into_iter().zip(asked(0))) {
            // Who would have passed alone is told what is left without the request.
            let expected = if passes || !one.passes() { one } else { none };
            assert_eq!(told, expected.in_window_of(terms));
        }
        if passes {
            log.charge(moment, 1);
            counter.charge(moment, 1);
            bucket.charge(moment, 1);
        }
        refused += u32::from(!passes);
    }
    assert!(refused > 200 && refused < 3_800);
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_no_default_are_evicted_without_giving_quota_back() {
    for kind in NAMED {
        let limits = RateLimitLayer::new(MemoryStore::with_capacity(16))
            .rule(
                Rule::new("key", Quota::per_minute(10))
                    .key(|key: &u64| (*key).into())
                    .window(kind),
            )
            .checker();
        for _ in 0..9 {
            assert!(limits.check(&0).await.is_ok());
        }
        for stranger in 1..1_000_u64 {
            while limits.check(&stranger).await.is_ok() {}
        }
        let mut more = 0;
        while limits.check(&0).await.is_ok() {
            more += 1;
        }
        assert!(
            more <= 1,
            "{kind:?}: 9 before the flood and {more} after it"
        );
        // What the flood held against everybody goes with the window.
        advance(Duration::from_secs(121)).await;
        assert!(limits.check(&0).await.is_ok());
        assert!(limits.check(&77_777).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn kinds_that_are_no_default_take_changed_quotas_and_shadows() {
    for kind in NAMED {
        let layer = RateLimitLayer::new(MemoryStore::with_capacity(16))
            .rule(Rule::new("real", Quota::per_minute(4)).window(kind))
            .rule(
                Rule::new("shadow", Quota::per_minute(2))
                    .window(kind)
                    .shadow(),
            );
        let (limits, quotas) = (layer.checker(), layer.quotas());
        let passing = async || {
            let mut passed = 0;
            while limits.check(&()).await.is_ok() {
                passed += 1;
            }
            passed
        };
        assert_eq!(passing().await, 4);
        quotas.set("real", Quota::per_minute(6)).unwrap();
        assert_eq!(passing().await, 2, "{kind:?}");
        let decision = now(limits.decide(&()));
        let (_, shadow) = decision.iter().last().unwrap();
        assert!(shadow.is_shadow() && !shadow.passes() && shadow.remaining() == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn one_name_counts_apart_in_each_kind() {
    let store = MemoryStore::with_capacity(16);
    for kind in NAMED.into_iter().chain([WindowKind::Sliding]) {
        let limits = RateLimitLayer::new(store.clone())
            .rule(Rule::new("one", Quota::per_minute(1)).window(kind))
            .checker();
        assert!(limits.check(&()).await.is_ok());
        assert!(limits.check(&()).await.is_err());
    }
}

/// A store that keeps what each store must.
#[derive(Clone, Debug)]
struct Plain;

impl Store for Plain {
    type Scope = ();
    type Deciding = std::future::Ready<Result<Decision, seawall_ratelimit::StoreError>>;

    fn scope(&self, _: &seawall_ratelimit::Policy) {}

    fn decide(&self, _: &seawall_ratelimit::Charges<'_, ()>) -> Verdict<Self::Deciding> {
        Verdict::Now(Decision::empty())
    }
}

#[test]
fn a_store_is_not_given_windows_that_it_does_not_keep() {
    for kind in NAMED {
        let rule = Rule::new("all", Quota::per_second(1)).window(kind);
        let refused = RateLimitLayer::new(Plain).try_rule(rule);
        assert_eq!(refused.err(), Some(ConfigError::WindowKind(kind)));
    }
    let rule = Rule::new("all", Quota::per_second(1));
    assert!(RateLimitLayer::new(Plain).try_rule(rule).is_ok());
}

/// A long trace through GCRA and through governor: the decisions and waits that differ.
#[test]
fn gcra_as_governor() {
    let (limit, token) = (20_u32, Duration::from_micros(48));
    let terms = Terms::new(
        Quota::new(limit, (token * limit).max(Duration::from_millis(1))),
        0,
    );
    let token = terms.window() / limit;
    assert_eq!(token * limit, terms.window());
    let clock = FakeRelativeClock::default();
    let theirs = governor::Quota::with_period(token).unwrap();
    let theirs = theirs.allow_burst(NonZeroU32::new(limit).unwrap());
    let governor = governor::RateLimiter::direct_with_clock(theirs, clock.clone());

    let mut random = fastrand::Rng::with_seed(9);
    let (mut bucket, mut now, mut refused, mut differ) = (Gcra::new(terms), 0, 0, 0_u32);
    for _ in 0..300_000 {
        let step = random.u64(0..150);
        now += step;
        clock.advance(Duration::from_micros(step));
        let cost = random.u32(1..4);
        let outcome = bucket.decide(now, cost);
        let wait = match governor.check_n(NonZeroU32::new(cost).unwrap()).unwrap() {
            Ok(()) => Wait::None,
            Err(until) => {
                let wait = until.wait_time_from(clock.now()).as_nanos().div_ceil(1_000);
                Wait::Micros(wait as u64)
            }
        };
        differ += u32::from(outcome.wait() != wait);
        match outcome.passes() {
            true => bucket.charge(now, cost),
            false => refused += 1,
        }
    }
    println!("figure ratelimit/gcra-as-governor: {differ}");
    assert!(refused > 10_000 && refused < 290_000, "{refused}");
    assert_eq!(differ, 0);
}

/// Of a flood, even the largest quota admits what it says.
#[test]
fn the_largest_quotas_are_not_rounded_away() {
    let terms = Terms::new(Quota::per_second(u32::MAX), 0);
    let mut bucket = Gcra::new(terms);
    bucket.charge(0, u32::MAX);
    let after = bucket.decide(1_000_000, 0).remaining();
    assert!(after > u32::MAX - u32::MAX / 100, "{after}");
    let longest = Terms::new(Quota::new(u32::MAX, Duration::from_secs(3_660 * 86_400)), 0);
    let now = 1 << 50;
    let mut counter = SlidingCounter::new(longest);
    counter.charge(now, u32::MAX);
    assert!(!counter.decide(now, 1).passes());
    let mut bucket = Gcra::new(longest);
    bucket.charge(now, u32::MAX);
    assert!(!bucket.decide(now, 1).passes());
    let mut log = SlidingLog::new(longest);
    log.charge(now, u32::MAX);
    assert!(!log.decide(now, 1).passes());
}
