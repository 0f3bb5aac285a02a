use std::fmt;
use std::future::Ready;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siphasher::sip128::SipHasher13;
use tokio::time::Instant;

use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::{ConfigError, StoreError};
use crate::key::Key;
use crate::rule::{MAX_RULES, Policy};
use crate::store::Store;
use crate::store::table::{Place, Shard, Table};
use crate::window::{Outcome, SlidingWindow, Terms, Wait};

/// Counters in this process: strict, bounded, without a background task.
///
/// Decisions are at hand, so the service behind the layer is called in place; deciding allocates
/// nothing. Clones share the counters, and so do rules of one name in several layers on one store.
///
/// # Memory
///
/// Each rule remembers about `capacity` keys, at 160 bytes for each that has come so far. A key is
/// kept as a hash under keys drawn at random, so nobody outside can make keys meet. When the place for
/// a further key is taken, the least used one there is forgotten, **but not what it consumed**: newcomers
/// to that place start from the highest counts that were forgotten there. A flood of keys
/// beyond the capacity can therefore refuse others too early, and cannot win anybody quota.
///
/// # Time
///
/// It goes by `tokio::time::Instant`, so tests with paused time drive it.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    capacity: usize,
    start: Instant,
    tables: Mutex<Vec<(String, Arc<Counters>)>>,
}

/// What a [`MemoryStore`] keeps for one rule.
#[derive(Clone, Debug)]
pub struct MemoryScope {
    counters: Arc<Counters>,
}

struct Counters {
    /// The order in which several are locked.
    rank: usize,
    /// Random keys of a hash for each kind of [`Key`], so that kinds never meet.
    hashers: [SipHasher13; Key::KINDS],
    table: Table,
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
        Ok(Self {
            shared: Arc::new(Shared {
                capacity: keys,
                start: Instant::now(),
                tables: Mutex::default(),
            }),
        })
    }

    pub(crate) fn decide_now(&self, charges: &Charges<'_, MemoryScope>) -> Decision {
        decide_at(self.now(), charges)
    }

    fn now(&self) -> u64 {
        let since = self.shared.start.elapsed();
        since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())
    }
}

impl Store for MemoryStore {
    type Scope = MemoryScope;
    type Deciding = Ready<Result<Decision, StoreError>>;

    fn scope(&self, policy: &Policy) -> MemoryScope {
        let mut tables = lock(&self.shared.tables);
        let known = tables.iter().find(|(name, _)| name == policy.name());
        if let Some((_, counters)) = known {
            let counters = Arc::clone(counters);
            return MemoryScope { counters };
        }
        let hasher = |_| {
            let keys = RandomState::new();
            SipHasher13::new_with_keys(keys.hash_one(0), keys.hash_one(1))
        };
        let counters = Arc::new(Counters {
            rank: tables.len(),
            hashers: std::array::from_fn(hasher),
            table: Table::with_capacity(self.shared.capacity),
        });
        tables.push((policy.name().to_owned(), Arc::clone(&counters)));
        MemoryScope { counters }
    }

    fn decide(&self, charges: &Charges<'_, MemoryScope>) -> Verdict<Self::Deciding> {
        Verdict::Now(self.decide_now(charges))
    }
}

fn decide_at(now: u64, charges: &Charges<'_, MemoryScope>) -> Decision {
    let mut decision = Decision::empty();
    let mut list = charges.iter();
    if let (1, Some(charge)) = (charges.len(), list.next()) {
        decision.push(charge.number, decide_one(now, &charge));
        return decision;
    }

    // Each rule has its own table, so one table is never locked twice; and as all lock in one order,
    // they never wait for each other in a circle.
    let mut sought: [Option<Sought<'_>>; MAX_RULES] = [const { None }; MAX_RULES];
    for (seek, charge) in sought.iter_mut().zip(charges.iter()) {
        *seek = Some(Sought::new(charge));
    }
    let sought = &mut sought[..charges.len()];
    sought.sort_unstable_by_key(|seek| seek.as_ref().map(|seek| seek.charge.scope.counters.rank));
    for seek in sought.iter_mut().flatten() {
        let terms = seek.charge.policy.terms();
        let mut shard = lock(seek.counters().table.shard(seek.place));
        let window = settle(&mut shard, seek.place, terms, now);
        seek.outcome = window.decide(now, seek.charge.cost);
        seek.held = Some((shard, window));
    }
    let all_pass = sought.iter().flatten().all(|seek| seek.outcome.passes());
    for seek in sought.iter_mut().flatten() {
        let Some((shard, window)) = &mut seek.held else {
            continue;
        };
        if !all_pass {
            // What it would be told for a request that takes nothing.
            if seek.outcome.passes() {
                seek.outcome = window.decide(now, 0);
            }
        } else if seek.charge.cost > 0 {
            window.charge(now, seek.charge.cost);
            shard.put(seek.place, *window, now);
        }
    }
    for seek in sought.iter_mut().flatten() {
        seek.held = None;
    }
    sought.sort_unstable_by_key(|seek| seek.as_ref().map(|seek| seek.charge.number));
    for seek in sought.iter().flatten() {
        decision.push(seek.charge.number, seek.outcome);
    }
    decision
}

fn decide_one(now: u64, charge: &Charge<'_, MemoryScope>) -> Outcome {
    let counters = &*charge.scope.counters;
    let place = counters.place(charge.key);
    let terms = charge.policy.terms();
    let mut shard = lock(counters.table.shard(place));
    if let Some(window) = shard.known(place)
        && window.terms() == terms
    {
        return window.admit(now, charge.cost);
    }
    let mut window = settle(&mut shard, place, terms, now);
    let outcome = window.admit(now, charge.cost);
    if outcome.passes() && charge.cost > 0 {
        shard.put(place, window, now);
    }
    outcome
}

/// The window of a key under the terms that hold.
fn settle(shard: &mut Shard, place: Place, terms: Terms, now: u64) -> SlidingWindow {
    let Some(known) = shard.known(place) else {
        let mut window = shard.newcomer(place, terms, now);
        window.renew(terms, now);
        return window;
    };
    let mut window = *known;
    if window.renew(terms, now) {
        // The newest version holds for all from now on, whatever becomes of this request.
        *known = window;
    }
    window
}

struct Sought<'a> {
    charge: Charge<'a, MemoryScope>,
    place: Place,
    outcome: Outcome,
    held: Option<(MutexGuard<'a, Shard>, SlidingWindow)>,
}

impl<'a> Sought<'a> {
    fn new(charge: Charge<'a, MemoryScope>) -> Self {
        Self {
            place: charge.scope.counters.place(charge.key),
            charge,
            outcome: Outcome::new(0, 0, 0, Wait::None),
            held: None,
        }
    }

    fn counters(&self) -> &'a Counters {
        &self.charge.scope.counters
    }
}

impl Counters {
    fn place(&self, key: Key<'_>) -> Place {
        let hash = self.hashers[usize::from(key.kind())].hash(key.as_bytes());
        self.table.place(hash.h1, hash.h2)
    }
}

/// A panic under the lock can only come from a bug in the arithmetic, and leaves whole counters.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the hasher: its keys are a secret.
        f.debug_struct("Counters").finish_non_exhaustive()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("capacity", &self.shared.capacity)
            .finish_non_exhaustive()
    }
}
