//! One question to all shards, and what is missing from the answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::num::NonZeroUsize;
use std::time::Duration;

use common::{Backends, Broken, assert_idle, read, router};
use seawall_shard_router::{Bulkhead, Missed, RouteError, Scatter, ShardId, Topology};
use tokio::time::Instant;
use tokio_test::{assert_pending, task};

const MS: Duration = Duration::from_millis(1);

fn topology() -> Topology {
    Topology::slots(["a", "b", "c", "d"]).unwrap()
}

fn names<'a>(shards: impl Iterator<Item = &'a ShardId>) -> Vec<&'a str> {
    shards.map(ShardId::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn a_slow_shard_costs_its_deadline_and_is_listed_as_missing() {
    let backends = Backends::default();
    let bulkhead = Bulkhead::concurrency(1).queue(0);
    let router = router(topology(), &backends, bulkhead);
    backends.hold("b");
    backends.set_ready("c", Err("down"));
    let start = Instant::now();
    let scatter = Scatter::new().deadline(200 * MS);
    let gathered = router.scatter(scatter, |_| Some(read(0))).await;
    assert_eq!(start.elapsed(), 200 * MS);
    assert!(!gathered.is_complete());
    assert_eq!(
        names(gathered.answers().map(|(shard, _)| shard)),
        ["a", "d"]
    );
    for (shard, endpoint) in gathered.answers() {
        assert_eq!(endpoint.shard(), shard);
    }
    let missing: Vec<_> = gathered.missing().collect();
    assert_eq!(names(missing.iter().map(|(shard, _)| *shard)), ["b", "c"]);
    let missed = missing[0].1.downcast_ref::<Missed>();
    assert_eq!(missed, Some(&Missed { deadline: 200 * MS }));
    assert_eq!(missing[1].1.downcast_ref::<Broken>(), Some(&Broken("down")));
    let (shard, _) = gathered.complete().unwrap_err();
    assert_eq!(shard, "b");
    assert_idle(&router);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_so_many_are_asked_at_once_and_only_those_that_are_to_be() {
    let backends = Backends::default();
    let router = router(topology(), &backends, Bulkhead::default());
    for shard in ["a", "b", "c", "d"] {
        backends.hold(shard);
    }
    let scatter = Scatter::new().at_once(NonZeroUsize::new(2).unwrap());
    let mut gathering =
        task::spawn(router.scatter(scatter, |shard| (*shard != "b").then(|| read(0))));
    assert_pending!(gathering.poll());
    let open = || ["a", "b", "c", "d"].map(|shard| backends.open(shard));
    assert_eq!(open(), [1, 0, 1, 0]);
    let endpoint = |place: usize| router.loads()[place].endpoint.clone();
    backends.answer("c", Ok(endpoint(2)));
    assert_pending!(gathering.poll());
    assert_eq!(open(), [1, 0, 0, 1]);
    backends.answer("a", Ok(endpoint(0)));
    backends.answer("d", Ok(endpoint(3)));
    let gathered = gathering.await;
    assert!(gathered.is_complete());
    let parts = gathered.complete().unwrap();
    assert_eq!(names(parts.iter().map(|(shard, _)| shard)), ["a", "c", "d"]);
}

#[tokio::test(start_paused = true)]
async fn it_passes_the_lanes_and_leaves_nothing_behind_when_it_is_dropped() {
    let backends = Backends::default();
    let router = router(topology(), &backends, Bulkhead::concurrency(1).queue(0)).cap(4);
    for shard in ["a", "b", "c", "d"] {
        backends.hold(shard);
    }
    let mut gathering = task::spawn(router.scatter(Scatter::new(), |_| Some(read(0))));
    assert_pending!(gathering.poll());
    let refused = router.scatter(Scatter::new(), |_| Some(read(0))).await;
    assert_eq!(refused.missing().count(), 4);
    for (_, error) in refused.missing() {
        assert_eq!(
            RouteError::find(&**error),
            Some(&RouteError::Overloaded { cap: 4 })
        );
    }
    drop(gathering);
    assert_idle(&router);
}
