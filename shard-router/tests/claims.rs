//! The claims of this crate, each measured here. A line `figure <claim>: <value>` gives the value.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use common::{Backends, router, write};
use seawall_shard_router::placement::KeyedSlots;
use seawall_shard_router::{
    Access, BoxError, Bulkhead, Ejection, Endpoint, Position, Role, SLOTS, Shard, ShardRouter,
    Slot, Topology,
};
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
    let updates = Arc::new(AtomicU64::new(0));
    let mut load = JoinSet::new();
    for client in 0..32_u16 {
        let (mut router, updates) = (router.clone(), Arc::clone(&updates));
        load.spawn(async move {
            let mut dropped = 0;
            let mut requests = 0..500_u16;
            // Until there were updates in between, however late the other thread begins.
            while let Some(request) = requests.next() {
                if requests.is_empty() && updates.load(Relaxed) < 20 {
                    requests = 0..500;
                }
                let slot = (client * 509 + request * 31) % 16_384;
                dropped += usize::from(router.call(write(slot)).await.is_err());
                tokio::task::yield_now().await;
            }
            dropped
        });
    }
    let handle = router.topology();
    let mut dropped = 0;
    while !load.is_empty() {
        let current = handle.current();
        let next = current
            .without_shard("x")
            .or_else(|_| current.with_shard("x"))
            .unwrap();
        handle.update(next).unwrap();
        updates.fetch_add(1, Relaxed);
        tokio::task::yield_now().await;
        while let Some(client) = load.try_join_next() {
            dropped += client.unwrap();
        }
    }
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

/// Closed-loop clients ask shards at random. What 49 shards serve while one hangs, and how long it
/// takes at the 99th percentile, over the same without one that hangs.
#[tokio::test(start_paused = true)]
async fn hung_shard_throughput() {
    let (served, p99) = served_by_others(false).await;
    let (with_hung, p99_with_hung) = served_by_others(true).await;
    let throughput = with_hung as f64 / served as f64;
    let latency = p99_with_hung.as_secs_f64() / p99.as_secs_f64();
    figure("hung-shard-throughput", format!("{throughput:.3}"));
    figure("hung-shard-p99", format!("{latency:.3}"));
    assert!(throughput >= 0.98, "{throughput}");
    assert!(latency <= 1.1, "{latency}");
}

async fn served_by_others(one_hangs: bool) -> (usize, Duration) {
    const HUNG: u64 = 7;
    let router = ShardRouter::new(
        Topology::round_robin(names(50)).unwrap(),
        move |endpoint: &Endpoint| {
            let hangs = one_hangs && *endpoint.shard() == "s007";
            service_fn(move |slot: u16| async move {
                if hangs {
                    // As long as the timeout that its client has.
                    sleep(Duration::from_millis(100)).await;
                    return Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
                }
                // Between 1 and 3 milliseconds, by the request.
                sleep(Duration::from_millis(1 + u64::from(slot) % 3)).await;
                Ok(())
            })
        },
    )
    .key(|slot: &u16| Slot::new(*slot).unwrap().into())
    .each_shard(
        Bulkhead::concurrency(8)
            .queue(16)
            .fail_fast(Duration::from_millis(20)),
    )
    .ejection(Ejection::after(5).counting(|error: &BoxError| error.is::<std::io::Error>()));
    let end = Instant::now() + Duration::from_secs(3);
    let mut clients = JoinSet::new();
    for client in 0..60 {
        let mut router = router.clone();
        clients.spawn(async move {
            let mut random = fastrand::Rng::with_seed(client);
            let mut took = Vec::new();
            while Instant::now() < end {
                let (slot, start) = (random.u16(..SLOTS), Instant::now());
                let answer = router.call(slot).await;
                if u64::from(slot) % 50 != HUNG {
                    answer.unwrap();
                    took.push(start.elapsed());
                } else if answer.is_err() {
                    // It does something else meanwhile, as after an answer.
                    sleep(Duration::from_millis(2)).await;
                }
            }
            took
        });
    }
    let mut all = Vec::new();
    while let Some(took) = clients.join_next().await {
        all.extend(took.unwrap());
    }
    all.sort_unstable();
    (all.len(), all[all.len() * 99 / 100])
}

