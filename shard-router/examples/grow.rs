//! Three shards in one process, and a fourth that joins while requests flow.
//!
//! `cargo run -p seawall-shard-router --example grow`

use std::collections::BTreeMap;
use std::time::Duration;

use seawall_shard_router::{BoxError, Bulkhead, Endpoint, ShardRouter, Topology};
use tower::{Service, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let topology = Topology::slots(["s00", "s01", "s02"])?;
    // A real factory would make a pool of connections to `endpoint.address()`.
    let mut router = ShardRouter::new(topology, |endpoint: &Endpoint| {
        println!("serving {endpoint}");
        let shard = endpoint.shard().clone();
        service_fn(move |_tenant: String| std::future::ready(Ok::<_, BoxError>(shard.clone())))
    })
    .key(|tenant: &String| tenant.into())
    .each_shard(
        Bulkhead::concurrency(64)
            .queue(256)
            .fail_fast(Duration::from_millis(50)),
    );

    for epoch in 1..=2 {
        let mut served = BTreeMap::<_, u32>::new();
        for number in 0..100_000 {
            let shard = router
                .ready()
                .await?
                .call(format!("tenant-{number}"))
                .await?;
            *served.entry(shard).or_default() += 1;
        }
        println!("epoch {epoch}: {served:?}");
        if epoch == 1 {
            let current = router.topology().current();
            let plan = current.with_shard("s03")?.plan_from(&current);
            print!("{plan}");
            // Here the data of these slots would be copied, and the shards told who owns them.
            router.topology().apply(&plan)?;
        }
    }
    Ok(())
}
