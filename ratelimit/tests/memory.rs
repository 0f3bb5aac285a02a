//! What the layout of the store in memory must not show: counts of any size, and many who want one key at once.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::time::Duration;

use proptest::prelude::*;
use seawall_ratelimit::window::{SlidingWindow, Terms};
use seawall_ratelimit::{Key, MemoryStore, Quota, RateLimitLayer, Rule, Verdict};
use tokio::time::advance;

struct Ask {
    key: u64,
    cost: u32,
}

#[derive(Clone, Debug)]
enum Step {
    Ask { key: u64, cost: u32 },
    Pass(u64),
    Reset(u64),
    Block(u64, u64),
    Unblock(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || 0..3_u64;
    // Around what a count of the past has room for, and far beyond.
    let cost = prop_oneof![0..3_u32, 65_530..65_540_u32, 0..400_000_u32];
    let micros = prop_oneof![0..70_000_u64, 0..1_500_000_u64];
    let step = prop_oneof![
        8 => (key(), cost).prop_map(|(key, cost)| Step::Ask { key, cost }),
        4 => micros.clone().prop_map(Step::Pass),
        1 => key().prop_map(Step::Reset),
        1 => (key(), micros).prop_map(|(key, time)| Step::Block(key, time)),
        1 => key().prop_map(Step::Unblock),
    ];
    prop::collection::vec(step, 1..60)
}

/// Takes the steps in the store, with so many rules of the quota, and in windows of the pure arithmetic.
async fn take(steps: &[Step], rules: usize) {
    let quota = Quota::per_second(500_000);
    let all = (0..rules).map(|number| {
        Rule::new(format!("rule {number}"), quota)
            .key(|ask: &Ask| ask.key.into())
            .cost(|ask: &Ask| ask.cost)
            .boxed()
    });
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rules(all)
        .checker();
    let names: Vec<String> = (0..rules).map(|number| format!("rule {number}")).collect();
    let terms = Terms::new(quota, 0);
    let mut windows = [SlidingWindow::new(terms); 3];
    let mut blocked_until = [0_u64; 3];
    let mut now = 0;
    for step in steps {
        match *step {
            Step::Ask { key, cost } => {
                let Ok(Verdict::Now(decision)) = limits.decide(&Ask { key, cost }) else {
                    panic!("memory decides at once, and no cost is above the limit")
                };
                let at = key as usize;
                let expected = windows[at].decide(now, cost);
                let passes = expected.passes() && blocked_until[at] <= now;
                assert_eq!(decision.passes(), passes, "{step:?} at {now}");
                if passes {
                    windows[at].charge(now, cost);
                    for (_, outcome) in decision.iter() {
                        assert_eq!(
                            outcome.remaining(),
                            expected.remaining(),
                            "{step:?} at {now}"
                        );
                        assert_eq!(outcome.reset(), expected.reset(), "{step:?} at {now}");
                    }
                } else if blocked_until[at] <= now {
                    for (_, outcome) in decision.iter() {
                        assert_eq!(outcome.wait(), expected.wait(), "{step:?} at {now}");
                    }
                }
            }
            Step::Pass(micros) => {
                advance(Duration::from_micros(micros)).await;
                now += micros;
            }
            Step::Reset(key) => {
                for name in &names {
                    limits.reset(name, Key::from(key)).await.unwrap();
                }
                windows[key as usize] = SlidingWindow::new(terms);
            }
            Step::Block(key, micros) => {
                let time = Duration::from_micros(micros);
                for name in &names {
                    limits.block(name, Key::from(key), time).await.unwrap();
                }
                blocked_until[key as usize] = now + micros;
            }
            Step::Unblock(key) => {
                for name in &names {
                    limits.unblock(name, Key::from(key)).await.unwrap();
                }
                blocked_until[key as usize] = 0;
            }
        }
    }
}

proptest! {
    #[test]
    fn counts_of_any_size_are_those_of_the_arithmetic(steps in steps(), rules in 1_usize..4) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(take(&steps, rules));
    }
}

const THREADS: u32 = 8;
const EACH: u32 = 20_000;

/// How many of the requests of several threads pass.
fn admitted(ask: impl Fn(u32) -> bool + Sync) -> u32 {
    std::thread::scope(|scope| {
        let ask = &ask;
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || (0..EACH).filter(|_| ask(thread)).count() as u32))
            .collect();
        let counts = threads.into_iter().map(|thread| thread.join().unwrap());
        counts.sum()
    })
}

#[test]
fn threads_that_want_one_key_get_just_its_limit() {
    let limit = THREADS * EACH / 2;
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(10))
        .rule(Rule::new("all", Quota::per_day(limit)))
        .checker();
    let passes = |_| matches!(limits.decide(&()), Ok(Verdict::Now(decision)) if decision.passes());
    assert_eq!(admitted(passes), limit);
}

#[test]
fn layers_that_name_their_rules_in_another_order_never_wait_in_a_circle() {
    let limit = THREADS * EACH / 2;
    let store = MemoryStore::with_capacity(10);
    let rule = |name| Rule::new(name, Quota::per_day(limit));
    let one = RateLimitLayer::new(store.clone())
        .rule(rule("a"))
        .rule(rule("b"))
        .rule(rule("c"))
        .checker();
    let other = RateLimitLayer::new(store)
        .rule(rule("c"))
        .rule(rule("b"))
        .rule(rule("a"))
        .checker();
    let passes = |thread| {
        let limits = |first: bool| match first {
            true => matches!(one.decide(&()), Ok(Verdict::Now(decision)) if decision.passes()),
            false => matches!(other.decide(&()), Ok(Verdict::Now(decision)) if decision.passes()),
        };
        limits(thread % 2 == 0)
    };
    assert_eq!(admitted(passes), limit);
}

#[tokio::test(start_paused = true)]
async fn where_a_bucket_begins_a_request_that_another_rule_refuses_is_told_of_the_one_before() {
    let wide = Quota::per_second(100);
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(Rule::new("wide", wide).key(|ask: &Ask| ask.key.into()))
        .rule(Rule::new("narrow", Quota::per_hour(1)).key(|ask: &Ask| ask.key.into()))
        .checker();
    let mut window = SlidingWindow::new(Terms::new(wide, 0));
    let ask = Ask { key: 1, cost: 1 };
    assert!(limits.check(&ask).await.is_ok());
    window.charge(0, 1);
    for round in 1..=8 {
        advance(Duration::from_millis(150)).await;
        let Ok(Verdict::Now(decision)) = limits.decide(&ask) else {
            panic!("memory decides at once")
        };
        assert!(!decision.passes());
        let (_, told) = decision.iter().next().unwrap();
        let expected = window.decide(round * 150_000, 0);
        assert_eq!(
            (told.remaining(), told.reset()),
            (expected.remaining(), expected.reset()),
            "round {round}"
        );
    }
}
