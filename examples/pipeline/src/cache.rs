//! The read cache of one API process: versioned, so that a slow reader cannot put back what a commit just
//! replaced.
//!
//! A commit invalidates by leaving a tombstone "at least version v". A value that was loaded at a lower
//! version loses against it, however late it arrives. The tombstone outlives any load ([`LOAD_DEADLINE`]).
//! Identical reads that miss together share one load; an invalidation in between detaches it, so that who asks
//! after a commit never joins a load from before it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::StatusCode;
use moka::Expiry;
use moka::ops::compute::Op;
use moka::sync::Cache;

use crate::shard::Query;

/// The longest that a load may take; it is given up after that.
pub const LOAD_DEADLINE: Duration = Duration::from_secs(2);

/// How long a tombstone stands: longer than any load that began before it.
const TOMBSTONE: Duration = Duration::from_secs(10);

/// An answer as it goes to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 404.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
    /// How long it may be kept.
    pub keep: Duration,
}

/// An answer with the version it holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The version it was read at.
    pub version: u64,
    /// The answer.
    pub answer: Answer,
}

/// Why a load did not answer.
pub type LoadError = Arc<dyn std::error::Error + Send + Sync>;

type Load = Shared<BoxFuture<'static, Result<Answer, LoadError>>>;

#[derive(Clone)]
enum Entry {
    Value(Loaded),
    Tombstone { version: u64 },
}

impl Entry {
    fn version(&self) -> u64 {
        match self {
            Self::Value(loaded) => loaded.version,
            Self::Tombstone { version } => *version,
        }
    }
}

/// The cache; clones share it.
#[derive(Clone)]
pub struct ReadCache {
    inner: Arc<Inner>,
}

struct Inner {
    entries: Cache<Query, Entry>,
    loads: Mutex<HashMap<Query, (u64, Load)>>,
    next_load: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

struct Keep;

impl Expiry<Query, Entry> for Keep {
    fn expire_after_create(&self, _: &Query, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(match entry {
            Entry::Tombstone { .. } => TOMBSTONE,
            // Spread by a tenth either way: what was loaded together must not expire together.
            Entry::Value(loaded) => loaded
                .answer
                .keep
                .mul_f64(fastrand::f64().mul_add(0.2, 0.9)),
        })
    }

