//! Records on a Redis Cluster, while a slot moves and when a primary dies.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{cluster::ClusterClient, cluster_async::ClusterConnection};
use seawall_idempotency::{Abandoned, BoxError, Drain, Error, InFlight, RedisStore};
use seawall_redis::{Breaker, Client, Shared};
use support::{Message, call, layer, message, ours, spawn};
use test_support::{Redis, RedisCluster};
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use tower::{Layer, Service, service_fn};

/// A loaded machine is no outage.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection of a node's own. All its records lie in one slot, that of `tag`.
async fn connect(cluster: &RedisCluster, tag: &str) -> RedisStore<Shared<ClusterConnection>> {
    let client = ClusterClient::builder(cluster.urls())
        .retries(1_000_000)
        .min_retry_wait(1)
        .retry_wait_formula(10, 1)
        .build()
        .unwrap();
    let connection = client.get_async_connection().await.unwrap();
    let client = Client::shared(connection).deadline(PATIENCE);
    RedisStore::from(client.breaker(Breaker::never())).prefix(&format!("{{{tag}}}:"))
}

/// A tag of the first server's, and its slot.
async fn tag(cluster: &RedisCluster) -> (String, String) {
    let first = &cluster.nodes()[0];
    for number in 0.. {
        let tag = format!("t{number}");
        let slot = first.ask(&["CLUSTER", "KEYSLOT", &tag]).await;
        let owner = cluster.node_of(slot.trim().parse().unwrap());
        if owner.port() == first.port() {
            return (tag, slot.trim().to_owned());
        }
    }
    unreachable!("a third of all slots are its own");
}

/// What was executed, and how often; keys that begin with "long" wait until they are let go.
#[derive(Clone)]
struct Work {
    executed: Arc<Mutex<BTreeMap<&'static str, u32>>>,
    go: Arc<Semaphore>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            executed: Arc::default(),
            go: Arc::new(Semaphore::new(0)),
        }
    }
}

impl Work {
    fn service(
        &self,
    ) -> impl Service<Message, Response = String, Error = BoxError, Future: Send> + Clone + Send + 'static
    {
        let work = self.clone();
        service_fn(move |m: Message| {
            *work.executed.lock().unwrap().entry(m.key).or_default() += 1;
            let go = Arc::clone(&work.go);
            async move {
                if m.key.starts_with("long") {
                    go.acquire().await?.forget();
                }
                Ok::<_, BoxError>(format!("done {}", m.key))
            }
        })
    }

    fn executed(&self, key: &str) -> u32 {
        let executed = self.executed.lock().unwrap();
        executed.get(key).copied().unwrap_or_default()
    }

    async fn begun(&self, key: &str) {
        let begun = async {
            while self.executed(key) == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, begun).await.unwrap();
    }
}

/// Until a server says something.
async fn says(node: &Redis, words: &[&str], says: impl Fn(&str) -> bool) {
    let said = async {
        while !says(&node.ask(words).await) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, said).await.unwrap();
}

async fn migrate(from: &Redis, to: &Redis, slot: &str) {
    let port = to.port().to_string();
    let keys = ["CLUSTER", "GETKEYSINSLOT", slot, "1000"];
    for key in from.ask(&keys).await.lines() {
        let migrate = ["MIGRATE", "127.0.0.1", &port, key, "0", "5000"];
        from.ask(&migrate).await;
    }
}

