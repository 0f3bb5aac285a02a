//! The router and its settings.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::access::{Position, WritesOnly};
use crate::bulkhead::{Cap, Lane};
use crate::handle::Follow;
use crate::table::{EndpointLoad, Table};
use crate::{Access, Bulkhead, ConfigError, Endpoint, Key, Topology, TopologyHandle, telemetry};

/// Routes each request to the shard on which its key lies.
///
/// A [`Service`](tower_service::Service) once it knows the [`key`](ShardRouter::key) of a request;
/// without one it does not compile. See the [crate](crate) for an example.
///
/// # Readiness
/// It is always ready. One cap bounds what it holds in all, and beyond it a request is refused
/// when it is called. A request then waits at its own endpoint and nowhere else, so a shard that
/// hangs holds up nobody but those who want it: see [`Bulkhead`].
///
/// # Clone
/// Clones share everything: lanes, cap, topology. The inner services must be `Clone` too. Each
/// call is made on a clone, which its own task readies before: whoever waits for a service to be
/// ready is woken himself, and a future that nobody polls stops nobody else. Where clones of a
/// service do not share what they hold, put it behind a `tower::buffer::Buffer`.
///
/// # Reads
/// A read goes to one of the shard's replicas: of two picked at random, the one with less to do.
/// Where there is none, or none that is far enough, it goes to the primary. It does not go there
/// because replicas are busy: a flood of reads would stop the writes.
pub struct ShardRouter<S, K = (), A = WritesOnly> {
    pub(crate) core: Arc<Core<S>>,
    pub(crate) key: K,
    pub(crate) access: A,
}

type Factory<S> = Arc<Mutex<dyn FnMut(&Endpoint) -> S + Send>>;

#[derive(Clone, Copy, Debug)]
struct Settings {
    bulkhead: Bulkhead,
    cap: usize,
    max_lag: Option<u64>,
}

/// What all clones share.
pub(crate) struct Core<S> {
    pub(crate) table: ArcSwap<Table<S>>,
    pub(crate) cap: Arc<Cap>,
    settings: Settings,
    factory: Factory<S>,
    handle: TopologyHandle,
}

impl<S: Send + 'static> ShardRouter<S> {
    /// A router over a topology, or a handle to one that changes.
    ///
    /// `service` makes the inner service of each endpoint: now, and during an update for each that
    /// is new. It should connect lazily, as a topology may list what cannot be reached yet.
    ///
    /// # Default
    /// Every request writes; [`Bulkhead::default`] for each endpoint; a cap of 16,384 requests; no
    /// bound on the lag of replicas.
    pub fn new(
        topology: impl Into<TopologyHandle>,
        service: impl FnMut(&Endpoint) -> S + Send + 'static,
    ) -> Self {
        let settings = Settings {
            bulkhead: Bulkhead::default(),
            cap: 16_384,
            max_lag: None,
        };
        let factory: Factory<S> = Arc::new(Mutex::new(service));
        let core = Core::new(topology.into(), settings, factory, |_| None);
        Self {
            core,
            key: (),
            access: WritesOnly,
        }
    }
}

impl<S: Send + 'static, A> ShardRouter<S, (), A> {
    /// Says what a request is routed by.
    #[must_use]
    pub fn key<Req, K>(self, key: K) -> ShardRouter<S, K, A>
    where
        K: for<'a> Fn(&'a Req) -> Key<'a>,
    {
        ShardRouter {
            core: self.core,
            key,
            access: self.access,
        }
    }
}

impl<S: Send + 'static, K> ShardRouter<S, K, WritesOnly> {
    /// Says what a request does to its shard. Without it, every request is a write.
    #[must_use]
    pub fn access<Req, A>(self, access: A) -> ShardRouter<S, K, A>
    where
        A: Fn(&Req) -> Access,
    {
        ShardRouter {
            core: self.core,
            key: self.key,
            access,
        }
    }
}

