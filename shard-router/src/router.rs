//! The router and its settings.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::access::{Position, WritesOnly};
use crate::lane::Lane;
use crate::pick::Preference;
use crate::shared::{Core, Factory, Settings};
use crate::table::EndpointLoad;
use crate::{
    Access, Bulkhead, ConfigError, Ejection, Endpoint, Key, PlacedBy, ShardId, TopologyHandle,
    Unplaced, telemetry,
};

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

impl<S: Send + 'static> ShardRouter<S> {
    /// A router over a topology, or a handle to one that changes.
    ///
    /// `service` makes the inner service of each endpoint: now, and during an update for each that
    /// is new. It should connect lazily, as a topology may list what cannot be reached yet.
    ///
    /// # Default
    /// Every request writes; [`Bulkhead::default`] for each endpoint; a cap of 16,384 requests; no
    /// bound on the lag of replicas; no ejection; nothing is held.
    pub fn new(
        topology: impl Into<TopologyHandle>,
        service: impl FnMut(&Endpoint) -> S + Send + 'static,
    ) -> Self {
        let settings = Settings {
            bulkhead: Bulkhead::default(),
            cap: 16_384,
            preference: Preference::default(),
            ejection: None,
            hold: None,
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

    /// Routes each request to the shard that a closure names, instead of the owner of a slot: for
    /// the [placements](crate::placement) that know no slots.
    ///
    /// The topology is asked for the shard's endpoints alone. A name it does not have is refused
    /// with [`RouteError::UnknownShard`](crate::RouteError::UnknownShard).
    ///
    /// ```
    /// # use seawall_shard_router::{Endpoint, ShardRouter, Topology, placement::Jump};
    /// # use tower::service_fn;
    /// # struct Query { tenant: String }
    /// let topology = Topology::slots(["s00", "s01", "s02"])?;
    /// let jump = Jump::over(topology.shards().iter().map(|shard| shard.id().clone()))?;
    /// let router = ShardRouter::new(topology, |endpoint: &Endpoint| {
    ///     let shard = endpoint.shard().clone();
    ///     service_fn(move |_: Query| std::future::ready(Ok::<_, std::io::Error>(shard.clone())))
    /// })
    /// .placed_by(move |query: &Query| Ok(jump.shard_of(query.tenant.as_bytes()).clone()));
    /// # let _ = router; Ok::<_, seawall_shard_router::ConfigError>(())
    /// ```
    #[must_use]
    pub fn placed_by<Req, F>(self, place: F) -> ShardRouter<S, PlacedBy<F>, A>
    where
        F: Fn(&Req) -> Result<ShardId, Unplaced>,
    {
        ShardRouter {
            core: self.core,
            key: PlacedBy(place),
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
            ..self.core.settings.clone()
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
            ..self.core.settings.clone()
        };
        Ok(self.with(settings))
    }

    /// Reads go only to replicas that are at most so far behind the position last
    /// [reported](ShardRouter::report) for their primary.
    #[must_use]
    pub fn max_lag(self, behind: u64) -> Self {
        let mut settings = self.core.settings.clone();
        settings.preference.max_lag = Some(behind);
        self.with(settings)
    }

    /// Leaves endpoints alone that fail, as this says. Without it, each request for a shard that
    /// hangs waits until it fails fast.
    #[must_use]
    pub fn ejection(self, ejection: Ejection) -> Self {
        let mut settings = self.core.settings.clone();
        settings.ejection = Some(ejection);
        self.with(settings)
    }

    /// Holds requests for a primary that was ejected, or did not take them in time, until it is
    /// back or the topology names another: at most so many at once, and each for so long. They go
    /// then where the topology in force says. Those beyond are refused at once.
    ///
    /// Only what no shard has seen is held. Of use together with [`ShardRouter::ejection`].
    #[must_use]
    pub fn hold(self, requests: usize, within: Duration) -> Self {
        let mut settings = self.core.settings.clone();
        settings.hold = Some((requests, within));
        self.with(settings)
    }

    /// Prefers replicas in this zone, as long as one of them is near enough, not ejected, and need
    /// not let the read wait.
    #[must_use]
    pub fn zone(self, zone: impl Into<Arc<str>>) -> Self {
        let mut settings = self.core.settings.clone();
        settings.preference.zone = Some(zone.into());
        self.with(settings)
    }

    /// Picks the replica of two by how long it takes to answer times what it has to do, instead of
    /// what it has to do alone. It takes two looks at the clock for each read.
    ///
    /// A longer time counts at once; how much a shorter one counts grows with the time since the
    /// last answer, over `decay`. Ten seconds are usual.
    #[must_use]
    pub fn peak_ewma(self, decay: Duration) -> Self {
        let mut settings = self.core.settings.clone();
        settings.preference.peak_ewma = Some(decay);
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
        let Some(lane) = table.lane_of(endpoint) else {
            return false;
        };
        lane.report(position);
        if let Some(primary) = table.primary_position(endpoint) {
            telemetry::lag(endpoint, primary.0.saturating_sub(position.0));
        }
        true
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
            is_ejected: lane.health().is_ejected(),
        };
        endpoints.map(load).collect()
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
