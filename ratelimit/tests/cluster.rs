//! The store on a Redis Cluster.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::collections::HashMap;
use std::time::Duration;

use redis::cluster_async::ClusterConnection;
use seawall_ratelimit::{
    Apply, Checker, Key, Leased, Outage, Quota, RateLimitError, RateLimitLayer, RedisStore, Rule,
    StoreError,
};
use seawall_redis::{Breaker, Client, Shared};
use test_support::{Redis, RedisCluster};
use tokio::task::JoinSet;

type OnCluster = RedisStore<Shared<ClusterConnection>>;

// A loaded machine is no outage.
const PATIENCE: Duration = Duration::from_secs(60);

async fn connect(cluster: &RedisCluster) -> ClusterConnection {
    // Left alone, it waits for more than a second before it asks again.
    let client = redis::cluster::ClusterClient::builder(cluster.urls())
        .retries(1_000_000)
        .min_retry_wait(1)
        .retry_wait_formula(10, 1)
        .build()
        .unwrap();
    client.get_async_connection().await.unwrap()
}

async fn store(cluster: &RedisCluster) -> OnCluster {
    store_within(cluster, PATIENCE).await
}

async fn store_within(cluster: &RedisCluster, deadline: Duration) -> OnCluster {
    Client::shared(connect(cluster).await)
        .deadline(deadline)
        .breaker(Breaker::never())
        .into()
}

fn by_number(store: &OnCluster, limit: u32) -> Checker<OnCluster, impl Apply<u64> + use<>> {
    RateLimitLayer::new(store.clone())
        .rule(Rule::new("number", Quota::per_day(limit)).key(|number: &u64| Key::from(*number)))
        .rule(Rule::new("all", Quota::per_day(1_000_000)))
        .checker()
}

async fn left(limits: &Checker<OnCluster, impl Apply<u64>>, number: u64) -> u32 {
    let standing = limits.peek("number", Key::from(number)).await.unwrap();
    standing.outcome().remaining()
}

async fn slot_of(cluster: &RedisCluster, prefix: &str) -> u16 {
    let node = &cluster.nodes()[0];
    let slot = node.ask(&["CLUSTER", "KEYSLOT", prefix]).await;
    slot.trim().parse().unwrap()
}

/// A prefix of each server's own.
async fn prefixes(cluster: &RedisCluster) -> Vec<String> {
    let mut found = Vec::new();
    for node in cluster.nodes() {
        for number in 0.. {
            let prefix = format!("p{number}");
            let slot = slot_of(cluster, &prefix).await;
            if cluster.node_of(slot).port() == node.port() {
                found.push(prefix);
                break;
            }
        }
    }
    found
}

#[tokio::test]
async fn each_prefix_is_served_by_the_server_of_its_slot() {
    let cluster = RedisCluster::start().await;
    let store = store(&cluster).await;
    let prefixes = prefixes(&cluster).await;
    let mut tasks = JoinSet::new();
    for prefix in &prefixes {
        let limits = by_number(&store.clone().prefix(prefix), 5);
        for request in 0..40_u64 {
            let limits = limits.clone();
            tasks.spawn(async move { limits.check(&(request % 4)).await.is_ok() });
        }
    }
    let admitted = tasks.join_all().await.into_iter().filter(|passed| *passed);
    assert_eq!(admitted.count(), prefixes.len() * 4 * 5);
    for (prefix, node) in prefixes.iter().zip(cluster.nodes()) {
        let keys = node.ask(&["KEYS", "*"]).await;
        let mut lines = keys.lines();
        assert!(lines.clone().count() >= 5, "{keys}");
        let tag = format!("{{{prefix}}}");
        assert!(lines.all(|key| key.starts_with(&tag)), "{keys}");
    }
    let leased = RateLimitLayer::new(Leased::over(store))
        .rule(Rule::new("leased", Quota::per_minute(1_000)).key(|n: &u64| Key::from(*n)))
        .checker();
    let mut passed = 0;
    while leased.check(&1).await.is_ok() {
        passed += 1;
    }
    assert!((500..=1_000).contains(&passed), "{passed}");
}

