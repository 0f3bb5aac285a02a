//! Decisions that travel together.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

mod script;
mod together;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use seawall_ratelimit::{Apply, Checker, Key, MemoryStore, Quota, RateLimitLayer, Rule, Store};
use test_support::Redis;
use together::{connect, decides_as_in_turn, store};
use tokio::task::JoinSet;

async fn calls(server: &Redis) -> u64 {
    let stats = server.commandstats().await;
    stats.get("evalsha").unwrap_or(&0) + stats.get("eval").unwrap_or(&0)
}

#[tokio::test]
async fn what_arrives_together_is_one_call() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("key", Quota::per_hour(10)).key(|key: &u64| Key::from(*key)))
        .checker();
    limits.check(&0).await.unwrap();
    server.reset_stats().await;
    let mut tasks = JoinSet::new();
    for key in 0..64 {
        let limits = limits.clone();
        tasks.spawn(async move { limits.check(&key).await.unwrap() });
    }
    tasks.join_all().await;
    assert_eq!(calls(&server).await, 1);
}

// Where most keys of a batch are new, the first of them is made, and the others are copies of it.
#[tokio::test]
async fn new_keys_of_a_batch_are_records_of_their_own_that_go_away() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("key", Quota::per_hour(10)).key(|key: &u64| Key::from(*key)))
        .checker();
    let together = async |keys: std::ops::Range<u64>| {
        let mut tasks = JoinSet::new();
        for key in keys {
            let limits = limits.clone();
            tasks.spawn(async move { (key, limits.check(&key).await) });
        }
        tasks.join_all().await
    };
    let records = async || {
        let keys = server.ask(&["KEYS", "*"]).await;
        let records = keys.lines().filter(|key| !key.contains('!'));
        records.map(str::to_owned).collect::<Vec<_>>()
    };
    limits.check(&663).await.unwrap();
    let foreign = records().await.remove(0);
    server.ask(&["DEL", &foreign]).await;
    for round in 0..10 {
        for (_, checked) in together(60 * round..60 * (round + 1)).await {
            checked.unwrap();
        }
    }
    server.ask(&["RPUSH", &foreign, "a", "list"]).await;
    server.reset_stats().await;
    for (key, checked) in together(600..664).await {
        assert_eq!(checked.is_err(), key == 663, "{key}: {checked:?}");
    }
    let stats = server.commandstats().await;
    assert!(stats["setnx"] <= 2 && stats["copy"] >= 62, "{stats:?}");
    for key in 600..663 {
        let standing = limits.peek("key", Key::from(key)).await.unwrap();
        assert_eq!(standing.outcome().remaining(), 9, "{key}");
    }
    let records = records().await;
    assert_eq!(records.len(), 664);
    for record in records.iter().filter(|record| **record != foreign) {
        let left: i64 = server.ask(&["PTTL", record]).await.parse().unwrap();
        assert!(left > 0, "{record} goes away: {left}");
    }
}

/// A request under up to three rules; a rule whose key is 0 does not apply.
#[derive(Clone, Copy)]
struct Ask {
    keys: [u64; 3],
    costs: [u32; 3],
}

impl Ask {
    fn key(&self, rule: usize) -> Option<Key<'_>> {
        (self.keys[rule] > 0).then(|| Key::from(self.keys[rule]))
    }
}

fn three_rules<St: Store>(store: St) -> Checker<St, impl Apply<Ask> + use<St>> {
    RateLimitLayer::new(store)
        .rule(
            Rule::new("a", Quota::per_day(40))
                .key_if(|ask: &Ask| ask.key(0))
                .cost(|ask: &Ask| ask.costs[0]),
        )
        .rule(
            Rule::new("b", Quota::per_day(60))
                .key_if(|ask: &Ask| ask.key(1))
                .cost(|ask: &Ask| ask.costs[1]),
        )
        .rule(
            Rule::new("c", Quota::per_day(90))
                .key_if(|ask: &Ask| ask.key(2))
                .cost(|ask: &Ask| ask.costs[2])
                .shadow(),
        )
        .checker()
}

// Equal requests are one item with a count, keys of several items are kept between them: what comes of it has to be
// what comes of asking one after the other.
#[tokio::test]
async fn a_batch_decides_as_one_after_the_other_would() {
    let server = Redis::start().await;
    let together = three_rules(store(&server).await);
    let in_turn = three_rules(MemoryStore::with_capacity(1_000));
    // From now on the server knows the script.
    let other = Ask {
        keys: [9; 3],
        costs: [1; 3],
    };
    together.check(&other).await.unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..60 {
        let mut last = None;
        let asks: Vec<Ask> = (0..random.usize(1..60))
            .map(|_| {
                let fresh = Ask {
                    keys: std::array::from_fn(|_| random.u64(0..4)),
                    costs: std::array::from_fn(|_| random.u32(0..3)),
                };
                // Often the same as before, so that there is something to count.
                let ask = last.filter(|_| random.bool()).unwrap_or(fresh);
                last = Some(ask);
                ask
            })
            .collect();
        let before = calls(&server).await;
        decides_as_in_turn(&together, &in_turn, &asks, round).await;
        assert!(calls(&server).await <= before + 1, "it was one batch");
    }
}

