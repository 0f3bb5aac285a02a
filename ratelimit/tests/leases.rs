//! The rules of leases, each with the run that breaks without it; and leases on a real server.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use seawall_ratelimit::{
    Apply, Checker, Key, Leased, Quota, RateLimitError, RateLimitLayer, RedisStore, Rule, Verdict,
};
use seawall_redis::{Client, Shared};
use test_support::Redis;

/// A small world: one key on a server, nodes that take leases on it and spend them, messages that take their time. It
/// counts what was spent in each trailing window.
mod model {
    use std::collections::{BTreeMap, VecDeque};

    use fastrand::Rng;
    use seawall_ratelimit::Quota;
    use seawall_ratelimit::window::{SlidingWindow, Terms};

    /// Ticks to a bucket.
    const WIDTH: u64 = 4;
    const BUCKETS: u64 = 16;
    const WINDOW: u64 = BUCKETS * WIDTH;
    pub(super) const LIMIT: u64 = 8;
    const NODES: usize = 3;
    /// Units to a lease, and how long it lasts.
    const BLOCK: u64 = 4;
    const LEASE: u64 = WIDTH;
    /// The longest that a message is on its way.
    const SLOWEST: u64 = 2 * WIDTH;

    /// Which rules hold.
    #[derive(Clone, Copy)]
    pub(super) struct Rules {
        pub(super) decisions_sum_the_future: bool,
        pub(super) the_key_outlives_its_newest_charge: bool,
        pub(super) the_deadline_runs_from_before_it_was_sent: bool,
        pub(super) a_refund_goes_where_was_charged: bool,
        pub(super) a_refund_is_sent_once: bool,
        pub(super) what_goes_back_is_not_spent: bool,
    }

    pub(super) const ALL: Rules = Rules {
        decisions_sum_the_future: true,
        the_key_outlives_its_newest_charge: true,
        the_deadline_runs_from_before_it_was_sent: true,
        a_refund_goes_where_was_charged: true,
        a_refund_is_sent_once: true,
        what_goes_back_is_not_spent: true,
    };

    pub(super) trait Server {
        /// Charges the units to the bucket in which the lease ends, if there is room.
        fn reserve(&mut self, now: u64, units: u64) -> Option<u64>;
        fn refund(&mut self, now: u64, bucket: u64, units: u64);
    }

    /// A server by rules that can be switched off.
    pub(super) struct Loose {
        rules: Rules,
        counts: BTreeMap<u64, u64>,
        gone_at: u64,
    }

    impl Loose {
        pub(super) fn new(rules: Rules) -> Self {
            Self {
                rules,
                counts: BTreeMap::new(),
                gone_at: 0,
            }
        }
    }

    impl Server for Loose {
        fn reserve(&mut self, now: u64, units: u64) -> Option<u64> {
            if now >= self.gone_at {
                self.counts.clear();
            }
            let current = now / WIDTH;
            let until = match self.rules.decisions_sum_the_future {
                true => u64::MAX,
                false => current,
            };
            let counting = self.counts.range(current.saturating_sub(BUCKETS)..=until);
            if counting.map(|(_, count)| count).sum::<u64>() + units > LIMIT {
                return None;
            }
            let bucket = (now + LEASE) / WIDTH;
            *self.counts.entry(bucket).or_default() += units;
            self.gone_at = match self.rules.the_key_outlives_its_newest_charge {
                true => (bucket + 1) * WIDTH + WINDOW,
                // As if what is charged could not be later than the present.
                false => now + WINDOW / 2,
            };
            Some(bucket)
        }

        fn refund(&mut self, now: u64, bucket: u64, units: u64) {
            let bucket = match self.rules.a_refund_goes_where_was_charged {
                true => bucket,
                false => match self.counts.range(..=(now + LEASE) / WIDTH).next_back() {
                    Some((newest, _)) => *newest,
                    None => return,
                },
            };
            if let Some(count) = self.counts.get_mut(&bucket) {
                *count = count.saturating_sub(units);
            }
        }
    }

