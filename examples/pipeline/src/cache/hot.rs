//! Keys that many ask for at once: what they are answered with while the key changes all the time.
//!
//! An answer of a hot key stands for a moment whatever is committed meanwhile, and for another one while it is loaded
//! anew. That load asks for no more than what was known when the answer before it was loaded, which a replica
//! has by now, and for nothing older than that answer. So each process sends a key's shard one read in a moment,
//! its replicas share them, and answers never go back.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use seawall_shard_router::HotKeys;
use tokio::time::Instant;

use super::Loaded;
use crate::shard::Query;

/// The share of all reads above which a key is hot.
pub const CELEBRITY: f64 = 0.05;

/// How long an answer of a hot key stands.
const MOMENT: Duration = Duration::from_millis(125);

/// How old an answer of a hot key is at most: it lacks nothing that this process was told of longer ago. It is given
/// for two moments, and what its load asked for was known two moments before.
pub const STALENESS: Duration = Duration::from_millis(500);

/// Answers of hot keys: more than there can be keys above the share at any time.
const MOMENTS: u64 = 256;

/// What there is of a key that is hot.
pub(super) enum Sight {
    /// An answer that will do.
    Answer(Loaded),
    /// None. Who asked is to load it.
    Load {
        /// The lowest version that will do; nothing where everything that is known now is wanted.
        floor: Option<u64>,
    },
}

struct Moment {
    loaded: Loaded,
    /// When its load began.
    since: Instant,
    /// The lowest version that was known then to be wanted.
    known: u64,
    /// Whether somebody loads the next one.
    taken: bool,
}

/// Which keys are hot, and their answers.
pub(super) struct Moments {
    hot: HotKeys,
    hasher: RandomState,
    answers: Cache<Query, Arc<Mutex<Moment>>>,
}

impl Moments {
    pub(super) fn new() -> Self {
        Self {
            hot: HotKeys::above(CELEBRITY).expect("a twentieth is a share that can be counted"),
            hasher: RandomState::new(),
            answers: Cache::builder()
                .max_capacity(MOMENTS)
                .time_to_idle(Duration::from_secs(60))
                .build(),
        }
    }

    /// Counts a read, and says whether its key is hot.
    pub(super) fn is_hot(&self, query: &Query) -> bool {
        let hot = self.hot.record_hash(self.hasher.hash_one(query)).is_hot();
        if hot {
            metrics::counter!("pipeline_hot_reads_total").increment(1);
        }
        hot
    }

    /// Looks for an answer of version `seen` or a higher one.
    pub(super) fn look(&self, query: &Query, seen: u64, now: Instant) -> Sight {
        let Some(moment) = self.answers.get(query) else {
            return Sight::Load { floor: None };
        };
        let mut moment = moment.lock().unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(moment.since);
        if age >= 2 * MOMENT {
            return Sight::Load { floor: None };
        }
        if age >= MOMENT && !moment.taken {
            moment.taken = true;
            let floor = moment.known.max(moment.loaded.version);
            return Sight::Load { floor: Some(floor) };
        }
        match moment.loaded.version >= seen {
            true => Sight::Answer(moment.loaded.clone()),
            false => Sight::Load { floor: None },
        }
    }

    /// Whether there is an answer of a key, which must not fall behind what others are answered with.
    pub(super) fn has(&self, query: &Query) -> bool {
        self.answers.contains_key(query)
    }

    /// Keeps what a load found that began at `since`, when `known` was the lowest version that is wanted.
    pub(super) fn keep(&self, query: Query, loaded: Loaded, known: u64, since: Instant) {
        let next = Moment {
            loaded,
            since,
            known,
            taken: false,
        };
        let entry = self.answers.entry(query);
        entry.and_upsert_with(|before| match before {
            // A load that took long does not put back what a later one has found.
            Some(before) if is_newer(before.value(), &next) => before.into_value(),
            _ => Arc::new(Mutex::new(next)),
        });
    }
}

fn is_newer(known: &Mutex<Moment>, than: &Moment) -> bool {
    let known = known.lock().unwrap_or_else(PoisonError::into_inner);
    known.loaded.version > than.loaded.version || known.since > than.since
}
