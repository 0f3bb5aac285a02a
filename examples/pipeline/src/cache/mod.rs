//! The read cache: versioned, so that a slow reader cannot put back what a commit just replaced.
//!
//! It has one level in each process, and a second one that processes share where there are several
//! ([`SecondLevel`]). Both follow the same rules.
//!
//! A commit invalidates by leaving a tombstone "at least version v". A value that was loaded at a lower
//! version loses against it, however late it arrives. The tombstone outlives any load ([`LOAD_DEADLINE`]), and does
//! not lie where capacity evicts.
//! Identical reads that miss together share one load; an invalidation in between detaches it, so that who asks
//! after a commit never joins a load from before it. In the second level one process at a time is let go to the
//! shard, and the others wait a moment for what it finds.
//!
//! A key that many ask for at once is read past its replicas' lag if each change of it takes the answer away: then every
//! commit sends a read to the primary. So what is [read](ReadCache::read) of a hot key may be a [moment](STALENESS) old,
//! and is loaded from whichever replica has what was known a moment ago; unless the reader says what it has seen.

mod answer;
mod hot;
mod load;
#[cfg(feature = "services")]
mod redis;
mod second;
#[cfg(test)]
mod tests;
mod tombstones;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::Expiry;
use moka::ops::compute::Op;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::shard::Query;

pub use self::answer::{Answer, Class, Loaded};
use self::hot::Moments;
pub use self::hot::{CELEBRITY, STALENESS};
use self::load::UnderWay;
#[cfg(feature = "services")]
pub use self::redis::RedisLevel;
pub use self::second::{Lease, Looked, SecondLevel};
use self::tombstones::Tombstones;

/// The longest that a load may take; it is given up after that.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(2);

/// How long a tombstone stands: longer than any load that began before it.
const TOMBSTONE: Duration = Duration::from_secs(10);

/// Tombstones of one kind of reads: a little more than ten seconds of ten thousand a second. With more, reads of
/// what has not changed lately are cached less, until the flood is over.
const TOMBSTONES: usize = 131_072;

/// How long a process may answer by itself where another one may have been told that it is outdated.
const FIRST_LEVEL: Duration = Duration::from_secs(1);

/// Why a load did not answer.
pub type LoadError = Arc<dyn std::error::Error + Send + Sync>;

/// The cache; clones share it.
#[derive(Clone)]
pub struct ReadCache {
    inner: Arc<Inner>,
}

struct Inner {
    second: Option<Arc<dyn SecondLevel>>,
    values: Cache<Query, Loaded>,
    tombstones: Tombstones,
    moments: Moments,
    loads: Mutex<HashMap<Query, UnderWay>>,
    next_load: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
    loads_begun: AtomicU64,
}

struct Keep {
    at_most: Duration,
}

impl Expiry<Query, Loaded> for Keep {
    fn expire_after_create(
        &self,
        _: &Query,
        loaded: &Loaded,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(loaded.answer.class.spread().min(self.at_most))
    }

    fn expire_after_update(
        &self,
        query: &Query,
        loaded: &Loaded,
        now: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(query, loaded, now)
    }
}

impl ReadCache {
    /// A cache of at most `capacity` answers, for a process that is alone.
    pub fn new(capacity: u64) -> Self {
        Self::build(capacity, TOMBSTONES, None, Duration::MAX)
    }

    /// The same with room for about so many tombstones of each kind of reads.
    pub fn bounded(capacity: u64, tombstones: usize) -> Self {
        Self::build(capacity, tombstones, None, Duration::MAX)
    }

    /// A cache over a second level, which other processes use too.
    pub fn over(capacity: u64, second: Arc<dyn SecondLevel>) -> Self {
        Self::build(capacity, TOMBSTONES, Some(second), FIRST_LEVEL)
    }

