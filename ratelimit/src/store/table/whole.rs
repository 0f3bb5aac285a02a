use std::sync::MutexGuard;
use std::sync::atomic::Ordering::Relaxed;

use super::cold::{Cold, Shard};
use super::entry::Locked;
use super::{Place, RECORD, Table, WAYS, record_of};
use crate::window::{SlidingWindow, Terms};

/// All that is known of a key, held.
pub(crate) struct Whole<'a> {
    table: &'a Table,
    place: Place,
    // Let go before the shard is.
    record: Option<Record<'a>>,
    shard: MutexGuard<'a, Shard>,
}

struct Record<'a> {
    number: usize,
    entry: Locked<'a>,
}

impl<'a> Whole<'a> {
    pub(super) fn new(table: &'a Table, place: Place, shard: MutexGuard<'a, Shard>) -> Self {
        let ways = table.ways_of(place).iter().map(|way| way.load(Relaxed));
        let known = ways.filter(|&way| way != 0 && way & !RECORD == place.print);
        let number = known
            .map(record_of)
            .find(|&record| table.entry(place, record).is(place.tag));
        Self {
            record: number.map(|number| Record {
                number,
                entry: table.entry(place, number).lock(),
            }),
            table,
            place,
            shard,
        }
    }

    /// Whether the key has a record.
    pub(crate) const fn is_known(&self) -> bool {
        self.record.is_some()
    }

    /// Its window; where it has none, what it starts from: what was forgotten in its set, or nothing.
    pub(crate) fn window(&self, terms: Terms, now: u64) -> SlidingWindow {
        match &self.record {
            Some(record) => record.window(&self.shard, now),
            None => {
                let floor = self.shard.floor(self.table.set_in_shard(self.place), now);
                floor.unwrap_or(SlidingWindow::new(terms))
            }
        }
    }

    /// Until when it is blocked; 0 if it is not.
    pub(crate) fn blocked_until(&self) -> u64 {
        let record = self.record.as_ref();
        record.map_or(0, |record| record.blocked_until(&self.shard))
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
        let mut record = match self.record.take() {
            Some(record) => record,
            None => self.make_room(now),
        };
        let (tag, place) = (self.place.tag, record.entry.cold());
        if blocked_until <= now && Locked::can_hold(window) {
            record.entry.write(tag, window);
            if let Some(place) = place {
                self.shard.discard(place);
            }
        } else {
            let cold = Cold::of(window, blocked_until);
            let place = self.shard.keep(cold, place);
            record.entry.write_cold(tag, window, place);
        }
        self.record = Some(record);
    }

    /// A record for a key that has none: a new one, or that of the least used key of the set, which is forgotten; of a
    /// blocked one only if all are.
    fn make_room(&mut self, now: u64) -> Record<'a> {
        let (table, place) = (self.table, self.place);
        let record = |number: usize| Record {
            number,
            entry: table.entry(place, number).lock(),
        };
        let ways = table.ways_of(place);
        let ways = (0..WAYS).map(|step| &ways[(place.way + step) % WAYS]);
        if let Some(free) = ways.clone().find(|way| way.load(Relaxed) == 0) {
            let record = record(self.shard.records);
            self.shard.records += 1;
            free.store(place.print | (record.number as u32 + 1), Relaxed);
            return record;
        }
        let used = |number: usize| {
            let record = record(number);
            let is_blocked = record.blocked_until(&self.shard) > now;
            (is_blocked, record.window(&self.shard, now).used(now))
        };
        let least = ways.min_by_key(|way| used(record_of(way.load(Relaxed))));
        let way = least.expect("a set has ways");
        let record = record(record_of(way.load(Relaxed)));
        let evicted = record.window(&self.shard, now);
        self.shard.sink(table.set_in_shard(place), evicted, now);
        way.store(place.print | (record.number as u32 + 1), Relaxed);
        record
    }
}

impl Record<'_> {
    fn window(&self, shard: &Shard, now: u64) -> SlidingWindow {
        match self.entry.cold() {
            Some(cold) => {
                let entry = &self.entry;
                shard
                    .cold(cold)
                    .window(entry.limit_and_version(), entry.total())
            }
            None => self.entry.window(now),
        }
    }

    fn blocked_until(&self, shard: &Shard) -> u64 {
        self.entry
            .cold()
            .map_or(0, |cold| shard.cold(cold).blocked_until)
    }
}
