//! The claims of this crate, each measured here. A line `figure <claim>: <value>` gives the value.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::convert::Infallible;
use std::time::Duration;

use common::{Backends, router, write};
use seawall_shard_router::{Bulkhead, Endpoint, SLOTS, Shard, ShardRouter, Slot, Topology};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::{Service, service_fn};

fn figure(claim: &str, value: impl std::fmt::Display) {
    println!("figure shard-router/{claim}: {value}");
}

fn names(shards: usize) -> impl Iterator<Item = String> {
    (0..shards).map(|number| format!("s{number:03}"))
}

#[test]
fn moves_51st() {
    let topology = Topology::slots(names(50)).unwrap();
    let plan = topology.with_shard("s050").unwrap().plan_from(&topology);
    figure("moves-51st", plan.slot_count());
    assert_eq!(plan.slot_count(), 321);
}

#[test]
fn balance_excess() {
    let over = |topology: &Topology| {
        let bound = u32::from(SLOTS).div_ceil(topology.shards().len() as u32);
        topology
            .slot_counts()
            .filter(|&(_, count)| count > bound)
            .count()
    };
    let mut grown = Topology::slots(names(1)).unwrap();
    let mut excess = 0;
    for shards in 1..=300 {
        excess += over(&Topology::slots(names(shards)).unwrap());
        excess += over(&Topology::round_robin(names(shards)).unwrap());
        excess += over(&grown);
        grown = grown.with_shard(format!("s{shards:03}")).unwrap();
    }
    figure("balance-excess", excess);
    assert_eq!(excess, 0);
}

#[test]
fn removal_moves_others() {
    let mut topology = Topology::slots(names(300)).unwrap();
    let mut others = 0;
    for gone in names(299) {
        let shrunk = topology.without_shard(&gone).unwrap();
        let moved = |slot: &Slot| topology.owner(*slot) != shrunk.owner(*slot);
        others += Slot::all()
            .filter(moved)
            .filter(|&slot| *topology.owner(slot) != gone.as_str())
            .count();
        topology = shrunk;
    }
    figure("removal-moves-others", others);
    assert_eq!(others, 0);
}

/// The furthest that any shard is from its share: in first assignments of unequal weights, and
/// over steps that add, remove and reweigh.
#[test]
fn weights_off_by() {
    let off = |topology: &Topology| {
        let total: f64 = topology.shards().iter().map(Shard::given_weight).sum();
        let ideal = |shard: &Shard| f64::from(SLOTS) * shard.given_weight() / total;
        let counts = topology.shards().iter().zip(topology.slot_counts());
        counts
            .map(|(shard, (_, count))| (f64::from(count) - ideal(shard)).abs())
            .fold(0.0, f64::max)
    };
    let mut random = fastrand::Rng::with_seed(51);
    let mut worst = 0.0_f64;
    for shards in 1..=100 {
        let mut weight = || 0.5 + 3.5 * random.f64();
        let weighed: Vec<_> = names(shards)
            .map(|name| Shard::new(name).weight(weight()))
            .collect();
        let mut topology = Topology::slots(weighed).unwrap();
        worst = worst.max(off(&topology));
        for step in 0..10 {
            let new = Shard::new(format!("x{step}")).weight(weight());
            topology = topology.with_shard(new).unwrap();
            let first = topology.shards()[0].id().clone();
            topology = topology
                .with_shard_replaced(Shard::new(&first).weight(weight()))
                .unwrap();
            worst = worst.max(off(&topology));
            topology = topology.without_shard(&first).unwrap();
            worst = worst.max(off(&topology));
        }
    }
    figure("weights-off-by", format!("{worst:.3}"));
    assert!(worst <= 1.0);
}

