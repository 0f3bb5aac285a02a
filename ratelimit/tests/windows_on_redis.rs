//! The windows that are asked for by name, on a real server.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

mod script;
mod together;

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use seawall_ratelimit::window::{Gcra, Outcome, SlidingCounter, SlidingLog, Terms, Wait};
use seawall_ratelimit::{
    BoxError, Key, Leased, MemoryStore, Quota, RateLimitError, RateLimitLayer, Rule, Store,
    StoreError, WindowKind,
};
use test_support::Redis;
use together::{Strict, connect, decides_as_in_turn, store};

const NAMED: [WindowKind; 3] = [WindowKind::Log, WindowKind::Counter, WindowKind::Gcra];

/// The pure rules of a kind.
#[derive(Clone, Debug)]
enum Pure {
    Log(SlidingLog),
    Counter(SlidingCounter),
    Gcra(Gcra),
}

impl Pure {
    fn new(kind: u8, terms: Terms) -> Self {
        match kind {
            1 => Self::Log(SlidingLog::new(terms)),
            2 => Self::Counter(SlidingCounter::new(terms)),
            _ => Self::Gcra(Gcra::new(terms)),
        }
    }

    fn renew(&mut self, terms: Terms, now: u64) -> bool {
        match self {
            Self::Log(log) => log.renew(terms, now),
            Self::Counter(counter) => counter.renew(terms, now),
            Self::Gcra(bucket) => bucket.renew(terms, now),
        }
    }

    fn decide(&self, now: u64, cost: u32) -> Outcome {
        match self {
            Self::Log(log) => log.decide(now, cost),
            Self::Counter(counter) => counter.decide(now, cost),
            Self::Gcra(bucket) => bucket.decide(now, cost),
        }
    }

    fn charge(&mut self, now: u64, cost: u32) {
        match self {
            Self::Log(log) => log.charge(now, cost),
            Self::Counter(counter) => counter.charge(now, cost),
            Self::Gcra(bucket) => bucket.charge(now, cost),
        }
    }
}

fn numbers(outcome: Outcome) -> Vec<i64> {
    let wait = match outcome.wait() {
        Wait::None => 0,
        Wait::Micros(micros) => micros as i64,
        Wait::Forever => -1,
    };
    vec![
        outcome.limit().into(),
        outcome.remaining().into(),
        outcome.reset().as_micros() as i64,
        wait,
    ]
}

async fn run_at(
    connection: &mut MultiplexedConnection,
    now: u64,
    rule: script::Rule<'_>,
) -> Vec<i64> {
    let rules = [rule];
    let reply: Vec<u8> = script::call(now, &rules, false)
        .query_async(connection)
        .await
        .unwrap();
    script::read(&reply, &rules, false)
}

fn asked<'a>(key: &'a str, kind: u8, terms: Terms, version: u32, cost: u32) -> script::Rule<'a> {
    script::Rule {
        key,
        version,
        limit: terms.limit(),
        width: terms.window().as_micros() as u64 / 16,
        cost,
        kind,
    }
}

/// Random traces, some with quotas that change, from the smallest numbers to the largest.
async fn differing(kind: u8, traces: u32, most: u32, windows: std::ops::Range<u64>) {
    let server = Redis::start().await;
    let mut connection = connect(&server).await;
    let mut random = fastrand::Rng::with_seed(u64::from(kind) << 32 | u64::from(most));
    let (mut passed, mut refused) = (0, 0);
    for trace in 0..traces {
        let key = format!("{{t}}{trace}");
        let mut quota = || {
            let window = Duration::from_micros(random.u64(windows.clone()));
            Quota::new(random.u32(1..=most), window)
        };
        let quotas = [quota(), quota(), quota()];
        let terms = [
            Terms::new(quotas[0], 1),
            Terms::new(quotas[1], 2),
            Terms::new(quotas[2], 2),
        ];
        let window = terms[0].window().as_micros() as u64;
        let mut kept: Option<Pure> = None;
        let mut now = 1_700_000_000_000_000 + random.u64(0..1 << 40);
        for step in 0..60 {
            now += match random.u8(0..6) {
                0 | 1 => 0,
                2 | 3 => random.u64(0..window / 40),
                4 => random.u64(0..window / 4),
                _ => random.u64(0..window),
            };
            let version = [0, random.usize(0..3)][usize::from(trace % 2 == 1)];
            let cost = match random.u8(0..8) {
                0 => 0,
                1 => random.u32(0..=terms[version].limit()),
                _ => random.u32(0..=terms[version].limit() / 5 + 1),
            };
            let mut pure = kept.clone().unwrap_or(Pure::new(kind, terms[version]));
            let renewed = pure.renew(terms[version], now);
            let outcome = pure.decide(now, cost);
            if outcome.passes() && cost > 0 {
                pure.charge(now, cost);
                kept = Some(pure);
                passed += 1;
            } else {
                refused += u32::from(!outcome.passes());
                if renewed {
                    kept = Some(pure);
                }
            }
            let number = [1, 2, 2][version];
            let rule = asked(&key, kind, terms[version], number, cost);
            let got = run_at(&mut connection, now, rule).await;
            assert_eq!(
                got,
                numbers(outcome),
                "kind {kind}, trace {trace}, step {step}, {quotas:?}, cost {cost}"
            );
        }
    }
    assert!(
        passed > traces && refused > traces,
        "{passed} passed, {refused} were refused"
    );
}

