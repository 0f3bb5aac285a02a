//! A table of windows that never grows: sets of 16 ways, and a floor under each set.

use std::sync::Mutex;

use crate::window::{SLOTS, SlidingWindow, Terms};

/// Records to a set. With sets two thirds full on average, few of them overflow.
const WAYS: usize = 16;
const MAX_SHARDS: usize = 256;
/// A window as plain words: zeroed memory of such is not touched, nor paid for, before it is used.
type Words = [u32; WORDS];
const WORDS: usize = 6 + SLOTS + 1;

#[derive(Debug)]
pub(crate) struct Table {
    shards: Box<[Padded]>,
    sets_per_shard: usize,
}

/// Neighbours in the array of locks do not share a cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Padded(Mutex<Shard>);

#[derive(Debug)]
pub(crate) struct Shard {
    /// What tells keys of one set apart; 0 where nothing is.
    tags: Vec<[u64; WAYS]>,
    windows: Vec<Words>,
    /// The highest counts that were forgotten in each set.
    floors: Vec<Words>,
}

/// Where a key belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    shard: usize,
    set: usize,
    tag: u64,
}

impl Table {
    pub(crate) fn with_capacity(keys: usize) -> Self {
        let sets = keys.saturating_add(keys / 2).div_ceil(WAYS);
        let shards = sets.next_power_of_two().min(MAX_SHARDS);
        let sets_per_shard = sets.div_ceil(shards);
        let shard = || Padded(Mutex::new(Shard::with_sets(sets_per_shard)));
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            sets_per_shard,
        }
    }

    /// One half of the hash finds the set, the other tells keys in it apart.
    pub(crate) fn place(&self, high: u64, low: u64) -> Place {
        let scaled = |bits: u64, of: usize| ((u128::from(bits) * of as u128) >> 64) as usize;
        Place {
            shard: (high as usize) & (self.shards.len() - 1),
            set: scaled(high, self.sets_per_shard),
            tag: low.max(1),
        }
    }

    pub(crate) fn shard(&self, place: Place) -> &Mutex<Shard> {
        &self.shards[place.shard].0
    }
}

impl Shard {
    fn with_sets(sets: usize) -> Self {
        Self {
            tags: vec![[0; WAYS]; sets],
            windows: vec![[0; WORDS]; sets * WAYS],
            floors: vec![[0; WORDS]; sets],
        }
    }

    /// The window of a key; for one that is not known the floor of its set, or an empty one.
    pub(crate) fn window(&self, place: Place, terms: Terms, now: u64) -> SlidingWindow {
        if let Some(at) = self.find(place) {
            return unpack(&self.windows[at]).unwrap_or(SlidingWindow::new(terms));
        }
        match unpack(&self.floors[place.set]) {
            Some(floor) if floor.used(now) > 0 => floor,
            _ => SlidingWindow::new(terms),
        }
    }

    /// Keeps the window of a key that is known.
    pub(crate) fn replace(&mut self, place: Place, window: &SlidingWindow) {
        if let Some(at) = self.find(place) {
            self.windows[at] = pack(window);
        }
    }

    /// Keeps the window of a key, known or not.
    pub(crate) fn put(&mut self, place: Place, window: &SlidingWindow, now: u64) {
        let at = match self.find(place) {
            Some(at) => at,
            None => self.make_room(place, now),
        };
        self.windows[at] = pack(window);
    }

    fn find(&self, place: Place) -> Option<usize> {
        let way = self.tags[place.set]
            .iter()
            .position(|&tag| tag == place.tag)?;
        Some(place.set * WAYS + way)
    }

    /// A way for a newcomer: a free one, or that of the least used key, whose counts go into the floor.
    fn make_room(&mut self, place: Place, now: u64) -> usize {
        let first = place.set * WAYS;
        let way = match self.tags[place.set].iter().position(|&tag| tag == 0) {
            Some(free) => free,
            None => {
                let used = |way: &usize| unpack(&self.windows[first + way]).map(|w| w.used(now));
                let least = (0..WAYS).min_by_key(used).unwrap_or(0);
                self.sink(place.set, first + least, now);
                least
            }
        };
        self.tags[place.set][way] = place.tag;
        first + way
    }

    /// Eviction must not give quota back, so what the evicted key consumed is now held against whoever
    /// comes to this set: it may be that key again.
    fn sink(&mut self, set: usize, at: usize, now: u64) {
        let Some(evicted) = unpack(&self.windows[at]) else {
            return;
        };
        if evicted.used(now) == 0 {
            return;
        }
        let floor = match unpack(&self.floors[set]) {
            Some(mut floor) if floor.used(now) > 0 => {
                floor.merge(&evicted, now);
                floor
            }
            _ => evicted,
        };
        self.floors[set] = pack(&floor);
    }
}

fn pack(window: &SlidingWindow) -> Words {
    let mut words = [0; WORDS];
    let halves = |wide: u64| [wide as u32, (wide >> 32) as u32];
    words[0] = window.terms.version;
    words[1] = window.terms.limit;
    words[2..4].copy_from_slice(&halves(window.terms.width));
    words[4..6].copy_from_slice(&halves(window.newest));
    words[6..6 + SLOTS].copy_from_slice(&window.counts);
    words
}

/// `None` for words that were never written.
fn unpack(words: &Words) -> Option<SlidingWindow> {
    let whole = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
    let width = whole(2);
    if width == 0 {
        return None;
    }
    let mut counts = [0; SLOTS];
    counts.copy_from_slice(&words[6..6 + SLOTS]);
    Some(SlidingWindow {
        terms: Terms {
            version: words[0],
            limit: words[1],
            width,
        },
        newest: whole(4),
        counts,
    })
}
