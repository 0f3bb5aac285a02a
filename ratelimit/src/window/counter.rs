use super::kind::Renewal;
use super::{BUCKETS, Outcome, Terms, Wait, narrow};

/// Two buckets of a whole window each, the older one weighed by how much of it a trailing window still
/// covers: what most rate limiters call a sliding window.
///
/// It takes what lies in the older bucket for evenly spread, and is wrong where it was not. Over any
/// span of length d, it admits at most L (1 + d/W) + 1 units: nearly 2 L in some trailing windows. Under a
/// steady flood it admits all of L.
///
/// ```
/// use seawall_ratelimit::{Quota, window::{SlidingCounter, Terms}};
///
/// let mut counter = SlidingCounter::new(Terms::new(Quota::per_second(10), 0));
/// counter.charge(0, 10);
/// // A quarter into the next window, three quarters of the ten still count.
/// let outcome = counter.decide(1_250_000, 1);
/// assert_eq!((outcome.passes(), outcome.remaining()), (true, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlidingCounter {
    terms: Terms,
    /// The number of the newer bucket.
    newest: u64,
    before: u32,
    current: u32,
}

impl SlidingCounter {
    /// Nothing charged.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self {
            terms,
            newest: 0,
            before: 0,
            current: 0,
        }
    }

    /// The terms in force.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// Units that count at this moment, rounded up.
    #[must_use]
    pub fn used(&self, now: u64) -> u64 {
        let (window, moment) = self.at(now);
        let used = window.weighed(moment).div_ceil(u128::from(self.window()));
        u64::try_from(used).unwrap_or(u64::MAX)
    }

    /// Puts a rule's own terms in force unless the record's are newer, as
    /// [`SlidingWindow::renew`](super::SlidingWindow::renew) does. Under another window, what counts is
    /// charged anew, now.
    pub fn renew(&mut self, terms: Terms, now: u64) -> bool {
        if self.terms == terms {
            return false;
        }
        let used = self.used(now);
        match Renewal::of(self.terms, terms, used) {
            Renewal::Keep => false,
            Renewal::Fresh => {
                *self = Self::new(terms);
                false
            }
            Renewal::Take { newer } => {
                if terms.width == self.terms.width {
                    self.terms = terms;
                } else {
                    let (_, moment) = self.at(now);
                    *self = Self::new(terms);
                    self.charge(moment, narrow(used));
                }
                newer
            }
        }
    }

    /// What a request of this cost would be told now. Changes nothing.
    #[must_use]
    pub fn decide(&self, now: u64, cost: u32) -> Outcome {
        let (at, moment) = self.at(now);
        let whole = u128::from(self.window());
        let limit = self.terms.limit;
        let (used, all) = (at.weighed(moment), u128::from(limit) * whole);
        let left = |used: u128| narrow((all.saturating_sub(used) / whole) as u64);
        let asked = u128::from(cost) * whole;
        if used + asked <= all || cost == 0 {
            let mut after = at;
            after.current += cost;
            let reset = after.all_gone(now);
            return Outcome::new(limit, left(used + asked), reset, Wait::None);
        }
        let wait = if cost > limit {
            Wait::Forever
        } else {
            Wait::Micros(at.fits_at(cost) - now)
        };
        Outcome::new(limit, left(used), at.all_gone(now), wait)
    }

    /// Counts a cost at this moment, whether there is room for it or not.
    pub fn charge(&mut self, now: u64, cost: u32) {
        if cost > 0 {
            (*self, _) = self.at(now);
            self.current = self.current.saturating_add(cost);
        }
    }

    /// Takes units back from the moment at which they were charged, as far as they still count.
    pub fn refund(&mut self, moment: u64, units: u32) {
        let bucket = moment / self.window();
        if bucket == self.newest {
            self.current = self.current.saturating_sub(units);
        } else if bucket + 1 == self.newest {
            self.before = self.before.saturating_sub(units);
        }
    }

    /// Takes the higher count of both in each bucket.
    pub(crate) fn merge(&mut self, other: &Self, now: u64) {
        let mut other = *other;
        other.renew(self.terms, now);
        self.renew(other.terms, now);
        let latest = self.newest.max(other.newest) * self.window();
        (*self, _) = self.at(latest);
        (other, _) = other.at(latest);
        self.before = self.before.max(other.before);
        self.current = self.current.max(other.current);
    }

    const fn window(&self) -> u64 {
        self.terms.width * BUCKETS
    }

    /// The record in the bucket of this moment, and the moment: never one before the newest bucket.
    fn at(&self, now: u64) -> (Self, u64) {
        let window = self.window();
        let moment = now.max(self.newest * window);
        let newest = moment / window;
        let (before, current) = match newest - self.newest {
            0 => (self.before, self.current),
            1 => (self.current, 0),
            _ => (0, 0),
        };
        let moved = Self {
            terms: self.terms,
            newest,
            before,
            current,
        };
        (moved, moment)
    }

    /// What counts, times the length of the window.
    fn weighed(&self, moment: u64) -> u128 {
        let covered = self.window() - moment % self.window();
        u128::from(self.current) * u128::from(self.window())
            + u128::from(self.before) * u128::from(covered)
    }

    /// How long until nothing counts.
    fn all_gone(&self, now: u64) -> u64 {
        let end = self.newest + 1;
        match (self.before, self.current) {
            (0, 0) => 0,
            (_, 0) => end * self.window() - now,
            _ => (end + 1) * self.window() - now,
        }
    }

    /// The moment from which a cost within the limit fits that does not fit now.
    fn fits_at(&self, cost: u32) -> u64 {
        let room = self.terms.limit - cost;
        match room.checked_sub(self.current) {
            Some(room) => self.newest * self.window() + self.shrinks_to(self.before, room),
            None => (self.newest + 1) * self.window() + self.shrinks_to(self.current, room),
        }
    }

    /// How far into a bucket one must be for so many of the one before to count as no more than this.
    fn shrinks_to(&self, before: u32, room: u32) -> u64 {
        if before <= room {
            return 0;
        }
        let still = u128::from(room) * u128::from(self.window()) / u128::from(before);
        self.window() - u64::try_from(still).expect("less than the window")
    }
}
