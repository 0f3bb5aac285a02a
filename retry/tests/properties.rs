//! Invariants, over random settings:
//!
//! 1. No delay exceeds the cap, with any jitter, after any number of attempts.
//! 2. Without jitter, delays are `min(cap, base * factor^n)`; with it, they stay in the range it names.
//! 3. A seeded session repeats itself; two sessions differ.
//! 4. Over every span: retries <= ratio * successes + burst.
//! 5. A withdrawal that is not spent leaves the budget as it was.

use std::{collections::HashSet, time::Duration};

use proptest::prelude::*;
use seawall_retry::{Backoff, Budget, Jitter};

fn jitters() -> impl Strategy<Value = Jitter> {
    prop_oneof![
        Just(Jitter::None),
        Just(Jitter::Full),
        Just(Jitter::Equal),
        Just(Jitter::Decorrelated)
    ]
}

prop_compose! {
    fn backoffs()(
        base in 1..u64::MAX,
        more in any::<u64>(),
        seconds in any::<bool>(),
        fibonacci in any::<bool>(),
        factor in prop_oneof![Just(1.0), Just(2.0), 1.0..10.0, Just(f64::MAX)],
        attempts in prop_oneof![1..100_u32, Just(u32::MAX)],
        jitter in jitters(),
        seed in any::<Option<u64>>(),
    ) -> (Backoff, Duration, Duration) {
        let span = |n| if seconds { Duration::from_secs(n) } else { Duration::from_nanos(n) };
        let (base, cap) = (span(base), span(base.saturating_add(more)));
        let backoff = if fibonacci {
            Backoff::fibonacci(base)
        } else {
            Backoff::exponential(base).factor(factor)
        };
        let backoff = backoff
            .cap(cap)
            .attempts(attempts)
            .jitter(jitter);
        (seed.map_or(backoff, |seed| backoff.seed(seed)), base, cap)
    }
}

proptest! {
    #[test]
    fn no_delay_exceeds_the_cap((backoff, _, cap) in backoffs(), n in any::<u32>()) {
        for delay in backoff.delays().take(200) {
            prop_assert!(delay <= cap);
        }
        prop_assert!(backoff.delay(n) <= cap);
        prop_assert!(backoff.delay(u32::MAX) <= cap);
    }

    #[test]
    fn delays_never_shrink_without_jitter((backoff, base, _) in backoffs()) {
        let delays: Vec<_> = backoff.jitter(Jitter::None).delays().take(200).collect();
        prop_assert!(delays.first().is_none_or(|first| *first == base));
        prop_assert!(delays.is_sorted());
    }

    #[test]
    fn jitter_stays_in_its_range((backoff, base, cap) in backoffs(), jitter in jitters()) {
        let backoff = backoff.jitter(jitter);
        let mut before = base;
        for (n, delay) in backoff.delays().take(100).enumerate() {
            let exponential = backoff.delay(n as u32);
            let (low, high) = match jitter {
                Jitter::Full => (Duration::ZERO, exponential),
                Jitter::Equal => (exponential / 2, exponential),
                Jitter::Decorrelated => (base, cap.min(before.saturating_mul(3))),
                _ => (exponential, exponential),
            };
            prop_assert!(low <= delay && delay <= high, "{delay:?} is not in {low:?}..={high:?}");
            before = delay;
        }
    }

    #[test]
    fn there_is_one_delay_fewer_than_there_are_attempts((backoff, _, _) in backoffs(), n in 1..200_u32) {
        let delays = backoff.attempts(n).delays();
        prop_assert_eq!(delays.len(), n as usize - 1);
        prop_assert_eq!(delays.count(), n as usize - 1);
    }

    #[test]
    fn sessions_repeat_themselves_and_differ(seed in any::<u64>(), session in any::<u64>()) {
        let backoff = Backoff::exponential(Duration::from_secs(1)).jitter(Jitter::Full).seed(seed);
        let delays = |n| backoff.session(n).collect::<Vec<_>>();
        prop_assert_eq!(delays(session), delays(session));
        prop_assert_ne!(delays(session), delays(session.wrapping_add(1)));
        prop_assert_ne!(delays(session), backoff.seed(seed ^ 1).session(session).collect::<Vec<_>>());
    }

    #[test]
    fn a_budget_holds_over_every_span(
        ratio in 0.001..=1.0_f64,
        burst in 1..20_u32,
        successes in prop::collection::vec(any::<bool>(), 1..300),
    ) {
        let budget = Budget::ratio(ratio).burst(burst);
        // Per step: (retries, successes) so far.
        let mut sums = vec![(0_u32, 0_u32)];
        for success in successes {
            let (mut retries, mut deposits) = *sums.last().unwrap();
            if success {
                budget.deposit();
                deposits += 1;
            } else if let Some(withdrawal) = budget.withdraw() {
                withdrawal.spend();
                retries += 1;
            }
            sums.push((retries, deposits));
        }
        for (i, from) in sums.iter().enumerate() {
            for to in &sums[i..] {
                let (retries, successes) = (to.0 - from.0, to.1 - from.1);
                let bound = ratio * f64::from(successes) + f64::from(burst);
                prop_assert!(f64::from(retries) <= bound + 1e-9);
            }
        }
    }

    #[test]
    fn what_is_not_spent_goes_back(burst in 1..20_u32, take in 1..40_usize) {
        let budget = Budget::ratio(0.5).burst(burst);
        let taken: Vec<_> = std::iter::from_fn(|| budget.withdraw()).take(take).collect();
        prop_assert_eq!(budget.balance(), f64::from(burst) - taken.len() as f64);
        drop(taken);
        prop_assert_eq!(budget.balance(), f64::from(burst));
    }
}