/// A primary that is always written, and replicas that apply it late, each at its own pace, and
/// report what they have applied. Each read has the token of the last write of its client.
#[test]
fn stale_reads() {
    const READS: u64 = 1_000_000;
    let shard = Shard::new("a").primary("p").replicas(["r0", "r1", "r2"]);
    let applied: [Arc<AtomicU64>; 4] = Default::default();
    let seen = applied.clone();
    let mut router = ShardRouter::new(
        Topology::slots([shard]).unwrap(),
        move |endpoint: &Endpoint| {
            let place = match endpoint.role() {
                Role::Primary => 0,
                Role::Replica(number) => usize::from(number) + 1,
            };
            let applied = Arc::clone(&seen[place]);
            service_fn(move |_: u64| {
                let read = (place, applied.load(Relaxed));
                std::future::ready(Ok::<_, Infallible>(read))
            })
        },
    )
    .key(|_: &u64| 0_u64.into())
    .access(|token: &u64| Access::ReadYourWrites(Position(*token)));
    let endpoints: Vec<Endpoint> = router
        .loads()
        .into_iter()
        .map(|load| load.endpoint)
        .collect();
    let mut random = fastrand::Rng::with_seed(3);
    let (mut stale, mut by_replicas, mut written) = (0, 0, 0);
    for _ in 0..READS {
        if random.u8(..) < 80 {
            written += 1;
            applied[0].store(written, Relaxed);
        }
        let replica = 1 + random.usize(..3);
        if random.u8(..) < 60 {
            let behind = random.u64(..200);
            let position = applied[replica]
                .load(Relaxed)
                .max(written.saturating_sub(behind));
            applied[replica].store(position, Relaxed);
            router.report(&endpoints[replica], Position(position));
        }
        let token = written.saturating_sub(random.u64(..100));
        let mut read = tokio_test::task::spawn(router.call(token));
        let (place, position) = tokio_test::assert_ready_ok!(read.poll());
        stale += usize::from(position < token);
        by_replicas += usize::from(place > 0);
    }
    figure("stale-reads", stale);
    assert_eq!(stale, 0);
    assert!(
        by_replicas > 100_000,
        "replicas took their part: {by_replicas}"
    );
}

/// Keys that all have one XXH3-64, made without trying: where the first 8 of 32 bytes equal those
/// of its secret, it multiplies the next 8 by zero. By the plain hash they all lie on one shard.
#[test]
fn colliding_keys_spread() {
    const KEYS: u64 = 1_000_000;
    const SECRET: [u8; 8] = [0xB8, 0xFE, 0x6C, 0x39, 0x23, 0xA4, 0x4B, 0xBE];
    let topology = Topology::slots(names(50)).unwrap();
    let keyed = KeyedSlots::new(*b"a secret of ours");
    let plain = topology.shard_of(&colliding(SECRET, 0)).clone();
    let mut held = std::collections::HashMap::<_, u32>::new();
    for number in 0..KEYS {
        let key = colliding(SECRET, number);
        assert_eq!(*topology.shard_of(&key), plain);
        *held.entry(topology.owner(keyed.slot_of(&key))).or_default() += 1;
    }
    let most = held.values().max().copied().unwrap_or_default();
    let over = f64::from(most) / (KEYS as f64 / 50.0);
    figure("colliding-keys-spread", format!("{over:.3}"));
    assert_eq!(held.len(), 50);
    assert!(over <= 1.05, "{over}");
}

fn colliding(secret: [u8; 8], number: u64) -> [u8; 32] {
    let mut key = *b"........________it does not care";
    key[..8].copy_from_slice(&secret);
    key[8..16].copy_from_slice(&number.to_le_bytes());
    key
}
