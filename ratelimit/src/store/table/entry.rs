//! What is known of a key, in one line of cache.
//!
//! | word | high bits | low bits |
//! | --- | --- | --- |
//! | 0 | what tells keys of one set apart | |
//! | 1 | 32: the limit | 32: the version of the terms |
//! | 2 | 1: whether it is locked; 31: the newest bucket, modulo 2^31 | 32: the sum of all buckets |
//! | 3 | the width of a bucket | |
//! | 4 to 7 | the 16 buckets before the newest, of 16 bits each, each at its number modulo 16 | |
//!
//! A width of 0 says that the cold record has to be asked, whatever the request; word 4 is its number, plus one. It has
//! to be where a count of the past takes more than 16 bits, or the key is blocked, or was charged ahead.
//!
//! Of a bucket's number 31 bits are enough: a key that was left alone for just 2^31 buckets (37 hours, if the window is
//! of 1 ms) may seem not to have been, and then what it once consumed counts again.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::yield_now;

use crate::window::{PAST, SlidingWindow, Terms};

/// Words to an entry: a line of cache.
pub(super) const ENTRY: usize = 8;

const TAG: usize = 0;
const TERMS: usize = 1;
const COUNT: usize = 2;
const WIDTH: usize = 3;
const HISTORY: usize = 4;
/// Counts to a word of the history.
const COUNTS: usize = 4;

const LOCKED: u64 = 1 << 63;
const BUCKET: u64 = (1 << 31) - 1;
/// By how many buckets the newest may lie before a request: whose clock was read so long ago. All else is the past.
const LATE: u64 = 1 << 24;

/// As it is found: whatever it says may change at any time.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a>(&'a [AtomicU64; ENTRY]);

/// An entry that nobody else changes until this is dropped, which writes its count.
pub(super) struct Locked<'a> {
    entry: Entry<'a>,
    count: u64,
}

impl<'a> Entry<'a> {
    #[inline]
    pub(super) const fn of(words: &'a [AtomicU64; ENTRY]) -> Self {
        Self(words)
    }

    #[inline]
    fn word(self, which: usize) -> u64 {
        self.0[which].load(Relaxed)
    }

    /// Whether it is of this key.
    #[inline]
    pub(super) fn is(self, tag: u64) -> bool {
        self.word(TAG) == tag
    }

    /// Locks it if its newest bucket is this one.
    #[inline]
    pub(super) fn lock_in(self, bucket: u64) -> Option<Locked<'a>> {
        let same = |count: u64| (count >> 32 ^ bucket) & BUCKET == 0;
        let count = self.word(COUNT);
        if !same(count) {
            return None;
        }
        let locked = match self.try_lock(count) {
            Some(locked) => locked,
            None => self.wait(),
        };
        same(locked.count).then_some(locked)
    }

    /// Locks it.
    pub(super) fn lock(self) -> Locked<'a> {
        match self.try_lock(self.word(COUNT)) {
            Some(locked) => locked,
            None => self.wait(),
        }
    }

    #[inline]
    fn try_lock(self, count: u64) -> Option<Locked<'a>> {
        if count & LOCKED != 0 {
            return None;
        }
        let locked = self.0[COUNT].compare_exchange(count, count | LOCKED, Acquire, Relaxed);
        // Made only if it is locked, for it unlocks when it is dropped.
        locked.is_ok().then(|| Locked { entry: self, count })
    }

    /// Whoever holds it is done in some nanoseconds, unless the machine has taken the processor from them: then it
    /// is of more use to them.
    #[cold]
    fn wait(self) -> Locked<'a> {
        let mut round = 0;
        loop {
            if let Some(locked) = self.try_lock(self.word(COUNT)) {
                return locked;
            }
            if round < 6 {
                (0..1 << round).for_each(|_| spin_loop());
                round += 1;
            } else {
                yield_now();
            }
        }
    }
}

