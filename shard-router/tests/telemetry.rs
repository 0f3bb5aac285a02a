//! What the router tells a recorder: bounded labels, and gauges that come back to zero.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Backends, Broken, read, router, write};
use seawall_shard_router::{Bulkhead, Ejection, HotKeys, Position, Shard, Topology};
use test_support::Figures;
use tokio_test::{assert_pending, assert_ready, task};
use tower::Service;

/// The latest value of each metric, by its name and labels.
#[derive(Default)]
struct Values(Figures);

impl Values {
    fn get(&self, name: &str) -> f64 {
        self.0.get(&format!("seawall_shard_router_{name}"))
    }
}

#[tokio::test(start_paused = true)]
async fn it_tells_rates_loads_and_errors_of_each_shard() {
    let values = Values::default();
    let _recording = metrics::set_default_local_recorder(&values.0);
    let backends = Backends::default();
    let topology = Topology::slots([Shard::new("a").replicas(["a0", "a1"]), "b".into()]).unwrap();
    let bulkhead = Bulkhead::concurrency(1).queue(1);
    let mut router = router(topology.clone(), &backends, bulkhead).cap(3);
    assert_eq!(values.get("epoch"), 1.0);
    assert_eq!(values.get("slots shard=b"), 8_192.0);

    for _ in 0..10 {
        router.call(read(0)).await.unwrap();
    }
    assert_eq!(
        values.get("requests_total shard=a role=replica outcome=ok"),
        10.0
    );

    backends.hold("b");
    let mut calls: Vec<_> = (0..3)
        .map(|_| task::spawn(router.call(write(16_383))))
        .collect();
    assert_pending!(calls[0].poll());
    assert_pending!(calls[1].poll());
    assert!(assert_ready!(calls[2].poll()).is_err());
    assert_eq!(values.get("in_flight shard=b role=primary"), 2.0);
    assert_eq!(values.get("queued shard=b role=primary"), 1.0);
    assert_eq!(
        values.get("requests_total shard=b role=primary outcome=queue_full"),
        1.0
    );

    let unpolled = router.call(write(0));
    assert!(router.call(write(0)).await.is_err());
    assert_eq!(values.get("overloaded_total"), 1.0);
    drop(unpolled);

    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    assert!(assert_ready!(calls[1].poll()).is_err());
    backends.answer("b", Err(Broken("constraint")));
    assert!(assert_ready!(calls[0].poll()).is_err());
    for (outcome, role, shard) in [
        ("fail_fast", "primary", "b"),
        ("error", "primary", "b"),
        ("dropped", "primary", "a"),
    ] {
        let name = format!("requests_total shard={shard} role={role} outcome={outcome}");
        assert_eq!(values.get(&name), 1.0, "{name}");
    }

    router
        .topology()
        .update(topology.without_shard("b").unwrap())
        .unwrap();
    assert_eq!(values.get("epoch"), 2.0);
    assert_eq!(values.get("slots shard=a"), 16_384.0);
    assert_eq!(values.get("slots shard=b"), 0.0);
    for (name, value) in values.0.all() {
        let name = name.trim_start_matches("seawall_shard_router_");
        let gauge = name.starts_with("in_flight") || name.starts_with("queued");
        assert!(!gauge || value == 0.0, "{name} is {value}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_tells_of_ejections_lag_and_hot_keys() {
    let values = Values::default();
    let _recording = metrics::set_default_local_recorder(&values.0);
    let backends = Backends::default();
    let topology = Topology::slots([Shard::new("a").replica("a0")]).unwrap();
    let mut router = router(topology, &backends, Bulkhead::default()).ejection(Ejection::after(2));
    backends.set_ready("a", Err("down"));
    for _ in 0..2 {
        router.call(write(0)).await.unwrap_err();
    }
    assert_eq!(values.get("ejected shard=a role=primary"), 1.0);
    assert_eq!(values.get("ejections_total shard=a role=primary"), 1.0);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    backends.set_ready("a", Ok(true));
    router.call(write(0)).await.unwrap();
    assert_eq!(values.get("ejected shard=a role=primary"), 0.0);

    let loads = router.loads();
    router.report(&loads[0].endpoint, Position(100));
    router.report(&loads[1].endpoint, Position(93));
    assert_eq!(values.get("lag shard=a replica=0"), 7.0);

    let hot = HotKeys::above(0.01).unwrap();
    for _ in 0..200 {
        hot.record(&7_u64.into());
    }
    assert_eq!(values.get("hot_keys_total"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_that_leaves_is_counted_no_more() {
    let values = Values::default();
    let _recording = metrics::set_default_local_recorder(&values.0);
    let backends = Backends::default();
    let topology = Topology::slots(["a", "b"]).unwrap();
    let mut router =
        router(topology.clone(), &backends, Bulkhead::default()).ejection(Ejection::after(1));
    for (shard, slot) in [("a", 0), ("b", 16_383)] {
        backends.set_ready(shard, Err("down"));
        router.call(write(slot)).await.unwrap_err();
    }
    assert_eq!(values.get("ejected shard=a role=primary"), 1.0);
    let next = topology.without_shard("a").unwrap();
    router.topology().update(next).unwrap();
    assert_eq!(values.get("ejected shard=a role=primary"), 0.0);
}
