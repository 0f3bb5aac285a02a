//! What is known of a key: its head, which is all that most decisions look at, and its past.
//!
//! | word of the head | high bits | low bits |
//! | --- | --- | --- |
//! | its name; 0 if it was never used | 55: what tells keys of one set apart | 1: whether the past is in a cold record; 8: the terms, by their number in the shard |
//! | its count | 1: whether it is locked; 31: the newest bucket, modulo 2^31 | 32: the sum of all buckets |
//!
//! The four words of the past are the 16 buckets before the newest, of 16 bits each, each at its number modulo 16.
//!
//! A count of the past that takes more than 16 bits is in a cold record, and the first word of the past is its number. The
//! newest bucket is charged without it, which is what keys that come so often mostly need. A key that is blocked or was charged
//! ahead has one too, and so have those whose terms found no number; their number is [`ASK`], by which nothing
//! is decided without the cold record.
//!
//! Of a bucket's number 31 bits are enough: a key that was left alone for just 2^31 buckets (37 hours, if the window is
//! of 1 ms) may seem not to have been, and then what it once consumed counts again.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::yield_now;

use super::known::{Known, TERMS, terms_of, words_of};
use crate::window::{PAST, SlidingWindow, Terms};

/// Words to a head.
pub(super) const HEAD: usize = 2;
/// Words to a past.
pub(super) const PAST_WORDS: usize = PAST / COUNTS;
/// Counts to a word of the past.
const COUNTS: usize = 4;

const NAME: usize = 0;
const COUNT: usize = 1;

/// In a name: what tells keys apart.
pub(super) const TAG: u64 = !(COLD | NUMBER);
const COLD: u64 = 1 << 8;
const NUMBER: u64 = (1 << 8) - 1;

const LOCKED: u64 = 1 << 63;
const BUCKET: u64 = (1 << 31) - 1;
/// By how many buckets the newest may lie before a request: whose clock was read so long ago. All else is the past.
const LATE: u64 = 1 << 24;

/// As it is found: whatever it says may change at any time.
#[derive(Clone, Copy)]
pub(super) struct Entry<'a> {
    pub(super) head: &'a [AtomicU64; HEAD],
    pub(super) past: &'a [AtomicU64; PAST_WORDS],
    /// The terms of its shard.
    pub(super) terms: &'a [AtomicU64; TERMS],
}

/// An entry that nobody else changes until this is dropped, which writes its count.
pub(super) struct Locked<'a> {
    entry: Entry<'a>,
    count: u64,
}

/// What is there when a bucket begins.
#[derive(Clone, Copy)]
pub(super) struct Begin {
    past: [u64; PAST_WORDS],
    /// The sum of the past.
    pub(super) total: u32,
}

impl<'a> Entry<'a> {
    #[inline]
    fn name(self) -> u64 {
        self.head[NAME].load(Relaxed)
    }

    /// Whether it is of any key. It is of one for ever after.
    #[inline]
    pub(super) fn is_used(self) -> bool {
        self.name() != 0
    }

    /// Whether a search for this key ends here: at the key, or where it would be.
    #[inline]
    pub(super) fn is_or_would_be(self, tag: u64) -> bool {
        let name = self.name();
        name & TAG == tag || name == 0
    }

