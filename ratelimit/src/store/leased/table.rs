//! The keys of one rule that a node knows.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use siphasher::sip128::SipHasher13;

use super::lease::KeyLease;
use crate::key::Key;
use crate::store::redis::batch::Identity;

const SHARDS: usize = 64;

pub(super) struct Table {
    /// Under keys drawn at random, one for each kind of [`Key`].
    hashers: [SipHasher13; Key::KINDS],
    shards: Box<[Padded]>,
    /// Keys to a shard.
    most: usize,
}

#[repr(align(64))]
struct Padded(Mutex<Shard>);

#[derive(Default)]
pub(super) struct Shard {
    keys: HashMap<u128, KeyLease, BuildHasherDefault<Identity>>,
    /// Not before then is it worth to look for idle ones again.
    sweep_at: u64,
}

impl Table {
    pub(super) fn with_capacity(keys: usize) -> Self {
        let hasher = |_| {
            let secret = RandomState::new();
            SipHasher13::new_with_keys(secret.hash_one(0), secret.hash_one(1))
        };
        let shard = |_| Padded(Mutex::default());
        Self {
            hashers: std::array::from_fn(hasher),
            shards: (0..SHARDS).map(shard).collect(),
            most: keys.div_ceil(SHARDS),
        }
    }

    pub(super) fn hash(&self, key: Key<'_>) -> u128 {
        let hash = self.hashers[usize::from(key.kind())].hash(key.as_bytes());
        u128::from(hash.h1) << 64 | u128::from(hash.h2)
    }

    /// The map is whole after each statement.
    pub(super) fn shard(&self, hash: u128) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[(hash >> 64) as usize % SHARDS].0;
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key, made known if there is room for it.
    pub(super) fn known<'a>(
        &self,
        shard: &'a mut Shard,
        hash: u128,
        now: u64,
        longest: u64,
        new: impl FnOnce() -> KeyLease,
    ) -> Option<&'a mut KeyLease> {
        if shard.keys.len() >= self.most && !shard.keys.contains_key(&hash) {
            if now < shard.sweep_at {
                return None;
            }
            shard.keys.retain(|_, key| !key.is_idle(now, longest));
            shard.sweep_at = now + longest / 8;
            if shard.keys.len() >= self.most {
                return None;
            }
        }
        Some(shard.keys.entry(hash).or_insert_with(new))
    }
}

impl Shard {
    pub(super) fn get(&mut self, hash: u128) -> Option<&mut KeyLease> {
        self.keys.get_mut(&hash)
    }
}
