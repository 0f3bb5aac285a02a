//! The four words of a record that nearly every decision is made by.
//!
//! | word | high bits | low bits |
//! | --- | --- | --- |
//! | 0 | what tells keys of one set apart | |
//! | 1 | 32: the limit | 32: the version of the terms |
//! | 2 | 1: whether it is locked; 31: the newest bucket, modulo 2^31 | 32: the sum of all buckets |
//! | 3 | the width of a bucket | |
//!
//! Of a bucket's number 31 bits are enough: a key that was left alone for exactly 2^31 buckets (37 hours, if the
//! window is of 1 ms) may seem not to have been, and then what it once consumed counts again. The whole number is in
//! the cold half.
//!
//! A width of 0 says that the cold half has to be asked, whatever the request: the key is blocked, or was charged ahead.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::thread::yield_now;

use crate::window::{SlidingWindow, Terms};

/// Words to an entry; two share a line of cache.
pub(super) const ENTRY: usize = 4;

const TAG: usize = 0;
const TERMS: usize = 1;
const COUNT: usize = 2;
const WIDTH: usize = 3;

const LOCKED: u64 = 1 << 63;
const BUCKET: u64 = (1 << 31) - 1;

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

    /// Says all anew, under the lock of the shard.
    pub(super) fn write(&mut self, tag: u64, window: &SlidingWindow, ask_cold: bool) {
        let words = self.entry.0;
        words[TAG].store(tag, Relaxed);
        words[TERMS].store(terms_word(window.terms), Relaxed);
        let width = if ask_cold { 0 } else { window.terms.width };
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
