//! The strict sliding window: pure arithmetic on microseconds, without a clock and without I/O.
//!
//! Time is cut into buckets, 16 to a window. What is charged goes into the bucket of its moment, and
//! a decision sums **every bucket that the trailing window can touch**: the oldest one whole, although
//! the window covers only a part of it. So the sum is never less than what was really admitted in the
//! window, and a limit L is never exceeded in any of them. The price is that under a steady flood
//! about one part in seventeen of L stays unused.
//!
//! Both stores decide by these rules; the script that Redis runs is their image, line by line.

use std::time::Duration;

use crate::quota::Quota;

/// Buckets to a window.
pub const BUCKETS: u64 = 16;
/// Buckets that one trailing window can touch: the current one and as many as fit into a window.
pub(crate) const SLOTS: usize = BUCKETS as usize + 1;
/// What the window holds beside the bucket of the moment, as a distance between bucket numbers.
const REACH: u64 = BUCKETS;

/// What a rule asks for, in the units of the arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub(crate) version: u32,
    pub(crate) limit: u32,
    /// Microseconds to a bucket.
    pub(crate) width: u64,
}

impl Terms {
    /// The terms of a quota, in the given version of its rule.
    ///
    /// A window that is no multiple of 16 µs is lengthened to the next one.
    #[must_use]
    pub fn new(quota: Quota, version: u32) -> Self {
        let micros = quota.window().as_nanos().div_ceil(1_000);
        let micros = u64::try_from(micros).expect("a quota's window fits, by its upper bound");
        Self {
            version,
            limit: quota.limit(),
            width: micros.div_ceil(BUCKETS),
        }
    }

    /// Units per window.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// The length of the window.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_micros(self.width * BUCKETS)
    }

    /// The moment from which what was charged to this bucket no longer counts.
    const fn free_at(&self, bucket: u64) -> u64 {
        (bucket + 1 + REACH) * self.width
    }
}

/// What one rule says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    pub(crate) reset: u64,
    /// Microseconds; 0 if it passes, `u64::MAX` if it never does.
    pub(crate) wait: u64,
}

/// Whether a request passes a rule, or when it would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It passes.
    None,
    /// It would pass this many microseconds from now if nothing else were charged, and no sooner.
    Micros(u64),
    /// It never passes: it costs more than the whole quota.
    Forever,
}

impl Outcome {
    /// An outcome by a store's own reckoning: the limit in force, the units left after this request,
    /// the microseconds until the whole quota is back, and whether the request passes.
    #[must_use]
    pub const fn new(limit: u32, remaining: u32, reset_micros: u64, wait: Wait) -> Self {
        Self {
            limit,
            remaining,
            reset: reset_micros,
            wait: match wait {
                Wait::None => 0,
                Wait::Micros(micros) => micros,
                Wait::Forever => u64::MAX,
            },
        }
    }

    /// Whether the rule lets the request pass.
    #[must_use]
    pub const fn passes(&self) -> bool {
        self.wait == 0
    }

    /// The limit in force, in units. It is not the rule's own while a newer version of the rule is
    /// at work elsewhere.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Units that are left once this request has been counted (or, if refused, not counted).
    #[must_use]
    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long until the whole quota is back, if nothing else is charged.
    #[must_use]
    pub const fn reset(&self) -> Duration {
        Duration::from_micros(self.reset)
    }

    /// Whether the request passes, or when it would.
    #[must_use]
    pub const fn wait(&self) -> Wait {
        match self.wait {
            0 => Wait::None,
            u64::MAX => Wait::Forever,
            micros => Wait::Micros(micros),
        }
    }
}

/// What was charged to one key under one rule.
///
/// The moments given to it are microseconds since any fixed moment, the same for all of its calls.
///
/// ```
/// use seawall_ratelimit::{Quota, window::{SlidingWindow, Terms, Wait}};
///
/// let terms = Terms::new(Quota::per_second(2), 0);
/// let mut window = SlidingWindow::new(terms);
/// window.charge(10_000, 2);
/// let refused = window.decide(500_000, 1);
/// // The bucket of the first 62,500 µs counts until a whole second after its end.
/// assert_eq!(refused.wait(), Wait::Micros(562_500));
/// assert!(window.decide(1_062_500, 1).passes());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    pub(crate) terms: Terms,
    /// The number of the newest bucket that was charged. The record's time never goes back behind it.
    pub(crate) newest: u64,
    /// Buckets `newest - 16 ..= newest`, each at its number modulo 17.
    pub(crate) counts: [u32; SLOTS],
}

