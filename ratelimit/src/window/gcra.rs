use super::kind::Renewal;
use super::{BUCKETS, Outcome, Terms, Wait, narrow};

/// Femtoseconds to a microsecond: so fine that what rounding takes from a quota is not to be noticed, even of
/// one of billions a second.
const FINE: u128 = 1_000_000_000;

/// The generic cell rate algorithm: a bucket of L tokens that fills evenly, one for each L-th part of the window.
///
/// One number for each key: the moment at which the bucket will be full. Over any span of length d, it
/// admits at most L (1 + d/W) units: all tokens at once, and then as they come. So a trailing window can hold
/// 2 L. What comes steadily is spaced evenly.
///
/// ```
/// use seawall_ratelimit::{Quota, window::{Gcra, Terms, Wait}};
///
/// let mut bucket = Gcra::new(Terms::new(Quota::per_second(10), 0));
/// bucket.charge(0, 10);
/// assert_eq!(bucket.decide(0, 1).wait(), Wait::Micros(100_000));
/// assert!(bucket.decide(100_000, 1).passes());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    terms: Terms,
    /// When all tokens are there again, in femtoseconds: a token of a usual quota is no whole number of
    /// microseconds.
    full_at: u128,
}

impl Gcra {
    /// All tokens there.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self { terms, full_at: 0 }
    }

    /// The terms in force.
    #[must_use]
    pub const fn terms(&self) -> Terms {
        self.terms
    }

    /// Tokens that are not there at this moment, those in part too.
    #[must_use]
    pub fn used(&self, now: u64) -> u64 {
        let missing = self.full_at.saturating_sub(fine(now));
        u64::try_from(missing.div_ceil(self.token())).unwrap_or(u64::MAX)
    }

    /// Puts a rule's own terms in force unless the record's are newer, as
    /// [`SlidingWindow::renew`](super::SlidingWindow::renew) does: so many tokens as were missing are
    /// missing of the new ones.
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
                self.terms = terms;
                self.full_at = fine(now) + u128::from(used) * self.token();
                newer
            }
        }
    }

    /// What a request of this cost would be told now. Changes nothing.
    #[must_use]
    pub fn decide(&self, now: u64, cost: u32) -> Outcome {
        let at = fine(now);
        let full_at = self.full_at.max(at);
        let limit = self.terms.limit;
        let capacity = u128::from(limit) * self.token();
        let after = full_at + u128::from(cost) * self.token();
        let left = |full_at: u128| {
            let tokens = (at + capacity).saturating_sub(full_at) / self.token();
            narrow(u64::try_from(tokens).unwrap_or(u64::MAX))
        };
        if after <= at + capacity || cost == 0 {
            return Outcome::new(limit, left(after), micros(after - at), Wait::None);
        }
        let wait = if cost > limit {
            Wait::Forever
        } else {
            Wait::Micros(micros(after - capacity - at))
        };
        Outcome::new(limit, left(full_at), micros(full_at - at), wait)
    }

    /// Takes so many tokens at this moment, whether they are there or not.
    pub fn charge(&mut self, now: u64, cost: u32) {
        if cost > 0 {
            self.full_at = self.full_at.max(fine(now)) + u128::from(cost) * self.token();
        }
    }

    /// Puts tokens back, up to a full bucket.
    pub fn refund(&mut self, units: u32) {
        self.full_at = self
            .full_at
            .saturating_sub(u128::from(units) * self.token());
    }

    /// Takes the emptier bucket of both.
    pub(crate) fn merge(&mut self, other: &Self, now: u64) {
        let mut other = *other;
        other.renew(self.terms, now);
        self.renew(other.terms, now);
        self.full_at = self.full_at.max(other.full_at);
    }

    /// How long a token takes to come, rounded up.
    const fn token(&self) -> u128 {
        let window = self.terms.width as u128 * BUCKETS as u128 * FINE;
        window.div_ceil(self.terms.limit as u128)
    }
}

fn fine(micros: u64) -> u128 {
    u128::from(micros) * FINE
}

fn micros(fine: u128) -> u64 {
    u64::try_from(fine.div_ceil(FINE)).unwrap_or(u64::MAX)
}
