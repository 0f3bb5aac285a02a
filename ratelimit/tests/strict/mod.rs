//! Random requests in memory, and what breaks the limits among them.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use seawall_ratelimit::{
    Decision, MemoryStore, Quota, RateLimitError, RateLimitLayer, Rule, Verdict,
};
use tokio::time::{Instant, advance};

/// How many windows hold more than their limit: of so many requests one after the other in paused time, and of so
/// many by four threads at once.
pub(crate) fn memory(in_turn: u32, at_once: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(one_thread(in_turn)) + many_threads(at_once)
}

/// What one key was admitted under one rule, as far back as a window reaches.
#[derive(Default)]
struct Log {
    admitted: VecDeque<(u64, u64)>,
    held: u64,
}

impl Log {
    /// Whether the window that ends with this one holds more than the limit.
    fn breaks(&mut self, now: u64, cost: u64, quota: Quota) -> bool {
        let window = quota.window().as_micros() as u64;
        while let Some((moment, old)) = self.admitted.front().copied() {
            if moment + window > now {
                break;
            }
            self.held -= old;
            self.admitted.pop_front();
        }
        self.admitted.push_back((now, cost));
        self.held += cost;
        self.held > u64::from(quota.limit())
    }
}

pub(crate) fn now_of<F>(verdict: Result<Verdict<F>, RateLimitError>) -> Decision {
    match verdict {
        Ok(Verdict::Now(decision)) => decision,
        _ => panic!("memory decides at once"),
    }
}

/// Random steps of paused time, keys, costs and a table that is far too small for them.
async fn one_thread(operations: u32) -> u64 {
    struct Ask {
        key: u64,
        cost: u32,
    }
    let own = Quota::new(12, Duration::from_millis(320));
    let group = Quota::new(40, Duration::from_millis(977));
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(64))
        .rule(
            Rule::new("own", own)
                .key(|ask: &Ask| ask.key.into())
                .cost(|ask: &Ask| ask.cost),
        )
        .rule(Rule::new("group", group).key(|ask: &Ask| (ask.key % 7).into()))
        .checker();
    let mut random = fastrand::Rng::with_seed(1);
    let mut logs: HashMap<(bool, u64), Log> = HashMap::new();
    let start = Instant::now();
    let mut violations = 0;
    for _ in 0..operations {
        if random.u8(0..4) == 0 {
            let step = match random.u8(0..20) {
                0 => random.u64(0..1_200_000),
                1..5 => random.u64(0..60_000),
                _ => random.u64(0..2_000),
            };
            advance(Duration::from_micros(step)).await;
        }
        // Some hot keys, and a crowd that evicts them.
        let key = if random.bool() {
            random.u64(0..5)
        } else {
            random.u64(0..2_000)
        };
        let ask = Ask {
            key,
            cost: random.u32(1..5),
        };
        if now_of(limits.decide(&ask)).passes() {
            let now = start.elapsed().as_micros() as u64;
            let log = logs.entry((true, key)).or_default();
            violations += u64::from(log.breaks(now, ask.cost.into(), own));
            let log = logs.entry((false, key % 7)).or_default();
            violations += u64::from(log.breaks(now, 1, group));
        }
    }
    violations
}

/// Admissions that lie in one window for certain: each was decided between its two moments.
pub(crate) fn broken_windows(mut admitted: Vec<(Instant, Instant)>, quota: Quota) -> u64 {
    admitted.sort();
    let mut broken = 0;
    for (n, (start, _)) in admitted.iter().enumerate() {
        let end = *start + quota.window();
        let later = admitted[n..].iter().take_while(|(from, _)| *from < end);
        let inside = later.filter(|(_, to)| *to < end).count();
        broken += u64::from(inside > quota.limit() as usize);
    }
    broken
}

fn many_threads(operations: u64) -> u64 {
    let quota = Quota::new(50, Duration::from_millis(8));
    let limits = RateLimitLayer::new(MemoryStore::with_capacity(16))
        .rule(Rule::new("key", quota).key(|key: &u64| (*key).into()))
        .checker();
    const THREADS: u64 = 4;
    let admitted: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let limits = limits.clone();
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(thread);
                    let mut admitted = Vec::new();
                    for _ in 0..operations / THREADS {
                        let key = random.u64(0..3);
                        let before = Instant::now();
                        if now_of(limits.decide(&key)).passes() {
                            admitted.push((key, before, Instant::now()));
                        }
                    }
                    admitted
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let of_key = |key| {
        let mine = admitted.iter().filter(|(other, ..)| *other == key);
        mine.map(|(_, from, to)| (*from, *to)).collect()
    };
    (0..3).map(|key| broken_windows(of_key(key), quota)).sum()
}
