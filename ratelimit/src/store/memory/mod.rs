mod clock;
mod counters;
mod decide;
mod held;
mod operate;

use std::fmt;
use std::future::Pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::clock::Clock;
use self::clock::Started;
use self::counters::Counters;
pub use self::operate::MemoryReceipt;
use crate::decision::{Charges, Decision, Verdict};
use crate::error::{ConfigError, StoreError};
use crate::policy::Policy;
use crate::store::Store;
use crate::window::WindowKind;

/// Counters in this process: strict, bounded, without a background task.
///
/// Decisions are at hand, so the service behind the layer is called in place; deciding allocates
/// nothing. Clones share the counters, and so do rules of one name in several layers on one store.
///
/// # Memory
///
/// Each rule remembers about `capacity` keys, in 24 bytes for each that may come and 48 more for each that does, taken
/// page by page as they are needed; 9 more once keys are forgotten. A key with more than 65,535 units in a sixteenth of its
/// window, or that is blocked, takes 112 more. A key is kept as a hash under keys drawn at random, so nobody outside can
/// make keys meet, and that any two of a million do by chance is less likely than one in a million. When the
/// place for a further key is taken, the least used one there is forgotten, **but not what it consumed**: newcomers
/// to that place start from the highest counts that were forgotten there. A flood of keys
/// beyond the capacity can therefore refuse others too early, and cannot win anybody quota.
///
/// # Time
///
/// It goes by `tokio::time::Instant`, so tests with paused time drive it, or by [another clock](MemoryStore::by_clock).
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    capacity: usize,
    started: Started,
    tables: Mutex<Vec<(String, WindowKind, Arc<Counters>)>>,
}

/// What a [`MemoryStore`] keeps for one rule.
#[derive(Clone, Debug)]
pub struct MemoryScope {
    counters: Arc<Counters>,
}

impl MemoryStore {
    /// Room for about so many keys under each rule.
    ///
    /// # Panics
    ///
    /// When the capacity is zero.
    #[must_use]
    pub fn with_capacity(keys: usize) -> Self {
        match Self::try_with_capacity(keys) {
            Ok(store) => store,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`with_capacity`](MemoryStore::with_capacity) for a capacity from outside the code.
    ///
    /// # Errors
    ///
    /// When the capacity is zero.
    pub fn try_with_capacity(keys: usize) -> Result<Self, ConfigError> {
        if keys == 0 {
            return Err(ConfigError::ZeroCapacity);
        }
        Ok(Self::of(keys, Clock::default()))
    }

    /// The same, and empty, by another clock.
    ///
    /// ```
    /// use seawall_ratelimit::{Clock, MemoryStore};
    ///
    /// let store = MemoryStore::with_capacity(1_000).by_clock(Clock::Tokio);
    /// ```
    #[must_use]
    pub fn by_clock(self, clock: Clock) -> Self {
        Self::of(self.shared.capacity, clock)
    }

    fn of(capacity: usize, clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                capacity,
                started: Started::now(clock),
                tables: Mutex::default(),
            }),
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn decide_now(&self, charges: &Charges<'_, MemoryScope>) -> Decision {
        let mut decision = Decision::empty();
        decide::decide(self.now(), charges, &mut decision);
        decision
    }

    #[inline]
    fn now(&self) -> u64 {
        self.shared.started.micros()
    }
}

impl Store for MemoryStore {
    type Scope = MemoryScope;
    /// None is ever under way.
    type Deciding = Pending<Result<Decision, StoreError>>;

    fn scope(&self, policy: &Policy) -> MemoryScope {
        let mut tables = lock(&self.shared.tables);
        let (name, kind) = (policy.name(), policy.window());
        let mut known = tables.iter();
        if let Some((.., counters)) = known.find(|known| known.0 == name && known.1 == kind) {
            let counters = Arc::clone(counters);
            return MemoryScope { counters };
        }
        let counters = Counters::new(tables.len(), kind, self.shared.capacity);
        let counters = Arc::new(counters);
        tables.push((name.to_owned(), kind, Arc::clone(&counters)));
        MemoryScope { counters }
    }

    fn keeps(&self, _: WindowKind) -> bool {
        true
    }

    #[inline]
    fn decide(&self, charges: &Charges<'_, MemoryScope>) -> Verdict<Self::Deciding> {
        let mut decision = Decision::empty();
        decide::decide(self.now(), charges, &mut decision);
        Verdict::Now(decision)
    }

    #[inline]
    fn decide_into(
        &self,
        charges: &Charges<'_, MemoryScope>,
        decision: &mut Decision,
    ) -> Option<Self::Deciding> {
        decide::decide(self.now(), charges, decision);
        None
    }
}

/// The list is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("capacity", &self.shared.capacity)
            .field("clock", &self.shared.started)
            .finish_non_exhaustive()
    }
}
