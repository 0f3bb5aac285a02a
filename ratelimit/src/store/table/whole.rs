use std::sync::MutexGuard;

use super::cold::{Cold, Shard};
use super::entry::{Entry, Locked};
use super::known::ASK;
use super::{Place, Table};
use crate::window::{SlidingWindow, Terms};

/// All that is known of a key, held.
pub(crate) struct Whole<'a> {
    table: &'a Table,
    place: Place,
    // Let go before the shard is.
    entry: Option<Locked<'a>>,
    shard: MutexGuard<'a, Shard>,
}

impl<'a> Whole<'a> {
    pub(super) fn new(table: &'a Table, place: Place, shard: MutexGuard<'a, Shard>) -> Self {
        Self {
            entry: table.find(place).map(Entry::lock),
            table,
            place,
            shard,
        }
    }

    /// Whether the key has an entry.
    pub(crate) const fn is_known(&self) -> bool {
        self.entry.is_some()
    }

    /// Its window; where it has none, what it starts from: what was forgotten in its set, or nothing.
    pub(crate) fn window(&self, terms: Terms, now: u64) -> SlidingWindow {
        match &self.entry {
            Some(entry) => self.shard.window(entry, now),
            None => {
                let floor = self.shard.floor(self.table.set_in_shard(self.place), now);
                floor.unwrap_or(SlidingWindow::new(terms))
            }
        }
    }

    /// Until when it is blocked; 0 if it is not.
    pub(crate) fn blocked_until(&self) -> u64 {
        let entry = self.entry.as_ref();
        entry.map_or(0, |entry| self.shard.blocked_until(entry))
    }

    /// Keeps its window.
    pub(crate) fn put(&mut self, window: &SlidingWindow, now: u64) {
        self.write(window, self.blocked_until(), now);
    }

    /// Blocks it until then; 0 lifts it.
    pub(crate) fn block_until(&mut self, until: u64, window: &SlidingWindow, now: u64) {
        self.write(window, until, now);
    }

    fn write(&mut self, window: &SlidingWindow, blocked_until: u64, now: u64) {
        let mut entry = match self.entry.take() {
            Some(entry) => entry,
            None => self.make_room(now),
        };
        let (tag, cold) = (self.place.tag, entry.cold());
        let as_counted = blocked_until <= now && window.ahead == 0;
        let shard = &mut *self.shard;
        let before = entry.number();
        let number = match as_counted {
            true => shard
                .known
                .enter(window.terms, self.table.terms_of(self.place)),
            false => ASK,
        };
        shard.known.leave(before);
        if number != ASK && Locked::can_hold(window) {
            entry.write(tag, window, number);
            if let Some(cold) = cold {
                shard.discard(cold);
            }
        } else {
            let cold = shard.keep(Cold::of(window, blocked_until), cold);
            entry.write_cold(tag, window, cold, number);
        }
        self.entry = Some(entry);
    }

    /// An entry for a key that has none: one that was never used, or that of the least used key of the set, which is
    /// forgotten; of a blocked one only if all are.
    fn make_room(&mut self, now: u64) -> Locked<'a> {
        let (table, place) = (self.table, self.place);
        if let Some(free) = table.entries(place).find(|entry| !entry.is_used()) {
            return free.lock();
        }
        let used = |entry: &Entry<'a>| {
            let entry = entry.lock();
            let is_blocked = self.shard.blocked_until(&entry) > now;
            (is_blocked, self.shard.window(&entry, now).used(now))
        };
        let least = table.entries(place).min_by_key(used);
        let entry = least.expect("a set has entries").lock();
        let evicted = self.shard.window(&entry, now);
        self.shard.sink(table.set_in_shard(place), evicted, now);
        entry
    }
}