/// Of 50 shards one hangs, first in its calls and then in its readiness. All get the same load,
/// above what the one can take; each request of the others must take what its shard takes.
#[tokio::test(start_paused = true)]
async fn hung_shard_delays_others() {
    const WORK: Duration = Duration::from_millis(2);
    #[derive(Clone, Copy)]
    enum Hangs {
        Calling,
        Readying,
    }
    let mut delayed = 0;
    for hangs in [Hangs::Calling, Hangs::Readying] {
        let topology = Topology::round_robin(names(50)).unwrap();
        let router = ShardRouter::new(topology, move |endpoint: &Endpoint| {
            let hung = *endpoint.shard() == "s007";
            let work = service_fn(move |_: u16| async move {
                if hung {
                    std::future::pending::<()>().await;
                }
                sleep(WORK).await;
                Ok::<_, Infallible>(())
            });
            let ready = !(hung && matches!(hangs, Hangs::Readying));
            // A limit of zero is never ready, a large one always.
            tower::util::BoxCloneService::new(Gate { ready, inner: work })
        })
        .key(|slot: &u16| Slot::new(*slot).unwrap().into())
        .each_shard(
            Bulkhead::concurrency(8)
                .queue(16)
                .fail_fast(Duration::from_millis(50)),
        )
        .cap(50 * 24);
        let mut load = JoinSet::new();
        for round in 0..100_u16 {
            for slot in 0..50 {
                let mut router = router.clone();
                load.spawn(async move {
                    let start = Instant::now();
                    let answer = router.call(round * 50 + slot).await;
                    (slot, answer.is_ok(), start.elapsed())
                });
            }
            sleep(Duration::from_millis(1)).await;
        }
        sleep(Duration::from_secs(1)).await;
        let mut served = 0;
        while let Some(ended) = load.try_join_next() {
            let (shard, ok, took) = ended.unwrap();
            if shard != 7 {
                served += 1;
                // Timers have a grain of one millisecond.
                delayed += usize::from(!ok || took > WORK + Duration::from_millis(1));
            }
        }
        assert_eq!(served, 49 * 100, "every request of the others has ended");
    }
    figure("hung-shard-delays-others", delayed);
    assert_eq!(delayed, 0);
}

#[derive(Clone)]
struct Gate<S> {
    ready: bool,
    inner: S,
}

impl<Req, S: Service<Req>> Service<Req> for Gate<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        if self.ready {
            self.inner.poll_ready(cx)
        } else {
            std::task::Poll::Pending
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.inner.call(request)
    }
}

/// On several threads and in real time: nothing here depends on how fast they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_dropped() {
    let backends = Backends::default();
    let topology = Topology::slots(names(8)).unwrap();
    let router = router(topology, &backends, Bulkhead::concurrency(4).queue(64)).cap(64);
    let mut load = JoinSet::new();
    for client in 0..32_u16 {
        let mut router = router.clone();
        load.spawn(async move {
            let mut dropped = 0;
            for request in 0..500_u16 {
                let slot = (client * 509 + request * 31) % 16_384;
                dropped += usize::from(router.call(write(slot)).await.is_err());
                tokio::task::yield_now().await;
            }
            dropped
        });
    }
    let handle = router.topology();
    let (mut dropped, mut updates) = (0, 0);
    while !load.is_empty() {
        let current = handle.current();
        let next = current
            .without_shard("x")
            .or_else(|_| current.with_shard("x"))
            .unwrap();
        handle.update(next).unwrap();
        updates += 1;
        tokio::task::yield_now().await;
        while let Some(client) = load.try_join_next() {
            dropped += client.unwrap();
        }
    }
    assert!(updates > 10, "there were updates in between: {updates}");
    figure("reload-dropped", dropped);
    assert_eq!(dropped, 0);
}

#[test]
fn allocations() {
    let mut router = ShardRouter::new(Topology::slots(names(50)).unwrap(), |_: &Endpoint| {
        service_fn(|number: u64| std::future::ready(Ok::<_, Infallible>(number)))
    })
    .key(|number: &u64| (*number).into());
    let mut route = |number: u64| {
        let mut call = tokio_test::task::spawn(router.call(number));
        tokio_test::assert_ready_ok!(call.poll());
    };
    route(0);
    let spawned = test_support::count_allocations(|| {
        (0..1_000).for_each(|n| drop(tokio_test::task::spawn(std::future::ready(n))));
    });
    let routed = test_support::count_allocations(|| (0..1_000).for_each(&mut route));
    figure("allocations", routed - spawned);
    assert_eq!(routed, spawned);
}
