//! Finding the shard of a key, planning one shard more, routing a request, and counting hot keys.

use std::future::{Ready, ready};
use std::hint::black_box;
use std::io;
use std::task::{Context, Poll};

use consistent_hash_ring::{Ring, RingBuilder};
use hashring::HashRing;
use jumphash::JumpHasher;
use maglev::{ConsistentHasher, Maglev};
use seawall_shard_router::{Endpoint, HotKeys, Key, ShardRouter, Topology};
use tower::Service;
use tower::steer::Steer;
use xxhash_rust::xxh3::xxh3_64;

use super::Entry;
use crate::drive::{allocations, at_once, call, in_turn};
use crate::keys::{MANY, zipf_many};
use crate::measure::{Contest, Lane, Row, Unit};

/// Points of a node on a ring: the usual number.
const POINTS: usize = 100;

fn names(shards: usize) -> impl Iterator<Item = String> {
    (0..shards).map(|shard| format!("s{shard:04}"))
}

fn topology(shards: usize) -> Topology {
    Topology::slots(names(shards)).expect("the names differ and are few")
}

/// Keys as people have them.
fn tenants() -> Vec<String> {
    (0..MANY)
        .map(|tenant| format!("tenant-{tenant:08}"))
        .collect()
}

/// A node's points on a `hashring`, which knows no others.
fn points(name: &str) -> Vec<(String, usize)> {
    (0..POINTS).map(|point| (name.to_owned(), point)).collect()
}

fn hash_ring(shards: usize) -> HashRing<(String, usize)> {
    let mut ring = HashRing::new();
    ring.batch_add(names(shards).flat_map(|name| points(&name)).collect());
    ring
}

/// From a key to its shard.
pub(super) fn lookup(entry: &Entry, shards: usize) -> Vec<Row> {
    let tenants = tenants();
    let draws = zipf_many();
    let key = |number: u64| black_box(tenants[draws.at(number)].as_str());

    let topology = topology(shards);
    let ours = |number| {
        black_box(topology.shard_of(key(number)));
    };
    let hash_ring = hash_ring(shards);
    let ring: Ring<String> = RingBuilder::default()
        .vnodes(POINTS)
        .nodes_iter(names(shards))
        .build();
    let maglev = Maglev::new(names(shards));
    let jump = JumpHasher::new_with_keys(1, 2);
    Contest::new(entry, Unit::Nanos, in_turn(ours))
        .peer(
            "hash-only",
            in_turn(|number| {
                black_box(xxh3_64(key(number).as_bytes()));
            }),
        )
        .peer(
            "hashring",
            in_turn(|number| {
                black_box(hash_ring.get(&key(number)));
            }),
        )
        .peer(
            "consistent_hash_ring",
            in_turn(|number| {
                black_box(ring.get(key(number)));
            }),
        )
        .peer(
            "maglev",
            in_turn(|number| {
                black_box(maglev.get(key(number)));
            }),
        )
        .peer(
            "jumphash",
            in_turn(|number| {
                black_box(jump.slot(&key(number), shards as u32));
            }),
        )
        .allocs(allocations(ours, |_| ()))
        .run()
}

/// The same from several threads at once, by the topology that all of them share.
pub(super) fn lookup_at_once(entry: &Entry, shards: usize, threads: u64) -> Vec<Row> {
    let tenants = tenants();
    let draws = zipf_many();
    let key = |number: u64| black_box(tenants[draws.at(number)].as_str());
    let topology = topology(shards);
    // Each with keys of its own.
    let apart = |thread: u64| thread << 19;
    let ours = |thread| {
        let topology = &topology;
        move |number: u64| {
            black_box(topology.shard_of(key(number + apart(thread))));
        }
    };
    let hash_only = |thread| {
        move |number: u64| {
            black_box(xxh3_64(key(number + apart(thread)).as_bytes()));
        }
    };
    Contest::new(entry, Unit::Nanos, from(threads, ours))
        .peer("hash-only", from(threads, hash_only))
        .allocs(allocations(ours(0), |_| ()))
        .run()
}

