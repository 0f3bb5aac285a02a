//! The running pipeline: data, workers and API put together, and taken apart again in the right order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, io};

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusHandle;
use seawall_idempotency::Drain;
use seawall_shard_router::reload::every;
use seawall_shard_router::{BoxError, Refresh, TopologyHandle};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api, Keys, Limits};
use crate::backend::{Backend, Newer};
use crate::log::{Log, Position};
use crate::shards::{Faults, route_and_watch};
use crate::stack::{self, RetrySettings};
use crate::worker::{Shared, WorkerSettings, Workers};

/// Partitions of the log.
pub const PARTITIONS: u16 = 100;

/// Records that the log keeps after they are applied, should a shard have to go back. At full rate it is some
/// minutes; on disk it is about 300 MB.
const LOG_KEEPS: u64 = 1_000_000;

/// How long a start may work through what the last run left in the log before it serves all the same.
const CATCH_UP: Duration = Duration::from_secs(60);

/// How often it is looked whether slots have moved.
const ASSIGNMENT: Duration = Duration::from_millis(500);

/// What a process does of it all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes orders and answers reads.
    Api,
    /// Applies what is in the log.
    Worker,
    /// Both.
    Both,
}

impl Role {
    /// Whether it takes orders and answers reads.
    pub fn answers(self) -> bool {
        self != Self::Worker
    }

    /// Whether it applies what is in the log.
    pub fn applies(self) -> bool {
        self != Self::Api
    }
}

/// How the pipeline is to run.
#[derive(Debug)]
pub struct Config {
    /// What this process does of it.
    pub role: Role,
    /// Where the API listens; a worker answers there for its health and its figures.
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

/// A running pipeline, or the part of it that this process is.
pub struct App<B: Backend> {
    /// Where it listens.
    pub address: SocketAddr,
    /// The API's insides, for figures.
    pub api: Arc<Api<B::Log>>,
    /// The workers' insides, for figures. A process without workers has them too, and they do nothing.
    pub shared: Arc<Shared<B::Log>>,
    /// What was put in on purpose.
    pub faults: Arc<Faults>,
    backend: B,
    keys: Keys<B::Records>,
    stop: CancellationToken,
    server: JoinHandle<()>,
    workers: Option<Workers>,
    runtimes: Runtimes,
}

/// What everything runs on.
#[derive(Debug)]
pub struct Runtimes {
    api: Runtime,
    worker: Runtime,
}

impl Runtimes {
    /// Two threads for the API, one for the workers.
    ///
    /// # Errors
    ///
    /// When the system gives no threads.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            api: runtime("api", 2)?,
            worker: runtime("worker", 1)?,
        })
    }

    /// Where connections live that both use.
    pub fn shared(&self) -> &Runtime {
        &self.api
    }
}

impl<B: Backend> App<B> {
    /// Starts the workers, lets them work through what an earlier run left, then opens the API.
    pub fn start(backend: B, runtimes: Runtimes, config: Config) -> anyhow::Result<Self> {
        let log = Arc::clone(backend.log());
        let topology = TopologyHandle::new(backend.topology());
        let newer = backend.newer();
        let topology = match newer.clone() {
            Some(newer) => topology.refreshed(Refresh::by(move || newer())),
            None => topology,
        };
        let faults = Arc::new(config.faults);
        let stop = CancellationToken::new();
        let routed = {
            let _on = runtimes.api.enter();
            route_and_watch(&topology, &backend.opened(), &faults, stop.clone())
        };
        if let Some(newer) = newer {
            let following = follow(topology.clone(), newer, stop.clone());
            runtimes.api.spawn(following);
        }
        let cache = backend.cache();
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
        let workers = config.role.applies().then(|| {
            let _on = runtimes.worker.enter();
            Workers::start(&shared)
        });
        if workers.is_none() {
            shared.all_elsewhere();
        } else if B::ALONE {
            runtimes.api.block_on(catch_up(&shared));
        }
        let api = Arc::new(Api {
            log,
            topology,
            shards: routed,
            cache,
            ready: AtomicBool::new(true),
            metrics: config.metrics,
        });
        let (records, keep_for) = backend.records();
        let keys = api::keys(records, keep_for);
        let listener = runtimes
            .api
            .block_on(TcpListener::bind(config.listen))
            .with_context(|| format!("cannot listen on {}", config.listen))?;
        let address = listener.local_addr()?;
        let router = if config.role.answers() {
            let windows = backend.windows(config.limits.capacity);
            api::router(&api, config.limits, keys.clone(), windows)
        } else {
            api::figures_only(&api)
        };
        let server = runtimes.api.spawn(api::serve(
            listener,
            router,
            stop.clone(),
            Duration::from_secs(10),
        ));
        runtimes
            .api
            .spawn(upkeep(Arc::clone(&api), Arc::clone(&shared), stop.clone()));
        Ok(Self {
            address,
            api,
            shared,
            faults,
            backend,
            keys,
            stop,
            server,
            workers,
            runtimes,
        })
    }

    /// Stops taking requests, finishes those that were begun and closes the data. Workers that nobody else would
    /// go on for reach the end of the log first; others end their batch and leave the rest to the next. Answers
    /// whether all of it was done within `drain`.
    pub fn stop(self, drain: Duration) -> bool {
        let until = Instant::now() + drain;
        let left = || until.saturating_duration_since(Instant::now());
        self.api.ready.store(false, Ordering::Relaxed);
        self.stop.cancel();
        let (server, keys) = (self.server, self.keys);
        let answered = self.runtimes.api.block_on(async {
            let answered = server.await.is_ok();
            // Handlers go on when their client has left: their orders count like any other.
            keys.tasks().drain(left()).await == Drain::Finished && answered
        });
        let finished = self.workers.is_none_or(|workers| {
            self.runtimes.worker.block_on(async {
                if B::ALONE {
                    workers.finish(left()).await
                } else {
                    workers.leave(left()).await
                }
            })
        });
        let drained = !B::ALONE || self.shared.behind() == 0;
        self.runtimes.api.block_on(self.backend.close());
        let Runtimes { api, worker } = self.runtimes;
        api.shutdown_timeout(Duration::from_secs(1));
        worker.shutdown_timeout(Duration::from_secs(1));
        answered && finished && drained
    }
}

impl<B: Backend> fmt::Debug for App<B> {
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

/// Puts each newer assignment in force, also where nobody was refused.
async fn follow(topology: TopologyHandle, newer: Newer, stop: CancellationToken) {
    let source = every(ASSIGNMENT, move || newer());
    let failed = |why: BoxError| tracing::warn!(%why, "the assignment of slots was not learned");
    tokio::select! {
        () = topology.follow(source, failed) => {}
        () = stop.cancelled() => {}
    }
}

/// Keeps the figures that nobody's request keeps.
async fn upkeep<L: Log>(api: Arc<Api<L>>, shared: Arc<Shared<L>>, stop: CancellationToken) {
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
}
