//! The strict sliding window: pure arithmetic on microseconds, without a clock and without I/O.
//!
//! Time is cut into buckets, 16 to a window. What is charged goes into the bucket of its moment, and
//! a decision sums **every bucket that the trailing window can touch**: the oldest one whole, although
//! the window covers only a part of it. So the sum is never less than what was really admitted in the
//! window, and a limit L is never exceeded in any of them. The price is that under a steady flood
//! about one part in seventeen of L stays unused.
//!
//! Leases are charged ahead, to the bucket in which they end, and that is never more than one bucket
//! from the present. So a window holds 16 buckets of the past, the current one, and the next.
//!
//! Both stores decide by these rules; the script that Redis runs is their image, line by line.

mod counter;
mod gcra;
mod kind;
mod log;

use std::time::Duration;

pub use self::counter::SlidingCounter;
pub use self::gcra::Gcra;
pub use self::kind::WindowKind;
pub use self::log::SlidingLog;
use crate::quota::Quota;

/// Buckets to a window.
pub const BUCKETS: u64 = 16;
/// Buckets before the one of the moment that a trailing window can touch.
pub(crate) const PAST: usize = BUCKETS as usize;
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
    pub(crate) const fn free_at(&self, bucket: u64) -> u64 {
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
    /// Microseconds; 0 if it is not known.
    pub(crate) window: u64,
    pub(crate) shadow: bool,
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
            window: 0,
            shadow: false,
        }
    }

    /// The same, with the length of the window in force.
    #[must_use]
    pub const fn in_window_of(mut self, terms: Terms) -> Self {
        self.window = terms.width * BUCKETS;
        self
    }

    /// The same, said by a rule that only counts.
    #[must_use]
    pub const fn in_shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// The same for a key that is blocked for so many microseconds.
    pub(crate) const fn blocked_for(mut self, micros: u64) -> Self {
        self.wait = micros;
        self
    }

    /// Microseconds until it passes.
    #[cfg(feature = "redis")]
    pub(crate) const fn wait_micros(&self) -> u64 {
        self.wait
    }

    /// The same a while later.
    #[cfg(feature = "redis")]
    pub(crate) const fn still(mut self, wait: u64, reset: u64) -> Self {
        self.wait = wait;
        self.reset = reset;
        self
    }

    /// The same, but for a block.
    #[cfg(feature = "redis")]
    pub(crate) const fn let_through(mut self) -> Self {
        self.wait = 0;
        self
    }

    /// Whether it is said by a rule that only counts.
    #[must_use]
    pub const fn is_shadow(&self) -> bool {
        self.shadow
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

    /// The length of the window in force, if the store said so.
    #[must_use]
    pub const fn window(&self) -> Option<Duration> {
        match self.window {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
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
// A decision reads and writes the first fields only, which share a line of cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SlidingWindow {
    pub(crate) terms: Terms,
    /// The number of the newest bucket in which something was decided and charged. The record's time
    /// never goes back behind it.
    pub(crate) newest: u64,
    /// The sum of all buckets.
    total: u64,
    /// What was charged to the newest bucket.
    pub(crate) current: u32,
    /// What was charged to the bucket after the newest, by leases.
    pub(crate) ahead: u32,
    /// Buckets `newest - 16 .. newest`, each at its number modulo 16.
    pub(crate) past: [u32; PAST],
}

impl SlidingWindow {
    /// Nothing charged.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self {
            terms,
            newest: 0,
            total: 0,
            current: 0,
            ahead: 0,
            past: [0; PAST],
        }
    }

    /// Of counts that were kept elsewhere.
    pub(crate) fn from_counts(
        terms: Terms,
        newest: u64,
        current: u32,
        ahead: u32,
        past: [u32; PAST],
    ) -> Self {
        let mut window = Self {
            terms,
            newest,
            total: 0,
            current,
            ahead,
            past,
        };
        window.total = window.sum();
        window
    }

    /// The terms in force.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// The sum of all buckets.
    pub(crate) const fn total(&self) -> u64 {
        self.total
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
    /// charged, which is at its end and never after `now` (what was charged ahead stays ahead, by one
    /// bucket of the new width at most). A longer window cannot know what the shorter one had already
    /// dropped.
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

    /// Counts units that may be spent until some later moment, whether there is room for them or not:
    /// in the bucket of that moment. Returns the number of the bucket; `None`, and nothing is charged, if that
    /// is more than one bucket ahead.
    pub fn charge_until(&mut self, now: u64, until: u64, units: u32) -> Option<u64> {
        let current = self.bucket_at(now);
        let bucket = (until / self.terms.width).max(current);
        if bucket > current + 1 {
            return None;
        }
        if units > 0 {
            self.advance(current);
            if bucket == current {
                self.charge_bucket(bucket, units);
            } else {
                let added = units.min(u32::MAX - self.ahead);
                self.ahead += added;
                self.total += u64::from(added);
            }
        }
        Some(bucket)
    }

    /// Takes units back from the bucket to which they were charged, as far as it is still there.
    pub fn refund(&mut self, bucket: u64, units: u32) {
        let Some(count) = self.count_mut(bucket) else {
            return;
        };
        let back = units.min(*count);
        *count -= back;
        self.total -= u64::from(back);
    }

    /// The number of the bucket in which a moment lies.
    #[must_use]
    pub const fn bucket_of(&self, moment: u64) -> u64 {
        moment / self.terms.width
    }

    /// Decides, and charges if it passes.
    #[inline]
    pub(crate) fn admit(&mut self, now: u64, cost: u32) -> Outcome {
        let bucket = self.bucket_at(now);
        let used = self.used_in(bucket);
        let left = u64::from(self.terms.limit).saturating_sub(used);
        if u64::from(cost) > left || cost == 0 {
            // A refusal leaves everything as it was, the record's time too.
            return self.outcome(now, bucket, cost);
        }
        self.advance(bucket);
        self.current += cost;
        self.total += u64::from(cost);
        let reset = self.terms.free_at(self.last_charged()) - now;
        Outcome::new(self.terms.limit, narrow(left) - cost, reset, Wait::None)
    }

    /// Takes the higher count of both in each bucket.
    pub(crate) fn merge(&mut self, other: &Self, now: u64) {
        let mut other = *other;
        other.renew(self.terms, now);
        self.renew(other.terms, now);
        let newest = self.newest.max(other.newest);
        self.advance(newest);
        other.advance(newest);
        self.current = self.current.max(other.current);
        self.ahead = self.ahead.max(other.ahead);
        for (mine, theirs) in self.past.iter_mut().zip(other.past) {
            *mine = (*mine).max(theirs);
        }
        self.total = self.sum();
    }

    /// The bucket in which a decision at `now` falls: never before the newest that was charged, for a
    /// clock may step back and what was admitted may not be forgotten for it.
    #[inline]
    const fn bucket_at(&self, now: u64) -> u64 {
        let bucket = now / self.terms.width;
        if bucket > self.newest {
            bucket
        } else {
            self.newest
        }
    }

    fn sum(&self) -> u64 {
        let past: u64 = self.past.iter().map(|&count| u64::from(count)).sum();
        past + u64::from(self.current) + u64::from(self.ahead)
    }

    /// The newest bucket in which something was charged, if anything was.
    const fn last_charged(&self) -> u64 {
        self.newest + (self.ahead > 0) as u64
    }

    fn count(&self, bucket: u64) -> u32 {
        if bucket == self.newest {
            self.current
        } else if bucket == self.newest + 1 {
            self.ahead
        } else if bucket < self.newest && bucket + REACH >= self.newest {
            self.past[slot(bucket)]
        } else {
            0
        }
    }

    fn count_mut(&mut self, bucket: u64) -> Option<&mut u32> {
        if bucket == self.newest {
            Some(&mut self.current)
        } else if bucket == self.newest + 1 {
            Some(&mut self.ahead)
        } else if bucket < self.newest && bucket + REACH >= self.newest {
            Some(&mut self.past[slot(bucket)])
        } else {
            None
        }
    }

    /// Drops the buckets which a decision in this one no longer reaches.
    #[inline]
    fn advance(&mut self, bucket: u64) {
        if bucket != self.newest {
            self.advance_to(bucket);
        }
    }

    fn advance_to(&mut self, bucket: u64) {
        if bucket - self.newest > REACH + 1 {
            *self = Self::new(self.terms);
            self.newest = bucket;
            return;
        }
        while self.newest < bucket {
            // The bucket that goes is a whole window before the one that takes its place.
            let gone = std::mem::replace(&mut self.past[slot(self.newest)], self.current);
            self.total -= u64::from(gone);
            self.current = std::mem::take(&mut self.ahead);
            self.newest += 1;
        }
    }

    fn charge_bucket(&mut self, bucket: u64, cost: u32) {
        if cost == 0 {
            return;
        }
        self.advance(bucket);
        let added = cost.min(u32::MAX - self.current);
        self.current += added;
        self.total += u64::from(added);
    }

    /// What counts for a decision in this bucket, which is not before the newest.
    #[inline]
    fn used_in(&self, bucket: u64) -> u64 {
        if bucket == self.newest {
            self.total
        } else {
            self.used_later(bucket)
        }
    }

    fn used_later(&self, bucket: u64) -> u64 {
        if bucket - self.newest > REACH + 1 {
            return 0;
        }
        let from = self.newest.saturating_sub(REACH);
        let gone = from..(bucket.saturating_sub(REACH)).max(from);
        let gone: u64 = gone.map(|number| u64::from(self.count(number))).sum();
        self.total - gone
    }

    fn outcome(&self, now: u64, bucket: u64, cost: u32) -> Outcome {
        let used = self.used_in(bucket);
        let limit = u64::from(self.terms.limit);
        let left = limit.saturating_sub(used);
        let last = self.last_charged();
        let all_back_after = |bucket: u64| self.terms.free_at(bucket) - now;
        if u64::from(cost) <= left {
            let left = left - u64::from(cost);
            let reset = match (cost, used) {
                (0, 0) => 0,
                (0, _) => all_back_after(last),
                _ => all_back_after(bucket.max(last)),
            };
            return Outcome::new(self.terms.limit, narrow(left), reset, Wait::None);
        }
        let reset = match used {
            0 => 0,
            _ => all_back_after(last),
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
        let last = self.last_charged();
        for number in bucket.saturating_sub(REACH)..last {
            used -= u64::from(self.count(number));
            if used <= room {
                return number;
            }
        }
        last
    }

    /// The same charges in buckets of another width.
    fn recut(&self, terms: Terms, now: u64) -> Self {
        let mut from = *self;
        from.advance(self.bucket_at(now));
        let latest = now.max(self.newest * self.terms.width);
        let end_of = |bucket: u64| (bucket + 1) * self.terms.width - 1;
        let mut into = Self::new(terms);
        for bucket in from.newest.saturating_sub(REACH)..=from.newest {
            let moment = end_of(bucket).min(latest);
            into.charge_bucket(moment / terms.width, from.count(bucket));
        }
        if from.ahead > 0 {
            let until = end_of(from.newest + 1) / terms.width;
            into.advance(into.bucket_at(latest));
            let until = until.min(into.newest + 1) * terms.width;
            into.charge_until(latest, until, from.ahead);
        }
        into
    }
}

fn slot(bucket: u64) -> usize {
    (bucket % BUCKETS) as usize
}

/// What is left of a limit is no more than the limit.
fn narrow(left: u64) -> u32 {
    u32::try_from(left).unwrap_or(u32::MAX)
}
