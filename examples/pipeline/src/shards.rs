//! The shards behind the router: what a request to one looks like, and the service at each endpoint.

mod opened;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use seawall_shard_router::{
    Access, BoxError, Bulkhead, Endpoint, Key, Position, Refusal, Role, ShardRouter, Slot,
    Topology, TopologyHandle,
};
use tokio_util::sync::CancellationToken;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

pub use self::opened::Opened;
use crate::log::LogId;
use crate::shard::{Applied, Batch, Query, ShardDb, ShardError, Versioned, Watermark};

/// A request to the shard that owns a slot.
#[derive(Clone, Debug)]
pub struct ShardRequest {
    /// The slot that decides which shard.
    pub slot: Slot,
    /// What is asked.
    pub ask: Ask,
}

/// What is asked of a shard.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Take over a partition.
    Adopt {
        /// The partition.
        partition: u16,
        /// The log it is read from.
        log: LogId,
        /// The epoch of the assignment.
        epoch: u64,
    },
    /// Apply a batch.
    Apply(Write),
    /// Read a document.
    Read {
        /// Which.
        query: Query,
        /// The lowest version that will do. A replica that does not have it yet leaves it to the primary.
        at_least: u64,
        /// Whether only the shard that takes the slot's writes is asked: while slots move, others read ahead.
        of_writer: bool,
    },
}

/// A batch on its way to its shard.
#[derive(Clone, Debug)]
pub struct Write {
    /// The batch.
    pub batch: Arc<Batch>,
    /// For a batch of one row: its bytes in the log, so that it can become a letter.
    pub alone: Option<Bytes>,
    /// A row that is not to be tried (again), and why.
    pub condemned: Option<(&'static str, String)>,
}

/// What a shard answers.
#[derive(Clone, Debug)]
pub enum ShardAnswer {
    /// To [`Ask::Adopt`].
    Adopted(Watermark),
    /// To [`Ask::Apply`].
    Applied(Applied),
    /// To [`Ask::Read`].
    Document(Versioned),
}

/// Failures put in on purpose, so that a demo shows what the layers do about them.
#[derive(Debug, Default)]
pub struct Faults {
    /// The chance that an apply fails before its transaction, and, as often again, after it.
    pub chance: f64,
    /// Calls failed before.
    pub refused: AtomicU64,
    /// Calls whose answer was thrown away.
    pub answers_lost: AtomicU64,
}

impl Faults {
    /// Fails shard calls with this chance on either side of the transaction.
    pub fn with_chance(chance: f64) -> Self {
        Self {
            chance,
            ..Self::default()
        }
    }

    fn strike(&self, counter: &AtomicU64, what: &str) -> Result<(), ShardError> {
        if self.chance > 0.0 && fastrand::f64() < self.chance {
            counter.fetch_add(1, Ordering::Relaxed);
            return Err(ShardError::Unavailable(format!("{what} on purpose")));
        }
        Ok(())
    }
}

/// The service at one endpoint.
pub struct ShardService<D> {
    db: Arc<D>,
    role: Role,
    faults: Arc<Faults>,
}

/// Counts a read by who answers it.
fn count_read(by: Role) {
    let by = if by.is_primary() {
        "primary"
    } else {
        "replica"
    };
    metrics::counter!("pipeline_shard_reads_total", "by" => by).increment(1);
}

impl<D: ShardDb> ShardService<D> {
    async fn answer(
        db: Arc<D>,
        role: Role,
        faults: Arc<Faults>,
        ask: Ask,
    ) -> Result<ShardAnswer, ShardError> {
        match ask {
            Ask::Read {
                query, at_least, ..
            } => {
                let found = match db.read(role, query.clone()).await {
                    Ok(found) if found.version >= at_least || role.is_primary() => {
                        count_read(role);
                        found
                    }
                    Err(why) if role.is_primary() || !matches!(why, ShardError::Refused(_)) => {
                        return Err(why);
                    }
                    // It lags, perhaps so far that it does not know of slots that came.
                    _ => {
                        count_read(Role::Primary);
                        db.read(Role::Primary, query).await?
                    }
                };
                Ok(ShardAnswer::Document(found))
            }
            _ if !role.is_primary() => Err(ShardError::ReadOnly),
            Ask::Adopt {
                partition,
                log,
                epoch,
            } => db
                .adopt(partition, log, epoch)
                .await
                .map(ShardAnswer::Adopted),
            Ask::Apply(Write {
                batch,
                condemned: Some((class, reason)),
                ..
            }) => {
                let offset = batch.rows.first().map_or(batch.from.0, |row| row.offset);
                Err(ShardError::Poison {
                    offset,
                    class,
                    reason,
                })
            }
            Ask::Apply(write) => {
                faults.strike(&faults.refused, "refused")?;
                let applied = db.apply(write.batch).await?;
                faults.strike(&faults.answers_lost, "answer lost")?;
                Ok(ShardAnswer::Applied(applied))
            }
        }
    }
}

impl<D: ShardDb> Service<ShardRequest> for ShardService<D> {
    type Response = ShardAnswer;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<ShardAnswer, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: ShardRequest) -> Self::Future {
        let (db, faults) = (Arc::clone(&self.db), Arc::clone(&self.faults));
        Self::answer(db, self.role, faults, request.ask)
            .map(|done| done.map_err(Into::into))
            .boxed()
    }
}

impl<D> Clone for ShardService<D> {
    fn clone(&self) -> Self {
        Self {
            db: Arc::clone(&self.db),
            role: self.role,
            faults: Arc::clone(&self.faults),
        }
    }
}