// The client of a cluster sends a command again when its connection breaks, also one that was carried out.
#[tokio::test]
async fn what_is_sent_again_when_connections_break_counts_once() {
    let cluster = RedisCluster::start().await;
    let prefix = &prefixes(&cluster).await[0];
    let limits = by_number(&store(&cluster).await.prefix(prefix), 1_000_000);
    let node = &cluster.nodes()[0];
    let mut tasks = JoinSet::new();
    for _ in 0..32 {
        let limits = limits.clone();
        tasks.spawn(async move {
            let mut admitted = 0_u32;
            for _ in 0..40 {
                admitted += u32::from(limits.check(&7).await.is_ok());
            }
            admitted
        });
    }
    let mut admitted = 0;
    while let Some(some) = tasks.join_next().await {
        admitted += some.unwrap();
        node.ask(&["CLIENT", "KILL", "TYPE", "normal"]).await;
    }
    assert!(admitted > 1_000, "{admitted}");
    let charged = 1_000_000 - left(&limits, 7).await;
    let failed = 32 * 40 - admitted;
    assert!(
        charged >= admitted && charged <= admitted + failed,
        "{admitted} were admitted, {failed} failed, {charged} were charged"
    );
}

async fn id_of(node: &Redis) -> String {
    node.ask(&["CLUSTER", "MYID"]).await.trim().to_owned()
}

/// A slot on its way from the first server to the second.
struct Moving<'a> {
    nodes: &'a [Redis],
    slot: &'a str,
    to_id: String,
}

impl<'a> Moving<'a> {
    async fn begin(cluster: &'a RedisCluster, slot: &'a str) -> Self {
        let nodes = cluster.nodes();
        let (from_id, to_id) = (id_of(&nodes[0]).await, id_of(&nodes[1]).await);
        let moving = Self { nodes, slot, to_id };
        let importing = ["CLUSTER", "SETSLOT", slot, "IMPORTING", &from_id];
        moving.to().ask(&importing).await;
        let migrating = ["CLUSTER", "SETSLOT", slot, "MIGRATING", &moving.to_id];
        moving.from().ask(&migrating).await;
        moving
    }

    fn from(&self) -> &Redis {
        &self.nodes[0]
    }

    fn to(&self) -> &Redis {
        &self.nodes[1]
    }

    /// Those that are still there.
    async fn keys(&self) -> Vec<String> {
        let asked = ["CLUSTER", "GETKEYSINSLOT", self.slot, "1000"];
        let keys = self.from().ask(&asked).await;
        keys.lines().map(str::to_owned).collect()
    }

    async fn migrate(&self, keys: &[String]) {
        let port = self.to().port().to_string();
        for key in keys {
            let migrate = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
            self.from().ask(&migrate).await;
        }
    }

    async fn end(&self) {
        for node in [self.to(), self.from(), &self.nodes[2]] {
            node.ask(&["CLUSTER", "SETSLOT", self.slot, "NODE", &self.to_id])
                .await;
        }
    }

    /// How often either server said that the keys of a command lie on both.
    async fn refused(&self) -> u64 {
        let mut refused = 0;
        for node in [self.from(), self.to()] {
            let errors = node.ask(&["INFO", "errorstats"]).await;
            let count = errors
                .lines()
                .find_map(|line| line.strip_prefix("errorstat_TRYAGAIN:count="));
            refused += count.map_or(0, |count| count.trim().parse::<u64>().unwrap());
        }
        refused
    }
}

#[tokio::test]
async fn a_slot_moves_to_another_server_with_what_was_counted() {
    let cluster = RedisCluster::start().await;
    let prefix = &prefixes(&cluster).await[0];
    let slot = slot_of(&cluster, prefix).await.to_string();
    let limits = by_number(&store(&cluster).await.prefix(prefix), 10);
    for _ in 0..4 {
        limits.check(&1).await.unwrap();
    }
    let moving = Moving::begin(&cluster, &slot).await;
    // What is known there is still decided there.
    limits.check(&1).await.unwrap();
    moving.migrate(&moving.keys().await).await;
    // Nothing is left here: the client is sent there for each command (ASK).
    limits.check(&1).await.unwrap();
    moving.end().await;
    // And from now on it goes there by itself (MOVED).
    for _ in 0..4 {
        limits.check(&1).await.unwrap();
    }
    limits.check(&1).await.unwrap_err();
    limits.check(&2).await.unwrap();
    let there = moving
        .to()
        .ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot])
        .await;
    assert!(there.trim().parse::<u32>().unwrap() >= 3, "{there}");
}