/// From the topology in force to one with a shard more; ours says what moves as well.
pub(super) fn plan_add_one(entry: &Entry, shards: usize) -> Vec<Row> {
    let topology = topology(shards);
    let ours = |_| {
        let grown = topology.with_shard("new").expect("no other has this name");
        black_box(grown.plan_from(&topology));
    };
    let ring = hash_ring(shards);
    let theirs = |_| {
        let mut grown = ring.clone();
        grown.batch_add(points("new"));
        black_box(grown);
    };
    Contest::new(entry, Unit::Nanos, in_turn(ours))
        .peer("hashring", in_turn(theirs))
        .allocs(allocations(ours, |_| ()))
        .run()
}

/// Counting one request for a key, by skewed keys of which some are hot.
pub(super) fn hot_keys(entry: &Entry) -> Vec<Row> {
    let draws = zipf_many();
    let hot = HotKeys::above(0.001).expect("it is a share that can be watched");
    let key = |number: u64| Key::from(black_box(draws.at(number) as u64));
    let ours = |number| {
        black_box(hot.record(&key(number)));
    };
    Contest::new(entry, Unit::Nanos, in_turn(ours))
        .peer(
            "hash-only",
            in_turn(|number| {
                black_box(key(number).hash());
            }),
        )
        .allocs(allocations(ours, |_| ()))
        .run()
}

struct Query<'a> {
    tenant: &'a str,
}

/// A shard that reads its key and answers at once with its number. Not inlined, as no real one would be.
#[derive(Clone, Copy)]
struct Answers(usize);

impl Service<Query<'_>> for Answers {
    type Response = usize;
    type Error = io::Error;
    type Future = Ready<Result<usize, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, query: Query<'_>) -> Self::Future {
        black_box(query.tenant.as_bytes().last().copied());
        ready(Ok(self.0))
    }
}

/// A request to the shard of its key, from so many threads at once that share a router.
pub(super) fn layer(entry: &Entry, shards: usize, threads: u64) -> Vec<Row> {
    let tenants = tenants();
    let draws = zipf_many();
    // Each with keys of its own.
    let query = |thread: u64, number: u64| Query {
        tenant: &tenants[draws.at(number + (thread << 19))],
    };
    let mut next = 0;
    let router = ShardRouter::new(topology(shards), move |_: &Endpoint| {
        next += 1;
        Answers(next)
    })
    .key(|query: &Query<'_>| query.tenant.into());

    let ours = |thread| {
        let mut ours = router.clone();
        move |number| {
            black_box(call(&mut ours, query(thread, number)));
        }
    };
    // It is no `Clone`: each thread has one of its own.
    let theirs = |thread| {
        let mut theirs = Steer::new(
            (0..shards).map(Answers),
            |query: &Query<'_>, shards: &[Answers]| {
                (xxh3_64(query.tenant.as_bytes()) % shards.len() as u64) as usize
            },
        );
        move |number| {
            black_box(call(&mut theirs, query(thread, number)));
        }
    };
    let bare = |thread| {
        move |number| {
            black_box(call(&mut Answers(0), query(thread, number)));
        }
    };
    let allocs = allocations(ours(0), bare(0));
    Contest::new(entry, Unit::Nanos, from(threads, ours))
        .bare(from(threads, bare))
        .peer("tower-steer", from(threads, theirs))
        .allocs(allocs)
        .run()
}

/// From this thread, or from others at the same time.
fn from<'a, C: FnMut(u64) + Send + 'a>(threads: u64, caller: impl Fn(u64) -> C) -> Lane<'a> {
    match threads {
        1 => in_turn(caller(0)),
        _ => at_once((0..threads).map(caller).collect()),
    }
}