impl<D> fmt::Debug for ShardService<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardService")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// All shards, as one service.
pub type Shards = BoxCloneSyncService<ShardRequest, ShardAnswer, BoxError>;

/// Asks the shard that owns a slot.
pub async fn ask(shards: &Shards, slot: Slot, ask: Ask) -> Result<ShardAnswer, BoxError> {
    let request = ShardRequest { slot, ask };
    let mut shards = shards.clone();
    shards.ready().await?.call(request).await
}

/// Reads a document of this version or a higher one. A shard that reads ahead of a move may not have it, and one that
/// slots have left refuses: then the one that takes the writes is asked, by the newest assignment.
pub async fn read(
    shards: &Shards,
    topology: &TopologyHandle,
    slot: Slot,
    query: Query,
    at_least: u64,
) -> Result<Versioned, BoxError> {
    let document = |of_writer| Ask::Read {
        query: query.clone(),
        at_least,
        of_writer,
    };
    let read = match ask(shards, slot, document(false)).await {
        Ok(ShardAnswer::Document(found))
            if found.version >= at_least || !is_read_elsewhere(topology, slot) =>
        {
            return Ok(found);
        }
        Err(why) if Refusal::find(&*why).is_none() => return Err(why),
        _ => ask(shards, slot, document(true)).await?,
    };
    match read {
        ShardAnswer::Document(found) => Ok(found),
        other => Err(format!("a read was answered by {other:?}").into()),
    }
}

fn is_read_elsewhere(topology: &TopologyHandle, slot: Slot) -> bool {
    let topology = topology.current();
    topology.reads_elsewhere().any(|(read, _)| read == slot)
}

/// The first assignment: slots dealt round robin, each shard a primary with one replica. A partition's slots
/// are those equal to it modulo the number of partitions, so that each partition lies on one shard as
/// long as the shards divide the partitions.
pub fn first_topology(shards: u16) -> Result<Topology, seawall_shard_router::ConfigError> {
    Topology::round_robin((0..shards).map(|n| {
        let id = shard_id(n);
        let shard = seawall_shard_router::Shard::new(id.clone());
        shard
            .primary(format!("{id}/primary"))
            .replica(format!("{id}/replica"))
    }))
}

/// The name of shard `n`.
pub fn shard_id(n: u16) -> String {
    format!("s{n:02}")
}

/// How far a replica may lag behind its primary and still be read from, in the units of
/// [`ShardDb::position`]: bytes of PostgreSQL's write-ahead log, some seconds at full rate.
const MAX_LAG: u64 = 16 * 1024 * 1024;

/// How often it is looked how far the replicas are.
const LOOK: Duration = Duration::from_millis(500);

type Router<D> = ShardRouter<ShardService<D>, SlotOf, AccessOf>;
type SlotOf = fn(&ShardRequest) -> Key<'_>;
type AccessOf = fn(&ShardRequest) -> Access;

/// Puts the router in front of the shards: queues, concurrency and fail-fast for each endpoint, and replicas left
/// alone that fail or lag.
pub fn route<D: ShardDb>(
    topology: &TopologyHandle,
    shards: &[Arc<D>],
    faults: &Arc<Faults>,
) -> Shards {
    BoxCloneSyncService::new(router(topology, &Opened::new(shards), faults))
}

/// The same, and a task on the current runtime that watches how far the replicas are, until `stop`.
pub fn route_and_watch<D: ShardDb>(
    topology: &TopologyHandle,
    shards: &Opened<D>,
    faults: &Arc<Faults>,
    stop: CancellationToken,
) -> Shards {
    let router = router(topology, shards, faults);
    tokio::spawn(watch(router.clone(), shards.clone(), stop));
    BoxCloneSyncService::new(router)
}

fn router<D: ShardDb>(
    topology: &TopologyHandle,
    shards: &Opened<D>,
    faults: &Arc<Faults>,
) -> Router<D> {
    let shards = shards.clone();
    let faults = Arc::clone(faults);
    ShardRouter::new(topology, move |endpoint: &Endpoint| {
        let db = shards
            .get(endpoint.shard())
            .expect("the topology lists the shards that were opened");
        ShardService {
            db,
            role: endpoint.role(),
            faults: Arc::clone(&faults),
        }
    })
    .key((|request| Key::placed(request.slot)) as SlotOf)
    .access(
        (|request| match request.ask {
            Ask::Read {
                of_writer: false, ..
            } => Access::Read,
            Ask::Read { .. } | Ask::Adopt { .. } | Ask::Apply(_) => Access::Write,
        }) as AccessOf,
    )
    .each_shard(
        Bulkhead::concurrency(64)
            .queue(1_024)
            .fail_fast(Duration::from_secs(2)),
    )
    .max_lag(MAX_LAG)
}

/// Reports how far each endpoint is. One that cannot say so is as far as nowhere, so that a replica is not read from
/// while it is out, nor before it was first asked.
async fn watch<D: ShardDb>(router: Router<D>, shards: Opened<D>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let topology = router.topology().current();
        let looks = topology.endpoints().filter_map(|endpoint| {
            let db = shards.get(endpoint.shard())?;
            let router = &router;
            Some(async move {
                let position = match db.position(endpoint.role()).await {
                    Ok(None) => return,
                    Ok(Some(position)) => position,
                    // What its primary wrote last stays the measure of its replicas.
                    Err(_) if endpoint.role().is_primary() => return,
                    Err(_) => 0,
                };
                router.report(&endpoint, Position(position));
            })
        });
        futures_util::future::join_all(looks).await;
    }
}
