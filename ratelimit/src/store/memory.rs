use std::fmt;
use std::future::Ready;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use siphasher::sip128::SipHasher13;
use tokio::time::Instant;

use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::{ConfigError, StoreError};
use crate::key::Key;
use crate::policy::Policy;
use crate::rules::MAX_RULES;
use crate::store::hash::NumberHasher;
use crate::store::named::{NamedHeld, NamedTable};
use crate::store::table::{Entry, Place, Room, Shard, Table};
use crate::store::{Operate, Standing, Store};
use crate::window::{Outcome, SlidingWindow, Terms, WindowKind};

/// Counters in this process: strict, bounded, without a background task.
///
/// Decisions are at hand, so the service behind the layer is called in place; deciding allocates
/// nothing. Clones share the counters, and so do rules of one name in several layers on one store.
///
/// # Memory
///
/// Each rule remembers about `capacity` keys, at 96 bytes for each that has come so far and about 57 for each that may. A key is
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
    tables: Mutex<Vec<(String, WindowKind, Arc<Counters>)>>,
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
    number: NumberHasher,
    table: Table,
    /// In place of the table, for windows of another kind.
    named: Option<NamedTable>,
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
        let (name, kind) = (policy.name(), policy.window());
        let mut known = tables.iter();
        if let Some((.., counters)) = known.find(|known| known.0 == name && known.1 == kind) {
            let counters = Arc::clone(counters);
            return MemoryScope { counters };
        }
        let capacity = self.shared.capacity;
        let secret = || {
            let keys = RandomState::new();
            (keys.hash_one(0), keys.hash_one(1))
        };
        let hasher = |_| {
            let (one, other) = secret();
            SipHasher13::new_with_keys(one, other)
        };
        let counters = Arc::new(Counters {
            rank: tables.len(),
            hashers: std::array::from_fn(hasher),
            number: NumberHasher::new(secret()),
            table: Table::with_capacity(match kind {
                WindowKind::Sliding => capacity,
                _ => 1,
            }),
            named: match kind {
                WindowKind::Sliding => None,
                kind => Some(NamedTable::with_capacity(kind, capacity)),
            },
        });
        tables.push((name.to_owned(), kind, Arc::clone(&counters)));
        MemoryScope { counters }
    }

    fn keeps(&self, _: WindowKind) -> bool {
        true
    }

    #[inline]
    fn decide(&self, charges: &Charges<'_, MemoryScope>) -> Verdict<Self::Deciding> {
        Verdict::Now(self.decide_now(charges))
    }
}

impl Operate for MemoryStore {
    async fn peek(&self, of: &Charge<'_, MemoryScope>) -> Result<Standing, StoreError> {
        let now = self.now();
        if let Some(held) = of.scope.counters.named(of.key, of.terms, now) {
            let standing = held.standing(now);
            return Ok(Standing {
                outcome: standing.outcome.in_window_of(of.terms),
                ..standing
            });
        }
        let (place, mut shard) = of.scope.counters.hold(of.key);
        let entry = shard.find(place);
        let window = settle(&mut shard, place, entry, of.terms, now);
        let until = entry.map_or(0, |entry| shard.blocked_until(entry));
        let rest = until.saturating_sub(now);
        Ok(Standing {
            outcome: window.decide(now, 0).in_window_of(of.terms),
            blocked_for: (rest > 0).then(|| Duration::from_micros(rest)),
        })
    }

    async fn reset(&self, of: &Charge<'_, MemoryScope>) -> Result<(), StoreError> {
        let now = self.now();
        if let Some(mut held) = of.scope.counters.named(of.key, of.terms, now) {
            held.reset(of.policy.window(), of.terms, now);
            return Ok(());
        }
        let (place, mut shard) = of.scope.counters.hold(of.key);
        // A key that is not known begins from what was forgotten in its place, so it has to be made known.
        shard.put(place, &SlidingWindow::new(of.terms), now);
        Ok(())
    }