    /// The window that the stores keep.
    pub(super) struct Real {
        window: SlidingWindow,
        gone_at: u64,
    }

    /// Microseconds to a tick.
    const TICK: u64 = 25;

    impl Real {
        pub(super) fn new() -> Self {
            let window = std::time::Duration::from_micros(WINDOW * TICK);
            Self {
                window: SlidingWindow::new(Terms::new(Quota::new(LIMIT as u32, window), 0)),
                gone_at: 0,
            }
        }
    }

    impl Server for Real {
        fn reserve(&mut self, now: u64, units: u64) -> Option<u64> {
            if now >= self.gone_at {
                self.window = SlidingWindow::new(self.window.terms());
            }
            if !self.window.decide(now * TICK, units as u32).passes() {
                return None;
            }
            self.gone_at = (now / WIDTH + 2) * WIDTH + WINDOW;
            self.window
                .charge_until(now * TICK, (now + LEASE) * TICK, units as u32)
        }

        fn refund(&mut self, _: u64, bucket: u64, units: u64) {
            self.window.refund(bucket, units as u32);
        }
    }

    enum Message {
        Ask { node: usize, sent: u64 },
        Granted { node: usize, sent: u64, bucket: u64 },
        Refund { bucket: u64, units: u64 },
    }

    #[derive(Clone, Copy, Default)]
    struct Node {
        asking: bool,
        units: u64,
        bucket: u64,
        deadline: u64,
        /// How it spends: late or as soon as it can.
        late: bool,
    }

    /// The most that any trailing window holds in a random run.
    pub(super) fn run(seed: u64, rules: Rules, server: &mut impl Server) -> u64 {
        let mut random = Rng::with_seed(seed);
        let mut nodes = [Node::default(); NODES];
        let mut messages: Vec<(u64, Message)> = Vec::new();
        let mut spent: VecDeque<(u64, u64)> = VecDeque::new();
        let mut worst = 0;
        for now in 1_000 * WIDTH..1_000 * WIDTH + 5 * WINDOW {
            let (due, later) = messages.into_iter().partition(|(at, _)| *at <= now);
            messages = later;
            let due: Vec<(u64, Message)> = due;
            for (_, message) in due {
                match message {
                    Message::Ask { node, sent } => {
                        let at = now + random.u64(0..=SLOWEST);
                        match server.reserve(now, BLOCK) {
                            Some(bucket) => {
                                messages.push((at, Message::Granted { node, sent, bucket }));
                            }
                            None => nodes[node].asking = false,
                        }
                    }
                    Message::Granted { node, sent, bucket } => {
                        let from = match rules.the_deadline_runs_from_before_it_was_sent {
                            true => sent,
                            false => now,
                        };
                        nodes[node] = Node {
                            units: BLOCK,
                            bucket,
                            deadline: from + LEASE,
                            late: random.bool(),
                            asking: false,
                        };
                    }
                    Message::Refund { bucket, units } => server.refund(now, bucket, units),
                }
            }
            for (number, node) in nodes.iter_mut().enumerate() {
                let over = now >= node.deadline;
                if node.units > 0 && !over && (!node.late || now + 1 == node.deadline) {
                    let units = random.u64(0..=node.units);
                    spent.push_back((now, units));
                    node.units -= units;
                }
                let gives_back = over || random.u8(0..6) == 0;
                if node.units > 0 && gives_back {
                    let (bucket, units) = (node.bucket, node.units);
                    let times = match rules.a_refund_is_sent_once {
                        true => 1,
                        false => 2,
                    };
                    for _ in 0..times {
                        let at = now + random.u64(0..=SLOWEST);
                        messages.push((at, Message::Refund { bucket, units }));
                    }
                    if rules.what_goes_back_is_not_spent {
                        node.units = 0;
                    }
                }
                if (node.units == 0 || over) && !node.asking && random.u8(0..3) == 0 {
                    node.asking = true;
                    let at = now + random.u64(0..=SLOWEST);
                    messages.push((
                        at,
                        Message::Ask {
                            node: number,
                            sent: now,
                        },
                    ));
                }
            }
            while spent.front().is_some_and(|(at, _)| at + WINDOW <= now) {
                spent.pop_front();
            }
            worst = worst.max(spent.iter().map(|(_, units)| units).sum());
        }
        worst
    }

