//! Windows of the kinds that are asked for by name, bounded as the [table](super::table) of strict ones is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::store::Standing;
use crate::window::{Gcra, Outcome, SlidingCounter, SlidingLog, Terms, WindowKind};

/// Records to a set.
const WAYS: usize = 16;
const MOST_SHARDS: usize = 256;

#[derive(Debug)]
pub(crate) struct NamedTable {
    kind: WindowKind,
    shards: Box<[Mutex<Vec<Set>>]>,
    sets_per_shard: usize,
}

#[derive(Clone, Debug, Default)]
struct Set {
    records: Vec<Record>,
    /// What was forgotten in this set: newcomers start from it.
    floor: Option<Window>,
}

#[derive(Clone, Debug)]
struct Record {
    tag: u64,
    window: Window,
    /// The key is refused until then, whatever it has left.
    blocked_until: u64,
}

#[derive(Clone, Debug)]
enum Window {
    Log(SlidingLog),
    Counter(SlidingCounter),
    Gcra(Gcra),
}

/// The window of one key, under its lock.
#[derive(Debug)]
pub(crate) struct NamedHeld<'a> {
    shard: MutexGuard<'a, Vec<Set>>,
    set: usize,
    tag: u64,
    /// Where the record is, if there is one.
    at: Option<usize>,
    /// What takes the place of the record if something is charged: of a newcomer, or under other terms.
    instead: Option<Window>,
}

impl NamedTable {
    pub(crate) fn with_capacity(kind: WindowKind, keys: usize) -> Self {
        let sets = keys.saturating_add(keys / 2).div_ceil(WAYS);
        let shards = MOST_SHARDS.min(sets).next_power_of_two();
        let sets_per_shard = sets.div_ceil(shards);
        let shard = || Mutex::new(vec![Set::default(); sets_per_shard]);
        Self {
            kind,
            shards: (0..shards).map(|_| shard()).collect(),
            sets_per_shard,
        }
    }

    /// The window of the key with this hash, under the terms that hold.
    pub(crate) fn hold(&self, (high, low): (u64, u64), terms: Terms, now: u64) -> NamedHeld<'_> {
        let shard = &self.shards[(high as usize) & (self.shards.len() - 1)];
        // A panic under the lock can only come from a bug in the arithmetic, and leaves whole windows.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let number = ((u128::from(high) * self.sets_per_shard as u128) >> 64) as usize;
        let set = &mut shard[number];
        let at = set.records.iter().position(|record| record.tag == low);
        let instead = match at {
            Some(at) => set.records[at].window.settled(terms, now),
            None => Some(set.newcomer(self.kind, terms, now)),
        };
        NamedHeld {
            shard,
            set: number,
            tag: low,
            at,
            instead,
        }
    }
}

impl NamedHeld<'_> {
    pub(crate) fn decide(&self, now: u64, cost: u32) -> Outcome {
        match self.blocked_for(now) {
            Some(rest) => self.window().decide(now, 0).blocked_for(rest),
            None => self.window().decide(now, cost),
        }
    }

    /// Decides, and charges if it passes.
    pub(crate) fn admit(&mut self, now: u64, cost: u32) -> Outcome {
        let outcome = self.decide(now, cost);
        if outcome.passes() && cost > 0 {
            self.charge(now, cost);
        }
        outcome
    }

    pub(crate) fn standing(&self, now: u64) -> Standing {
        Standing {
            outcome: self.window().decide(now, 0),
            blocked_for: self.blocked_for(now).map(Duration::from_micros),
        }
    }

    /// Forgets what was counted, and what is held against newcomers.
    pub(crate) fn reset(&mut self, kind: WindowKind, terms: Terms, now: u64) {
        self.put(Window::new(kind, terms), now);
    }

    pub(crate) fn block_until(&mut self, until: u64, now: u64) {
        let window = self.window().clone();
        let at = self.put(window, now);
        self.shard[self.set].records[at].blocked_until = until;
    }

    pub(crate) fn unblock(&mut self) {
        if let Some(at) = self.at {
            self.shard[self.set].records[at].blocked_until = 0;
        }
    }

    /// Gives back what was charged at a moment under these terms, if the record still has them.
    pub(crate) fn refund(&mut self, moment: u64, units: u32) {
        if let (Some(at), None) = (self.at, &self.instead) {
            self.shard[self.set].records[at]
                .window
                .refund(moment, units);
        }
    }

    fn window(&self) -> &Window {
        let record = |at: usize| &self.shard[self.set].records[at].window;
        let window = self.instead.as_ref().or_else(|| self.at.map(record));
        window.expect("one of both is there")
    }

    fn blocked_for(&self, now: u64) -> Option<u64> {
        let record = &self.shard[self.set].records[self.at?];
        let rest = record.blocked_until.saturating_sub(now);
        (rest > 0).then_some(rest)
    }

    fn put(&mut self, window: Window, now: u64) -> usize {
        self.instead = None;
        let set = &mut self.shard[self.set];
        let at = match self.at {
            Some(at) => {
                set.records[at].window = window;
                at
            }
            None => set.insert(Record::new(self.tag, window), now),
        };
        self.at = Some(at);
        at
    }

    pub(crate) fn charge(&mut self, now: u64, cost: u32) {
        let at = match (self.at, self.instead.take()) {
            (Some(at), None) => at,
            (_, Some(instead)) => self.put(instead, now),
            (None, None) => unreachable!("a newcomer has a window of its own"),
        };
        let window = &mut self.shard[self.set].records[at].window;
        window.charge(now, cost);
    }
}