#[tokio::test]
async fn a_batch_that_is_sent_twice_counts_once() {
    let server = Redis::start().await;
    let mut connection = connect(&server).await;
    let rules = [script::Rule {
        key: "k",
        version: 0,
        limit: 10,
        width: 225_000_000,
        cost: 3,
        kind: 0,
    }];
    let now = 1_700_000_000_000_000;
    let mut send = async |number: u64| {
        let call = script::numbered(now, Some(number), &rules, true);
        let reply: redis::RedisResult<Vec<u8>> = call.query_async(&mut connection).await;
        reply.map(|reply| script::read(&reply, &rules, true)[1])
    };
    assert_eq!(send(1).await, Ok(7));
    assert_eq!(send(1).await, Ok(7), "the same answer again");
    assert_eq!(send(2).await, Ok(4));
    let late = send(1).await.unwrap_err();
    assert_eq!(late.code(), Some("STALE"), "it does nothing any more");
    assert_eq!(send(2).await, Ok(4));
    assert_eq!(send(3).await, Ok(1));
}

#[tokio::test]
async fn a_script_that_was_forgotten_between_batches_is_sent_again() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("key", Quota::per_hour(3)).key(|key: &u64| Key::from(*key)))
        .checker();
    for _ in 0..3 {
        server.flush_scripts().await;
        let mut tasks = JoinSet::new();
        for key in 0..20 {
            let limits = limits.clone();
            tasks.spawn(async move { limits.check(&key).await.unwrap() });
        }
        tasks.join_all().await;
    }
    for key in 0..20 {
        limits.check(&key).await.unwrap_err();
    }
}

#[tokio::test]
async fn who_has_gone_before_the_batch_leaves_is_not_counted() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("key", Quota::per_hour(1)).key(|key: &u64| Key::from(*key)))
        .checker();
    {
        let check = pin!(limits.check(&1));
        let mut context = Context::from_waker(Waker::noop());
        assert!(check.poll(&mut context).is_pending());
    }
    limits.check(&1).await.unwrap();
    limits.check(&1).await.unwrap_err();
}

#[tokio::test]
async fn who_goes_while_the_batch_is_under_way_holds_up_nobody() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("key", Quota::per_hour(100)).key(|key: &u64| Key::from(*key)))
        .checker();
    for polls in 1..6 {
        let impatient = {
            let limits = limits.clone();
            tokio::spawn(async move { limits.check(&1).await })
        };
        for _ in 0..polls {
            tokio::task::yield_now().await;
        }
        impatient.abort();
        limits.check(&1).await.unwrap();
    }
}

// A store outlives the runtime on which its batches ran.
#[test]
fn another_runtime_goes_on_with_the_lanes() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let home = runtime();
    let server = home.block_on(Redis::start());
    let limits = RateLimitLayer::new(home.block_on(store(&server)))
        .rule(Rule::new("key", Quota::per_hour(100)).key(|key: &u64| Key::from(*key)))
        .checker();
    let guest = runtime();
    guest.block_on(async {
        let check = pin!(limits.check(&1));
        let mut context = Context::from_waker(Waker::noop());
        let _ = check.poll(&mut context);
    });
    drop(guest);
    home.block_on(limits.check(&1)).unwrap();
}

#[tokio::test]
async fn operators_peek_reset_and_block_on_the_server() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("key", Quota::per_hour(2)).key(|key: &u64| Key::from(*key)))
        .checker();
    let key = || Key::from(1);
    assert_eq!(
        limits
            .peek("key", key())
            .await
            .unwrap()
            .outcome()
            .remaining(),
        2
    );
    limits.check(&1).await.unwrap();
    limits.check(&1).await.unwrap();
    assert_eq!(
        limits
            .peek("key", key())
            .await
            .unwrap()
            .outcome()
            .remaining(),
        0
    );
    limits.check(&1).await.unwrap_err();

    limits.reset("key", key()).await.unwrap();
    assert_eq!(
        limits
            .peek("key", key())
            .await
            .unwrap()
            .outcome()
            .remaining(),
        2
    );
    limits.check(&1).await.unwrap();

    limits
        .block("key", key(), Duration::from_secs(600))
        .await
        .unwrap();
    let blocked = limits.peek("key", key()).await.unwrap();
    assert_eq!(blocked.outcome().remaining(), 1, "what was counted stays");
    assert!(blocked.blocked_for().unwrap() <= Duration::from_secs(600));
    limits.check(&1).await.unwrap_err();
    limits.check(&2).await.unwrap();

    limits.unblock("key", key()).await.unwrap();
    assert_eq!(limits.peek("key", key()).await.unwrap().blocked_for(), None);
    limits.check(&1).await.unwrap();
    limits.check(&1).await.unwrap_err();
}
