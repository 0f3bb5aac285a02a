//! Replicas that come and go by themselves, under a topology that stays.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::{Backends, TestRouter, read, write};
use futures_util::{Stream, stream};
use seawall_shard_router::{
    BoxError, Bulkhead, ConfigError, Discovered, Shard, Topology, TopologyHandle,
};
use tokio::sync::mpsc;
use tower::Service;
use tower::discover::Change;

type Changes = mpsc::UnboundedSender<Result<Change<u32, Discovered>, BoxError>>;

fn discovery() -> (
    Changes,
    impl Stream<Item = Result<Change<u32, Discovered>, BoxError>>,
) {
    let (send, changes) = mpsc::unbounded_channel();
    let next =
        async |mut changes: mpsc::UnboundedReceiver<_>| Some((changes.recv().await?, changes));
    (send, stream::unfold(changes, next))
}

fn found(shard: &str, address: &str) -> Discovered {
    Discovered::new(shard, address).unwrap()
}

fn handle() -> TopologyHandle {
    let shards = [
        Shard::new("s0").primary("p0").replica("listed"),
        Shard::new("s1").primary("p1"),
    ];
    TopologyHandle::new(Topology::slots(shards).unwrap())
}

/// Lets what was spawned take its steps.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

async fn readers(router: &mut TestRouter) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..64 {
        let served_by = router.call(read(0)).await.unwrap();
        seen.insert(served_by.address().to_owned());
    }
    seen
}

#[tokio::test(start_paused = true)]
async fn reads_follow_what_is_found_and_writes_and_the_epoch_stay() {
    let (handle, backends) = (handle(), Backends::default());
    let mut router = common::router(&handle, &backends, Bulkhead::default());
    assert_eq!(
        readers(&mut router).await,
        BTreeSet::from(["listed".into()])
    );
    let (changes, stream) = discovery();
    let discovered = handle.clone();
    let discovering = tokio::spawn(async move { discovered.discover(stream).await });

    changes
        .send(Ok(Change::Insert(1, found("s0", "r1"))))
        .unwrap();
    changes
        .send(Ok(Change::Insert(2, found("s0", "r2"))))
        .unwrap();
    settle().await;
    assert_eq!(
        readers(&mut router).await,
        BTreeSet::from(["r1".into(), "r2".into()])
    );
    // One that moves is one that goes and one that comes; one that stays keeps its service.
    changes
        .send(Ok(Change::Insert(1, found("s0", "r3"))))
        .unwrap();
    settle().await;
    assert_eq!(
        readers(&mut router).await,
        BTreeSet::from(["r2".into(), "r3".into()])
    );
    assert_eq!((backends.made("r2"), backends.alive("r1")), (1, 0));
    changes.send(Ok(Change::Remove(2))).unwrap();
    changes.send(Ok(Change::Remove(99))).unwrap();
    settle().await;
    assert_eq!(readers(&mut router).await, BTreeSet::from(["r3".into()]));

    assert_eq!(router.call(write(0)).await.unwrap().address(), "p0");
    assert_eq!((handle.current().epoch(), backends.made("p0")), (1, 1));
    // What it had found stays when it fails, and the error comes back.
    changes.send(Err("no connection".into())).unwrap();
    let error = discovering.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "no connection");
    assert_eq!(readers(&mut router).await, BTreeSet::from(["r3".into()]));
}

#[tokio::test(start_paused = true)]
async fn changes_that_are_there_at_once_are_put_in_force_at_once() {
    let (handle, backends) = (handle(), Backends::default());
    let router = common::router(&handle, &backends, Bulkhead::default());
    let (changes, stream) = discovery();
    for number in 0..100 {
        let address = format!("r{number}");
        changes
            .send(Ok(Change::Insert(number, found("s0", &address))))
            .unwrap();
    }
    for number in 1..100 {
        changes.send(Ok(Change::Remove(number))).unwrap();
    }
    drop(changes);
    handle.discover(stream).await.unwrap();
    // Those that came and went made no service.
    assert_eq!((backends.made("r0"), backends.made("r1")), (1, 0));
    assert_eq!(router.loads().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_newer_topology_keeps_what_was_found_and_a_promoted_replica_serves_no_reads_beside() {
    let (handle, backends) = (handle(), Backends::default());
    let mut router = common::router(&handle, &backends, Bulkhead::default());
    let replicas = [found("s0", "r1"), found("s0", "r2"), found("s2", "r4")];
    handle.set_replicas(replicas).unwrap();
    // A failover: the topology names the new primary, the discovery still lists it as a replica.
    let promoted = Shard::new("s0").primary("r1").replica("listed");
    let newer = handle.current().with_shard_replaced(promoted).unwrap();
    handle.update(newer.clone()).unwrap();
    assert_eq!(readers(&mut router).await, BTreeSet::from(["r2".into()]));
    assert_eq!(router.call(write(0)).await.unwrap().address(), "r1");
    // The same again is no error; another of that epoch is.
    handle.update(newer).unwrap();
    let other = Topology::slots(["s0"]).unwrap().at_epoch(2).unwrap();
    assert_eq!(
        handle.update(other),
        Err(ConfigError::StaleEpoch {
            current: 2,
            given: 2
        })
    );
    // A replica of a shard that there was not is used as soon as there is.
    let grown = handle.current().with_shard("s2").unwrap();
    handle.update(grown).unwrap();
    let of_new = |topology: &Topology| topology.shard("s2").unwrap().endpoints().count();
    assert_eq!(of_new(&handle.current()), 2);
    // None at all: reads go to the primary.
    handle.set_replicas([]).unwrap();
    assert_eq!(readers(&mut router).await, BTreeSet::from(["r1".into()]));
}

#[test]
fn what_cannot_be_a_replica_is_refused() {
    assert_eq!(
        Discovered::new("s0", ""),
        Err(ConfigError::NoAddress { shard: "s0".into() })
    );
    let many = (0..70_000).map(|number| found("s0", &format!("r{number}")));
    assert_eq!(
        handle().set_replicas(many),
        Err(ConfigError::TooManyReplicas {
            shard: "s0".into(),
            given: 70_000
        })
    );
    // One that is found twice is one.
    let handle = handle();
    handle
        .set_replicas([found("s0", "r1"), found("s0", "r1").zone("z")])
        .unwrap();
    let zones: Vec<_> = handle
        .current()
        .endpoints()
        .filter_map(|e| e.zone().map(str::to_owned))
        .collect();
    assert_eq!(zones, ["z"]);
}