    fn build(
        capacity: u64,
        tombstones: usize,
        second: Option<Arc<dyn SecondLevel>>,
        at_most: Duration,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                second,
                values: Cache::builder()
                    .max_capacity(capacity)
                    .expire_after(Keep { at_most })
                    .build(),
                tombstones: Tombstones::new(tombstones),
                moments: Moments::new(),
                loads: Mutex::new(HashMap::new()),
                next_load: AtomicU64::new(0),
                hits: AtomicU64::new(0),
                misses: AtomicU64::new(0),
                loads_begun: AtomicU64::new(0),
            }),
        }
    }

    /// Whether other processes share a level of it.
    pub fn is_shared(&self) -> bool {
        self.inner.second.is_some()
    }

    /// Whether what is shared can be reached, as far as is known without asking.
    pub fn is_reachable(&self) -> bool {
        self.inner.second.as_ref().is_none_or(|s| s.is_reachable())
    }

    /// What is cached, or else what `load` finds, which is told the lowest version that will do. The load goes on
    /// in a task of its own when the caller leaves, since others may wait for it.
    pub async fn get<F, L>(&self, query: Query, load: F) -> Result<Answer, LoadError>
    where
        F: FnOnce(Query, u64) -> L + Send + 'static,
        L: Future<Output = Result<Loaded, LoadError>> + Send + 'static,
    {
        let loaded = self.look_for(query, 0, false, load).await?;
        Ok(loaded.answer)
    }

    /// The same for a reader who has seen version `seen`, or none where that is 0, of a key that others may ask for as
    /// well. Where these are many, an answer of a version that the reader has not seen may be [a moment
    /// old](STALENESS). One below what was seen says that the shard does not have that yet.
    pub async fn read<F, L>(&self, query: Query, seen: u64, load: F) -> Result<Loaded, LoadError>
    where
        F: FnOnce(Query, u64) -> L + Send + 'static,
        L: Future<Output = Result<Loaded, LoadError>> + Send + 'static,
    {
        let hot = self.inner.moments.is_hot(&query);
        self.look_for(query, seen, hot, load).await
    }

    /// Puts in a value, unless one of a higher version is there or a tombstone asks for one.
    pub fn set(&self, query: Query, loaded: Loaded) {
        let values = &self.inner.values;
        values.entry(query.clone()).and_compute_with(|known| {
            let known = known.map_or(0, |known| known.value().version);
            // Looked at in here: an invalidation that comes in between waits, and takes the value away again.
            match loaded.version >= known.max(self.at_least(&query)) {
                true => Op::Put(loaded),
                false => Op::Nop,
            }
        });
    }

    /// The same in both levels, so that every process answers by it. When the second one cannot be reached the first
    /// has it all the same. No load that is under way can put anything older in its place, also when it is evicted.
    pub async fn set_everywhere(&self, query: Query, loaded: Loaded) {
        if let Some(second) = &self.inner.second {
            second.set(&query, &loaded, None).await;
        }
        let tombstones = &self.inner.tombstones;
        let now = Instant::now();
        tombstones.leave(&query, loaded.version, now);
        let moments = &self.inner.moments;
        if moments.has(&query) {
            moments.keep(query.clone(), loaded.clone(), loaded.version, now);
        }
        self.set(query, loaded);
    }

    /// Makes sure that nothing below the versions is answered from here on. False where the second level could not
    /// be told: then it is to be told again.
    pub async fn invalidate_all(&self, changed: Vec<(Query, u64)>) -> bool {
        let told = match &self.inner.second {
            Some(second) => second.invalidate(&changed).await,
            None => true,
        };
        for (query, version) in changed {
            self.invalidate(query, version);
        }
        told
    }

    /// Makes sure that nothing below `version` is answered from here on.
    pub fn invalidate(&self, query: Query, version: u64) {
        let tombstones = &self.inner.tombstones;
        tombstones.leave(&query, version, Instant::now());
        self.loads().remove(&query);
        let values = &self.inner.values;
        values.entry(query).and_compute_with(|known| match known {
            // At the same version a value is what the tombstone waits for.
            Some(known) if known.value().version < version => Op::Remove,
            _ => Op::Nop,
        });
    }

    fn at_least(&self, query: &Query) -> u64 {
        self.inner.tombstones.at_least(query, Instant::now())
    }

    /// What this process has of it, without looking any further.
    pub fn peek(&self, query: &Query) -> Option<Loaded> {
        self.inner.values.get(query)
    }

    /// Loads that went to a shard.
    pub fn loads_begun(&self) -> u64 {
        self.inner.loads_begun.load(Ordering::Relaxed)
    }

    /// Reads answered from the cache, and reads that went on. Over a second level, reads that joined another one
    /// are not counted.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (
            self.inner.hits.load(Ordering::Relaxed),
            self.inner.misses.load(Ordering::Relaxed),
        )
    }

    fn loads(&self) -> std::sync::MutexGuard<'_, HashMap<Query, UnderWay>> {
        // The map is whole between any two statements, so a panic elsewhere does not spoil it.
        self.inner
            .loads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ReadCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hits, misses) = self.hits_and_misses();
        f.debug_struct("ReadCache")
            .field("hits", &hits)
            .field("misses", &misses)
            .finish_non_exhaustive()
    }
}
