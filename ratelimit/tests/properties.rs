//! Invariants of the window, against an oracle that remembers everything:
//!
//! 1. No trailing window ever holds more than the limit, whatever the times and costs.
//! 2. What is told of waiting is exact: a moment before it is refused, at it it passes.
//! 3. A refusal changes nothing.
//! 4. A steady flood gets at least 16/17 of the limit.
//! 5. Clocks that step back neither admit too much nor freeze a key.
//! 6. Changing a rule's quota forgets nothing, and two versions at work come to rest.

use std::time::Duration;

use proptest::prelude::*;
use seawall_ratelimit::Quota;
use seawall_ratelimit::window::{BUCKETS, SlidingWindow, Terms, Wait};

/// All that was admitted, with its moment.
#[derive(Default)]
struct Log(Vec<(u64, u32)>);

impl Log {
    fn admit(&mut self, now: u64, cost: u32) {
        self.0.push((now, cost));
    }

    /// What the window that ends at `now` holds.
    fn held(&self, now: u64, window: u64) -> u64 {
        let inside = |(moment, _): &&(u64, u32)| *moment <= now && *moment + window > now;
        self.0
            .iter()
            .filter(inside)
            .map(|(_, cost)| u64::from(*cost))
            .sum()
    }
}

fn micros(quota: Quota) -> u64 {
    quota.window().as_micros() as u64
}

fn quotas() -> impl Strategy<Value = Quota> {
    (1_u32..40, 1_000_u64..100_000)
        .prop_map(|(limit, window)| Quota::new(limit, Duration::from_micros(window)))
}

/// Steps of time, in windows: none, within a bucket, about a bucket, about a window, beyond.
fn steps() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => Just(0.0),
        3 => 0.0..0.06,
        2 => 0.06..0.5,
        1 => 0.9..1.2,
        1 => 1.2..40.0,
    ]
}

