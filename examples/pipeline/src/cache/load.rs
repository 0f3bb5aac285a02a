//! Looking for an answer: one load for all who miss together, in this process and, over a second level, in all of them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::time::Instant;

use super::hot::Sight;
use super::{LOAD_DEADLINE, LoadError, Loaded, Looked, ReadCache};
use crate::shard::Query;

/// How long to wait before asking again for what another process loads.
pub(super) const ELSEWHERE: Duration = Duration::from_millis(10);

type Load = Shared<BoxFuture<'static, Result<Loaded, LoadError>>>;

/// What is asked of a load.
#[derive(Clone, Copy, Debug)]
struct Demand {
    /// The lowest version that will do.
    at_least: u64,
    /// The lowest version that would do for a reader who wants all that was known when the load began.
    known: u64,
    /// Whether many ask for it at once.
    hot: bool,
    /// Whether less than what is known will do.
    relaxed: bool,
}

pub(super) struct UnderWay {
    id: u64,
    at_least: u64,
    load: Load,
}

impl ReadCache {
    pub(super) async fn look_for<F, L>(
        &self,
        query: Query,
        seen: u64,
        hot: bool,
        load: F,
    ) -> Result<Loaded, LoadError>
    where
        F: FnOnce(Query, u64) -> L + Send + 'static,
        L: Future<Output = Result<Loaded, LoadError>> + Send + 'static,
    {
        let known = self.inner.values.get(&query);
        if let Some(loaded) = known.filter(|known| known.version >= seen) {
            self.inner.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(loaded);
        }
        let floor = match hot {
            true => match self.inner.moments.look(&query, seen, Instant::now()) {
                Sight::Answer(loaded) => {
                    self.inner.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(loaded);
                }
                Sight::Load { floor } => floor,
            },
            false => None,
        };
        if self.inner.second.is_none() {
            self.inner.misses.fetch_add(1, Ordering::Relaxed);
        }
        let shared = {
            let mut loads = self.loads();
            match loads.get(&query) {
                Some(under_way) if under_way.at_least >= seen => under_way.load.clone(),
                _ => {
                    let id = self.inner.next_load.fetch_add(1, Ordering::Relaxed);
                    // Under the lock: an invalidation has left its tombstone before, or detaches this load after.
                    let known = self.at_least(&query);
                    let at_least = floor.unwrap_or(known).max(seen);
                    let demand = Demand {
                        at_least,
                        known,
                        hot,
                        relaxed: floor.is_some(),
                    };
                    let load = self.start(id, query.clone(), demand, load);
                    let under_way = UnderWay {
                        id,
                        at_least,
                        load: load.clone(),
                    };
                    loads.insert(query, under_way);
                    load
                }
            }
        };
        shared.await
    }

    fn start<F, L>(&self, id: u64, query: Query, mut demand: Demand, load: F) -> Load
    where
        F: FnOnce(Query, u64) -> L + Send + 'static,
        L: Future<Output = Result<Loaded, LoadError>> + Send + 'static,
    {
        let cache = self.clone();
        let begun = Instant::now();
        let task = tokio::spawn(async move {
            let found = cache.find(query.clone(), &mut demand, load);
            let answer = match tokio::time::timeout(LOAD_DEADLINE, found).await {
                Ok(Ok(loaded)) => {
                    cache.set(query.clone(), loaded.clone());
                    let moments = &cache.inner.moments;
                    if demand.hot || moments.has(&query) {
                        moments.keep(query.clone(), loaded.clone(), demand.known, begun);
                    }
                    Ok(loaded)
                }
                Ok(Err(error)) => Err(error),
                Err(elapsed) => Err(Arc::new(elapsed) as LoadError),
            };
            let mut loads = cache.loads();
            if loads.get(&query).is_some_and(|current| current.id == id) {
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

    /// What the second level has, or else what the load finds.
    async fn find<F, L>(
        &self,
        query: Query,
        demand: &mut Demand,
        load: F,
    ) -> Result<Loaded, LoadError>
    where
        F: FnOnce(Query, u64) -> L,
        L: Future<Output = Result<Loaded, LoadError>>,
    {
        let Some(second) = &self.inner.second else {
            self.inner.loads_begun.fetch_add(1, Ordering::Relaxed);
            return load(query, demand.at_least).await;
        };
        let lease = loop {
            match second.get(&query).await {
                Looked::Value(loaded) if loaded.version >= demand.at_least => {
                    self.inner.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(loaded);
                }
                // What this process was told of has not arrived there yet.
                Looked::Value(_) | Looked::Unreachable => break None,
                Looked::Load {
                    at_least: there,
                    forgetful,
                    lease,
                } => {
                    demand.known = demand.known.max(there);
                    if forgetful {
                        // More than any replica has, so that the primary is asked.
                        demand.at_least = u64::MAX;
                    } else if !demand.relaxed {
                        demand.at_least = demand.at_least.max(there);
                    }
                    break Some(lease);
                }
                Looked::Wait => tokio::time::sleep(ELSEWHERE).await,
            }
        };
        self.inner.misses.fetch_add(1, Ordering::Relaxed);
        self.inner.loads_begun.fetch_add(1, Ordering::Relaxed);
        let loaded = load(query.clone(), demand.at_least).await?;
        if let Some(lease) = lease {
            let (second, known) = (Arc::clone(second), loaded.clone());
            // Nobody waits for it: the answer is there.
            tokio::spawn(async move { second.set(&query, &known, Some(&lease)).await });
        }
        Ok(loaded)
    }
}
