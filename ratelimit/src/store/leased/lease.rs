//! What a node knows of one key: the rules of a lease, without clock and I/O. Moments are microseconds of the
//! node's own clock.

use super::table::Passed;
use crate::store::redis::batch::{LeaseAsk, Leased};
use crate::window::{Outcome, Terms, Wait};

/// A lease is at most this part of a limit, so that no node keeps the others from theirs.
const LARGEST_PART: u32 = 16;
/// Shorter ones are not worth the way to the server.
const SHORTEST: u64 = 10_000;
/// The longest that a lease lasts, in microseconds.
pub(super) const LONGEST: u64 = 4_000_000;
/// Requests to be expected of a key while a lease lasts, for it to be worth one.
const WORTH: u32 = 4;

/// How long a lease of a rule lasts: one bucket at most, as more would be charged too far ahead.
pub(super) fn time_of(terms: Terms) -> u64 {
    terms.width.min(LONGEST)
}

/// What of that the node may use: its clock may run slower than the server's.
fn usable(time: u64) -> u64 {
    time - time / 50 - 500.min(time / 50)
}

/// Units that were charged ahead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) leased: Leased,
    /// From when on they may not be spent.
    pub(super) deadline: u64,
    granted: u32,
    taken_at: u64,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyLease {
    pub(super) terms: Terms,
    lease: Option<Lease>,
    /// Whether a lease was asked for and has not come.
    asking: bool,
    /// When it was last asked about.
    seen: u64,
    /// Units asked for since `since`, by which the next lease is sized.
    wanted: u64,
    since: u64,
    denied: Option<Denied>,
}

/// What the store has refused is not asked again while it would refuse it.
#[derive(Clone, Copy, Debug)]
struct Denied {
    outcome: Outcome,
    cost: u32,
    /// Until when it is remembered.
    until: u64,
    /// When the request would pass.
    passes_at: u64,
}

/// What to do about a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// It passes, out of the lease on this bucket.
    Pass(Outcome, u64),
    Refuse(Outcome),
    /// Ask the store, and perhaps for a lease.
    Ask(Option<LeaseAsk>),
}

impl KeyLease {
    /// Of a key that has just passed by, as it did before with requests of about this cost.
    pub(super) fn passed(terms: Terms, now: u64, cost: u32, passed: Passed) -> Self {
        Self {
            wanted: u64::from(cost) * u64::from(passed.times),
            since: passed.since,
            ..Self::new(terms, now)
        }
    }

    /// Of a key that was last asked about then.
    pub(super) const fn new(terms: Terms, now: u64) -> Self {
        Self {
            terms,
            lease: None,
            asking: false,
            seen: now,
            wanted: 0,
            since: now,
            denied: None,
        }
    }

    /// Decides about a request by what is known here. The second result is what has to go back: once taken
    /// from here it can be spent no more, and is given back once at most.
    pub(super) fn step(&mut self, now: u64, terms: Terms, cost: u32) -> (Step, Option<Leased>) {
        let mut back = None;
        if self.terms != terms {
            // Another version of the rule: nothing that is known holds.
            back = self.take_lease();
            *self = Self {
                asking: self.asking,
                ..Self::new(terms, now)
            };
        }
        let (quiet, time) = (now.saturating_sub(self.seen), time_of(terms));
        self.seen = now;
        if quiet > time / 2 {
            (self.wanted, self.since) = (0, now);
        }
        self.wanted += u64::from(cost);
        if let Some(denied) = self.denied {
            if now >= denied.until {
                self.denied = None;
            } else if cost >= denied.cost {
                return (Step::Refuse(denied.told(now)), back);
            }
        }
        if let Some(lease) = &mut self.lease {
            if now < lease.deadline {
                if cost <= lease.leased.units {
                    lease.leased.units -= cost;
                    return (
                        Step::Pass(lease.outcome(terms, now), lease.leased.bucket),
                        back,
                    );
                }
            } else {
                back = self.take_lease();
            }
        }
        if self.asking {
            return (Step::Ask(None), back);
        }
        if quiet > time / 2 || time < SHORTEST {
            return (Step::Ask(None), back);
        }
        let units = self.size(now, time, cost);
        self.asking = units > 0;
        let ask = self.asking.then_some(LeaseAsk { units, time });
        (Step::Ask(ask), back)
    }