    /// The worst of many runs.
    pub(super) fn worst(runs: u64, rules: Rules) -> u64 {
        (0..runs)
            .map(|seed| run(seed, rules, &mut Loose::new(rules)))
            .max()
            .unwrap()
    }
}

use model::{ALL, LIMIT, Rules};

const RUNS: u64 = 400;

#[test]
fn with_all_rules_no_window_holds_more_than_the_limit() {
    assert_eq!(model::worst(RUNS, ALL), LIMIT, "the limit is met");
}

#[test]
fn the_window_of_the_stores_goes_by_the_rules() {
    let worst = (0..RUNS).map(|seed| model::run(seed, ALL, &mut model::Real::new()));
    assert_eq!(worst.max(), Some(LIMIT));
}

/// What a rule is for: without it there are runs beyond the limit.
fn breaks(without: Rules) {
    let worst = model::worst(RUNS, without);
    assert!(worst > LIMIT, "the rule keeps nothing: {worst}");
}

#[test]
fn the_run_that_does_not_sum_future_buckets() {
    breaks(Rules {
        decisions_sum_the_future: false,
        ..ALL
    });
}

#[test]
fn the_run_in_which_the_key_does_not_outlive_its_newest_charge() {
    breaks(Rules {
        the_key_outlives_its_newest_charge: false,
        ..ALL
    });
}

#[test]
fn the_run_in_which_the_deadline_runs_from_the_answer() {
    breaks(Rules {
        the_deadline_runs_from_before_it_was_sent: false,
        ..ALL
    });
}

#[test]
fn the_run_in_which_a_refund_goes_to_another_bucket() {
    breaks(Rules {
        a_refund_goes_where_was_charged: false,
        ..ALL
    });
}

#[test]
fn the_run_in_which_a_refund_is_sent_twice() {
    breaks(Rules {
        a_refund_is_sent_once: false,
        ..ALL
    });
}

#[test]
fn the_run_in_which_units_are_spent_while_they_go_back() {
    breaks(Rules {
        what_goes_back_is_not_spent: false,
        ..ALL
    });
}

type Store = Leased<RedisStore<Shared<MultiplexedConnection>>>;

async fn store(server: &Redis) -> Store {
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    // A loaded machine is no outage.
    let client = Client::shared(connection).deadline(Duration::from_secs(30));
    Leased::over(client.into())
}

fn by_number(store: &Store, quota: Quota) -> Checker<Store, impl Apply<u64> + use<>> {
    RateLimitLayer::new(store.clone())
        .rule(Rule::new("number", quota).key(|number: &u64| Key::from(*number)))
        .checker()
}

#[tokio::test]
async fn most_decisions_about_a_hot_key_are_made_here() {
    let server = Redis::start().await;
    let limits = by_number(&store(&server).await, Quota::per_hour(1_000_000));
    server.reset_stats().await;
    for _ in 0..20_000 {
        limits.check(&7).await.unwrap();
    }
    let stats = server.commandstats().await;
    let calls = stats.get("evalsha").unwrap_or(&0) + stats.get("eval").unwrap_or(&0);
    assert!(calls < 1_000, "{calls} calls for 20,000 decisions");
}

#[tokio::test]
async fn nodes_together_never_admit_more_than_the_limit() {
    let server = Redis::start().await;
    let quota = Quota::per_hour(3_000);
    let mut admitted = 0;
    let nodes = [store(&server).await, store(&server).await];
    let nodes = nodes.map(|store| by_number(&store, quota));
    for turn in 0..8_000 {
        admitted += u64::from(nodes[turn % 2].check(&1).await.is_ok());
    }
    assert!((2_000..=3_000).contains(&admitted), "{admitted}");
}