impl Record {
    const fn new(tag: u64, window: Window) -> Self {
        Self {
            tag,
            window,
            blocked_until: 0,
        }
    }
}

impl Set {
    fn newcomer(&self, kind: WindowKind, terms: Terms, now: u64) -> Window {
        let floor = self.floor.as_ref().filter(|floor| floor.used(now) > 0);
        let Some(mut window) = floor.cloned() else {
            return Window::new(kind, terms);
        };
        window.renew(terms, now);
        window
    }

    fn insert(&mut self, record: Record, now: u64) -> usize {
        if self.records.len() < WAYS {
            self.records.push(record);
            return self.records.len() - 1;
        }
        // The least used makes room, one that is blocked last of all; and what it consumed is held against
        // whoever comes to this set: it may be that key again.
        let used = |at: &usize| {
            let record = &self.records[*at];
            (record.blocked_until > now, record.window.used(now))
        };
        let least = (0..WAYS).min_by_key(used).unwrap_or(0);
        let mut floor = std::mem::replace(&mut self.records[least], record).window;
        if let Some(below) = self.floor.take().filter(|below| below.used(now) > 0) {
            floor.merge(&below, now);
        }
        self.floor = (floor.used(now) > 0).then_some(floor);
        least
    }
}

impl Window {
    fn new(kind: WindowKind, terms: Terms) -> Self {
        match kind {
            WindowKind::Log => Self::Log(SlidingLog::new(terms)),
            WindowKind::Counter => Self::Counter(SlidingCounter::new(terms)),
            WindowKind::Gcra => Self::Gcra(Gcra::new(terms)),
            WindowKind::Sliding => unreachable!("strict windows have a table of their own"),
        }
    }

    /// The window under other terms, unless these are its own. The newest version holds for all from now
    /// on, whatever becomes of the request at hand.
    fn settled(&mut self, terms: Terms, now: u64) -> Option<Self> {
        if self.terms() == terms {
            return None;
        }
        let mut renewed = self.clone();
        if renewed.renew(terms, now) {
            *self = renewed;
            return None;
        }
        Some(renewed)
    }

    const fn terms(&self) -> Terms {
        match self {
            Self::Log(log) => log.terms(),
            Self::Counter(counter) => counter.terms(),
            Self::Gcra(bucket) => bucket.terms(),
        }
    }

    fn used(&self, now: u64) -> u64 {
        match self {
            Self::Log(log) => log.used(now),
            Self::Counter(counter) => counter.used(now),
            Self::Gcra(bucket) => bucket.used(now),
        }
    }

    fn renew(&mut self, terms: Terms, now: u64) -> bool {
        match self {
            Self::Log(log) => log.renew(terms, now),
            Self::Counter(counter) => counter.renew(terms, now),
            Self::Gcra(bucket) => bucket.renew(terms, now),
        }
    }

    fn decide(&self, now: u64, cost: u32) -> Outcome {
        match self {
            Self::Log(log) => log.decide(now, cost),
            Self::Counter(counter) => counter.decide(now, cost),
            Self::Gcra(bucket) => bucket.decide(now, cost),
        }
    }

    fn charge(&mut self, now: u64, cost: u32) {
        match self {
            Self::Log(log) => log.charge(now, cost),
            Self::Counter(counter) => counter.charge(now, cost),
            Self::Gcra(bucket) => bucket.charge(now, cost),
        }
    }

    fn refund(&mut self, moment: u64, units: u32) {
        match self {
            Self::Log(log) => log.refund(moment, units),
            Self::Counter(counter) => counter.refund(moment, units),
            Self::Gcra(bucket) => bucket.refund(units),
        }
    }

    fn merge(&mut self, other: &Self, now: u64) {
        match (self, other) {
            (Self::Log(log), Self::Log(other)) => log.merge(other, now),
            (Self::Counter(counter), Self::Counter(other)) => counter.merge(other, now),
            (Self::Gcra(bucket), Self::Gcra(other)) => bucket.merge(other, now),
            _ => unreachable!("a table holds windows of one kind"),
        }
    }
}
