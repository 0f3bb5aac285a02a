//! A table of windows that is bounded from the start: sets of 16 ways, and a floor under each set.
//!
//! A window lies in two places. What nearly every decision needs lies in the hot entry, found by its place and
//! two to a line of cache; the buckets of the past, needed once a bucket has ended, lie in the cold
//! record, in the order in which keys came.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::window::{Outcome, PAST, SlidingWindow, Terms, Wait};

/// Entries to a set. With sets two thirds full on average, few of them overflow.
const WAYS: usize = 16;
const MIN_SHARDS: usize = 256;
/// Words to a line of cache.
const LINE: usize = 8;
/// How many different terms of a rule are compared without looking at the cold record.
const KNOWN_TERMS: usize = 4;

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
    /// Entries of four words each, two to a line: the first lies at `skew`. As words, since zeroed
    /// memory of such is neither touched nor paid for before it is used.
    words: Box<[u64]>,
    skew: usize,
    /// Its room is reserved, and only paid for as keys come.
    cold: Vec<Cold>,
    known_terms: [Option<Terms>; KNOWN_TERMS],
    /// Entries that were written under terms which are not among the known ones, since those were looked over.
    strangers: usize,
    /// The highest counts that were forgotten in each set.
    floors: Box<[Words]>,
    any_floor: bool,
}

/// What nearly every decision needs.
#[derive(Clone, Copy, Debug)]
struct Hot {
    tag: u64,
    newest: u64,
    /// The sum of the buckets; beyond 32 bits, the highest number, with which nothing fits.
    total: u32,
    current: u32,
    /// Where the cold record is, plus one; 0 in an entry that was never used.
    at: u32,
    /// Which of the known terms hold, plus one; 0 says that the cold record has to be asked.
    terms: u32,
}

#[derive(Debug)]
struct Cold {
    terms: Terms,
    ahead: u32,
    past: [u32; PAST],
    /// Until when the key is blocked, in microseconds.
    blocked_until: u64,
}

/// Where a key belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    shard: usize,
    set: usize,
    /// The way to look at first, which begins a line of cache.
    way: usize,
    tag: u64,
}

/// Where a key is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry(usize);

/// A key that has room for a request in its newest bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    entry: Entry,
    cost: u32,
    /// If the request takes it.
    pub(crate) taken: Outcome,
    /// If it does not.
    pub(crate) left: Outcome,
}

impl Table {
    pub(crate) fn with_capacity(keys: usize) -> Self {
        let sets = keys.saturating_add(keys / 2).div_ceil(WAYS);
        let enough = sets.div_ceil(u32::MAX as usize / WAYS - 1).max(MIN_SHARDS);
        let shards = enough.min(sets).next_power_of_two();
        let sets_per_shard = sets.div_ceil(shards);
        let shard = || Padded(Mutex::new(Shard::with_sets(sets_per_shard)));
        Self {
            shards: (0..shards).map(|_| shard()).collect(),
            sets_per_shard,
        }
    }

    /// One half of the hash finds the set, the other tells keys in it apart.
    #[inline]
    pub(crate) fn place(&self, high: u64, low: u64) -> Place {
        let scaled = |bits: u64, of: usize| ((u128::from(bits) * of as u128) >> 64) as usize;
        Place {
            shard: (high as usize) & (self.shards.len() - 1),
            set: scaled(high, self.sets_per_shard),
            way: (high >> 24) as usize % (WAYS / 2) * 2,
            tag: low,
        }
    }

    /// A shard is held for some nanoseconds, so waiting for it is tried for some before the thread is
    /// put to sleep, which costs microseconds.
    #[inline]
    pub(crate) fn shard(&self, place: Place) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[place.shard].0;
        match shard.try_lock() {
            Ok(held) => held,
            Err(_) => wait_for(shard),
        }
    }
}

