//! The read cache under every order of events that chance gives.

use bytes::Bytes;
use http::StatusCode;
use pipeline::cache::{Answer, Class, Loaded, ReadCache};
use pipeline::order::{OpId, OrderId};
use pipeline::shard::Query;
use seawall_shard_router::slot_of;

fn loaded(version: u64) -> Loaded {
    Loaded {
        version,
        answer: Answer {
            status: StatusCode::OK,
            body: Bytes::from_static(b"x"),
            class: Class::Pending,
        },
    }
}

/// A writer commits versions and tells of each a moment later, readers load and put in what they loaded a moment
/// later, in every order that chance gives. When all is told, what is cached is the newest or nothing.
#[test]
fn over_a_million_interleavings_nothing_stale_is_left() {
    // In one that is full nearly all the time, of answers and, in the second half, of tombstones too.
    let stale = stale(&ReadCache::new(1_000), 7, 500_000);
    let stale = stale + self::stale(&ReadCache::bounded(1_000, 1_000), 8, 500_000);
    println!("figure pipeline/stale-sets: {stale}");
    assert_eq!(stale, 0);
}

/// How often something stale is left after so many interleavings.
fn stale(cache: &ReadCache, seed: u64, rounds: u64) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut stale, mut kept) = (0, 0);
    for round in 0..rounds {
        let query = Query::Order(OrderId {
            slot: slot_of(b"any"),
            op: OpId(u128::from(round).to_be_bytes()),
        });
        let mut committed = 1;
        let mut untold = Vec::new();
        let mut loads = Vec::new();
        for _ in 0..4 {
            match random.u8(..4) {
                0 => {
                    committed += 1;
                    untold.push(committed);
                }
                1 => loads.push(committed),
                2 if !untold.is_empty() => {
                    let version = untold.swap_remove(random.usize(..untold.len()));
                    cache.invalidate(query.clone(), version);
                }
                _ if !loads.is_empty() => {
                    let version = loads.swap_remove(random.usize(..loads.len()));
                    cache.set(query.clone(), loaded(version));
                }
                _ => {}
            }
        }
        // Whatever is under way arrives in any order too.
        while !(untold.is_empty() && loads.is_empty()) {
            if !untold.is_empty() && (loads.is_empty() || random.bool()) {
                let version = untold.swap_remove(random.usize(..untold.len()));
                cache.invalidate(query.clone(), version);
            } else {
                let version = loads.swap_remove(random.usize(..loads.len()));
                cache.set(query.clone(), loaded(version));
            }
        }
        if let Some(left) = cache.peek(&query) {
            kept += 1;
            stale += u64::from(left.version < committed);
        }
    }
    // It would be easy to keep nothing.
    assert!(kept > 0, "nothing was kept in {rounds} rounds");
    stale
}
