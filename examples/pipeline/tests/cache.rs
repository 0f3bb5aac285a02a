//! The read cache under every order of events that chance gives.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pipeline::cache::{Answer, Loaded, ReadCache};
use pipeline::order::{OpId, OrderId};
use pipeline::shard::Query;
use seawall_shard_router::slot_of;

fn loaded(version: u64) -> Loaded {
    Loaded {
        version,
        answer: Answer {
            status: StatusCode::OK,
            body: Bytes::from_static(b"x"),
            keep: Duration::from_secs(60),
        },
    }
}

/// A writer commits versions and tells of each a moment later, readers load and put in what they loaded a moment
/// later, in every order that chance gives. When all is told, what is cached is the newest or nothing.
#[test]
fn over_a_million_interleavings_nothing_stale_is_left() {
    let mut random = fastrand::Rng::with_seed(7);
    let mut cache = ReadCache::new(100_000);
    let mut stale = 0;
    for round in 0_u64..1_000_000 {
        if round % 10_000 == 0 {
            // A full cache may drop a tombstone before its time, which is another matter.
            cache = ReadCache::new(100_000);
        }
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
            stale += u64::from(left.version < committed);
        }
    }
    println!("figure pipeline/stale-sets: {stale}");
    assert_eq!(stale, 0);
}
