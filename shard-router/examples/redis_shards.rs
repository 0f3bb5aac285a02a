//! Redis servers as shards: a key lives on one of them, whichever the topology says.
//!
//! `cargo run -p seawall-shard-router --example redis_shards -- redis://127.0.0.1:6379 redis://127.0.0.1:6380`

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};
use seawall_shard_router::{
    Access, BoxError, Bulkhead, ConfigError, Ejection, Endpoint, Shard, ShardRouter, Topology,
    TopologyHandle,
};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tower::{Service, ServiceExt, service_fn};

/// A command, and the key that decides where it goes.
#[derive(Debug)]
pub(crate) struct Command {
    key: String,
    cmd: Cmd,
    access: Access,
}

/// Reads a key.
pub(crate) fn get(key: &str) -> Command {
    Command {
        key: key.to_owned(),
        cmd: Cmd::get(key),
        access: Access::Read,
    }
}

/// Writes a key.
pub(crate) fn set(key: &str, value: &str) -> Command {
    Command {
        key: key.to_owned(),
        cmd: Cmd::set(key, value),
        access: Access::Write,
    }
}

/// A first topology of these servers, numbered in their order.
pub(crate) fn topology(urls: &[String]) -> Result<Topology, ConfigError> {
    let shards = urls.iter().enumerate();
    Topology::slots(shards.map(|(n, url)| Shard::new(format!("s{n:02}")).primary(url.as_str())))
}

/// A router over them. Each server has one connection, made when it is first needed.
pub(crate) fn router(
    topology: TopologyHandle,
) -> impl Service<Command, Response = Value, Error = BoxError, Future: Send> + Clone {
    ShardRouter::new(topology, |endpoint: &Endpoint| {
        let url = endpoint.address().to_owned();
        let connection = Arc::new(Mutex::new(None::<MultiplexedConnection>));
        service_fn(move |command: Command| {
            let (url, connection) = (url.clone(), Arc::clone(&connection));
            async move {
                // The router sets no timeout on a call: whoever makes it does.
                let answer = timeout(Duration::from_secs(1), async {
                    let mut open = connection.lock().await;
                    let mut ours = match &*open {
                        Some(ours) => ours.clone(),
                        None => {
                            let client = redis::Client::open(url)?;
                            let made = client.get_multiplexed_async_connection().await?;
                            open.insert(made).clone()
                        }
                    };
                    drop(open);
                    let answer = command.cmd.query_async::<Value>(&mut ours).await;
                    if answer.is_err() {
                        *connection.lock().await = None;
                    }
                    answer
                });
                answer
                    .await
                    .map_err(BoxError::from)?
                    .map_err(BoxError::from)
            }
        })
    })
    .key(|command: &Command| command.key.as_str().into())
    .access(|command: &Command| command.access)
    .each_shard(
        Bulkhead::concurrency(64)
            .queue(256)
            .fail_fast(Duration::from_millis(50)),
    )
    // A server that cannot be reached or does not answer is sick; one that says no is not.
    .ejection(
        Ejection::after(3)
            .at_most(0.5)
            .counting(|error: &BoxError| {
                let redis = error.downcast_ref::<redis::RedisError>();
                redis.is_none_or(|error| error.is_connection_dropped() || error.is_io_error())
            }),
    )
}

#[allow(dead_code, reason = "a test uses the rest")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let urls: Vec<String> = std::env::args().skip(1).collect();
    let topology = topology(&urls)?;
    let mut router = router(topology.clone().into());
    for tenant in 0..10 {
        let key = format!("tenant-{tenant}");
        router.ready().await?.call(set(&key, "hello")).await?;
        let read = router.ready().await?.call(get(&key)).await?;
        println!("{key} lies on {}: {read:?}", topology.shard_of(&key));
    }
    Ok(())
}
