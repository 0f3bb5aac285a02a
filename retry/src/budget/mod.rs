//! How many retries a service can stand: a share of what succeeds.

mod keyed;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::error::{ConfigError, in_code};

pub use keyed::Budgets;
use keyed::Keyed;

/// One retry, in the units of the balance. A power of two, so that scaling a ratio is exact.
const RETRY: u64 = 1 << 32;

/// A limit on retries that grows with success and not with failure.
///
/// Each success deposits `ratio` of a retry, each retry withdraws a whole one, and at most `burst`
/// retries lie in store. So over any span of time
///
/// ```text
/// retries <= ratio * successes + burst
/// ```
///
/// and a service that answers nothing is sent next to nothing more. A service loaded to a share `u`
/// of what it can do recovers only where the ratio stays under `(1 - u) / u`.
///
/// Clones share one balance: give the same budget to every layer that calls the same service. No
/// lock is taken, and a deposit into a full budget is a single relaxed load.
///
/// # Example
///
/// ```
/// use seawall_retry::Budget;
///
/// let budget = Budget::ratio(0.5).burst(2);
/// let first = budget.withdraw().expect("a new budget is full");
/// first.spend();
/// budget.withdraw().expect("the burst is two").spend();
/// assert!(budget.withdraw().is_none());
///
/// budget.deposit();
/// budget.deposit(); // two successes pay for one retry
/// assert!(budget.withdraw().is_some());
/// ```
#[derive(Clone)]
pub struct Budget {
    account: Account,
}

#[derive(Clone)]
enum Account {
    One(Arc<One>),
    /// The account of the key with this hash.
    Keyed(Arc<Keyed>, u64),
}

/// How much a success pays in, and how much lies in store at most.
#[derive(Debug, Clone, Copy)]
struct Terms {
    deposit: u64,
    full: u64,
}

/// One balance, on a cache line of its own: as long as it is full nothing writes to it, and threads
/// read it without disturbing each other.
#[repr(align(128))]
struct One {
    terms: Terms,
    balance: AtomicU64,
}

impl Budget {
    /// Allows `ratio` retries for each success, and a burst of 10.
    ///
    /// # Panics
    ///
    /// If `ratio` is not above 0 and at most 1.
    pub fn ratio(ratio: f64) -> Self {
        in_code!(Self::try_ratio(ratio))
    }

    /// [`ratio`](Self::ratio) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `ratio` is not above 0 and at most 1, or so small that it would count as nothing.
    pub fn try_ratio(ratio: f64) -> Result<Self, ConfigError> {
        Terms::try_ratio(ratio).map(Self::full)
    }

    /// How many retries may be in store: what a full budget gives before the next success. The
    /// result is a new budget, full, shared with no earlier clone.
    ///
    /// With a burst of 1 the fraction that a deposit leaves over is lost; from 2 on the ratio is exact.
    ///
    /// # Panics
    ///
    /// If `burst` is zero: no whole retry could ever be saved up.
    #[must_use]
    pub fn burst(self, burst: u32) -> Self {
        in_code!(self.try_burst(burst))
    }

    /// [`burst`](Self::burst) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `burst` is zero.
    pub fn try_burst(self, burst: u32) -> Result<Self, ConfigError> {
        self.terms().try_burst(burst).map(Self::full)
    }

    fn full(terms: Terms) -> Self {
        Self {
            account: Account::One(Arc::new(One {
                terms,
                balance: AtomicU64::new(terms.full),
            })),
        }
    }

    fn terms(&self) -> Terms {
        match &self.account {
            Account::One(one) => one.terms,
            Account::Keyed(keyed, _) => keyed.terms(),
        }
    }

    /// Pays in for one success.
    #[inline]
    pub fn deposit(&self) {
        match &self.account {
            Account::One(one) => one.pay_in(one.terms.deposit),
            Account::Keyed(keyed, hash) => keyed.deposit(*hash),
        }
    }

    /// Takes out one retry, or `None` where there is none.
    pub fn withdraw(&self) -> Option<Withdrawal> {
        let pooled = match &self.account {
            // One counter, and nothing else is published through it: relaxed order is enough.
            Account::One(one) => one
                .balance
                .fetch_update(Relaxed, Relaxed, |balance| balance.checked_sub(RETRY))
                .ok()
                .map(|_| false),
            Account::Keyed(keyed, hash) => keyed.withdraw(*hash),
        }?;
        Some(Withdrawal {
            from: Some(self.clone()),
            pooled,
        })
    }

    /// How many retries are in store at this moment, fractions included.
    pub fn balance(&self) -> f64 {
        let balance = match &self.account {
            Account::One(one) => one.balance.load(Relaxed),
            Account::Keyed(keyed, hash) => keyed.balance(*hash),
        };
        balance as f64 / RETRY as f64
    }
}

impl Terms {
    fn try_ratio(ratio: f64) -> Result<Self, ConfigError> {
        // Rounding down: a budget never gives more than was asked for. NaN fails both comparisons.
        let deposit = if ratio > 0.0 && ratio <= 1.0 {
            (ratio * RETRY as f64) as u64
        } else {
            0
        };
        if deposit == 0 {
            return Err(ConfigError::new(
                "the ratio of a budget must be above 0 and at most 1",
            ));
        }
        Ok(Self {
            deposit,
            full: 10 * RETRY,
        })
    }

    fn try_burst(self, burst: u32) -> Result<Self, ConfigError> {
        if burst == 0 {
            return Err(ConfigError::new("the burst of a budget must be at least 1"));
        }
        Ok(Self {
            full: u64::from(burst) * RETRY,
            ..self
        })
    }

    /// `full` is at most 2^32 * 2^32 - 2^32 and an amount at most 2^32: no overflow.
    const fn filled(self, balance: u64, amount: u64) -> u64 {
        let filled = balance + amount;
        if filled < self.full {
            filled
        } else {
            self.full
        }
    }
}

impl One {
    #[inline]
    fn pay_in(&self, amount: u64) {
        let balance = self.balance.load(Relaxed);
        if balance < self.terms.full {
            self.fill(balance, amount);
        }
    }

    #[cold]
    fn fill(&self, mut balance: u64, amount: u64) {
        // Filled by others meanwhile: nothing to write.
        while balance < self.terms.full {
            let filled = self.terms.filled(balance, amount);
            match self
                .balance
                .compare_exchange_weak(balance, filled, Relaxed, Relaxed)
            {
                Ok(_) => return,
                Err(now) => balance = now,
            }
        }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = self.terms();
        f.debug_struct("Budget")
            .field("ratio", &(terms.deposit as f64 / RETRY as f64))
            .field("burst", &(terms.full / RETRY))
            .field("balance", &self.balance())
            .finish()
    }
}

/// One retry, taken out of a [`Budget`] and not yet made. Dropped without being
/// [spent](Self::spend), it goes back: a call cancelled during its backoff costs nothing.
#[derive(Debug)]
#[must_use = "a withdrawal that is dropped goes back into the budget"]
pub struct Withdrawal {
    from: Option<Budget>,
    /// Taken from what keys without an account of their own share.
    pooled: bool,
}

impl Withdrawal {
    /// The retry is made now.
    pub fn spend(mut self) {
        self.from = None;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if let Some(budget) = self.from.take() {
            match budget.account {
                Account::One(one) => one.pay_in(RETRY),
                Account::Keyed(keyed, hash) => keyed.give_back(hash, self.pooled),
            }
        }
    }
}
