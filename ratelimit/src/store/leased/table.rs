//! The keys of one rule that a node knows.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use siphasher::sip128::SipHasher13;

use super::lease::{KeyLease, LONGEST};
use crate::key::Key;
use crate::store::redis::plan::Identity;

const SHARDS: usize = 64;
/// How often a key has to have come by before, to be known in a crowd.
const TIMES: u32 = 3;
/// No crowd is it where keys return soon so often, of all 2^16 times.
const RETURNS: u16 = 11_000;
/// That is a mean over so many times, as a power of two.
const LATELY: u32 = 7;
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

/// A key that came by and is not known.
#[derive(Clone, Copy, Default)]
struct Passing {
    /// Half of its hash.
    half: u32,
    /// When it was first noted, in 1,024 microseconds, and how often it came since: 24 bits and 8.
    noted: u32,
}

/// In [`Passing::noted`]: one time, and the bits below it.
const ONCE: u32 = 1 << 24;
const MOMENT: u32 = ONCE - 1;

/// How a key has come by that has become known just now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    /// How often before.
    pub(super) times: u32,
    /// The first time.
    pub(super) since: u64,
}

pub(super) struct Shard {
    keys: HashMap<u128, KeyLease, BuildHasherDefault<Identity>>,
    /// Keys that are not known came by. One takes the place of another.
    passing: Box<[Passing]>,
    /// Of requests for keys that are not known, the part that came soon after another one of the key, lately.
    returns: u16,
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
                passing: vec![Passing::default(); PASSING].into_boxed_slice(),
                returns: u16::MAX,
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

    /// The key, if it is known. It becomes so when it comes by again soon: within an eighth of a lease of this length.
    /// In a crowd, where that is mostly chance, it has to come for the fourth time within a quarter: of most keys
    /// there nothing is worth to be known. `new` is told how it came before.
    pub(super) fn known<'a>(
        &self,
        shard: &'a mut Shard,
        hash: u128,
        now: u64,
        time: u64,
        new: impl FnOnce(Passed) -> KeyLease,
    ) -> Option<&'a mut KeyLease> {
        let passed = match shard.keys.contains_key(&hash) {
            true => Passed {
                times: 0,
                since: now,
            },
            false => shard.passes(hash, now, time)?,
        };
        self.make_known(shard, hash, now, || new(passed))
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
    /// Notes that a key comes by. `None` unless it is worth to be known, where leases last so long.
    fn passes(&mut self, hash: u128, now: u64, time: u64) -> Option<Passed> {
        let (half, moment) = ((hash >> 32) as u32, (now >> 10) as u32 & MOMENT);
        let passing = &mut self.passing[hash as usize % PASSING];
        let since = u64::from(moment.wrapping_sub(passing.noted) & MOMENT) << 10;
        let again = passing.half == half && passing.noted != 0;
        let soon = again && since <= time / 8;
        let likely = self.returns >= RETURNS;
        if soon {
            self.returns += (u16::MAX - self.returns) >> LATELY;
        } else {
            self.returns -= self.returns >> LATELY;
        }
        if !again || since > time / 4 {
            *passing = Passing {
                half,
                noted: moment | ONCE,
            };
            return None;
        }
        let times = passing.noted / ONCE;
        if times < TIMES && !(soon && likely) {
            passing.noted += ONCE;
            return None;
        }
        Some(Passed {
            times,
            since: now.saturating_sub(since),
        })
    }

    pub(super) fn get(&mut self, hash: u128) -> Option<&mut KeyLease> {
        self.keys.get_mut(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;
    use crate::window::Terms;

    const TIME: u64 = 3_750_000;
    const START: u64 = 100 * TIME;

    /// Whether a key was known at each of these moments, among keys that return so often.
    fn known(moments: impl IntoIterator<Item = u64>, returns: u16) -> Vec<bool> {
        let table = Table::with_capacity(1_000);
        let terms = Terms::new(Quota::per_minute(1_000_000), 0);
        let hash = table.hash(Key::from(7_u64));
        let known = moments.into_iter().map(|moment| {
            let now = START + moment;
            let new = |passed| KeyLease::passed(terms, now, 1, passed);
            let mut shard = table.shard(hash);
            shard.returns = returns;
            table.known(&mut shard, hash, now, TIME, new).is_some()
        });
        known.collect()
    }

    #[test]
    fn a_key_is_known_once_it_comes_again_soon() {
        assert_eq!(known([0, TIME / 9], u16::MAX), [false, true]);
        assert_eq!(known([0, TIME / 7], u16::MAX), [false, false]);
    }

    #[test]
    fn in_a_crowd_it_has_to_come_four_times_in_a_quarter_of_a_lease() {
        let moments = [0, TIME / 16, TIME / 8, TIME / 5, 3 * TIME];
        assert_eq!(known(moments, 0), [false, false, false, true, true]);
    }

    #[test]
    fn a_key_that_comes_now_and_then_stays_unknown() {
        let moments = (0..100).map(|number| number * TIME / 6);
        assert!(known(moments, u16::MAX).iter().all(|known| !known));
    }

    #[test]
    fn one_key_that_passes_takes_the_place_of_another() {
        let table = Table::with_capacity(1_000);
        let mut shard = table.shard(0);
        let mut passes = |half: u128| shard.passes(half << 32, START, TIME).is_some();
        assert_eq!([1, 2, 1, 1].map(&mut passes), [false, false, false, true]);
    }
}