impl Locked<'_> {
    /// Whether it is of this key, and goes by just these terms.
    #[inline]
    pub(super) fn holds(&self, tag: u64, terms: Terms) -> bool {
        self.entry.is(tag)
            && self.entry.word(TERMS) == terms_word(terms)
            && self.entry.word(WIDTH) == terms.width
    }

    /// The sum of its buckets; beyond 32 bits, the highest number, with which nothing fits.
    #[inline]
    pub(super) const fn total(&self) -> u32 {
        self.count as u32
    }

    /// Charges the newest bucket, where there is room below the limit: so the sum does not run over.
    #[inline]
    pub(super) const fn add(&mut self, cost: u32) {
        self.count += cost as u64;
    }

    /// Limit and version of the terms in force.
    pub(super) fn limit_and_version(&self) -> (u32, u32) {
        let terms = self.entry.word(TERMS);
        ((terms >> 32) as u32, terms as u32)
    }

    /// Where its cold record is, if it has one.
    pub(super) fn cold(&self) -> Option<usize> {
        if self.entry.word(WIDTH) != 0 {
            return None;
        }
        (self.entry.word(HISTORY) as usize).checked_sub(1)
    }

    /// Its window, if it has no cold record.
    #[inline]
    pub(super) fn window(&self, now: u64) -> SlidingWindow {
        let (limit, version) = self.limit_and_version();
        let width = self.entry.word(WIDTH);
        let mut past = [0; PAST];
        for (counts, word) in past.chunks_exact_mut(COUNTS).zip(&self.entry.0[HISTORY..]) {
            let word = word.load(Relaxed);
            for (place, count) in counts.iter_mut().enumerate() {
                *count = u32::from((word >> (16 * place)) as u16);
            }
        }
        let terms = Terms {
            version,
            limit,
            width,
        };
        if self.total() == 0 {
            return SlidingWindow::new(terms);
        }
        let earlier: u32 = past.iter().sum();
        let now = now / width;
        // Counted from the latest that it can be.
        let since = (now + LATE).wrapping_sub(self.count >> 32) & BUCKET;
        let newest = (now + LATE).saturating_sub(since);
        SlidingWindow::from_counts(terms, newest, self.total() - earlier, 0, past)
    }

    /// Whether [`write`](Locked::write) can keep such a window.
    pub(super) fn can_hold(window: &SlidingWindow) -> bool {
        let is_short = |&count: &u32| u16::try_from(count).is_ok();
        window.ahead == 0
            && u32::try_from(window.total()).is_ok()
            && window.past.iter().all(is_short)
    }

    /// Says all anew.
    #[inline]
    pub(super) fn write(&mut self, tag: u64, window: &SlidingWindow) {
        for (word, counts) in self.entry.0[HISTORY..]
            .iter()
            .zip(window.past.chunks(COUNTS))
        {
            let counts = counts.iter().rev();
            let counts = counts.fold(0, |word, &count| word << 16 | u64::from(count));
            word.store(counts, Relaxed);
        }
        self.write_head(tag, window, window.terms.width);
    }

    /// Says that the rest is in a cold record.
    pub(super) fn write_cold(&mut self, tag: u64, window: &SlidingWindow, cold: usize) {
        self.entry.0[HISTORY].store(cold as u64 + 1, Relaxed);
        self.write_head(tag, window, 0);
    }

    #[inline]
    fn write_head(&mut self, tag: u64, window: &SlidingWindow, width: u64) {
        let words = self.entry.0;
        words[TAG].store(tag, Relaxed);
        words[TERMS].store(terms_word(window.terms), Relaxed);
        words[WIDTH].store(width, Relaxed);
        let total = u32::try_from(window.total()).unwrap_or(u32::MAX);
        self.count = (window.newest & BUCKET) << 32 | u64::from(total);
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.entry.0[COUNT].store(self.count, Release);
    }
}

#[inline]
const fn terms_word(terms: Terms) -> u64 {
    (terms.limit as u64) << 32 | terms.version as u64
}
