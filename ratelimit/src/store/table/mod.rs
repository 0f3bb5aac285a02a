//! A table of windows that is bounded from the start: sets of 16 ways, and a floor under each set.
//!
//! # Where things lie
//!
//! - A key's [entry] is one of the 16 of the set that its hash names. Its head, a quarter of a line of cache, is where most
//!   decisions are made: so they touch one line, known from the hash at once. A set is searched from a line that the
//!   hash names too, and who comes often came early and has a place in that one.
//! - The terms that the keys of a shard go by are [known] by numbers.
//! - The counts of its past lie apart, in the same order: they are looked at when a bucket has ended.
//! - What has no room there is in a [cold] record: large counts of the past, blocks, charges ahead.
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
mod known;
mod whole;
mod words;

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::cold::Shard;
use self::entry::{Begin, Entry, HEAD, Locked, PAST_WORDS, TAG};
use self::known::TERMS;
pub(crate) use self::whole::Whole;
use self::words::Words;
use crate::window::{Outcome, SlidingWindow, Terms, Wait};

/// Ways to a set. With sets two thirds full on average, few of them overflow.
const WAYS: usize = 16;
const SHARDS: usize = 64;
/// Heads to a line of cache.
const HEADS: usize = 4;

pub(crate) struct Table {
    sets: usize,
    heads: Words<AtomicU64>,
    /// In the order of the heads.
    pasts: Words<AtomicU64>,
    /// Those of each shard.
    terms: Words<AtomicU64>,
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
    /// The entry to look at first.
    way: usize,
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
    /// Where it would be charged.
    bucket: u64,
    /// Before it is.
    left: u32,
    /// What it begins with, if it is one that begins.
    begin: Option<Begin>,
}

impl Table {
    pub(crate) fn with_capacity(keys: usize) -> Self {
        let sets = keys.saturating_add(keys / 2).div_ceil(WAYS);
        let shards = SHARDS.min(sets).next_power_of_two();
        let sets_per_shard = sets.div_ceil(shards);
        let shard = || Padded(Mutex::new(Shard::with_sets(sets_per_shard)));
        let sets = sets_per_shard * shards;
        Self {
            sets,
            heads: Words::zeroed(sets * WAYS * HEAD),
            pasts: Words::zeroed(sets * WAYS * PAST_WORDS),
            terms: Words::zeroed(shards * TERMS),
            shards: (0..shards).map(|_| shard()).collect(),
        }
    }

    /// One word of the hash finds the set, the other tells keys in it apart.
    #[inline]
    pub(crate) fn place(&self, (spread, tag): (u64, u64)) -> Place {
        Place {
            set: ((u128::from(spread) * self.sets as u128) >> 64) as usize,
            way: spread as usize % WAYS / HEADS * HEADS,
            tag: tag & TAG,
        }
    }

    /// Whether the first entry of a place is used: to have it fetched, if it is not in the cache.
    #[inline]
    pub(crate) fn glance(&self, place: Place) -> bool {
        self.entry(place, 0).is_used()
    }

    /// The key, if it has an entry.
    #[inline]
    pub(crate) fn see(&self, place: Place) -> Option<Seen<'_>> {
        let (entry, tag) = (self.find(place)?, place.tag);
        Some(Seen { entry, tag })
    }

    /// The entry of the key, if it has one.
    #[inline]
    fn find(&self, place: Place) -> Option<Entry<'_>> {
        let mut entries = self.entries(place);
        let found = entries.find(|entry| entry.is_or_would_be(place.tag));
        found.filter(|entry| entry.is_used())
    }

    /// The key with all that is known of it, under the lock of its shard.
    pub(crate) fn whole(&self, place: Place) -> Whole<'_> {
        Whole::new(self, place, wait_for(&self.shards[self.shard_of(place)].0))
    }

    /// All that the key may have, in the order in which they are taken.
    #[inline]
    fn entries(&self, place: Place) -> impl Iterator<Item = Entry<'_>> {
        (0..WAYS).map(move |step| self.entry(place, step))
    }

    #[inline]
    fn entry(&self, place: Place, step: usize) -> Entry<'_> {
        let at = place.set * WAYS + (place.way + step) % WAYS;
        Entry {
            head: self.heads.chunk(at * HEAD),
            past: self.pasts.chunk(at * PAST_WORDS),
            terms: self.terms_of(place),
        }
    }

    #[inline]
    fn terms_of(&self, place: Place) -> &[AtomicU64; TERMS] {
        self.terms.chunk(self.shard_of(place) * TERMS)
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

impl<'a> Seen<'a> {
    /// The room that the key has for this cost in the newest bucket, or in one that begins, under just these terms. Without
    /// it the key has to be looked at [whole](Table::whole).
    #[inline]
    pub(crate) fn room(self, terms: Terms, now: u64, cost: u32) -> Option<Room<'a>> {
        let bucket = now / terms.width;
        let entry = self.entry.lock();
        if cost == 0 || !entry.holds(self.tag, terms) {
            return None;
        }
        let begin = match entry.is_in(bucket) {
            true => None,
            false if entry.cold().is_some() => return None,
            false => Some(entry.at_begin_of(bucket)?),
        };
        let total = begin.map_or(entry.total(), |begin| begin.total);
        let left = terms.limit.checked_sub(total)?;
        (cost <= left).then_some(Room {
            entry,
            bucket,
            left,
            begin,
        })
    }

    /// The window of the key, if it lies in its entry, goes by just these terms, and will be able to stay there when
    /// its newest bucket has ended. Else the key has to be looked at [whole](Table::whole).
    #[inline]
    pub(crate) fn in_place(self, terms: Terms, now: u64) -> Option<(InPlace<'a>, SlidingWindow)> {
        let entry = self.entry.lock();
        if !entry.holds(self.tag, terms) || entry.cold().is_some() {
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
        self.entry.write(self.tag, window, self.entry.number());
    }
}

impl Room<'_> {
    /// Takes it, for what it was asked for.
    #[inline]
    pub(crate) fn take(&mut self, terms: Terms, now: u64, cost: u32) -> Outcome {
        if let Some(begin) = self.begin {
            self.entry.begin(self.bucket, begin);
        }
        self.entry.add(cost);
        let reset = terms.free_at(self.bucket) - now;
        Outcome::new(terms.limit, self.left - cost, reset, Wait::None)
    }

    /// Leaves it: what a request that takes nothing would be told.
    pub(crate) fn leave(&self, terms: Terms, now: u64) -> Outcome {
        if self.begin.is_some() {
            // The newest in which something was charged is another.
            return self.entry.window(now).decide(now, 0);
        }
        let reset = match self.entry.total() {
            0 => 0,
            _ => terms.free_at(self.bucket) - now,
        };
        Outcome::new(terms.limit, self.left, reset, Wait::None)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;

    #[test]
    fn however_often_terms_change_they_find_a_number() {
        let table = Table::with_capacity(100);
        let place = table.place((7 << 32, 7 << 32));
        for version in 0..1_000 {
            let terms = Terms::new(Quota::per_second(5), version);
            let mut whole = table.whole(place);
            let mut window = whole.window(terms, 0);
            window.renew(terms, 0);
            whole.put(&window, 0);
            drop(whole);
            let seen = table.see(place);
            assert!(seen.is_some_and(|seen| seen.room(terms, 0, 1).is_some()));
        }
    }
}
