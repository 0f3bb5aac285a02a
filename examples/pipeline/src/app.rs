//! The running pipeline: data, workers and API put together, and taken apart again in the right order.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use seawall_idempotency::Drain;
use seawall_shard_router::TopologyHandle;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, Keys, Limits};
use crate::cache::ReadCache;
use crate::data::Data;
use crate::log::Log;
use crate::log::Position;
use crate::shard::SqliteShard;
use crate::shards::{Faults, first_topology, route};
use crate::stack::{self, RetrySettings};
use crate::worker::{Shared, WorkerSettings, Workers};

/// Partitions of the log.
pub const PARTITIONS: u16 = 100;

/// Entries of the read cache, tombstones included.
const CACHE: u64 = 200_000;

/// Records that the log keeps after they are applied, should a shard have to go back. At full rate it is some
/// minutes; on disk it is about 300 MB.
const LOG_KEEPS: u64 = 1_000_000;

/// How long a start may work through what the last run left in the log before it serves all the same.
const CATCH_UP: Duration = Duration::from_secs(60);

/// How the pipeline is to run.
#[derive(Debug)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Its limits.
    pub limits: Limits,
    /// Retry waits are 1, 2, 4 ... 300 s times this.
    pub retry_scale: f64,
    /// Failures put in on purpose.
    pub faults: Faults,
    /// How the workers go about it.
    pub workers: WorkerSettings,
    /// The figures at `/metrics`.
    pub metrics: PrometheusHandle,
}

/// A running pipeline.
pub struct App {
    /// Where the API listens.
    pub address: SocketAddr,
    /// The API's insides, for figures.
    pub api: Arc<Api<crate::log::SqliteLog>>,
    /// The workers' insides, for figures.
    pub shared: Arc<Shared<crate::log::SqliteLog>>,
    /// What was put in on purpose.
    pub faults: Arc<Faults>,
    data: Data,
    keys: Keys,
    stop: CancellationToken,
    server: JoinHandle<()>,
    workers: Workers,
    // The runtimes go last: everything above runs on them.
    api_runtime: Runtime,
    worker_runtime: Runtime,
}

impl App {
    /// Starts the workers, lets them work through what an earlier run left, then opens the API.
    pub fn start(data: Data, config: Config) -> anyhow::Result<Self> {
        let api_runtime = runtime("api", 2)?;
        let worker_runtime = runtime("worker", 1)?;
        let log = Arc::clone(data.log());
        let shards: &[Arc<SqliteShard>] = data.shards();
        let count = u16::try_from(shards.len()).context("too many shards")?;
        let topology = TopologyHandle::new(first_topology(count)?);
        let faults = Arc::new(config.faults);
        let routed = route(&topology, shards, &faults);
        let cache = ReadCache::new(CACHE);
        let retry = RetrySettings {
            scale: config.retry_scale,
        };
        let stack = stack::messages(&routed, &topology, log.id(), retry);
        let shared = Arc::new(Shared::new(
            Arc::clone(&log),
            topology.clone(),
            stack,
            cache.clone(),
            config.workers,
        ));
        let workers = {
            let _on = worker_runtime.enter();
            Workers::start(&shared)
        };
        api_runtime.block_on(catch_up(&shared));
        let api = Arc::new(Api {
            log,
            topology,
            shards: routed,
            cache,
            ready: AtomicBool::new(true),
            metrics: config.metrics,
        });
        let keys = api::keys();
        let stop = CancellationToken::new();
        let listener = api_runtime
            .block_on(TcpListener::bind(config.listen))
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let router = api::router(&api, config.limits, keys.clone());
        let server = api_runtime.spawn(api::serve(
            listener,
            router,
            stop.clone(),
            Duration::from_secs(10),
        ));
        upkeep(&api_runtime, &api, &shared, &stop);
        Ok(Self {
            address,
            api,
            shared,
            faults,
            data,
            keys,
            stop,
            server,
            workers,
            api_runtime,
            worker_runtime,
        })
    }

    /// Stops taking requests, finishes those that were begun, lets the workers reach the end of the log and closes
    /// the data. Answers whether all of it was done within `drain`.
    pub fn stop(self, drain: Duration) -> bool {
        let until = Instant::now() + drain;
        let left = || until.saturating_duration_since(Instant::now());
        self.api.ready.store(false, Ordering::Relaxed);
        self.stop.cancel();
        let (server, keys) = (self.server, self.keys);
        let answered = self.api_runtime.block_on(async {
            let answered = server.await.is_ok();
            // Handlers go on when their client has left: their orders count like any other.
            keys.tasks().drain(left()).await == Drain::Finished && answered
        });
        let finished = self.worker_runtime.block_on(self.workers.finish(left()));
        let drained = self.shared.behind() == 0;
        self.api_runtime.shutdown_timeout(Duration::from_secs(1));
        self.worker_runtime.shutdown_timeout(Duration::from_secs(1));
        self.data.close();
        answered && finished && drained
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// A runtime whose threads are named for their stage, so that their CPU time can be told apart.
pub fn runtime(stage: &'static str, threads: usize) -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(stage)
        .enable_all()
        .build()
}

async fn catch_up<L: Log>(shared: &Shared<L>) {
    let until = Instant::now() + CATCH_UP;
    let mut left = shared.behind();
    if left > 0 {
        tracing::info!(
            partitions = left,
            "working through what the last run left in the log"
        );
    }
    while left > 0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
        left = shared.behind();
    }
    if left > 0 {
        tracing::warn!(partitions = left, "still behind: serving all the same");
    }
}

/// Keeps the figures that nobody's request keeps.
fn upkeep(
    runtime: &Runtime,
    api: &Arc<Api<crate::log::SqliteLog>>,
    shared: &Arc<Shared<crate::log::SqliteLog>>,
    stop: &CancellationToken,
) {
    let (api, shared, stop) = (Arc::clone(api), Arc::clone(shared), stop.clone());
    runtime.spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            // Without this the exporter keeps every sample of its histograms.
            api.metrics.run_upkeep();
            let settled = shared.settled();
            let below = Position(settled.0.saturating_sub(LOG_KEEPS));
            if below.0 > 0
                && let Err(error) = api.log.prune(below).await
            {
                tracing::warn!(%error, "the log was not pruned");
            }
            metrics::gauge!("pipeline_partitions_behind").set(shared.behind() as f64);
            metrics::gauge!("pipeline_dead_letters")
                .set(shared.counters.dead.load(Ordering::Relaxed) as f64);
        }
    });
}
