use std::fmt;
use std::future::Ready;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use siphasher::sip128::SipHasher13;
use tokio::time::Instant;

use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::{ConfigError, StoreError};
use crate::key::Key;
use crate::policy::Policy;
use crate::rules::MAX_RULES;
use crate::store::Store;
use crate::store::table::{Place, Shard, Table};
use crate::window::{Outcome, SlidingWindow, Terms};

/// Counters in this process: strict, bounded, without a background task.
///
/// Decisions are at hand, so the service behind the layer is called in place; deciding allocates
/// nothing. Clones share the counters, and so do rules of one name in several layers on one store.
///
/// # Memory
///
/// Each rule remembers about `capacity` keys, at 128 bytes for each that has come so far and about 16 for each that may. A key is
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

    #[inline]
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

    #[inline]
    fn decide(&self, charges: &Charges<'_, MemoryScope>) -> Verdict<Self::Deciding> {
        Verdict::Now(self.decide_now(charges))
    }
}

#[inline]
fn decide_at(now: u64, charges: &Charges<'_, MemoryScope>) -> Decision {
    match charges.only() {
        Some(charge) => {
            let mut decision = Decision::empty();
            decision.push(charge.number, marked(charge, decide_one(now, charge)));
            decision
        }
        None => decide_all(now, charges),
    }
}

fn decide_all(now: u64, charges: &Charges<'_, MemoryScope>) -> Decision {
    // Each rule has its own table, so one table is never locked twice; and as all lock in one order,
    // they never wait for each other in a circle.
    let mut order: [u8; MAX_RULES] = std::array::from_fn(|place| place as u8);
    let order = &mut order[..charges.len()];
    order.sort_unstable_by_key(|&place| charges.at(place).scope.counters.rank);

    let mut held: [Option<Held<'_>>; MAX_RULES] = [const { None }; MAX_RULES];
    let mut all_pass = true;
    for &place in order.iter() {
        let charge = charges.at(place);
        let asked = Held::new(now, charge);
        all_pass &= charge.lets_pass(&asked.outcome);
        held[usize::from(place)] = Some(asked);
    }
    let mut decision = Decision::empty();
    for (charge, held) in charges.iter().zip(held.iter_mut().flatten()) {
        held.settle(now, charge, all_pass);
        decision.push(charge.number, marked(&charge, held.outcome));
    }
    decision
}

#[inline]
fn marked(charge: &Charge<'_, MemoryScope>, outcome: Outcome) -> Outcome {
    let outcome = outcome.in_window_of(charge.terms);
    match charge.is_shadow() {
        true => outcome.in_shadow(),
        false => outcome,
    }
}

/// One rule of several: its lock is held until all of them have been asked.
struct Held<'a> {
    shard: MutexGuard<'a, Shard>,
    place: Place,
    window: SlidingWindow,
    outcome: Outcome,
}

impl<'a> Held<'a> {
    fn new(now: u64, charge: &Charge<'a, MemoryScope>) -> Self {
        let counters = &*charge.scope.counters;
        let place = counters.place(charge.key);
        let mut shard = lock(counters.table.shard(place));
        let window = settle(&mut shard, place, charge.terms, now);
        Self {
            outcome: window.decide(now, charge.cost),
            shard,
            place,
            window,
        }
    }

    fn settle(&mut self, now: u64, charge: Charge<'_, MemoryScope>, all_pass: bool) {
        if all_pass && self.outcome.passes() && charge.cost > 0 {
            self.window.charge(now, charge.cost);
            self.shard.put(self.place, self.window, now);
        } else if !all_pass && self.outcome.passes() {
            // What it would be told for a request that takes nothing.
            self.outcome = self.window.decide(now, 0);
        }
    }
}

fn decide_one(now: u64, charge: &Charge<'_, MemoryScope>) -> Outcome {
    let counters = &*charge.scope.counters;
    let place = counters.place(charge.key);
    let terms = charge.terms;
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
