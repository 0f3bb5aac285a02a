//! Answers that are given again for a moment.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Remembers answers of [cached](super::Sharing::Cached) reads for a moment: the hook of a
/// [`CoalesceLayer`](super::CoalesceLayer) for a cache of yours.
///
/// What is put here was never overtaken by a write through the same layer: a call that began before
/// a write ended is not put once it has. How long an answer counts is up to the cache, and bounds
/// how long it may be behind writes that come another way. Each is called under a lock that other
/// keys may wait for, so none of them may block.
pub trait Recall<K, T>: Send + Sync {
    /// An answer that may be given again.
    fn get(&self, key: &K) -> Option<T>;

    /// A call has given this answer.
    fn put(&self, key: &K, answer: &T);

    /// What the key names may have changed.
    fn forget(&self, key: &K);
}

/// Answers for so long, and of so many keys at most.
///
/// ```
/// # use std::{num::NonZeroUsize, time::Duration};
/// # use seawall_shard_router::{CoalesceLayer, HotKeys, Sharing, ShortCache};
/// # #[derive(Clone)] struct Query { tenant: u64, writes: bool }
/// let hot = HotKeys::above(0.001)?;
/// let cache = ShortCache::new(Duration::from_millis(100), NonZeroUsize::new(10_000).expect("not zero"));
/// let layer = CoalesceLayer::by(move |query: &Query| match query.writes {
///     true => Sharing::Write(query.tenant),
///     false if hot.record(&query.tenant.into()).is_hot() => Sharing::Cached(query.tenant),
///     false => Sharing::Read(query.tenant),
/// })
/// .cache(cache);
/// # let _: CoalesceLayer<_, _, String> = layer; Ok::<_, seawall_shard_router::ConfigError>(())
/// ```
pub struct ShortCache<K, T> {
    lasting: Duration,
    half: usize,
    generations: Mutex<Generations<K, T>>,
}

/// What is put goes into the young one. When that is half of what may be kept, it becomes the old
/// one, and what was old goes: so what goes was put before all that stays.
struct Generations<K, T> {
    young: HashMap<K, (Instant, T)>,
    old: HashMap<K, (Instant, T)>,
}

impl<K, T> ShortCache<K, T> {
    /// An answer counts for this long; there are at most so many, or two.
    #[must_use]
    pub fn new(lasting: Duration, answers: NonZeroUsize) -> Self {
        Self {
            lasting,
            half: (answers.get() / 2).max(1),
            generations: Mutex::new(Generations {
                young: HashMap::new(),
                old: HashMap::new(),
            }),
        }
    }
}

impl<K: Hash + Eq + Clone + Send, T: Clone + Send> Recall<K, T> for ShortCache<K, T> {
    fn get(&self, key: &K) -> Option<T> {
        let generations = self.generations.lock();
        let generations = generations.unwrap_or_else(PoisonError::into_inner);
        let (at, answer) = generations
            .young
            .get(key)
            .or_else(|| generations.old.get(key))?;
        (at.elapsed() < self.lasting).then(|| answer.clone())
    }

    fn put(&self, key: &K, answer: &T) {
        let generations = self.generations.lock();
        let mut generations = generations.unwrap_or_else(PoisonError::into_inner);
        if generations.young.len() >= self.half && !generations.young.contains_key(key) {
            generations.old = std::mem::take(&mut generations.young);
        }
        let answer = (Instant::now(), answer.clone());
        generations.young.insert(key.clone(), answer);
    }

    fn forget(&self, key: &K) {
        let generations = self.generations.lock();
        let mut generations = generations.unwrap_or_else(PoisonError::into_inner);
        generations.young.remove(key);
        generations.old.remove(key);
    }
}

impl<K, T> fmt::Debug for ShortCache<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShortCache")
            .field("lasting", &self.lasting)
            .finish_non_exhaustive()
    }
}