    /// What the key will ask for while a lease lasts, as it has asked lately. Rounded up to powers of two: the
    /// server takes those of one size together.
    fn size(&mut self, now: u64, time: u64, cost: u32) -> u32 {
        let elapsed = now.saturating_sub(self.since).max(time / 64);
        let expected = u128::from(self.wanted) * u128::from(time) / u128::from(elapsed.max(1));
        if elapsed > time {
            // What was long ago says less than what was lately.
            (self.wanted, self.since) = (self.wanted / 2, now - elapsed / 2);
        }
        let most = self.terms.limit / LARGEST_PART;
        let expected = u32::try_from(expected).unwrap_or(u32::MAX);
        if expected / WORTH < cost {
            return 0;
        }
        match expected.checked_next_power_of_two() {
            Some(units) if units <= most => units,
            _ => most,
        }
    }

    /// A lease has come that was asked for at that moment, before the request for it was sent. What cannot be
    /// used goes back.
    pub(super) fn take(
        &mut self,
        now: u64,
        sent: u64,
        terms: Terms,
        ask: LeaseAsk,
        leased: Leased,
    ) -> Option<Leased> {
        self.asking = false;
        let deadline = sent + usable(ask.time);
        if self.terms != terms || now >= deadline || leased.units == 0 {
            return Some(leased).filter(|leased| leased.units > 0);
        }
        let back = self.take_lease();
        self.lease = Some(Lease {
            leased,
            deadline,
            granted: leased.units,
            taken_at: now,
        });
        back
    }

    /// Puts units back that were taken for a request which goes to the store after all.
    pub(super) fn put_back(&mut self, terms: Terms, bucket: u64, units: u32) {
        if let Some(lease) = &mut self.lease
            && self.terms == terms
            && lease.leased.bucket == bucket
        {
            // Not more than it had: the lease may be another one on the same bucket.
            lease.leased.units = (lease.leased.units + units).min(lease.granted);
        }
    }

    /// When the lease ends, if there is one.
    pub(super) fn ends(&self) -> Option<u64> {
        self.lease.map(|lease| lease.deadline)
    }

    /// Nothing has come.
    pub(super) const fn give_up(&mut self) {
        self.asking = false;
    }

    /// The store has refused a request. It is remembered until it would pass, but for one bucket at most, since
    /// units may come back before.
    pub(super) fn deny(&mut self, now: u64, terms: Terms, cost: u32, outcome: Outcome) {
        let Wait::Micros(wait) = outcome.wait() else {
            return;
        };
        if self.terms == terms && outcome.limit() == terms.limit {
            self.denied = Some(Denied {
                outcome,
                cost,
                until: now + wait.min(terms.width),
                passes_at: now + wait,
            });
        }
    }

    /// Takes the units from here, if they have run out.
    pub(super) fn expire(&mut self, now: u64) -> Option<Leased> {
        let over = self.lease.is_some_and(|lease| now >= lease.deadline);
        over.then(|| self.take_lease()).flatten()
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) -> Option<Leased> {
        self.denied = None;
        self.take_lease()
    }

    /// Whether nothing is lost by forgetting it.
    pub(super) fn is_idle(&self, now: u64) -> bool {
        let denied = self.denied.is_some_and(|denied| now < denied.until);
        let quiet = now.saturating_sub(self.seen) > time_of(self.terms);
        self.lease.is_none() && !self.asking && !denied && quiet
    }

    fn take_lease(&mut self) -> Option<Leased> {
        let leased = self.lease.take()?.leased;
        (leased.units > 0).then_some(leased)
    }
}

impl Lease {
    /// As the store would tell it, with what it had left then and what is left here.
    fn outcome(&self, terms: Terms, now: u64) -> Outcome {
        let left = self.leased.left.saturating_add(self.leased.units);
        let free = terms.free_at(self.leased.bucket) - self.leased.now;
        let reset = free.saturating_sub(now - self.taken_at);
        debug_assert!(self.leased.units <= self.granted);
        Outcome::new(terms.limit, left, reset, Wait::None)
    }
}

impl Denied {
    fn told(&self, now: u64) -> Outcome {
        let wait = self.passes_at - now;
        let reset = self.outcome.reset().as_micros() as u64;
        let gone = self.outcome.wait_micros() - wait;
        self.outcome
            .still(wait, reset.saturating_sub(gone).max(wait))
    }
}
