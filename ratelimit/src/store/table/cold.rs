//! What a key's entry has no room for, and what was forgotten.

use super::entry::Locked;
use super::known::Known;
use crate::window::{PAST, SlidingWindow, Terms};

pub(super) struct Shard {
    pub(super) known: Known,
    cold: Vec<Cold>,
    /// Of no record any more.
    free: Vec<usize>,
    /// The highest counts that were forgotten in each set.
    floors: Box<[Packed]>,
    any_floor: bool,
}

/// A window as it was when it was last written; what was charged since then, to its newest bucket, is in the total of
/// the entry.
pub(super) struct Cold {
    terms: Terms,
    newest: u64,
    current: u32,
    ahead: u32,
    past: [u32; PAST],
    /// Until when the key is blocked, in microseconds.
    blocked_until: u64,
}

impl Cold {
    pub(super) const fn of(window: &SlidingWindow, blocked_until: u64) -> Self {
        Self {
            terms: window.terms,
            newest: window.newest,
            current: window.current,
            ahead: window.ahead,
            past: window.past,
            blocked_until,
        }
    }

    /// The window, given the sum in the entry.
    fn window(&self, total: u32) -> SlidingWindow {
        let window = |current| {
            SlidingWindow::from_counts(self.terms, self.newest, current, self.ahead, self.past)
        };
        let written = window(self.current);
        let since = total - u32::try_from(written.total()).unwrap_or(u32::MAX);
        match since {
            0 => written,
            since => window(self.current + since),
        }
    }
}

impl Shard {
    pub(super) fn with_sets(sets: usize) -> Self {
        Self {
            known: Known::new(),
            cold: Vec::new(),
            free: Vec::new(),
            floors: vec![[0; PACKED]; sets].into_boxed_slice(),
            any_floor: false,
        }
    }

    /// The window of an entry, wherever it lies.
    pub(super) fn window(&self, entry: &Locked<'_>, now: u64) -> SlidingWindow {
        match entry.cold() {
            Some(cold) => self.cold[cold].window(entry.total()),
            None => entry.window(now),
        }
    }

    /// Until when it is blocked; 0 if it is not.
    pub(super) fn blocked_until(&self, entry: &Locked<'_>) -> u64 {
        entry.cold().map_or(0, |cold| self.cold[cold].blocked_until)
    }

    /// Keeps a cold record, in the place of an older one if there is such.
    pub(super) fn keep(&mut self, cold: Cold, place: Option<usize>) -> usize {
        match place.or_else(|| self.free.pop()) {
            Some(number) => {
                self.cold[number] = cold;
                number
            }
            None => {
                self.cold.push(cold);
                self.cold.len() - 1
            }
        }
    }

    /// Has no use for one any more.
    pub(super) fn discard(&mut self, number: usize) {
        self.free.push(number);
    }

    /// Eviction must not give quota back, so what the evicted key consumed is now held against whoever
    /// comes to this set: it may be that key again.
    pub(super) fn sink(&mut self, set: usize, evicted: SlidingWindow, now: u64) {
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

    pub(super) fn floor(&self, set: usize, now: u64) -> Option<SlidingWindow> {
        if !self.any_floor {
            return None;
        }
        unpack(&self.floors[set]).filter(|floor| floor.used(now) > 0)
    }
}

/// A window as plain words: zeroed memory of such is not touched, nor paid for, before it is used.
type Packed = [u32; PACKED];
const PACKED: usize = 8 + PAST;

fn pack(window: &SlidingWindow) -> Packed {
    let mut words = [0; PACKED];
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
fn unpack(words: &Packed) -> Option<SlidingWindow> {
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