#[cold]
fn wait_for(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    for round in 0..10 {
        for _ in 0..1 << round.min(4) {
            std::hint::spin_loop();
        }
        if let Ok(held) = shard.try_lock() {
            return held;
        }
    }
    // A panic under the lock can only come from a bug in the arithmetic, and leaves whole counters.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shard {
    fn with_sets(sets: usize) -> Self {
        let words = vec![0_u64; sets * WAYS * 4 + LINE].into_boxed_slice();
        let past_line = words.as_ptr() as usize / size_of::<u64>() % LINE;
        Self {
            skew: (LINE - past_line) % LINE,
            words,
            cold: Vec::with_capacity(sets * WAYS),
            known_terms: [None; KNOWN_TERMS],
            strangers: 0,
            floors: vec![[0; WORDS]; sets].into_boxed_slice(),
            any_floor: false,
        }
    }

    /// Where a key is, if it is known.
    #[inline]
    pub(crate) fn find(&self, place: Place) -> Option<Entry> {
        let first = place.set * WAYS;
        for step in 0..WAYS {
            let entry = Entry(first + (place.way + step) % WAYS);
            let words = self.entry(entry);
            if words[0] == place.tag && words[3] != 0 {
                return Some(entry);
            }
            if words[3] == 0 {
                // Entries are never emptied, so the key would be here.
                return None;
            }
        }
        None
    }

    /// The room that a key has for this cost in its newest bucket, under just these terms.
    #[inline]
    pub(crate) fn room(&self, entry: Entry, terms: Terms, now: u64, cost: u32) -> Option<Room> {
        let hot = self.hot(entry);
        let known = (hot.terms as usize).checked_sub(1)?;
        if self.known_terms[known] != Some(terms) {
            return None;
        }
        if now / terms.width > hot.newest || cost == 0 {
            return None;
        }
        let left = terms.limit.checked_sub(hot.total)?;
        let rest = left.checked_sub(cost)?;
        let reset = terms.free_at(hot.newest) - now;
        let used = if hot.total == 0 { 0 } else { reset };
        Some(Room {
            entry,
            cost,
            taken: Outcome::new(terms.limit, rest, reset, Wait::None),
            left: Outcome::new(terms.limit, left, used, Wait::None),
        })
    }

    /// Charges what [`room`](Shard::room) has found, under the same lock.
    #[inline]
    pub(crate) fn take(&mut self, room: &Room) {
        let words = self.entry_mut(room.entry);
        // Two counts in one word, and neither runs over: there was room below the limit.
        words[2] += u64::from(room.cost) | u64::from(room.cost) << 32;
    }

    /// The window of a key that is known.
    pub(crate) fn window(&self, entry: Entry) -> SlidingWindow {
        let hot = self.hot(entry);
        let cold = &self.cold[hot.at as usize - 1];
        SlidingWindow::from_counts(cold.terms, hot.newest, hot.current, cold.ahead, cold.past)
    }

    /// Until when a key that is known is blocked; 0 if it is not.
    pub(crate) fn blocked_until(&self, entry: Entry) -> u64 {
        self.cold[self.hot(entry).at as usize - 1].blocked_until
    }

    /// Blocks a key that is known until then; 0 lifts it.
    pub(crate) fn block_until(&mut self, entry: Entry, until: u64) {
        let window = self.window(entry);
        let at = self.hot(entry).at as usize - 1;
        self.cold[at].blocked_until = until;
        self.write(entry, &window);
    }

    /// What a key that is not known starts from: what was forgotten in its set, or nothing.
    pub(crate) fn newcomer(&self, place: Place, terms: Terms, now: u64) -> SlidingWindow {
        self.floor(place.set, now)
            .unwrap_or(SlidingWindow::new(terms))
    }

    /// Keeps the window of a key, known or not.
    pub(crate) fn put(&mut self, place: Place, window: &SlidingWindow, now: u64) -> Entry {
        match self.find(place) {
            Some(entry) => {
                self.write(entry, window);
                entry
            }
            None => self.insert(place, window, now),
        }
    }

    fn insert(&mut self, place: Place, window: &SlidingWindow, now: u64) -> Entry {
        let first = place.set * WAYS;
        let ways = (0..WAYS).map(|step| Entry(first + (place.way + step) % WAYS));
        let free = ways.clone().find(|&entry| self.entry(entry)[3] == 0);
        let (entry, at) = match free {
            Some(entry) => {
                self.cold.push(Cold {
                    terms: window.terms,
                    ahead: 0,
                    past: [0; PAST],
                    blocked_until: 0,
                });
                (entry, self.cold.len() as u32)
            }
            None => {
                // The least used makes room, but a blocked key only if all are.
                let used = |entry: &Entry| {
                    let blocked = self.blocked_until(*entry) > now;
                    (blocked, self.window(*entry).used(now))
                };
                let least = ways.min_by_key(used).unwrap_or(Entry(first));
                let at = self.hot(least).at;
                let evicted = self.window(least);
                self.sink(place.set, evicted, now);
                self.cold[at as usize - 1].blocked_until = 0;
                (least, at)
            }
        };
        let words = self.entry_mut(entry);
        words[0] = place.tag;
        words[3] = u64::from(at);
        self.write(entry, window);
        entry
    }

    fn write(&mut self, entry: Entry, window: &SlidingWindow) {
        let mut hot = self.hot(entry);
        let cold = &mut self.cold[hot.at as usize - 1];
        cold.terms = window.terms;
        cold.ahead = window.ahead;
        cold.past = window.past;
        let plain = window.ahead == 0 && cold.blocked_until == 0;
        hot.newest = window.newest;
        hot.total = u32::try_from(window.total()).unwrap_or(u32::MAX);
        hot.current = window.current;
        hot.terms = if plain { self.known(window.terms) } else { 0 };
        *self.entry_mut(entry) = hot.words();
    }

    /// Which of the known terms these are. Live changes of a quota leave terms behind that nobody has any
    /// more, so now and then it is looked which are still in use.
    fn known(&mut self, terms: Terms) -> u32 {
        let place_of = |shard: &Self, wanted: Option<Terms>| {
            let place = shard.known_terms.iter().position(|known| *known == wanted);
            place.map(|place| place as u32 + 1)
        };
        if let Some(known) = place_of(self, Some(terms)) {
            return known;
        }
        if place_of(self, None).is_none() {
            self.strangers += 1;
            if self.strangers > self.words.len() / 16 {
                self.strangers = 0;
                let mut used = [false; KNOWN_TERMS];
                for words in self.words[self.skew..].chunks_exact(4) {
                    if let Some(known) = Hot::of(words).terms.checked_sub(1) {
                        used[known as usize] = true;
                    }
                }
                for (known, used) in self.known_terms.iter_mut().zip(used) {
                    if !used {
                        *known = None;
                    }
                }
            }
        }
        match place_of(self, None) {
            Some(free) => {
                self.known_terms[free as usize - 1] = Some(terms);
                free
            }
            None => 0,
        }
    }

    #[inline]
    fn entry(&self, entry: Entry) -> &[u64] {
        &self.words[self.skew + 4 * entry.0..][..4]
    }

    #[inline]
    fn entry_mut(&mut self, entry: Entry) -> &mut [u64; 4] {
        let words = &mut self.words[self.skew + 4 * entry.0..][..4];
        words.try_into().expect("it is four words long")
    }

    #[inline]
    fn hot(&self, entry: Entry) -> Hot {
        Hot::of(self.entry(entry))
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

impl Hot {
    #[inline]
    const fn of(words: &[u64]) -> Self {
        Self {
            tag: words[0],
            newest: words[1],
            total: words[2] as u32,
            current: (words[2] >> 32) as u32,
            at: words[3] as u32,
            terms: (words[3] >> 32) as u32,
        }
    }

    const fn words(self) -> [u64; 4] {
        [
            self.tag,
            self.newest,
            self.total as u64 | (self.current as u64) << 32,
            self.at as u64 | (self.terms as u64) << 32,
        ]
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