// Long windows, so that no key runs out in real time.
const USUAL: std::ops::Range<u64> = 20_000_000..90_000_000;
/// Up to ten years, where products have more digits than the server's numbers.
const LONG: std::ops::Range<u64> = 86_400_000_000..316_224_000_000_000;

#[tokio::test]
async fn the_script_is_the_image_of_the_log() {
    differing(1, 40, 20, USUAL).await;
    differing(1, 10, 3_000, LONG).await;
    differing(1, 10, u32::MAX, USUAL).await;
}

#[tokio::test]
async fn the_script_is_the_image_of_the_two_buckets() {
    differing(2, 40, 20, USUAL).await;
    differing(2, 20, u32::MAX, USUAL).await;
    differing(2, 20, u32::MAX, LONG).await;
}

#[tokio::test]
async fn the_script_is_the_image_of_the_bucket_of_tokens() {
    differing(3, 40, 20, USUAL).await;
    differing(3, 20, u32::MAX, USUAL).await;
    differing(3, 20, u32::MAX, LONG).await;
}

/// A request under a rule of each kind.
#[derive(Clone, Copy)]
struct Ask {
    key: u64,
    costs: [u32; 3],
}

fn three_kinds<St: Store>(
    store: St,
) -> seawall_ratelimit::Checker<St, impl seawall_ratelimit::Apply<Ask> + use<St>> {
    RateLimitLayer::new(store)
        .rule(
            Rule::new("log", Quota::per_day(40))
                .window(WindowKind::Log)
                .key(|ask: &Ask| Key::from(ask.key))
                .cost(|ask: &Ask| ask.costs[0]),
        )
        .rule(
            Rule::new("counter", Quota::per_day(60))
                .window(WindowKind::Counter)
                .key(|ask: &Ask| Key::from(ask.key % 2))
                .cost(|ask: &Ask| ask.costs[1]),
        )
        .rule(
            Rule::new("gcra", Quota::per_day(90))
                .window(WindowKind::Gcra)
                .cost(|ask: &Ask| ask.costs[2]),
        )
        .checker()
}

#[tokio::test]
async fn a_batch_of_all_kinds_decides_as_one_after_the_other_would() {
    let server = Redis::start().await;
    let together = three_kinds(store(&server).await);
    let in_turn = three_kinds(MemoryStore::with_capacity(1_000));
    let mut random = fastrand::Rng::with_seed(9);
    for round in 0..40 {
        let mut last = None;
        let asks: Vec<Ask> = (0..random.usize(1..40))
            .map(|_| {
                let fresh = Ask {
                    key: random.u64(0..4),
                    costs: std::array::from_fn(|_| random.u32(0..3)),
                };
                let ask = last.filter(|_| random.bool()).unwrap_or(fresh);
                last = Some(ask);
                ask
            })
            .collect();
        decides_as_in_turn(&together, &in_turn, &asks, round).await;
    }
}

#[tokio::test]
async fn operators_see_reset_and_block_each_kind() {
    let server = Redis::start().await;
    for kind in NAMED {
        let rule = || {
            Rule::new("key", Quota::per_hour(2))
                .window(kind)
                .key(|key: &u64| Key::from(*key))
        };
        let limits = RateLimitLayer::new(store(&server).await)
            .rule(rule())
            .checker();
        let key = || Key::from(1);
        let left = async || {
            let standing = limits.peek("key", key()).await.unwrap();
            standing.outcome().remaining()
        };
        assert_eq!(left().await, 2, "{kind:?}");
        limits.check(&1).await.unwrap();
        limits.check(&1).await.unwrap();
        limits.check(&1).await.unwrap_err();
        assert_eq!(left().await, 0, "{kind:?}");
        limits.reset("key", key()).await.unwrap();
        assert_eq!(left().await, 2, "{kind:?}");
        limits.check(&1).await.unwrap();
        let time = Duration::from_secs(600);
        limits.block("key", key(), time).await.unwrap();
        let blocked = limits.peek("key", key()).await.unwrap();
        assert_eq!(blocked.outcome().remaining(), 1, "what was counted stays");
        assert!(blocked.blocked_for().unwrap() <= time, "{kind:?}");
        limits.check(&1).await.unwrap_err();
        limits.unblock("key", key()).await.unwrap();
        limits.check(&1).await.unwrap();
        limits.check(&1).await.unwrap_err();
        // Leases are of the default kind; others go through them to the store.
        let leased = RateLimitLayer::new(Leased::over(store(&server).await))
            .rule(rule())
            .checker();
        leased.check(&1).await.unwrap_err();
        leased.check(&2).await.unwrap();
    }
}

