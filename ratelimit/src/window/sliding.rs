use super::{BUCKETS, Outcome, PAST, REACH, Terms, Wait, narrow};

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
    pub(super) total: u64,
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

    /// The bucket in which a decision at `now` falls: never before the newest that was charged, for a
    /// clock may step back and what was admitted may not be forgotten for it.
    #[inline]
    pub(super) const fn bucket_at(&self, now: u64) -> u64 {
        let bucket = now / self.terms.width;
        if bucket > self.newest {
            bucket
        } else {
            self.newest
        }
    }

    pub(super) fn sum(&self) -> u64 {
        let past: u64 = self.past.iter().map(|&count| u64::from(count)).sum();
        past + u64::from(self.current) + u64::from(self.ahead)
    }

    /// The newest bucket in which something was charged, if anything was.
    const fn last_charged(&self) -> u64 {
        self.newest + (self.ahead > 0) as u64
    }

    pub(super) fn count(&self, bucket: u64) -> u32 {
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
    pub(super) fn advance(&mut self, bucket: u64) {
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

    pub(super) fn charge_bucket(&mut self, bucket: u64, cost: u32) {
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
}

fn slot(bucket: u64) -> usize {
    (bucket % BUCKETS) as usize
}