proptest! {
    #[test]
    fn no_trailing_window_holds_more_than_the_limit(
        quota in quotas(),
        start in 0_u64..1 << 50,
        run in prop::collection::vec((steps(), 0_u32..12), 1..200),
    ) {
        let mut window = SlidingWindow::new(Terms::new(quota, 0));
        let mut log = Log::default();
        let mut now = start;
        for (step, cost) in run {
            now += (step * micros(quota) as f64) as u64;
            if window.decide(now, cost).passes() {
                window.charge(now, cost);
                log.admit(now, cost);
            }
            prop_assert!(log.held(now, micros(quota)) <= u64::from(quota.limit()));
            prop_assert!(window.used(now) >= log.held(now, micros(quota)));
        }
    }

    #[test]
    fn the_wait_is_exact_and_a_refusal_changes_nothing(
        quota in quotas(),
        run in prop::collection::vec((steps(), 1_u32..12), 1..100),
    ) {
        let mut window = SlidingWindow::new(Terms::new(quota, 0));
        let mut now = 0;
        for (step, cost) in run {
            now += (step * micros(quota) as f64) as u64;
            let before = window;
            let outcome = window.decide(now, cost);
            prop_assert_eq!(window, before);
            match outcome.wait() {
                Wait::None => {
                    window.charge(now, cost);
                    let reset = outcome.reset().as_micros() as u64;
                    prop_assert_eq!(window.used(now + reset), 0);
                    prop_assert!(window.used(now + reset - 1) > 0);
                    let left = quota.limit() - window.used(now) as u32;
                    prop_assert_eq!(outcome.remaining(), left);
                }
                Wait::Micros(wait) => {
                    prop_assert!(window.decide(now + wait, cost).passes());
                    prop_assert!(!window.decide(now + wait - 1, cost).passes());
                }
                Wait::Forever => prop_assert!(cost > quota.limit()),
            }
        }
    }

    #[test]
    fn a_steady_flood_gets_nearly_all_of_the_limit(limit in 17_u32..200, rate in 2_u64..5) {
        let quota = Quota::per_second(limit);
        let mut window = SlidingWindow::new(Terms::new(quota, 0));
        let (seconds, gap) = (40, 1_000_000 / (rate * u64::from(limit)));
        let mut admitted = 0_u64;
        for now in (0..seconds * 1_000_000).step_by(gap as usize) {
            if window.decide(now, 1).passes() {
                window.charge(now, 1);
                admitted += 1;
            }
        }
        let floor = seconds * u64::from(limit) * BUCKETS / (BUCKETS + 1);
        prop_assert!(admitted >= floor, "{admitted} of at least {floor}");
    }

    // The server's clock steps back now and then; real time goes on. The record is kept in a store
    // that drops it after a time of its own, as Redis does.
    #[test]
    fn a_clock_that_steps_back_neither_admits_too_much_nor_freezes_a_key(
        quota in quotas(),
        run in prop::collection::vec((steps(), 0.0_f64..3.0, 1_u32..6, 0_u8..10), 1..150),
    ) {
        let mut log = Log::default();
        let mut kept = Kept::new(Terms::new(quota, 0));
        let mut now = 0;
        let mut behind = 0;
        for (step, back, cost, dice) in run {
            let cost = cost.min(quota.limit());
            now += (step * micros(quota) as f64) as u64;
            if dice == 0 {
                behind += (back * micros(quota) as f64) as u64;
            }
            let start = 1 << 40;
            if kept.decide(now, start + now - behind, cost) {
                log.admit(now, cost);
            }
            prop_assert!(log.held(now, micros(quota)) <= u64::from(quota.limit()));
        }
        // Left alone for a window and a bucket, any key is free again, asked in between or not.
        let end = kept.whole();
        kept.decide(now, (1 << 40) + now - behind, quota.limit());
        for part in 1..=4 {
            kept.decide(now + end * part / 4, (1 << 40) + now + end * part / 4 - behind - 1, u32::MAX);
        }
        now += 2 * end;
        prop_assert!(kept.decide(now, (1 << 40) + now - behind, quota.limit()));
    }

    #[test]
    fn a_changed_quota_forgets_nothing_that_the_window_still_covers(
        first in quotas(),
        second in quotas(),
        run in prop::collection::vec((steps(), 1_u32..6), 1..80),
    ) {
        let (old, new) = (Terms::new(first, 1), Terms::new(second, 2));
        let mut window = SlidingWindow::new(old);
        let mut log = Log::default();
        let mut now = 0;
        for (step, cost) in run {
            now += (step * micros(first) as f64) as u64;
            if window.decide(now, cost).passes() {
                window.charge(now, cost);
                log.admit(now, cost);
            }
        }
        let shorter = micros(first).min(micros(second));
        window.renew(new, now);
        prop_assert!(window.used(now) >= log.held(now, shorter));
    }
}

/// A record with a lifetime, as the script on Redis keeps it.
struct Kept {
    terms: Terms,
    record: Option<(SlidingWindow, u64)>,
    newest: u64,
}

impl Kept {
    fn new(terms: Terms) -> Self {
        Self {
            terms,
            record: None,
            newest: 0,
        }
    }

    fn width(&self) -> u64 {
        self.terms.window().as_micros() as u64 / BUCKETS
    }

    fn whole(&self) -> u64 {
        (BUCKETS + 1) * self.width()
    }

    fn decide(&mut self, now: u64, clock: u64, cost: u32) -> bool {
        let (mut window, mut until) = match self.record {
            Some((window, until)) if until > now => (window, until),
            _ => {
                self.newest = 0;
                (SlidingWindow::new(self.terms), 0)
            }
        };
        let behind = clock / self.width() < self.newest;
        let passes = window.decide(clock, cost).passes();
        if passes {
            window.charge(clock, cost);
            self.newest = self.newest.max(clock / self.width());
            until = match behind {
                true => now + self.whole(),
                false => now + (self.newest + 1 + BUCKETS) * self.width() - clock,
            };
        } else if behind {
            until = until.min(now + self.whole());
        }
        self.record = Some((window, until));
        passes
    }
}

// A counter of two buckets that weighs the older one lets 199 through in less than a window.
#[test]
fn the_run_that_gets_2l_minus_1_out_of_two_buckets() {
    let (limit, second) = (100, 1_000_000);
    let mut window = SlidingWindow::new(Terms::new(Quota::per_second(limit), 0));
    let mut log = Log::default();
    let mut flood = |now: u64| {
        while window.decide(now, 1).passes() {
            window.charge(now, 1);
            log.admit(now, 1);
        }
        assert!(log.held(now, second) <= u64::from(limit));
    };
    flood(second - 1_000);
    for now in (second..2 * second - 1_000).step_by(1_000) {
        flood(now);
    }
    assert_eq!(log.held(2 * second - 1_001, second), u64::from(limit));
}