impl SlidingWindow {
    /// Nothing charged.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self {
            terms,
            newest: 0,
            counts: [0; SLOTS],
        }
    }

    /// The terms in force.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// Units that count at this moment.
    #[must_use]
    pub fn used(&self, now: u64) -> u64 {
        self.used_in(self.bucket_at(now))
    }

    /// Puts a rule's own terms in force unless the record's are newer. True if they are of a newer
    /// version and something still counts under them: then the record has to be kept even if the
    /// request at hand is refused, for the newest version holds for everybody.
    ///
    /// The newest version wins, and a caller that still holds an older one goes by the record's terms.
    /// In the same version the caller's limit and window are taken. What was charged is never
    /// forgotten by it: under another width each bucket is charged anew as late as it can have been
    /// charged, which is at its end and never after `now`. A longer window cannot know what the
    /// shorter one had already dropped.
    pub fn renew(&mut self, terms: Terms, now: u64) -> bool {
        if self.terms == terms {
            return false;
        }
        if self.used(now) == 0 {
            *self = Self::new(terms);
            return false;
        }
        if terms.version < self.terms.version {
            return false;
        }
        let newer = terms.version > self.terms.version;
        if terms.width == self.terms.width {
            self.terms = terms;
            return newer;
        }
        *self = self.recut(terms, now);
        if self.used(now) == 0 {
            // All of it is older than the new window.
            *self = Self::new(terms);
            return false;
        }
        newer
    }

    /// What a request of this cost would be told now. Changes nothing.
    #[must_use]
    pub fn decide(&self, now: u64, cost: u32) -> Outcome {
        self.outcome(now, self.bucket_at(now), cost)
    }

    /// Counts a cost at this moment, whether there is room for it or not.
    pub fn charge(&mut self, now: u64, cost: u32) {
        self.charge_bucket(self.bucket_at(now), cost);
    }

    /// Decides, and charges if it passes.
    pub(crate) fn admit(&mut self, now: u64, cost: u32) -> Outcome {
        let bucket = self.bucket_at(now);
        let outcome = self.outcome(now, bucket, cost);
        // A refusal leaves everything as it was, the record's time too.
        if outcome.passes() {
            self.charge_bucket(bucket, cost);
        }
        outcome
    }

    /// Takes the higher count of both in each bucket.
    pub(crate) fn merge(&mut self, other: &Self, now: u64) {
        let mut other = *other;
        other.renew(self.terms, now);
        self.renew(other.terms, now);
        let newest = self.newest.max(other.newest);
        self.advance(newest);
        other.advance(newest);
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine = (*mine).max(theirs);
        }
    }

    /// The bucket in which a decision at `now` falls: never before the newest that was charged, for a
    /// clock may step back and what was admitted may not be forgotten for it.
    const fn bucket_at(&self, now: u64) -> u64 {
        let bucket = now / self.terms.width;
        if bucket > self.newest {
            bucket
        } else {
            self.newest
        }
    }

    /// Drops the buckets which a decision in this one no longer reaches.
    fn advance(&mut self, bucket: u64) {
        let passed = bucket - self.newest;
        if passed == 0 {
            return;
        }
        if passed >= SLOTS as u64 {
            self.counts = [0; SLOTS];
        } else {
            for number in self.newest + 1..=bucket {
                self.counts[slot(number)] = 0;
            }
        }
        self.newest = bucket;
    }

    fn charge_bucket(&mut self, bucket: u64, cost: u32) {
        if cost == 0 {
            return;
        }
        self.advance(bucket);
        let count = &mut self.counts[slot(bucket)];
        *count = count.saturating_add(cost);
    }

    /// What counts for a decision in this bucket, which is not before the newest.
    fn used_in(&self, bucket: u64) -> u64 {
        let passed = bucket - self.newest;
        if passed >= SLOTS as u64 {
            return 0;
        }
        let mut used: u64 = self.counts.iter().map(|&count| u64::from(count)).sum();
        for number in self.newest + 1..=bucket {
            used -= u64::from(self.counts[slot(number)]);
        }
        used
    }

    fn outcome(&self, now: u64, bucket: u64, cost: u32) -> Outcome {
        let used = self.used_in(bucket);
        let limit = u64::from(self.terms.limit);
        let left = limit.saturating_sub(used);
        let all_back_after = |bucket: u64| self.terms.free_at(bucket) - now;
        if u64::from(cost) <= left {
            let left = left - u64::from(cost);
            let reset = match (cost, used) {
                (0, 0) => 0,
                (0, _) => all_back_after(self.newest),
                _ => all_back_after(bucket),
            };
            return Outcome::new(self.terms.limit, narrow(left), reset, Wait::None);
        }
        let reset = match used {
            0 => 0,
            _ => all_back_after(self.newest),
        };
        let wait = if u64::from(cost) > limit {
            Wait::Forever
        } else {
            Wait::Micros(self.terms.free_at(self.frees_enough(bucket, used, cost)) - now)
        };
        Outcome::new(self.terms.limit, narrow(left), reset, wait)
    }

    /// The bucket with whose end of life this cost has room. There is one, as the cost is within the
    /// limit and does not fit now.
    fn frees_enough(&self, bucket: u64, used: u64, cost: u32) -> u64 {
        let room = u64::from(self.terms.limit - cost);
        let mut used = used;
        for number in bucket.saturating_sub(REACH)..self.newest {
            used -= u64::from(self.counts[slot(number)]);
            if used <= room {
                return number;
            }
        }
        self.newest
    }

    /// The same charges in buckets of another width.
    fn recut(&self, terms: Terms, now: u64) -> Self {
        let mut from = *self;
        from.advance(self.bucket_at(now));
        let latest = now.max(self.newest * self.terms.width);
        let mut into = Self::new(terms);
        for bucket in from.newest.saturating_sub(REACH)..=from.newest {
            let moment = ((bucket + 1) * self.terms.width - 1).min(latest);
            into.charge_bucket(moment / terms.width, from.counts[slot(bucket)]);
        }
        into
    }
}

fn slot(bucket: u64) -> usize {
    (bucket % SLOTS as u64) as usize
}

/// What is left of a limit is no more than the limit.
fn narrow(left: u64) -> u32 {
    u32::try_from(left).unwrap_or(u32::MAX)
}