/// A clone that was made before one of these is called keeps its own lanes and settings.
impl<S: Clone + Send + 'static, K, A> ShardRouter<S, K, A> {
    /// What each endpoint of each shard may hold.
    #[must_use]
    pub fn each_shard(self, bulkhead: Bulkhead) -> Self {
        let settings = Settings {
            bulkhead,
            ..self.core.settings
        };
        self.with(settings)
    }

    /// How many requests the router may hold in all, wherever they are.
    ///
    /// It bounds memory. Keep it well above what one endpoint may hold (its concurrency and its
    /// queue), or one shard that hangs can use it up.
    ///
    /// # Panics
    /// When it is zero.
    #[must_use]
    pub fn cap(self, requests: usize) -> Self {
        self.try_cap(requests)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`ShardRouter::cap`] for a value that comes from outside.
    ///
    /// # Errors
    /// [`ConfigError::Cap`] when it is zero.
    pub fn try_cap(self, requests: usize) -> Result<Self, ConfigError> {
        if requests == 0 {
            return Err(ConfigError::Cap);
        }
        let settings = Settings {
            cap: requests,
            ..self.core.settings
        };
        Ok(self.with(settings))
    }

    /// Reads go only to replicas that are at most so far behind the position last
    /// [reported](ShardRouter::report) for their primary.
    #[must_use]
    pub fn max_lag(self, behind: u64) -> Self {
        let settings = Settings {
            max_lag: Some(behind),
            ..self.core.settings
        };
        self.with(settings)
    }

    fn with(self, settings: Settings) -> Self {
        let old = self.core;
        let (handle, factory) = (old.handle.clone(), Arc::clone(&old.factory));
        let core = Core::new(handle, settings, factory, |endpoint| {
            old.table
                .load()
                .lane_of(endpoint)
                .map(|lane| lane.service())
        });
        Self { core, ..self }
    }
}

impl<S: Send + 'static, K, A> ShardRouter<S, K, A> {
    /// The topology that this router follows, to read or to update.
    #[must_use]
    pub fn topology(&self) -> &TopologyHandle {
        &self.core.handle
    }

    /// Tells how far an endpoint has applied the writes of its shard: on a replica, what its reads
    /// see. False where the topology in force has no such endpoint.
    ///
    /// Report a replica's position after it has applied, and a lower one when it has been replaced
    /// by an older copy. Until the first report, a replica serves no read with a token above 0.
    pub fn report(&self, endpoint: &Endpoint, position: Position) -> bool {
        let table = self.core.table.load();
        table
            .lane_of(endpoint)
            .map(|lane| lane.report(position))
            .is_some()
    }

    /// What each endpoint of the topology in force is doing, for a status page.
    #[must_use]
    pub fn loads(&self) -> Vec<EndpointLoad> {
        let table = self.core.table.load();
        let endpoints = table.topology().endpoints().zip(table.lanes());
        let load = |(endpoint, lane): (Endpoint, &Arc<Lane<S>>)| EndpointLoad {
            endpoint,
            in_flight: lane.in_flight(),
            queued: lane.queued(),
            position: lane.position(),
        };
        endpoints.map(load).collect()
    }
}

impl<S: Send + 'static> Core<S> {
    /// `existing` is asked for a service before one is made.
    fn new(
        handle: TopologyHandle,
        settings: Settings,
        factory: Factory<S>,
        existing: impl Fn(&Endpoint) -> Option<S>,
    ) -> Arc<Self> {
        handle.clone().attach(|topology| {
            let table = Table::new(topology, |endpoint| {
                let service = existing(endpoint).unwrap_or_else(|| make(&factory, endpoint));
                Arc::new(Lane::new(endpoint.clone(), service, settings.bulkhead))
            });
            telemetry::topology(table.topology(), None);
            let (table, cap) = (
                ArcSwap::from_pointee(table),
                Arc::new(Cap::new(settings.cap)),
            );
            Self {
                table,
                cap,
                settings,
                factory,
                handle,
            }
        })
    }

    pub(crate) fn max_lag(&self) -> Option<u64> {
        self.settings.max_lag
    }
}

fn make<S>(factory: &Factory<S>, endpoint: &Endpoint) -> S {
    (factory.lock().unwrap_or_else(PoisonError::into_inner))(endpoint)
}

impl<S: Send + 'static> Follow for Core<S> {
    fn follow(&self, topology: &Arc<Topology>) {
        let old = self.table.load_full();
        let (mut made, mut kept) = (0, 0);
        let table = Table::new(Arc::clone(topology), |endpoint| {
            match old.lane_of(endpoint) {
                Some(lane) => {
                    kept += 1;
                    Arc::clone(lane)
                }
                None => {
                    made += 1;
                    let service = make(&self.factory, endpoint);
                    Arc::new(Lane::new(endpoint.clone(), service, self.settings.bulkhead))
                }
            }
        });
        telemetry::topology(topology, Some(old.topology()));
        telemetry::followed(topology, made, kept, old.lanes().count() - kept);
        self.table.store(Arc::new(table));
    }
}

impl<S, K: Clone, A: Clone> Clone for ShardRouter<S, K, A> {
    fn clone(&self) -> Self {
        let (key, access) = (self.key.clone(), self.access.clone());
        Self {
            core: Arc::clone(&self.core),
            key,
            access,
        }
    }
}

impl<S, K, A> fmt::Debug for ShardRouter<S, K, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardRouter")
            .field("topology", self.core.table.load().topology())
            .field("settings", &self.core.settings)
            .finish_non_exhaustive()
    }
}
