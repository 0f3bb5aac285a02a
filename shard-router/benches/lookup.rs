//! What it costs to find the shard of a key, against hashing the key alone, and to plan one more
//! shard. Prints the best of several runs; asserts nothing.

use std::hint::black_box;

use seawall_shard_router::{Key, Topology};
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

fn best_ns(per_run: usize, mut run: impl FnMut()) -> f64 {
    let once = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_nanos() as f64 / per_run as f64
    };
    (0..30)
        .map(|_| once(&mut run))
        .fold(f64::INFINITY, f64::min)
}

fn main() {
    let keys: Vec<String> = (0..100_000).map(|n| format!("tenant-{n:08}")).collect();
    for shards in [50, 1_000] {
        let names = (0..shards).map(|n| format!("s{n:04}"));
        let topology = Topology::slots(names).expect("the names differ");
        let bare = best_ns(keys.len(), || {
            for key in &keys {
                black_box(xxh3_64(black_box(key.as_bytes())));
            }
        });
        let found = best_ns(keys.len(), || {
            for key in &keys {
                black_box(topology.shard_of(Key::from(black_box(key))));
            }
        });
        let plan = best_ns(1, || {
            let grown = topology.with_shard("x").expect("no other has this name");
            black_box(grown.plan_from(&topology));
        });
        let ratio = found / bare;
        println!(
            "{shards} shards: hash {bare:.2} ns, lookup {found:.2} ns ({ratio:.2}x), plan {:.0} us",
            plan / 1e3
        );
    }
}
