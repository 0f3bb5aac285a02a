//! A table of windows that is bounded from the start: sets of 16 ways, and a floor under each set.

use std::sync::Mutex;

use crate::window::{PAST, SlidingWindow, Terms};

/// Records to a set. With sets two thirds full on average, few of them overflow.
const WAYS: usize = 16;
const MIN_SHARDS: usize = 256;
/// Bytes to a line of cache.
const LINE: usize = 64;
/// A way in one word: where the record is, plus one, and above it some bits of its tag, so that few
/// records are looked at in vain. 0 where there is none.
const AT_BITS: u32 = 20;
const AT_MASK: u32 = (1 << AT_BITS) - 1;

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
    /// Sixteen ways to a set, each set in one line of cache: the first lies at `skew`.
    ways: Box<[u32]>,
    skew: u8,
    any_floor: bool,
    /// In the order in which they came, so that those that come often lie close together. Its room is
    /// reserved, and as memory that is not written costs nothing, only paid for as keys come.
    records: Vec<Record>,
    /// The highest counts that were forgotten in each set.
    floors: Box<[Words]>,
}

/// Two lines of cache, which are fetched together.
#[derive(Debug)]
#[repr(align(128))]
struct Record {
    tag: u64,
    window: SlidingWindow,
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
        let enough = sets.div_ceil(AT_MASK as usize / WAYS).max(MIN_SHARDS);
        let shards = enough.min(sets).next_power_of_two();
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
            tag: low,
        }
    }

    pub(crate) fn shard(&self, place: Place) -> &Mutex<Shard> {
        &self.shards[place.shard].0
    }
}

impl Place {
    fn print(self) -> u32 {
        (self.tag >> 32) as u32 & !AT_MASK
    }
}

impl Shard {
    fn with_sets(sets: usize) -> Self {
        // Zeroed memory is not touched before it is used, but begins where it likes.
        let ways = vec![0_u32; (sets + 1) * WAYS].into_boxed_slice();
        let past_line = ways.as_ptr() as usize % LINE;
        Self {
            skew: ((LINE - past_line) % LINE / size_of::<u32>()) as u8,
            ways,
            any_floor: false,
            records: Vec::with_capacity(sets * WAYS),
            floors: vec![[0; WORDS]; sets].into_boxed_slice(),
        }
    }

    /// The window of a key that is known.
    pub(crate) fn known(&mut self, place: Place) -> Option<&mut SlidingWindow> {
        let at = self.find(place)?;
        Some(&mut self.records[at].window)
    }

    /// What a key that is not known starts from: what was forgotten in its set, or nothing.
    pub(crate) fn newcomer(&self, place: Place, terms: Terms, now: u64) -> SlidingWindow {
        self.floor(place.set, now)
            .unwrap_or(SlidingWindow::new(terms))
    }

    /// Keeps the window of a key, known or not.
    pub(crate) fn put(&mut self, place: Place, window: SlidingWindow, now: u64) {
        let tag = place.tag;
        match self.find(place) {
            Some(at) => self.records[at].window = window,
            None => self.insert(place, Record { tag, window }, now),
        }
    }

    fn set(&self, set: usize) -> &[u32] {
        &self.ways[usize::from(self.skew) + set * WAYS..][..WAYS]
    }

    #[inline]
    fn find(&self, place: Place) -> Option<usize> {
        let print = place.print();
        for &way in self.set(place.set) {
            if way & !AT_MASK == print && way != 0 {
                let at = (way & AT_MASK) as usize - 1;
                if self.records[at].tag == place.tag {
                    return Some(at);
                }
            }
        }
        None
    }

    fn insert(&mut self, place: Place, record: Record, now: u64) {
        let start = usize::from(self.skew) + place.set * WAYS;
        let set = &mut self.ways[start..][..WAYS];
        if let Some(free) = set.iter().position(|&way| way == 0) {
            self.records.push(record);
            set[free] = place.print() | self.records.len() as u32;
            return;
        }
        // The least used makes room.
        let at_of = |way: u32| (way & AT_MASK) as usize - 1;
        let used = |way: &usize| self.records[at_of(set[*way])].window.used(now);
        let least = (0..WAYS).min_by_key(used).unwrap_or(0);
        let at = at_of(set[least]);
        set[least] = place.print() | (at + 1) as u32;
        let evicted = std::mem::replace(&mut self.records[at], record);
        self.sink(place.set, evicted.window, now);
    }

    /// Eviction must not give quota back, so what the evicted key consumed is now held against whoever
    /// comes to this set: it may be that key again.
    fn sink(&mut self, set: usize, evicted: SlidingWindow, now: u64) {
        if evicted.used(now) == 0 {
            return;
        }
        let mut floor = evicted;
        if let Some(below) = self.floor(set, now) {
            floor = below;
            floor.merge(&evicted, now);
        }
        self.floors[set] = pack(&floor);
        self.any_floor = true;
    }

    fn floor(&self, set: usize, now: u64) -> Option<SlidingWindow> {
        if !self.any_floor {
            return None;
        }
        unpack(&self.floors[set]).filter(|floor| floor.used(now) > 0)
    }
}

/// A window as plain words: zeroed memory of such is not touched, nor paid for, before it is used.
type Words = [u32; WORDS];
const WORDS: usize = 8 + PAST;

fn pack(window: &SlidingWindow) -> Words {
    let mut words = [0; WORDS];
    let halves = |wide: u64| [wide as u32, (wide >> 32) as u32];
    words[0] = window.terms.version;
    words[1] = window.terms.limit;
    words[2..4].copy_from_slice(&halves(window.terms.width));
    words[4..6].copy_from_slice(&halves(window.newest));
    words[6] = window.current;
    words[7] = window.ahead;
    words[8..].copy_from_slice(&window.past);
    words
}

/// `None` for words that were never written.
fn unpack(words: &Words) -> Option<SlidingWindow> {
    let whole = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
    let terms = Terms {
        version: words[0],
        limit: words[1],
        width: whole(2),
    };
    if terms.width == 0 {
        return None;
    }
    let mut past = [0; PAST];
    past.copy_from_slice(&words[8..]);
    Some(SlidingWindow::from_counts(
        terms,
        whole(4),
        words[6],
        words[7],
        past,
    ))
}