#[test]
fn sessions_without_a_seed_are_independent() {
    let backoff = Backoff::exponential(Duration::from_secs(1)).jitter(Jitter::Full);
    let firsts: HashSet<_> = (0..1000)
        .map(|_| backoff.delays().next().unwrap())
        .collect();
    assert!(
        firsts.len() > 990,
        "only {} of 1000 sessions differ",
        firsts.len()
    );
}

#[test]
fn delays_at_the_cap_are_still_spread() {
    // Drawn over the uncapped delay and cut afterwards, nearly all of these would be the cap.
    for jitter in [Jitter::Full, Jitter::Equal, Jitter::Decorrelated] {
        let cap = Duration::from_secs(300);
        let backoff = Backoff::exponential(Duration::from_secs(1))
            .cap(cap)
            .attempts(1000)
            .jitter(jitter)
            .seed(1);
        let late: Vec<_> = backoff.delays().skip(100).collect();
        assert!(late.iter().filter(|delay| **delay == cap).count() < 5);
        assert!(late.iter().any(|delay| *delay > cap.mul_f64(0.95)));
    }
}

#[test]
fn constant_and_fibonacci_waits_are_exact() {
    let second = Duration::from_secs(1);
    let seconds =
        |backoff: Backoff| -> Vec<u64> { backoff.delays().map(|delay| delay.as_secs()).collect() };
    assert_eq!(seconds(Backoff::constant(second * 3).attempts(5)), [3; 4]);
    let fibonacci = Backoff::fibonacci(second).attempts(16);
    assert_eq!(
        seconds(fibonacci),
        [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 300, 300]
    );
    // Far beyond what an integer holds it is the cap.
    for n in [185, 186, 187, 1_000, u32::MAX] {
        let longest = Backoff::fibonacci(Duration::from_nanos(1)).cap(Duration::MAX);
        assert!(longest.delay(n) <= Duration::MAX);
        assert_eq!(fibonacci.delay(n), second * 300);
    }
    assert_eq!(Backoff::constant(second * 900).delay(9), second * 900);
    assert!(Backoff::try_constant(Duration::ZERO).is_err());
    assert!(Backoff::try_fibonacci(Duration::ZERO).is_err());
}