    /// Locks it.
    #[inline]
    pub(super) fn lock(self) -> Locked<'a> {
        match self.try_lock(self.head[COUNT].load(Relaxed)) {
            Some(locked) => locked,
            None => self.wait(),
        }
    }

    #[inline]
    fn try_lock(self, count: u64) -> Option<Locked<'a>> {
        if count & LOCKED != 0 {
            return None;
        }
        let locked = self.head[COUNT].compare_exchange(count, count | LOCKED, Acquire, Relaxed);
        // Made only if it is locked, for it unlocks when it is dropped.
        locked.is_ok().then(|| Locked { entry: self, count })
    }

    /// Whoever holds it is done in some nanoseconds, unless the machine has taken the processor from them: then it
    /// is of more use to them.
    #[cold]
    fn wait(self) -> Locked<'a> {
        let mut round = 0;
        loop {
            if let Some(locked) = self.try_lock(self.head[COUNT].load(Relaxed)) {
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
        let name = self.entry.name();
        name & TAG == tag && Known::at(self.entry.terms, self.number()) == words_of(terms)
    }

    /// The number of its terms.
    #[inline]
    pub(super) fn number(&self) -> usize {
        (self.entry.name() & NUMBER) as usize
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

    /// Whether its newest bucket is this one.
    #[inline]
    pub(super) const fn is_in(&self, bucket: u64) -> bool {
        (self.count >> 32 ^ bucket) & BUCKET == 0
    }

    /// What is there when this later bucket begins. Nothing if it is not a later one, or where the past has no room for what
    /// the newest holds.
    #[inline(never)]
    pub(super) fn at_begin_of(&self, bucket: u64) -> Option<Begin> {
        let newest = self.count >> 32 & BUCKET;
        let since = bucket.wrapping_sub(newest) & BUCKET;
        if since > BUCKET - LATE {
            return None;
        }
        let mut past: [u64; PAST_WORDS] =
            std::array::from_fn(|which| self.entry.past[which].load(Relaxed));
        let current = self.total() - sum_of(past);
        let current = u64::from(u16::try_from(current).ok()?);
        let place = |bucket: u64| {
            let place = bucket as usize % PAST;
            (place / COUNTS, 16 * (place % COUNTS))
        };
        for over in newest..newest + since.min(PAST as u64) {
            let (which, shift) = place(over);
            past[which] &= !(u64::from(u16::MAX) << shift);
        }
        if since <= PAST as u64 {
            let (which, shift) = place(newest);
            past[which] |= current << shift;
        }
        let total = sum_of(past);
        Some(Begin { past, total })
    }

    /// Begins a bucket, with what [is there](Locked::at_begin_of) then.
    pub(super) fn begin(&mut self, bucket: u64, Begin { past, total }: Begin) {
        for (word, counts) in self.entry.past.iter().zip(past) {
            word.store(counts, Relaxed);
        }
        self.count = (bucket & BUCKET) << 32 | u64::from(total);
    }

    /// Where its cold record is, if it has one.
    pub(super) fn cold(&self) -> Option<usize> {
        let is_cold = self.entry.name() & COLD != 0;
        is_cold.then(|| self.entry.past[0].load(Relaxed) as usize)
    }

    /// Its window, if it has no cold record.
    #[inline]
    pub(super) fn window(&self, now: u64) -> SlidingWindow {
        let terms = terms_of(Known::at(self.entry.terms, self.number()));
        let mut past = [0; PAST];
        for (counts, word) in past.chunks_exact_mut(COUNTS).zip(self.entry.past) {
            let word = word.load(Relaxed);
            for (place, count) in counts.iter_mut().enumerate() {
                *count = u32::from((word >> (16 * place)) as u16);
            }
        }
        if self.total() == 0 {
            return SlidingWindow::new(terms);
        }
        let earlier: u32 = past.iter().sum();
        let now = now / terms.width;
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

    /// Says all anew, with the terms by their number.
    #[inline]
    pub(super) fn write(&mut self, tag: u64, window: &SlidingWindow, number: usize) {
        let past = self.entry.past.iter();
        for (word, counts) in past.zip(window.past.chunks(COUNTS)) {
            let counts = counts.iter().rev();
            let counts = counts.fold(0, |word, &count| word << 16 | u64::from(count));
            word.store(counts, Relaxed);
        }
        self.write_head(tag | number as u64, window);
    }

    /// Says that the rest is in a cold record: with a number of terms, only the past.
    pub(super) fn write_cold(
        &mut self,
        tag: u64,
        window: &SlidingWindow,
        cold: usize,
        number: usize,
    ) {
        self.entry.past[0].store(cold as u64, Relaxed);
        self.write_head(tag | COLD | number as u64, window);
    }

    #[inline]
    fn write_head(&mut self, name: u64, window: &SlidingWindow) {
        self.entry.head[NAME].store(name, Relaxed);
        let total = u32::try_from(window.total()).unwrap_or(u32::MAX);
        self.count = (window.newest & BUCKET) << 32 | u64::from(total);
    }
}

/// The sum of all counts of the past.
const fn sum_of(past: [u64; PAST_WORDS]) -> u32 {
    const EVERY_OTHER: u64 = 0x0000_ffff_0000_ffff;
    let mut pairs = 0;
    let mut which = 0;
    while which < PAST_WORDS {
        pairs += (past[which] & EVERY_OTHER) + (past[which] >> 16 & EVERY_OTHER);
        which += 1;
    }
    (pairs >> 32) as u32 + pairs as u32
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        self.entry.head[COUNT].store(self.count, Release);
    }
}