#[tokio::test]
async fn a_node_that_ends_takes_its_units_with_it() {
    let server = Redis::start().await;
    let quota = Quota::per_hour(1_600);
    let mut admitted = 0;
    for _ in 0..4 {
        // Each ends with what it has leased.
        let node = by_number(&store(&server).await, quota);
        for _ in 0..200 {
            admitted += u64::from(node.check(&1).await.is_ok());
        }
    }
    let last = by_number(&store(&server).await, quota);
    for _ in 0..3_000 {
        admitted += u64::from(last.check(&1).await.is_ok());
    }
    assert!(admitted <= 1_600, "{admitted}");
}

// The window of the rule is long, so all that was charged still counts: what is left at the end was given back.
#[tokio::test]
async fn what_is_not_spent_comes_back() {
    let server = Redis::start().await;
    // Buckets of 250 ms, so leases as long.
    let quota = Quota::new(100_000, Duration::from_secs(4));
    let limits = by_number(&store(&server).await, quota);
    let mut spent = 0;
    while !matches!(limits.decide(&1), Ok(Verdict::Now(_))) || spent < 10 {
        limits.check(&1).await.unwrap();
        spent += 1;
    }
    let strict = RateLimitLayer::new(strict(&server).await)
        .rule(
            Rule::new("number", quota)
                .key(|asked: &(u64, u32)| Key::from(asked.0))
                .cost(|asked: &(u64, u32)| asked.1),
        )
        .checker();
    // As soon as the unspent units are back, all others can be had at once.
    while strict
        .check(&(1, 100_000 - 2 * spent - 1_000))
        .await
        .is_err()
    {
        tokio::task::yield_now().await;
    }
}

async fn strict(server: &Redis) -> RedisStore<Shared<MultiplexedConnection>> {
    let client = redis::Client::open(server.url()).unwrap();
    let connection = client.get_multiplexed_async_connection().await.unwrap();
    Client::shared(connection)
        .deadline(Duration::from_secs(30))
        .into()
}

#[tokio::test]
async fn a_refused_key_is_not_asked_about_again() {
    let server = Redis::start().await;
    let limits = by_number(&store(&server).await, Quota::per_hour(2));
    limits.check(&1).await.unwrap();
    limits.check(&1).await.unwrap();
    limits.check(&1).await.unwrap_err();
    server.reset_stats().await;
    let mut longest = Duration::MAX;
    for _ in 0..100 {
        let Err(RateLimitError::Refused(refused)) = limits.check(&1).await else {
            panic!("it was refused before");
        };
        let wait = refused.retry_after().unwrap();
        assert!(wait <= longest, "it gets shorter");
        longest = wait;
    }
    let stats = server.commandstats().await;
    assert_eq!(stats.get("evalsha"), None);
}

#[tokio::test]
async fn another_version_of_the_rule_is_asked_about_at_once() {
    let server = Redis::start().await;
    let store = store(&server).await;
    let version = |version, limit| {
        RateLimitLayer::new(store.clone())
            .rule(Rule::new("rule", Quota::per_hour(limit)).version(version))
            .checker()
    };
    let (old, new) = (version(1, 2), version(2, 5));
    old.check(&()).await.unwrap();
    old.check(&()).await.unwrap();
    old.check(&()).await.unwrap_err();
    for _ in 0..3 {
        new.check(&()).await.unwrap();
    }
    new.check(&()).await.unwrap_err();
}

#[tokio::test]
async fn several_rules_are_all_or_nothing() {
    let server = Redis::start().await;
    let limits = RateLimitLayer::new(store(&server).await)
        .rule(Rule::new("wide", Quota::per_hour(100_000)))
        .rule(Rule::new("own", Quota::per_hour(400)).key(|n: &u64| Key::from(*n)))
        .checker();
    let mut admitted = [0; 2];
    for turn in 0..1_600 {
        admitted[turn % 2] += u32::from(limits.check(&(turn as u64 % 2)).await.is_ok());
    }
    assert!(
        admitted.iter().all(|&n| (300..=400).contains(&n)),
        "{admitted:?}"
    );
}