#[tokio::test]
async fn a_slot_moves_and_nothing_is_executed_again() {
    let cluster = RedisCluster::start().await;
    let (tag, slot) = tag(&cluster).await;
    let work = Work::default();
    let layer = layer(connect(&cluster, &tag).await)
        .lease(PATIENCE)
        .abandoned(Abandoned::Reexecute);
    let service = layer.layer(work.service());
    let replay = async |key| {
        let answer = call(&mut service.clone(), message(key)).await.unwrap();
        assert_eq!(answer, format!("done {key}"));
        assert_eq!(work.executed(key), 1, "{key}");
    };
    replay("before").await;
    let one = spawn(service.clone(), message("long, ends in between"));
    work.begun("long, ends in between").await;

    let (from, to) = (&cluster.nodes()[0], &cluster.nodes()[1]);
    let (from_id, to_id) = (
        from.ask(&["CLUSTER", "MYID"]).await,
        to.ask(&["CLUSTER", "MYID"]).await,
    );
    to.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", from_id.trim()])
        .await;
    from.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", to_id.trim()])
        .await;
    // What is known is still decided here; what is not, over there (ASK).
    replay("before").await;
    replay("in between").await;
    let other = spawn(service.clone(), message("long, ends afterwards"));
    work.begun("long, ends afterwards").await;
    for key in ["long, ends in between", "long, ends afterwards"] {
        let error = ours(call(&mut service.clone(), message(key)).await.unwrap_err());
        assert!(matches!(error, Error::InFlight { .. }), "{error:?}");
    }
    migrate(from, to, &slot).await;
    replay("before").await;
    work.go.add_permits(1);
    one.await.unwrap().unwrap();

    for node in [to, from, &cluster.nodes()[2]] {
        node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", to_id.trim()])
            .await;
    }
    // And from now on everything is over there (MOVED).
    work.go.add_permits(1);
    other.await.unwrap().unwrap();
    assert_eq!(layer.tasks().drain(PATIENCE).await, Drain::Finished);
    for key in ["long, ends in between", "long, ends afterwards"] {
        replay(key).await;
    }
    for key in ["before", "in between", "afterwards"] {
        replay(key).await;
    }
    let there = to.ask(&["CLUSTER", "COUNTKEYSINSLOT", &slot]).await;
    assert_eq!(there.trim(), "5");
}

// Redis replicates after it has answered. So what is asserted is about claims and answers that had reached the replica when the
// primary died, and about calls that came after that: each is executed once.
#[tokio::test]
async fn a_primary_dies_and_what_its_replica_had_is_not_executed_again() {
    let cluster = RedisCluster::with_replicas().await;
    let (tag, _) = tag(&cluster).await;
    let work = Work::default();
    let mut nodes = Vec::new();
    for _ in 0..2 {
        let layer = layer(connect(&cluster, &tag).await)
            .lease(PATIENCE)
            .in_flight(InFlight::Wait(PATIENCE))
            .abandoned(Abandoned::Reexecute);
        nodes.push((layer.clone(), layer.layer(work.service())));
    }
    let [(tasks, owner), (_, other)] = &nodes[..] else {
        unreachable!("there are two");
    };
    call(&mut owner.clone(), message("before")).await.unwrap();
    let running = spawn(owner.clone(), message("long"));
    work.begun("long").await;
    let stored = async {
        while tasks.tasks().len() > 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, stored).await.unwrap();
    let (primary, replica) = (&cluster.nodes()[0], &cluster.replicas()[0]);
    says(primary, &["INFO", "replication"], has_replicated).await;

    primary.kill();
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        for key in ["before", "long", "meanwhile"] {
            for mut service in [owner.clone(), other.clone()] {
                calls.spawn(async move { (key, call(&mut service, message(key)).await) });
            }
        }
    }
    let replication = ["INFO", "replication"];
    says(replica, &replication, |said| said.contains("role:master")).await;
    primary.restart().await;
    let up = |said: &str| said.contains("master_link_status:up");
    says(primary, &replication, up).await;

    // Room for those that ought not to be.
    work.go.add_permits(100);
    assert_eq!(running.await.unwrap().unwrap(), "done long");
    for (key, answer) in calls.join_all().await {
        assert_eq!(answer.unwrap(), format!("done {key}"));
    }
    assert_eq!(tasks.tasks().drain(PATIENCE).await, Drain::Finished);
    let executed = work.executed.lock().unwrap().clone();
    let once = [("before", 1), ("long", 1), ("meanwhile", 1)];
    assert_eq!(executed, BTreeMap::from(once));
}

/// Whether the replica says that it has all of it.
fn has_replicated(said: &str) -> bool {
    let number = |after: &str| {
        let (_, rest) = said.split_once(after)?;
        rest.split([',', '\r', '\n']).next()?.parse::<u64>().ok()
    };
    let written = number("master_repl_offset:");
    written.is_some() && number(",offset=") == written
}
