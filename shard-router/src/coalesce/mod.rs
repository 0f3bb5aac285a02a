//! Identical reads that are under way at once share one call.

mod flight;
mod recall;
mod service;

pub use recall::{Recall, ShortCache};
pub use service::{Coalesce, CoalesceFuture};

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tower_layer::Layer;

use self::flight::Flight;
use crate::BoxError;

/// What a request may share with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing<K> {
    /// A read that may get the answer of another one of the same key that is under way. The key has
    /// to name everything that the answer depends on.
    Read(K),
    /// The same, and it may get an answer from a moment ago, where there is a
    /// [cache](CoalesceLayer::cache).
    Cached(K),
    /// It changes what this key names: whoever reads it afterwards shares no call from before.
    Write(K),
    /// Neither: a read by token, for one, that must see what an earlier read need not.
    Alone,
}

/// Lets identical reads that are under way at once share one call.
///
/// Put it around a router, where a key is hot. Who comes while a read of the same key is under way
/// waits for that one's answer; there is one call, whoever of them goes away meanwhile. Nothing is
/// kept once the answer is there, except in a [cache](CoalesceLayer::cache) of yours.
///
/// A [write](Sharing::Write) lets no later read share a call that began before the write ended.
/// Only writes through the same layer are seen: what others write is as fresh as a read that began
/// up to one call ago.
///
/// An error is given to all who waited, as a [`SharedError`] whose source is the service's own.
///
/// ```
/// # use seawall_shard_router::{CoalesceLayer, Sharing};
/// # use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
/// # #[derive(Clone)] struct Query { tenant: u64, writes: bool }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), seawall_shard_router::BoxError> {
/// let mut service = ServiceBuilder::new()
///     .layer(CoalesceLayer::by(|query: &Query| match query.writes {
///         true => Sharing::Write(query.tenant),
///         false => Sharing::Read(query.tenant),
///     }))
///     .service(service_fn(async |query: Query| Ok::<_, std::io::Error>(query.tenant * 2)));
/// let answer = service.ready().await?.call(Query { tenant: 21, writes: false }).await?;
/// assert_eq!(answer, 42);
/// # Ok(()) }
/// ```
///
/// # Default
/// At most 16,384 wait for one call; those beyond begin the next.
pub struct CoalesceLayer<F, K, T> {
    by: F,
    waiters: usize,
    flights: Arc<Flights<K, T>>,
}

impl<F, K, T> CoalesceLayer<F, K, T>
where
    K: Hash + Eq + Clone,
{
    /// What a request may share is what this closure says.
    pub fn by<Req>(by: F) -> Self
    where
        F: Fn(&Req) -> Sharing<K>,
    {
        Self {
            by,
            waiters: 16_384,
            flights: Arc::new(Flights::new(None)),
        }
    }

    /// Answers of [cached](Sharing::Cached) reads go here, and come from here as long as it has
    /// them.
    #[must_use]
    pub fn cache(self, cache: impl Recall<K, T> + 'static) -> Self {
        Self {
            flights: Arc::new(Flights::new(Some(Box::new(cache)))),
            ..self
        }
    }

    /// At most so many wait for one call; with zero or one nobody shares.
    #[must_use]
    pub fn waiters(mut self, requests: usize) -> Self {
        self.waiters = requests;
        self
    }
}

impl<S, F: Clone, K, T> Layer<S> for CoalesceLayer<F, K, T> {
    type Service = Coalesce<S, F, K, T>;

    fn layer(&self, inner: S) -> Self::Service {
        let (by, flights) = (self.by.clone(), Arc::clone(&self.flights));
        Coalesce::new(inner, by, self.waiters, flights)
    }
}

impl<F: Clone, K, T> Clone for CoalesceLayer<F, K, T> {
    fn clone(&self) -> Self {
        Self {
            by: self.by.clone(),
            waiters: self.waiters,
            flights: Arc::clone(&self.flights),
        }
    }
}

impl<F, K, T> fmt::Debug for CoalesceLayer<F, K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalesceLayer")
            .field("waiters", &self.waiters)
            .finish_non_exhaustive()
    }
}

/// The error of a call that several waited for.
#[derive(Clone, Debug)]
pub struct SharedError(Option<Arc<dyn Error + Send + Sync>>);

impl SharedError {
    fn of(error: BoxError) -> Self {
        Self(Some(error.into()))
    }

    /// Whoever drove the call panicked.
    fn panicked() -> Self {
        Self(None)
    }
}

impl fmt::Display for SharedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(_) => f.write_str("a call that was shared failed"),
            None => f.write_str("a call that was shared panicked"),
        }
    }
}

impl Error for SharedError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.as_ref().map(|error| &**error as _)
    }
}

/// The calls under way, by their keys.
struct Flights<K, T> {
    random: RandomState,
    cache: Option<Box<dyn Recall<K, T>>>,
    maps: [Mutex<Map<K, T>>; MAPS],
}

type Map<K, T> = HashMap<K, Arc<Flight<T>>>;

/// So that threads seldom wait for each other.
const MAPS: usize = 16;

impl<K: Hash + Eq, T> Flights<K, T> {
    fn new(cache: Option<Box<dyn Recall<K, T>>>) -> Self {
        Self {
            random: RandomState::new(),
            cache,
            maps: std::array::from_fn(|_| Mutex::default()),
        }
    }

    fn map(&self, key: &K) -> MutexGuard<'_, Map<K, T>> {
        let map = &self.maps[self.random.hash_one(key) as usize % MAPS];
        map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No later read joins what is under way now, or gets what was answered before.
    fn detach(&self, key: &K) {
        let mut map = self.map(key);
        let detached = map.remove(key);
        // Under the lock under which answers are put, so that none comes afterwards.
        if let Some(cache) = &self.cache {
            cache.forget(key);
        }
        drop(map);
        drop(detached);
    }

    /// An answer of a moment ago.
    fn recall(&self, key: &K) -> Option<T> {
        self.cache.as_ref()?.get(key)
    }
}