    fn expire_after_update(
        &self,
        query: &Query,
        entry: &Entry,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(query, entry, now)
    }
}

impl ReadCache {
    /// A cache of at most `capacity` entries, tombstones included.
    pub fn new(capacity: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                entries: Cache::builder()
                    .max_capacity(capacity)
                    .expire_after(Keep)
                    .build(),
                loads: Mutex::new(HashMap::new()),
                next_load: AtomicU64::new(0),
                hits: AtomicU64::new(0),
                misses: AtomicU64::new(0),
            }),
        }
    }

    /// What is cached, or else what `load` finds. The load goes on in a task of its own when the caller
    /// leaves, since others may wait for it.
    pub async fn get<F, L>(&self, query: Query, load: F) -> Result<Answer, LoadError>
    where
        F: FnOnce(Query) -> L,
        L: Future<Output = Result<Loaded, LoadError>> + Send + 'static,
    {
        if let Some(Entry::Value(loaded)) = self.inner.entries.get(&query) {
            self.inner.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(loaded.answer);
        }
        self.inner.misses.fetch_add(1, Ordering::Relaxed);
        let shared = {
            let mut loads = self.loads();
            match loads.get(&query) {
                Some((_, load)) => load.clone(),
                None => {
                    let id = self.inner.next_load.fetch_add(1, Ordering::Relaxed);
                    let shared = self.start(id, query.clone(), load(query.clone()));
                    loads.insert(query, (id, shared.clone()));
                    shared
                }
            }
        };
        shared.await
    }

    fn start<L>(&self, id: u64, query: Query, load: L) -> Load
    where
        L: Future<Output = Result<Loaded, LoadError>> + Send + 'static,
    {
        let cache = self.clone();
        let task = tokio::spawn(async move {
            let found = tokio::time::timeout(LOAD_DEADLINE, load).await;
            let answer = match found {
                Ok(Ok(loaded)) => {
                    cache.set(query.clone(), loaded.clone());
                    Ok(loaded.answer)
                }
                Ok(Err(error)) => Err(error),
                Err(elapsed) => Err(Arc::new(elapsed) as LoadError),
            };
            let mut loads = cache.loads();
            if loads.get(&query).is_some_and(|(current, _)| *current == id) {
                loads.remove(&query);
            }
            answer
        });
        async move {
            task.await
                .unwrap_or_else(|panic| Err(Arc::new(panic) as LoadError))
        }
        .boxed()
        .shared()
    }

    /// Puts in a value, unless something of a higher version stands there.
    pub fn set(&self, query: Query, loaded: Loaded) {
        self.put(query, Entry::Value(loaded));
    }

    /// Makes sure that nothing below `version` is answered from here on.
    pub fn invalidate(&self, query: Query, version: u64) {
        self.loads().remove(&query);
        self.put(query, Entry::Tombstone { version });
    }

    fn put(&self, query: Query, new: Entry) {
        self.inner
            .entries
            .entry(query)
            .and_compute_with(|old| match old {
                Some(old) if old.value().version() > new.version() => Op::Nop,
                // At the same version a value is what the tombstone waited for, never the other way round.
                Some(old)
                    if old.value().version() == new.version()
                        && matches!(new, Entry::Tombstone { .. }) =>
                {
                    Op::Nop
                }
                _ => Op::Put(new),
            });
    }

    /// Reads answered from the cache, and reads that went on.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (
            self.inner.hits.load(Ordering::Relaxed),
            self.inner.misses.load(Ordering::Relaxed),
        )
    }

    fn loads(&self) -> std::sync::MutexGuard<'_, HashMap<Query, (u64, Load)>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{OpId, OrderId};
    use seawall_shard_router::slot_of;
    use tokio::sync::oneshot;

    fn query() -> Query {
        Query::Order(OrderId {
            slot: slot_of(b"any"),
            op: OpId([7; 16]),
        })
    }

    fn loaded(version: u64, body: &'static str) -> Loaded {
        let keep = Duration::from_secs(60);
        Loaded {
            version,
            answer: Answer {
                status: StatusCode::OK,
                body: Bytes::from_static(body.as_bytes()),
                keep,
            },
        }
    }

    async fn cached(cache: &ReadCache) -> Option<Bytes> {
        cache
            .get(query(), |_| async {
                Err(Arc::new(std::fmt::Error) as LoadError)
            })
            .await
            .ok()
            .map(|a| a.body)
    }

    #[tokio::test]
    async fn a_value_loaded_before_the_commit_and_set_after_the_invalidation_loses() {
        let cache = ReadCache::new(100);
        let (go, wait) = oneshot::channel::<()>();
        let reader = tokio::spawn({
            let cache = cache.clone();
            async move {
                cache
                    .get(query(), |_| async move {
                        wait.await.expect("the writer says when");
                        Ok(loaded(3, "old"))
                    })
                    .await
            }
        });
        while cache.hits_and_misses().1 == 0 {
            tokio::task::yield_now().await;
        }
        cache.invalidate(query(), 9);
        go.send(()).expect("the reader waits");
        assert_eq!(
            reader.await.expect("it ends").expect("it loads").body,
            "old"
        );
        assert_eq!(cached(&cache).await, None, "the late value must not stand");
    }

    #[tokio::test]
    async fn who_asks_after_a_commit_does_not_join_a_load_from_before_it() {
        let cache = ReadCache::new(100);
        let (_never, wait) = oneshot::channel::<()>();
        let hung = tokio::spawn({
            let cache = cache.clone();
            async move {
                cache
                    .get(query(), |_| async move {
                        let _ = wait.await;
                        Ok(loaded(3, "old"))
                    })
                    .await
            }
        });
        while cache.hits_and_misses().1 == 0 {
            tokio::task::yield_now().await;
        }
        cache.invalidate(query(), 9);
        let fresh = cache
            .get(query(), |_| async { Ok(loaded(9, "new")) })
            .await
            .expect("it loads");
        assert_eq!(fresh.body, "new");
        hung.abort();
    }

    #[tokio::test]
    async fn identical_reads_that_miss_together_load_once_even_when_the_first_leaves() {
        let cache = ReadCache::new(100);
        let calls = Arc::new(AtomicU64::new(0));
        let (go, wait) = oneshot::channel::<()>();
        let wait = wait.shared();
        let ask = || {
            let (cache, calls, wait) = (cache.clone(), calls.clone(), wait.clone());
            tokio::spawn(async move {
                cache
                    .get(query(), move |_| async move {
                        calls.fetch_add(1, Ordering::Relaxed);
                        let _ = wait.await;
                        Ok(loaded(1, "one"))
                    })
                    .await
            })
        };
        let first = ask();
        while calls.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let rest: Vec<_> = (0..100).map(|_| ask()).collect();
        while cache.hits_and_misses().1 < 101 {
            tokio::task::yield_now().await;
        }
        first.abort();
        go.send(()).expect("the load waits");
        for reader in rest {
            assert_eq!(
                reader.await.expect("it ends").expect("it loads").body,
                "one"
            );
        }
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn of_two_values_the_higher_version_stands_in_either_order() {
        for order in [[1, 2], [2, 1]] {
            let cache = ReadCache::new(100);
            for version in order {
                cache.set(
                    query(),
                    loaded(version, if version == 2 { "two" } else { "one" }),
                );
            }
            assert_eq!(
                cached(&cache).await.as_deref(),
                Some(&b"two"[..]),
                "{order:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_failed_load_is_not_remembered() {
        let cache = ReadCache::new(100);
        assert_eq!(cached(&cache).await, None);
        assert!(
            cache
                .get(query(), |_| async { Ok(loaded(1, "one")) })
                .await
                .is_ok()
        );
    }
}