// Summing only what lies before the clock would take the charges of the time before the step for gone.
#[test]
fn the_run_that_steps_back_and_does_not_sum_the_future() {
    let (limit, second) = (100, 1_000_000);
    let mut window = SlidingWindow::new(Terms::new(Quota::per_second(limit), 0));
    let mut admitted = 0;
    for step in 0..10 {
        let now = (100 - 10 * step) * second;
        for _ in 0..limit {
            if window.decide(now, 1).passes() {
                window.charge(now, 1);
                admitted += 1;
            }
        }
    }
    assert_eq!(admitted, limit);
}

// Nodes on an older version must not turn the record back: each conversion moves what was charged to
// the end of its bucket, and without rest that never gets old.
#[test]
fn the_run_of_two_versions_that_alternate_over_unaligned_widths() {
    let old = Terms::new(Quota::new(50, Duration::from_micros(700_001)), 1);
    let new = Terms::new(Quota::new(50, Duration::from_micros(1_000_003)), 2);
    let mut window = SlidingWindow::new(old);
    window.charge(0, 50);
    let mut freed = None;
    for now in (0..3_000_000).step_by(7_919) {
        for terms in [old, new] {
            window.renew(terms, now);
            if window.decide(now, 50).passes() {
                freed = freed.or(Some(now));
            }
        }
    }
    let bucket = new.window().as_micros() as u64 / BUCKETS;
    let latest = new.window().as_micros() as u64 + 3 * bucket;
    let freed = freed.expect("the charge grows old");
    assert!((1_000_003..=latest).contains(&freed), "freed at {freed}");
}

#[test]
fn an_older_version_goes_by_the_terms_of_the_record() {
    let old = Terms::new(Quota::per_second(100), 1);
    let new = Terms::new(Quota::per_second(10), 2);
    let mut window = SlidingWindow::new(old);
    window.charge(0, 8);
    assert!(
        window.renew(new, 1),
        "the newer version is new to the record"
    );
    assert!(!window.renew(old, 2));
    assert_eq!(window.decide(2, 1).limit(), 10);
    assert_eq!(window.decide(2, 11).wait(), Wait::Forever);
    assert!(!window.decide(2, 3).passes());
}

// Conversions at every call, as by nodes that were given different windows in one version, refuse too
// much while they last, but push nothing beyond the present.
#[test]
fn different_windows_in_one_version_never_charge_the_future() {
    let one = Terms::new(Quota::new(10, Duration::from_millis(70)), 0);
    let other = Terms::new(Quota::new(10, Duration::from_millis(100)), 0);
    let mut window = SlidingWindow::new(one);
    window.charge(0, 10);
    for now in 0..1_000 {
        window.renew(if now % 2 == 0 { one } else { other }, now * 1_000);
    }
    let free = 1_000_000 + 2 * other.window().as_micros() as u64;
    assert!(window.decide(free, 10).passes());
}

#[test]
fn the_longest_window_and_the_highest_limit_do_not_overflow() {
    let quota = Quota::new(u32::MAX, Duration::from_secs(3_660 * 86_400));
    let terms = Terms::new(quota, u32::MAX);
    let mut window = SlidingWindow::new(terms);
    let now = 1 << 51;
    for cost in [u32::MAX - 1, 1] {
        assert!(window.decide(now, cost).passes());
        window.charge(now, cost);
    }
    assert!(matches!(
        window.decide(now, u32::MAX).wait(),
        Wait::Micros(_)
    ));
}

// With clamping alone, a key that is full when the clock steps back by an hour stays full for an hour.
#[test]
fn the_run_that_freezes_a_full_key_by_clamping() {
    let terms = Terms::new(Quota::per_second(3), 0);
    let mut kept = Kept::new(terms);
    let hour = 3_600 * 1_000_000;
    assert!(kept.decide(0, 2 * hour, 3));
    for now in (1_000..kept.whole()).step_by(10_000) {
        assert!(!kept.decide(now, hour + now, 1), "admitted after {now} µs");
    }
    let free = kept.whole() + 1_000;
    assert!(kept.decide(free, hour + free, 3));
}
