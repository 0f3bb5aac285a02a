//! One key in several places.

use std::num::NonZeroU16;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::slot::SHIFT;
use crate::{Key, Slot};

/// Spreads what is written under one key over several slots, and so over several shards: for a key
/// that is too hot for one, and whose writes need not see each other, as those of a counter, a
/// feed, a log.
///
/// The parts are numbered from 0, and **part 0 is where the plain key lies**: salting can begin
/// with a key that has data already, and a key that was never hot has no other part. A write goes
/// to [one of them](Salt::any); a read has to put together [all](Salt::all), from shards that may
/// be the same by chance. Keep a part's number with its rows: only with it the slot can be told.
/// More parts may be added; taking some away orphans what lies there.
///
/// # Specification, version 1
/// The slot of part `n` is the upper 14 bits of the XXH3-64, with seed `n`, of the canonical bytes
/// of the key.
///
/// ```
/// # use std::num::NonZeroU16;
/// # use seawall_shard_router::{Key, Salt, Topology};
/// let topology = Topology::slots((0..50).map(|n| format!("s{n:02}")))?;
/// let salt = Salt::over(NonZeroU16::new(8).expect("not zero"));
/// let (part, key) = salt.any(b"celebrity");                  // where this write goes
/// assert!(part < 8);
/// let shards = salt.all(b"celebrity").map(|(_, key)| topology.shard_of(key));    // what a read asks
/// assert_eq!(shards.count(), 8);
/// assert_eq!(salt.part(b"celebrity", 0).slot(), Key::from("celebrity").slot());
/// # let _ = key; Ok::<_, seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt {
    parts: NonZeroU16,
}

impl Salt {
    /// Over so many parts.
    #[must_use]
    pub const fn over(parts: NonZeroU16) -> Self {
        Self { parts }
    }

    /// What to route a request by that is for this part, counted modulo the number of parts.
    #[must_use]
    pub fn part(&self, canonical: &[u8], number: u16) -> Key<'static> {
        let seed = u64::from(number % self.parts);
        let hash = xxh3_64_with_seed(canonical, seed);
        Key::placed(Slot::from_index((hash >> SHIFT) as usize))
    }

    /// A part picked at random, with its number.
    #[must_use]
    pub fn any(&self, canonical: &[u8]) -> (u16, Key<'static>) {
        let number = fastrand::u16(..self.parts.get());
        (number, self.part(canonical, number))
    }

    /// All parts, with their numbers.
    pub fn all(&self, canonical: &[u8]) -> impl Iterator<Item = (u16, Key<'static>)> {
        let parts = 0..self.parts.get();
        parts.map(move |number| (number, self.part(canonical, number)))
    }
}