    async fn block(&self, of: &Charge<'_, MemoryScope>, time: Duration) -> Result<(), StoreError> {
        let now = self.now();
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let until = now.saturating_add(time);
        if let Some(mut held) = of.scope.counters.named(of.key, of.terms, now) {
            held.block_until(until, now);
            return Ok(());
        }
        let (place, mut shard) = of.scope.counters.hold(of.key);
        let entry = shard.find(place);
        let window = settle(&mut shard, place, entry, of.terms, now);
        let entry = shard.put(place, &window, now);
        shard.block_until(entry, until);
        Ok(())
    }

    async fn unblock(&self, of: &Charge<'_, MemoryScope>) -> Result<(), StoreError> {
        if let Some(mut held) = of.scope.counters.named(of.key, of.terms, self.now()) {
            held.unblock();
            return Ok(());
        }
        let (place, mut shard) = of.scope.counters.hold(of.key);
        if let Some(entry) = shard.find(place) {
            shard.block_until(entry, 0);
        }
        Ok(())
    }

    type Receipt = MemoryReceipt;

    fn receipt(&self, charges: &Charges<'_, MemoryScope>, decision: &Decision) -> MemoryReceipt {
        let Some(moment) = decision.moment() else {
            return MemoryReceipt {
                taken: Box::new([]),
            };
        };
        let taken = charges.iter().zip(decision.iter());
        // A shadow without room was not charged.
        let taken = taken.filter(|(charge, (_, outcome))| outcome.passes() && charge.cost > 0);
        let taken = taken.map(|(charge, _)| Taken {
            place: charge.scope.counters.place(charge.key),
            hash: charge.scope.counters.hash(charge.key),
            counters: Arc::clone(&charge.scope.counters),
            terms: charge.terms,
            moment,
            units: charge.cost,
        });
        MemoryReceipt {
            taken: taken.collect(),
        }
    }

    fn refund(&self, receipt: MemoryReceipt) {
        for taken in receipt.taken {
            if let Some(named) = &taken.counters.named {
                let mut held = named.hold(taken.hash, taken.terms, self.now());
                held.refund(taken.moment, taken.units);
                continue;
            }
            let mut shard = taken.counters.table.shard(taken.place);
            let Some(entry) = shard.find(taken.place) else {
                continue;
            };
            let mut window = shard.window(entry);
            if window.terms().width == taken.terms.width {
                window.refund(window.bucket_of(taken.moment), taken.units);
                shard.put(taken.place, &window, self.now());
            }
        }
    }
}

/// What a decision in memory has charged.
#[derive(Debug)]
pub struct MemoryReceipt {
    taken: Box<[Taken]>,
}

#[derive(Debug)]
struct Taken {
    counters: Arc<Counters>,
    place: Place,
    hash: (u64, u64),
    terms: Terms,
    moment: u64,
    units: u32,
}

