use std::collections::VecDeque;

use super::kind::Renewal;
use super::{Outcome, Terms, Wait, narrow};

/// The moment of each charge: exact, in memory that grows with the limit.
///
/// A unit counts from its moment until a whole window later, and not a microsecond longer: never more than
/// the limit in any trailing window, and all of it under a steady flood.
///
/// ```
/// use seawall_ratelimit::{Quota, window::{SlidingLog, Terms, Wait}};
///
/// let mut log = SlidingLog::new(Terms::new(Quota::per_second(2), 0));
/// log.charge(10_000, 1);
/// log.charge(40_000, 1);
/// assert_eq!(log.decide(500_000, 1).wait(), Wait::Micros(510_000));
/// assert!(log.decide(1_010_000, 1).passes());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingLog {
    terms: Terms,
    /// Moments and units, the oldest first; no moment twice.
    charges: VecDeque<(u64, u32)>,
}

impl SlidingLog {
    /// Nothing charged.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self {
            terms,
            charges: VecDeque::new(),
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
        let now = self.moment(now);
        let counting = self.charges.iter().rev();
        let counting = counting.take_while(|(at, _)| at + self.window() > now);
        counting.map(|(_, units)| u64::from(*units)).sum()
    }

    /// Puts a rule's own terms in force unless the record's are newer, as
    /// [`SlidingWindow::renew`](super::SlidingWindow::renew) does.
    pub fn renew(&mut self, terms: Terms, now: u64) -> bool {
        if self.terms == terms {
            return false;
        }
        match Renewal::of(self.terms, terms, self.used(now)) {
            Renewal::Keep => false,
            Renewal::Fresh => {
                *self = Self::new(terms);
                false
            }
            Renewal::Take { newer } => {
                // A longer window may not count what the shorter one no longer did.
                self.forget(now);
                self.terms = terms;
                newer
            }
        }
    }

    /// What a request of this cost would be told now. Changes nothing.
    #[must_use]
    pub fn decide(&self, now: u64, cost: u32) -> Outcome {
        let at = self.moment(now);
        let used = self.used(now);
        let limit = u64::from(self.terms.limit);
        let left = limit.saturating_sub(used);
        let ends = |charged: u64| (charged + self.window()).saturating_sub(now);
        let last = self.charges.back().map_or(0, |(last, _)| ends(*last));
        let reset = if used == 0 { 0 } else { last };
        if u64::from(cost) <= left {
            let reset = if cost > 0 { ends(at) } else { reset };
            return Outcome::new(self.terms.limit, narrow(left) - cost, reset, Wait::None);
        }
        let wait = if u64::from(cost) > limit {
            Wait::Forever
        } else {
            let mut counting = used;
            let mut frees_enough = last;
            let skipped = |(charged, _): &&(u64, u32)| charged + self.window() <= at;
            for (charged, units) in self.charges.iter().skip_while(skipped) {
                counting -= u64::from(*units);
                if counting + u64::from(cost) <= limit {
                    frees_enough = ends(*charged);
                    break;
                }
            }
            Wait::Micros(frees_enough)
        };
        Outcome::new(self.terms.limit, narrow(left), reset, wait)
    }

    /// Counts a cost at this moment, whether there is room for it or not.
    pub fn charge(&mut self, now: u64, cost: u32) {
        if cost == 0 {
            return;
        }
        let now = self.moment(now);
        self.forget(now);
        match self.charges.back_mut() {
            Some((last, units)) if *last == now => *units = units.saturating_add(cost),
            _ => self.charges.push_back((now, cost)),
        }
    }

    /// Takes units back from the moment at which they were charged, as far as they still count.
    pub fn refund(&mut self, moment: u64, units: u32) {
        if let Ok(at) = self.charges.binary_search_by_key(&moment, |(at, _)| *at) {
            let charged = &mut self.charges[at].1;
            *charged = charged.saturating_sub(units);
            if *charged == 0 {
                self.charges.remove(at);
            }
        }
    }

    /// Makes it count in each trailing window as much as the one of both that counts more.
    pub(crate) fn merge(&mut self, other: &Self, now: u64) {
        let mut other = other.clone();
        other.renew(self.terms, now);
        self.renew(other.terms, now);
        let mut merged = VecDeque::new();
        let (mut mine, mut theirs) = (self.charges.iter().rev(), other.charges.iter().rev());
        let (mut my_next, mut their_next) = (mine.next(), theirs.next());
        let (mut my_sum, mut their_sum, mut sum) = (0_u64, 0_u64, 0_u64);
        while let Some(at) = my_next.max(their_next).map(|(at, _)| *at) {
            if let Some((_, units)) = my_next.filter(|(mine, _)| *mine == at) {
                my_sum += u64::from(*units);
                my_next = mine.next();
            }
            if let Some((_, units)) = their_next.filter(|(theirs, _)| *theirs == at) {
                their_sum += u64::from(*units);
                their_next = theirs.next();
            }
            let more = my_sum.max(their_sum) - sum;
            if more > 0 {
                sum += more;
                merged.push_front((at, narrow(more)));
            }
        }
        self.charges = merged;
    }

    const fn window(&self) -> u64 {
        self.terms.width * super::BUCKETS
    }

    /// A clock that steps back does not take the record along.
    fn moment(&self, now: u64) -> u64 {
        self.charges.back().map_or(now, |(last, _)| now.max(*last))
    }

    fn forget(&mut self, now: u64) {
        let now = self.moment(now);
        while let Some((at, _)) = self.charges.front()
            && at + self.window() <= now
        {
            self.charges.pop_front();
        }
    }
}
