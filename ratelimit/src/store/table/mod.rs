//! A table of windows that is bounded from the start: sets of 16 ways, and a floor under each set.
//!
//! # Where things lie
//!
//! - A set has 32 bits for each of its ways: part of a key's hash, and the number of its record. They share a line of
//!   cache, and the sets of a million keys take 6 MB.
//! - A record is an [entry] of one line of cache, which holds the whole window of nearly every key. Records lie in the
//!   order in which their keys came: who comes often came early, so those that most decisions are about lie close
//!   together, in few pages, however many keys there are.
//! - What has no room in an entry is in a [cold] record: large counts of the past, blocks, charges ahead.
//!
//! # Locks
//!
//! - An entry is locked by a bit in it, held for some nanoseconds: nothing is waited for meanwhile but tables of
//!   a higher rank.
//! - Keys come and go, and cold records are read and written, under the lock of their shard. It is taken before the
//!   bit of an entry of the same table, never after it.
//! - What was found without the bit may have gone by the time it is held, so it is compared again.

mod cold;
mod entry;
mod whole;
mod words;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::cold::Shard;
use self::entry::{ENTRY, Entry, Locked};
pub(crate) use self::whole::Whole;
use self::words::Words;
use crate::window::{Outcome, SlidingWindow, Terms, Wait};

/// Ways to a set. With sets two thirds full on average, few of them overflow.
const WAYS: usize = 16;
const MIN_SHARDS: usize = 256;
/// Bits of a way that are the number of a record; the others are of the key's hash.
const RECORD_BITS: u32 = 20;
const RECORD: u32 = (1 << RECORD_BITS) - 1;

pub(crate) struct Table {
    sets: usize,
    /// The high bits are part of a key's hash, the low ones the number of its record in the shard, plus one. 0 in a way
    /// that was never used; they are never emptied.
    ways: Words<AtomicU32>,
    /// The entries of all records, shard by shard.
    entries: Words<AtomicU64>,
    records_per_shard: usize,
    /// The low bits of a set's number say which it belongs to.
    shards: Box<[Padded]>,
}

/// Neighbours in the array of locks do not share a cache line.
#[repr(align(64))]
struct Padded(Mutex<Shard>);

/// Where a key belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    set: usize,
    /// The way to look at first.
    way: usize,
    /// What its way says, but for the number of the record.
    print: u32,
    tag: u64,
}

/// A key that has an entry, as it seemed without its lock.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    entry: Entry<'a>,
    tag: u64,
}

/// A key whose window lies in its entry, held.
pub(crate) struct InPlace<'a> {
    entry: Locked<'a>,
    tag: u64,
}

/// A key that has room for a request in its newest bucket, held until it is known whether it is taken.
pub(crate) struct Room<'a> {
    entry: Locked<'a>,
    cost: u32,
    limit: u32,
    left: u32,
    reset: u64,
}

impl Table {
    pub(crate) fn with_capacity(keys: usize) -> Self {
        let sets = keys.saturating_add(keys / 2).div_ceil(WAYS);
        let enough = sets.div_ceil(RECORD as usize / WAYS).max(MIN_SHARDS);
        let shards = enough.min(sets).next_power_of_two();
        let sets_per_shard = sets.div_ceil(shards);
        let shard = || Padded(Mutex::new(Shard::with_sets(sets_per_shard)));
        let sets = sets_per_shard * shards;
        Self {
            sets,
            ways: Words::zeroed(sets * WAYS),
            entries: Words::zeroed(sets * WAYS * ENTRY),
            records_per_shard: sets_per_shard * WAYS,
            shards: (0..shards).map(|_| shard()).collect(),
        }
    }

    /// One word of the hash finds the set, the other tells keys in it apart.
    #[inline]
    pub(crate) fn place(&self, (spread, tag): (u64, u64)) -> Place {
        Place {
            set: ((u128::from(spread) * self.sets as u128) >> 64) as usize,
            way: spread as usize % WAYS,
            print: spread as u32 & !RECORD,
            tag,
        }
    }

    /// What lies in the first way of a place: to have its set fetched, if it is not in the cache.
    #[inline]
    pub(crate) fn glance(&self, place: Place) -> u32 {
        self.ways_of(place)[place.way].load(Relaxed)
    }