// A command whose keys lie on both sides is decided by neither of them (TRYAGAIN), until all have come.
#[tokio::test]
async fn a_slot_that_is_half_moved_decides_nothing_and_loses_nothing() {
    let cluster = RedisCluster::start().await;
    let prefix = &prefixes(&cluster).await[0];
    let slot = slot_of(&cluster, prefix).await.to_string();
    let store = store(&cluster).await.prefix(prefix);
    let limits = by_number(&store, 10);
    let everyone = RateLimitLayer::new(store)
        .rule(Rule::new("all", Quota::per_day(1_000_000)))
        .checker();
    everyone.check(&()).await.unwrap();
    // Beside it there is only what the store keeps of its batches.
    let there = cluster.nodes()[0].ask(&["KEYS", "*"]).await;
    let records = there.lines().map(str::to_owned);
    let of_all: Vec<_> = records.filter(|key| !key.contains('!')).collect();
    assert_eq!(of_all.len(), 1);
    for number in 1..=4 {
        for _ in 0..number {
            limits.check(&number).await.unwrap();
        }
    }
    let moving = Moving::begin(&cluster, &slot).await;
    // Every request asks for this one, and for others that are not there.
    moving.migrate(&of_all).await;

    // With a deadline it ends as the outage policy says, and nothing is counted.
    let short = store_within(&cluster, Duration::from_millis(100)).await;
    let closed = by_number(&short.clone().prefix(prefix), 10);
    let open = by_number(&short.prefix(prefix).on_outage(Outage::Open), 10);
    for number in [1, 2, 3, 4, 9] {
        let RateLimitError::Store(StoreError::Unavailable(_)) =
            closed.check(&number).await.unwrap_err()
        else {
            panic!("{number} is decided by neither side");
        };
        open.check(&number).await.unwrap();
    }

    // Without one it is asked again until they are together, several in a batch.
    let before = moving.refused().await;
    assert!(before > 0);
    let mut tasks = JoinSet::new();
    for number in [1, 2, 3, 4, 9] {
        for _ in 0..15 {
            let limits = limits.clone();
            tasks.spawn(async move { (number, limits.check(&number).await.is_ok()) });
        }
    }
    let asked_again = async {
        while moving.refused().await < before + 4 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked_again).await.unwrap();
    assert!(tasks.try_join_next().is_none(), "none is decided so far");
    moving.migrate(&moving.keys().await).await;
    moving.end().await;
    let mut passed = HashMap::<u64, u64>::new();
    for (number, admitted) in tasks.join_all().await {
        *passed.entry(number).or_default() += u64::from(admitted);
    }
    let expected = HashMap::from([(1, 9), (2, 8), (3, 7), (4, 6), (9, 10)]);
    assert_eq!(passed, expected);
    let all = limits.peek("all", Key::EVERYONE).await.unwrap();
    assert_eq!(all.outcome().remaining(), 1_000_000 - 51);
}

/// Until a server says something.
async fn says(node: &Redis, words: &[&str], line: &str) {
    let said = async {
        while !node.ask(words).await.contains(line) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_takes_over_goes_on_with_what_was_counted() {
    let cluster = RedisCluster::start().await;
    let prefix = &prefixes(&cluster).await[0];
    let primary = &cluster.nodes()[0];
    let bus = test_support::free_port().to_string();
    let args = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let replica = Redis::with_args(&args).await;
    let port = replica.port().to_string();
    let meet = ["CLUSTER", "MEET", "127.0.0.1", &port, &bus];
    primary.ask(&meet).await;
    says(&replica, &["CLUSTER", "INFO"], "cluster_known_nodes:4").await;
    let id = id_of(primary).await;
    says(&replica, &["CLUSTER", "NODES"], &id).await;
    replica.ask(&["CLUSTER", "REPLICATE", &id]).await;
    says(&replica, &["INFO", "replication"], "master_link_status:up").await;

    let limits = by_number(&store(&cluster).await.prefix(prefix), 10);
    for _ in 0..6 {
        limits.check(&1).await.unwrap();
    }
    // The primary hands over, and knows its place from then on.
    replica.ask(&["CLUSTER", "FAILOVER"]).await;
    says(&replica, &["INFO", "replication"], "role:master").await;
    says(primary, &["INFO", "replication"], "role:slave").await;
    let mut passed = 6;
    while limits.check(&1).await.is_ok() {
        passed += 1;
    }
    assert_eq!(
        passed, 10,
        "nothing was forgotten, and nothing counted twice"
    );
    let stats = replica.commandstats().await;
    assert!(stats.contains_key("eval") || stats.contains_key("evalsha"));
}
