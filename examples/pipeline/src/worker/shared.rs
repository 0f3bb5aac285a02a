//! What all partitions' workers share.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seawall_shard_router::{ShardId, TopologyHandle};
use tokio::time::Instant;

use crate::cache::ReadCache;
use crate::log::{Log, Position};
use crate::stack::MessageStack;

/// How the workers go about it.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    /// The longest that a record waits for others to share a transaction with. The partitions of a shard read at the
    /// same moments, this far apart, and one that had nothing to do for as long does not wait at all.
    pub linger: Duration,
    /// How long a partition rests after its retries are exhausted.
    pub pause: Duration,
    /// How often a partition that has nothing to do looks whether its shard is still where it left it. Needed where
    /// another server may take a shard over.
    pub recheck: Option<Duration>,
    /// How often a record may fail alone, while its shard serves others, before it is written off.
    pub alone: u32,
}

/// What the workers have done; shared.
#[derive(Debug, Default)]
pub struct Counters {
    /// Orders applied.
    pub applied: AtomicU64,
    /// Records written off.
    pub dead: AtomicU64,
    /// Records that were decided before.
    pub repeats: AtomicU64,
    /// Transactions.
    pub batches: AtomicU64,
    /// Transactions on a partition that lay on more than one shard.
    pub spanning: AtomicU64,
    /// Rests after exhausted retries.
    pub pauses: AtomicU64,
    /// Partitions that stopped because going on would lose or invent records.
    pub halted: AtomicU64,
}

/// In the place of a position: another process has the partition.
const ELSEWHERE: u64 = u64::MAX;

/// What all partitions' workers share.
pub struct Shared<L> {
    /// The log.
    pub log: Arc<L>,
    /// Which shard owns which slot.
    pub topology: TopologyHandle,
    /// Dead letters around retries around the router.
    pub stack: MessageStack,
    /// Told of what changed.
    pub cache: ReadCache,
    /// Told of what happened.
    pub counters: Arc<Counters>,
    /// How to go about it.
    pub settings: WorkerSettings,
    /// From when all partitions count their moments.
    pub(super) started: Instant,
    /// Batches served, by shard.
    served: Mutex<HashMap<ShardId, u64>>,
    /// How far each partition is done, plus one; zero until its worker knows, and [`ELSEWHERE`].
    done: Vec<AtomicU64>,
}

impl<L: Log> Shared<L> {
    /// Puts together what the workers need.
    pub fn new(
        log: Arc<L>,
        topology: TopologyHandle,
        stack: MessageStack,
        cache: ReadCache,
        settings: WorkerSettings,
    ) -> Self {
        let done = (0..log.partitions()).map(|_| AtomicU64::new(0)).collect();
        Self {
            log,
            topology,
            stack,
            cache,
            counters: Arc::default(),
            settings,
            started: Instant::now(),
            served: Mutex::default(),
            done,
        }
    }

    /// Partitions of this process that are not done to their end, or whose worker has not found out yet.
    pub fn behind(&self) -> usize {
        let end = |partition| self.log.end(partition).borrow().0;
        (0..self.log.partitions())
            .zip(&self.done)
            .filter(|(partition, done)| done.load(Ordering::Relaxed) <= end(*partition))
            .count()
    }

    /// The position below which no partition has anything left to do, for a log whose offsets count up over all
    /// partitions.
    pub fn settled(&self) -> Position {
        let ends: Vec<Position> = (0..self.log.partitions())
            .map(|partition| *self.log.end(partition).borrow())
            .collect();
        // What is appended from here on lies above all of these ends.
        let last = ends.iter().copied().max().unwrap_or_default();
        ends.iter()
            .zip(&self.done)
            .fold(last, |settled, (end, done)| {
                match done.load(Ordering::Relaxed).checked_sub(1) {
                    Some(done) if done >= end.0 => settled,
                    done => settled.min(Position(done.unwrap_or(0))),
                }
            })
    }

    pub(super) fn done(&self, partition: u16, position: Position) {
        self.done[usize::from(partition)].store(position.0 + 1, Ordering::Relaxed);
    }

    /// Another process has the partition: it is none of this one's business how far it is.
    pub(super) fn elsewhere(&self, partition: u16) {
        self.done[usize::from(partition)].store(ELSEWHERE, Ordering::Relaxed);
    }

    /// This process has no workers.
    pub(crate) fn all_elsewhere(&self) {
        (0..self.log.partitions()).for_each(|partition| self.elsewhere(partition));
    }

    pub(super) fn count_batch(&self, shard: &ShardId) {
        *self.by_shard().entry(shard.clone()).or_default() += 1;
        self.counters.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn served(&self, shard: &ShardId) -> u64 {
        self.by_shard().get(shard).copied().unwrap_or_default()
    }

    fn by_shard(&self) -> MutexGuard<'_, HashMap<ShardId, u64>> {
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerSettings {
    /// For shards that are a network away: a transaction costs them as much for a few rows as for a hundred.
    pub fn remote() -> Self {
        Self {
            linger: Duration::from_millis(250),
            recheck: Some(Duration::from_secs(5)),
            ..Self::default()
        }
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(100),
            pause: Duration::from_millis(500),
            recheck: None,
            alone: 5,
        }
    }
}

impl<L> fmt::Debug for Shared<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}