    /// The key, if it has an entry.
    #[inline]
    pub(crate) fn see(&self, place: Place) -> Option<Seen<'_>> {
        let ways = self.ways_of(place);
        for step in 0..WAYS {
            let way = ways[(place.way + step) % WAYS].load(Relaxed);
            if way == 0 {
                // The key would be here.
                return None;
            }
            if way & !RECORD == place.print {
                let entry = self.entry(place, record_of(way));
                if entry.is(place.tag) {
                    let tag = place.tag;
                    return Some(Seen { entry, tag });
                }
            }
        }
        None
    }

    /// The key with all that is known of it, under the lock of its shard.
    pub(crate) fn whole(&self, place: Place) -> Whole<'_> {
        Whole::new(self, place, wait_for(&self.shards[self.shard_of(place)].0))
    }

    #[inline]
    fn ways_of(&self, place: Place) -> &[AtomicU32; WAYS] {
        self.ways.chunk(place.set * WAYS)
    }

    #[inline]
    fn entry(&self, place: Place, record: usize) -> Entry<'_> {
        let number = self.shard_of(place) * self.records_per_shard + record;
        Entry::of(self.entries.chunk(number * ENTRY))
    }

    #[inline]
    fn shard_of(&self, place: Place) -> usize {
        place.set & (self.shards.len() - 1)
    }

    /// The number of a set within its shard.
    fn set_in_shard(&self, place: Place) -> usize {
        place.set / self.shards.len()
    }
}

#[inline]
const fn record_of(way: u32) -> usize {
    (way & RECORD) as usize - 1
}

impl<'a> Seen<'a> {
    /// The room that the key has for this cost in its newest bucket, under just these terms. Without it the key has
    /// to be looked at [whole](Table::whole).
    #[inline]
    pub(crate) fn room(self, terms: Terms, now: u64, cost: u32) -> Option<Room<'a>> {
        let bucket = now / terms.width;
        let entry = self.entry.lock_in(bucket)?;
        if cost == 0 || !entry.holds(self.tag, terms) {
            return None;
        }
        let left = terms.limit.checked_sub(entry.total())?;
        Some(Room {
            cost: (cost <= left).then_some(cost)?,
            limit: terms.limit,
            left,
            reset: terms.free_at(bucket) - now,
            entry,
        })
    }
}

impl<'a> Seen<'a> {
    /// The window of the key, if it lies in its entry, goes by just these terms, and will be able to stay there when
    /// its newest bucket has ended. Else the key has to be looked at [whole](Table::whole).
    #[inline]
    pub(crate) fn in_place(self, terms: Terms, now: u64) -> Option<(InPlace<'a>, SlidingWindow)> {
        let entry = self.entry.lock();
        if !entry.holds(self.tag, terms) {
            return None;
        }
        let window = entry.window(now);
        let has_ended = now / terms.width > window.newest;
        if has_ended && window.current > u32::from(u16::MAX) {
            return None;
        }
        let tag = self.tag;
        Some((InPlace { entry, tag }, window))
    }
}

impl InPlace<'_> {
    /// Keeps what became of the window by a charge.
    #[inline]
    pub(crate) fn put(&mut self, window: &SlidingWindow) {
        debug_assert!(Locked::can_hold(window), "its newest bucket had no more");
        self.entry.write(self.tag, window);
    }
}

impl Room<'_> {
    /// Takes it.
    #[inline]
    pub(crate) const fn take(&mut self) -> Outcome {
        self.entry.add(self.cost);
        Outcome::new(self.limit, self.left - self.cost, self.reset, Wait::None)
    }

    /// Leaves it: what a request that takes nothing would be told.
    pub(crate) const fn leave(&self) -> Outcome {
        let reset = if self.entry.total() == 0 {
            0
        } else {
            self.reset
        };
        Outcome::new(self.limit, self.left, reset, Wait::None)
    }
}

/// A shard is held for less than a microsecond, so waiting for it is tried for some before the thread is put to
/// sleep, which costs more.
fn wait_for(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    for round in 0..10 {
        if let Ok(held) = shard.try_lock() {
            return held;
        }
        for _ in 0..1 << round.min(4) {
            std::hint::spin_loop();
        }
    }
    // A panic under the lock can only come from a bug in the arithmetic, and leaves whole counters.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