async fn left<Rs>(limits: &seawall_ratelimit::Checker<Strict, Rs>) -> u32
where
    Rs: seawall_ratelimit::Apply<()>,
{
    let standing = limits.peek("all", Key::from(7)).await.unwrap();
    standing.outcome().remaining()
}

#[tokio::test]
async fn what_is_given_back_can_be_taken_again() {
    use tower::{Layer, Service, ServiceExt, service_fn};
    let server = Redis::start().await;
    for kind in NAMED {
        let store = store(&server).await;
        let rule = || {
            Rule::new("all", Quota::per_day(2))
                .window(kind)
                .key(|(): &()| Key::from(7))
        };
        let limits = RateLimitLayer::new(store.clone()).rule(rule()).checker();
        // What succeeds is given back.
        let layer = RateLimitLayer::new(store)
            .rule(rule())
            .refund_if(Result::<(), BoxError>::is_ok);
        let mut service = layer.layer(service_fn(async |()| Ok::<_, BoxError>(())));
        for _ in 0..5 {
            service.ready().await.unwrap().call(()).await.unwrap();
            // The refund is in the batch before this one, or in this one before its requests.
            while left(&limits).await < 2 {}
        }
        limits.check(&()).await.unwrap();
        limits.check(&()).await.unwrap();
        limits.check(&()).await.unwrap_err();
    }
}

// A clock that steps back frees nothing, and does not freeze a full key for the length of the step either.
#[tokio::test]
async fn a_clock_that_steps_back_frees_nothing_and_freezes_nothing() {
    let server = Redis::start().await;
    let mut connection = connect(&server).await;
    let terms = Terms::new(Quota::new(3, Duration::from_secs(60)), 0);
    let (hour, start) = (3_600_000_000, 1_700_000_000_000_000);
    for kind in 1..=3_u8 {
        let key = format!("k{kind}");
        let mut ask = async |now: u64| {
            let rule = asked(&key, kind, terms, 0, 1);
            run_at(&mut connection, now, rule).await[3]
        };
        for _ in 0..3 {
            assert_eq!(ask(start + hour).await, 0);
        }
        let window = 60_000_000;
        let wait = ask(start).await;
        assert!(wait > 0, "kind {kind}: what was admitted still counts");
        assert!(wait <= 2 * window + 2_000, "kind {kind}: {wait}");
        server.ask(&["PEXPIRE", &key, "36000000"]).await;
        assert!(ask(start - hour).await > 0);
        let ttl: i64 = server.ask(&["PTTL", &key]).await.trim().parse().unwrap();
        assert!((1..=120_001).contains(&ttl), "kind {kind}: {ttl}");
        for _ in 0..20 {
            assert!(ask(start - hour).await > 0);
        }
        let later: i64 = server.ask(&["PTTL", &key]).await.trim().parse().unwrap();
        assert!(later <= ttl, "asking makes it live no longer: {later}");
    }
}

#[tokio::test]
async fn a_log_keeps_what_counts_and_goes_away() {
    let server = Redis::start().await;
    let mut connection = connect(&server).await;
    let terms = Terms::new(Quota::new(10, Duration::from_secs(60)), 0);
    let start = 1_700_000_000_000_000;
    for second in 0..300 {
        let rule = asked("k", 1, terms, 0, 1);
        let now = start + 1_000_000 * second;
        run_at(&mut connection, now, rule).await;
        let members: u64 = server.ask(&["ZCARD", "k"]).await.trim().parse().unwrap();
        assert!(members <= 11, "{members}");
    }
    let ttl: i64 = server.ask(&["PTTL", "k"]).await.trim().parse().unwrap();
    assert!((1..=60_000).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn a_foreign_value_under_each_kind_is_left_alone() {
    let server = Redis::start().await;
    for kind in NAMED {
        server.ask(&["FLUSHALL"]).await;
        let limits = RateLimitLayer::new(store(&server).await)
            .rule(Rule::new("all", Quota::per_hour(10)).window(kind))
            .checker();
        limits.check(&()).await.unwrap();
        let keys = server.ask(&["KEYS", "*"]).await;
        let key = keys.lines().find(|key| !key.contains("}!")).unwrap();
        for set in [
            vec!["SET", key, "not a counter"],
            vec!["SET", key, ""],
            vec!["RPUSH", key, "a", "list"],
            vec!["ZADD", key, "5", "another set"],
        ] {
            server.ask(&["DEL", key]).await;
            server.ask(&set).await;
            let before = server.ask(&["DUMP", key]).await;
            let Err(RateLimitError::Store(StoreError::ForeignValue { rule })) =
                limits.check(&()).await
            else {
                panic!("{kind:?}: {set:?} is not ours");
            };
            assert_eq!(rule, "all");
            assert_eq!(server.ask(&["DUMP", key]).await, before);
        }
    }
}
