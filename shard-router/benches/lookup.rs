//! What it costs to find the shard of a key, against hashing the key alone; to plan one more shard;
//! and to pass the router, against a service that does nothing. Prints the best of several runs; asserts nothing.

use std::hint::black_box;

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use seawall_shard_router::{Access, Endpoint, Key, Shard, ShardRouter, Topology};
use tokio::time::Instant;
use tower::{Service, service_fn};
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
    let answer = |number: u64| -> Ready<Result<u64, Infallible>> { ready(Ok(number)) };
    let bare = call_ns(&mut service_fn(answer));
    for (what, access) in [("write", Access::Write), ("read", Access::Read)] {
        let shards = (0..50).map(|n| Shard::new(format!("s{n:02}")).replicas(["r0", "r1"]));
        let topology = Topology::slots(shards).expect("the names differ");
        let mut router = ShardRouter::new(topology, move |_: &Endpoint| service_fn(answer))
            .key(|number: &u64| Key::from(*number))
            .access(move |_: &u64| access);
        println!(
            "{what}: bare {bare:.1} ns, routed {:.1} ns",
            call_ns(&mut router)
        );
    }
}

fn call_ns<S: Service<u64, Response = u64>>(service: &mut S) -> f64 {
    let mut cx = Context::from_waker(Waker::noop());
    best_ns(100_000, || {
        for number in 0..100_000_u64 {
            let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else {
                panic!("not ready")
            };
            let call = pin!(service.call(black_box(number)));
            let Poll::Ready(Ok(answer)) = call.poll(&mut cx) else {
                panic!("nothing to wait for")
            };
            black_box(answer);
        }
    })
}
