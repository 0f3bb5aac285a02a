use std::fmt;
use std::hash::{BuildHasher, RandomState};

use super::held::Held;
use crate::key::Key;
use crate::store::hash::KeyedHasher;
use crate::store::named::NamedTable;
use crate::store::table::Table;
use crate::window::{Terms, WindowKind};

/// What is counted under one rule.
pub(super) struct Counters {
    /// The order in which several are locked.
    pub(super) rank: usize,
    /// A hash under random keys for each kind of [`Key`], so that kinds never meet.
    hashers: [KeyedHasher; Key::KINDS],
    pub(super) windows: Windows,
}

/// The strict table is laid out for one line of cache a decision; other kinds of windows lie elsewhere.
pub(super) enum Windows {
    Strict(Table),
    Named(NamedTable),
}

impl Counters {
    pub(super) fn new(rank: usize, kind: WindowKind, capacity: usize) -> Self {
        let hasher = |_| {
            let keys = RandomState::new();
            KeyedHasher::new((keys.hash_one(0), keys.hash_one(1)))
        };
        Self {
            rank,
            hashers: std::array::from_fn(hasher),
            windows: match kind {
                WindowKind::Sliding => Windows::Strict(Table::with_capacity(capacity)),
                kind => Windows::Named(NamedTable::with_capacity(kind, capacity)),
            },
        }
    }

    #[inline]
    pub(super) fn hash(&self, key: Key<'_>) -> (u64, u64) {
        let hasher = &self.hashers[usize::from(key.kind())];
        match key.number() {
            Some(number) => hasher.hash_number(number),
            None => hasher.hash(key.as_bytes()),
        }
    }

    /// A key under the terms that hold for it, with all that is known of it.
    pub(super) fn hold(&self, key: Key<'_>, terms: Terms, now: u64) -> Held<'_> {
        let hash = self.hash(key);
        match &self.windows {
            Windows::Strict(table) => Held::strict(table.whole(table.place(hash)), terms, now),
            Windows::Named(named) => Held::Named(named.hold(hash, terms, now)),
        }
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the hashers: their keys are a secret.
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}