#[inline]
fn decide_at(now: u64, charges: &Charges<'_, MemoryScope>) -> Decision {
    match charges.only() {
        Some(charge) => {
            let mut decision = Decision::empty();
            decision.push(charge.number, marked(charge, decide_one(now, charge)));
            decision.charged_at(now)
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
    decision.charged_at(now)
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
    place: Place,
    found: Found<'a>,
    outcome: Outcome,
}

enum Found<'a> {
    /// There is room in the newest bucket.
    Room(MutexGuard<'a, Shard>, Room),
    /// All else.
    Window(MutexGuard<'a, Shard>, SlidingWindow),
    Blocked,
    Named(NamedHeld<'a>),
}

impl<'a> Held<'a> {
    fn new(now: u64, charge: &Charge<'a, MemoryScope>) -> Self {
        let counters = &*charge.scope.counters;
        let place = counters.place(charge.key);
        if let Some(held) = counters.named(charge.key, charge.terms, now) {
            return Self {
                outcome: held.decide(now, charge.cost),
                found: Found::Named(held),
                place,
            };
        }
        let mut shard = counters.table.shard(place);
        let entry = shard.find(place);
        let room = entry.and_then(|entry| shard.room(entry, charge.terms, now, charge.cost));
        let (outcome, found) = if let Some(room) = room {
            (room.taken, Found::Room(shard, room))
        } else {
            let window = settle(&mut shard, place, entry, charge.terms, now);
            match blocked(&shard, entry, &window, now) {
                Some(blocked) => (blocked, Found::Blocked),
                None => (
                    window.decide(now, charge.cost),
                    Found::Window(shard, window),
                ),
            }
        };
        Self {
            place,
            found,
            outcome,
        }
    }

    fn settle(&mut self, now: u64, charge: Charge<'_, MemoryScope>, all_pass: bool) {
        if !self.outcome.passes() {
            return;
        }
        match &mut self.found {
            Found::Room(shard, room) if all_pass => shard.take(room),
            Found::Window(shard, window) if all_pass && charge.cost > 0 => {
                window.charge(now, charge.cost);
                shard.put(self.place, window, now);
            }
            Found::Named(held) if all_pass && charge.cost > 0 => held.charge(now, charge.cost),
            _ if all_pass => {}
            // What it would be told for a request that takes nothing.
            Found::Room(_, room) => self.outcome = room.left,
            Found::Window(_, window) => self.outcome = window.decide(now, 0),
            Found::Named(held) => self.outcome = held.decide(now, 0),
            Found::Blocked => {}
        }
    }
}

#[inline]
fn decide_one(now: u64, charge: &Charge<'_, MemoryScope>) -> Outcome {
    let counters = &*charge.scope.counters;
    if let Some(mut held) = counters.named(charge.key, charge.terms, now) {
        return held.admit(now, charge.cost);
    }
    let place = counters.place(charge.key);
    let mut shard = counters.table.shard(place);
    let entry = shard.find(place);
    if let Some(entry) = entry
        && let Some(room) = shard.room(entry, charge.terms, now, charge.cost)
    {
        shard.take(&room);
        return room.taken;
    }
    decide_whole(&mut shard, place, entry, now, charge)
}

#[cold]
fn decide_whole(
    shard: &mut Shard,
    place: Place,
    entry: Option<Entry>,
    now: u64,
    charge: &Charge<'_, MemoryScope>,
) -> Outcome {
    let mut window = settle(shard, place, entry, charge.terms, now);
    if let Some(blocked) = blocked(shard, entry, &window, now) {
        return blocked;
    }
    let outcome = window.admit(now, charge.cost);
    if outcome.passes() && charge.cost > 0 {
        shard.put(place, &window, now);
    }
    outcome
}

/// What a blocked key is told.
fn blocked(
    shard: &Shard,
    entry: Option<Entry>,
    window: &SlidingWindow,
    now: u64,
) -> Option<Outcome> {
    let until = entry.map_or(0, |entry| shard.blocked_until(entry));
    (until > now).then(|| window.decide(now, 0).blocked_for(until - now))
}

/// The window of a key under the terms that hold.
fn settle(
    shard: &mut Shard,
    place: Place,
    entry: Option<Entry>,
    terms: Terms,
    now: u64,
) -> SlidingWindow {
    let Some(entry) = entry else {
        let mut window = shard.newcomer(place, terms, now);
        window.renew(terms, now);
        return window;
    };
    let mut window = shard.window(entry);
    if window.renew(terms, now) {
        // The newest version holds for all from now on, whatever becomes of this request.
        shard.put(place, &window, now);
    }
    window
}

impl Counters {
    fn hold(&self, key: Key<'_>) -> (Place, MutexGuard<'_, Shard>) {
        let place = self.place(key);
        (place, self.table.shard(place))
    }

    #[inline]
    fn place(&self, key: Key<'_>) -> Place {
        let (high, low) = self.hash(key);
        self.table.place(high, low)
    }

    #[inline]
    fn hash(&self, key: Key<'_>) -> (u64, u64) {
        let kind = usize::from(key.kind());
        match key.number() {
            // What tells a number from others is the number.
            Some(number) => (self.number.hash(number), number),
            None => {
                let hash = self.hashers[kind].hash(key.as_bytes());
                (hash.h1, hash.h2)
            }
        }
    }

    /// The window of a key, if the rule's are of another kind than the table's.
    #[inline]
    fn named(&self, key: Key<'_>, terms: Terms, now: u64) -> Option<NamedHeld<'_>> {
        let named = self.named.as_ref()?;
        Some(named.hold(self.hash(key), terms, now))
    }
}

/// The list is whole after each statement.
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
