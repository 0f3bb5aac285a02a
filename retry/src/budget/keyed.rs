//! A budget for each key, in bounded memory.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use super::{Account, Budget, RETRY, Terms};
use crate::error::{ConfigError, in_code};

/// A [`Budget`] for each key, such as a host or a tenant: one that is down cannot spend the retries
/// of the others.
///
/// A full budget is like a new one, so only keys whose budget is not full are remembered: those in
/// trouble. While there is none of them a success costs one relaxed load; else a short lock is taken.
/// When [`capacity`](Self::capacity) keys are in trouble at once, further ones share one more budget,
/// which any key without one of its own pays into.
///
/// Clones share everything.
///
/// # Default
///
/// A burst of 10, and a capacity of 10,000 keys.
///
/// # Example
///
/// ```
/// use seawall_retry::Budgets;
///
/// let hosts = Budgets::ratio(0.1).burst(1);
/// hosts.of("a").withdraw().expect("each starts full").spend();
/// assert!(hosts.of("a").withdraw().is_none());
/// assert!(hosts.of("b").withdraw().is_some());
/// ```
#[derive(Clone)]
pub struct Budgets {
    keyed: Arc<Keyed>,
}

/// The accounts that are not full, by the hash of their key. Hashes are salted and not compared
/// further: two keys whose 64 bits meet share a budget.
pub(super) struct Keyed {
    terms: Terms,
    capacity: usize,
    salt: RandomState,
    /// Whether any balance is not full. Read before each deposit, written only when it changes.
    trouble: AtomicBool,
    accounts: Mutex<Accounts>,
}

struct Accounts {
    own: HashMap<u64, u64>,
    pool: u64,
}

const CAPACITY: usize = 10_000;

impl Budgets {
    /// Allows each key `ratio` retries for each of its successes, and a burst of 10.
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
        Terms::try_ratio(ratio).map(|terms| Self::new(terms, CAPACITY))
    }

    /// How many retries of one key may be in store. The result shares nothing with earlier clones.
    ///
    /// # Panics
    ///
    /// If `burst` is zero.
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
        let terms = self.keyed.terms.try_burst(burst)?;
        Ok(Self::new(terms, self.keyed.capacity))
    }

    /// How many keys in trouble have a budget of their own. Zero means that all share one. The result
    /// shares nothing with earlier clones.
    #[must_use]
    pub fn capacity(self, keys: usize) -> Self {
        Self::new(self.keyed.terms, keys)
    }

    fn new(terms: Terms, capacity: usize) -> Self {
        Self {
            keyed: Arc::new(Keyed {
                terms,
                capacity,
                salt: RandomState::new(),
                trouble: AtomicBool::new(false),
                accounts: Mutex::new(Accounts {
                    own: HashMap::new(),
                    pool: terms.full,
                }),
            }),
        }
    }

    /// The budget of this key.
    pub fn of(&self, key: impl Hash) -> Budget {
        let hash = self.keyed.salt.hash_one(key);
        Budget {
            account: Account::Keyed(Arc::clone(&self.keyed), hash),
        }
    }

    /// How many keys are remembered at this moment, because their budget is not full.
    pub fn in_trouble(&self) -> usize {
        self.keyed.accounts().own.len()
    }
}

impl Keyed {
    pub(super) const fn terms(&self) -> Terms {
        self.terms
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        // Nothing in here panics while it holds the lock.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn deposit(&self, hash: u64) {
        if self.trouble.load(Relaxed) {
            let mut accounts = self.accounts();
            let pooled = !accounts.own.contains_key(&hash);
            self.pay_in(&mut accounts, hash, pooled, self.terms.deposit);
        }
    }

    /// Takes out one retry, and says whether it came from the shared budget.
    pub(super) fn withdraw(&self, hash: u64) -> Option<bool> {
        let mut accounts = self.accounts();
        let Accounts { own, pool } = &mut *accounts;
        if own.len() < self.capacity {
            own.entry(hash).or_insert(self.terms.full);
        }
        let (balance, pooled) = match own.get_mut(&hash) {
            Some(balance) => (balance, false),
            None => (pool, true),
        };
        *balance = balance.checked_sub(RETRY)?;
        self.trouble.store(true, Relaxed);
        Some(pooled)
    }

    /// Takes back a retry that was not made.
    pub(super) fn give_back(&self, hash: u64, pooled: bool) {
        self.pay_in(&mut self.accounts(), hash, pooled, RETRY);
    }

    fn pay_in(&self, accounts: &mut Accounts, hash: u64, pooled: bool, amount: u64) {
        if pooled {
            accounts.pool = self.terms.filled(accounts.pool, amount);
        } else if let Some(balance) = accounts.own.get_mut(&hash) {
            *balance = self.terms.filled(*balance, amount);
            if *balance == self.terms.full {
                accounts.own.remove(&hash);
            }
        }
        // Under the lock, as where it is set: the flag never says less than the accounts.
        if accounts.own.is_empty() && accounts.pool == self.terms.full {
            self.trouble.store(false, Relaxed);
        }
    }

    pub(super) fn balance(&self, hash: u64) -> u64 {
        let accounts = self.accounts();
        match accounts.own.get(&hash) {
            Some(balance) => *balance,
            None if accounts.own.len() < self.capacity => self.terms.full,
            None => accounts.pool,
        }
    }
}

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = self.keyed.terms;
        f.debug_struct("Budgets")
            .field("ratio", &(terms.deposit as f64 / RETRY as f64))
            .field("burst", &(terms.full / RETRY))
            .field("capacity", &self.keyed.capacity)
            .field("in_trouble", &self.in_trouble())
            .finish()
    }
}
