//! The keys of one rule that a node knows.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use siphasher::sip128::SipHasher13;

use super::lease::{KeyLease, LONGEST};
use crate::key::Key;
use crate::store::redis::plan::Identity;

const SHARDS: usize = 64;
/// Keys to a shard of which it is noted when they last came by.
const PASSING: usize = 4_096;

pub(super) struct Table {
    /// Under keys drawn at random, one for each kind of [`Key`].
    hashers: [SipHasher13; Key::KINDS],
    shards: Box<[Padded]>,
    /// Keys to a shard.
    most: usize,
}

#[repr(align(64))]
struct Padded(Mutex<Shard>);

pub(super) struct Shard {
    keys: HashMap<u128, KeyLease, BuildHasherDefault<Identity>>,
    /// Keys that are not known came by then: half of a hash, and the moment in 1,024 microseconds. One
    /// takes the place of another.
    passing: Box<[(u32, u32)]>,
    /// Not before then is it worth to look for idle ones again.
    sweep_at: u64,
}

impl Table {
    pub(super) fn with_capacity(keys: usize) -> Self {
        let hasher = |_| {
            let secret = RandomState::new();
            SipHasher13::new_with_keys(secret.hash_one(0), secret.hash_one(1))
        };
        let shard = |_| {
            Padded(Mutex::new(Shard {
                keys: HashMap::default(),
                passing: vec![(0, 0); PASSING].into_boxed_slice(),
                sweep_at: 0,
            }))
        };
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

    /// The key, if it is known. It becomes so when it comes by again within an eighth of a lease of this length: of
    /// most keys of a crowd nothing is worth to be known. `new` is told when it came before.
    pub(super) fn known<'a>(
        &self,
        shard: &'a mut Shard,
        hash: u128,
        now: u64,
        time: u64,
        new: impl FnOnce(u64) -> KeyLease,
    ) -> Option<&'a mut KeyLease> {
        let before = match shard.keys.contains_key(&hash) {
            true => now,
            false => shard.came_shortly_before(hash, now, time / 8)?,
        };
        self.make_known(shard, hash, now, || new(before))
    }

    /// The key, made known if there is room for it.
    pub(super) fn make_known<'a>(
        &self,
        shard: &'a mut Shard,
        hash: u128,
        now: u64,
        new: impl FnOnce() -> KeyLease,
    ) -> Option<&'a mut KeyLease> {
        if shard.keys.len() >= self.most && !shard.keys.contains_key(&hash) {
            if now < shard.sweep_at {
                return None;
            }
            shard.keys.retain(|_, key| !key.is_idle(now));
            shard.sweep_at = now + LONGEST / 8;
            if shard.keys.len() >= self.most {
                return None;
            }
        }
        Some(shard.keys.entry(hash).or_insert_with(new))
    }
}

impl Shard {
    /// When a key was here, if shortly before; notes that it is here.
    fn came_shortly_before(&mut self, hash: u128, now: u64, shortly: u64) -> Option<u64> {
        let (half, moment) = ((hash >> 32) as u32, (now >> 10) as u32);
        let noted = &mut self.passing[hash as usize % PASSING];
        let (other, before) = std::mem::replace(noted, (half, moment));
        let since = u64::from(moment.wrapping_sub(before)) << 10;
        (other == half && since <= shortly).then(|| now.saturating_sub(since))
    }

    pub(super) fn get(&mut self, hash: u128) -> Option<&mut KeyLease> {
        self.keys.get_mut(&hash)
    }
}
