//! One partition's worker.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use seawall_shard_router::{BoxError, ShardId, Slot, Topology};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::beat::Beat;
use super::part::{Part, Pending};
use super::size::BatchSize;
use super::{Ending, Shared};
use crate::chaos::failpoint::{Step, reach};
use crate::chaos::sabotage::{self, Sabotage};
use crate::errors::{chain, find};
use crate::log::{Chunk, Log, Position, ReadError, Reader};
use crate::shard::{Applied, Batch, Fate, Query, Row, ShardError};
use crate::shards::{Ask, ShardAnswer, ShardRequest, Write};
use crate::stack::{Handled, Stack};

/// Of the assignment that no slot has moved since.
const FIRST_EPOCH: u64 = 1;

/// How often a partition tries again to tell readers what they may have missed.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// What became of a part.
enum Next {
    Done,
    /// Try these instead, in order.
    Instead(Vec<Part>),
    /// Read again from here.
    Back(Position),
    /// Take the partition anew.
    Adopt,
    /// Going on would lose or invent records.
    Halt(String),
}

pub(super) struct PartitionWorker<L> {
    shared: Arc<Shared<L>>,
    stack: Stack,
    partition: u16,
    position: Position,
    size: BatchSize,
    beat: Beat,
    topology: Arc<Topology>,
    /// The shards that serve this partition, each with a slot of it that it owns.
    homes: Vec<(ShardId, Slot)>,
    /// From where on readers may not have been told of what changed. Nothing is committed meanwhile, so that whoever
    /// has the partition next knows of it too.
    untold: Option<Position>,
    ending: Ending,
}

impl<L: Log> PartitionWorker<L> {
    pub(super) fn new(shared: &Arc<Shared<L>>, partition: u16, ending: Ending) -> Self {
        Self {
            shared: Arc::clone(shared),
            stack: shared.stack.service.clone(),
            partition,
            position: Position::default(),
            size: BatchSize::new(),
            beat: Beat::new(shared.settings.linger, shared.started),
            topology: shared.topology.current(),
            homes: Vec::new(),
            untold: None,
            ending,
        }
    }

    pub(super) async fn run(mut self) {
        // A panic stops the partition like any other reason to go no further, and is as visible.
        let worked = AssertUnwindSafe(self.work()).catch_unwind().await;
        if let Err(why) = worked.unwrap_or_else(|_| Err("its worker panicked".to_owned())) {
            self.shared.counters.halted.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("pipeline_partitions_halted_total").increment(1);
            tracing::error!(partition = self.partition, %why, "the partition is halted");
        }
    }

    async fn work(&mut self) -> Result<(), String> {
        let mut reader = self.shared.log.reader(self.partition);
        loop {
            let now = *reader.borrow_and_update();
            match now {
                Reader::Here => {
                    if self.adopt(&reader).await? && self.serve(&mut reader).await? {
                        return Ok(());
                    }
                    continue;
                }
                Reader::Elsewhere => self.shared.elsewhere(self.partition),
                Reader::Unknown => {}
            }
            tokio::select! {
                changed = reader.changed() => if changed.is_err() { return Ok(()) },
                () = self.ending.now.cancelled() => return Ok(()),
                () = self.ending.at_the_end.cancelled() => return Ok(()),
            }
        }
    }

    /// Reads and applies, as long as the partition is read here. Answers whether that is for good.
    async fn serve(&mut self, reader: &mut watch::Receiver<Reader>) -> Result<bool, String> {
        let mut end = self.shared.log.end(self.partition);
        // A log that lies elsewhere sends nothing, not even word of its end, before it was asked once.
        let mut asked = false;
        loop {
            if self.ending.now.is_cancelled() {
                return Ok(true);
            }
            if *reader.borrow() != Reader::Here {
                return Ok(false);
            }
            if self.untold.is_some() {
                self.tell().await;
            }
            let more = *end.borrow_and_update() > self.position;
            if more || !asked {
                if more {
                    self.linger().await;
                }
                let size = self.size.get();
                match self
                    .shared
                    .log
                    .read(self.partition, self.position, size)
                    .await
                {
                    Ok(chunk) if chunk.next == self.position => asked = true,
                    Ok(chunk) => {
                        asked = true;
                        reach(Step::AfterRead);
                        if sabotage::on(Sabotage::CommitBeforeWrite) {
                            self.shared.log.commit(self.partition, chunk.next);
                        }
                        self.apply(chunk).await?;
                    }
                    Err(ReadError::Unavailable(why)) => self.pause(&why).await,
                    Err(damage) => return Err(damage.to_string()),
                }
            } else if self.ending.at_the_end.is_cancelled() {
                return Ok(true);
            } else {
                let recheck = async {
                    match self.shared.settings.recheck {
                        Some(after) => tokio::time::sleep(after).await,
                        None => std::future::pending().await,
                    }
                };
                let tell = async {
                    match self.untold {
                        Some(_) => tokio::time::sleep(TELL_AGAIN).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = end.changed() => if changed.is_err() { return Ok(true) },
                    // A log of one process never says that its reader changes.
                    Ok(()) = reader.changed() => {}
                    () = tell => {}
                    () = recheck => {
                        asked = false;
                        if !self.is_where_it_was(reader).await? {
                            return Ok(false);
                        }
                    }
                    () = self.ending.at_the_end.cancelled() => {}
                    () = self.ending.now.cancelled() => {}
                }
            }
        }
    }

    /// Looks whether the shard is still where this worker left it: another server may have taken over, and nothing
    /// else would tell before the next record. Answers whether the partition is still read here.
    async fn is_where_it_was(&mut self, reader: &watch::Receiver<Reader>) -> Result<bool, String> {
        let before = self.position;
        let here = self.adopt(reader).await?;
        if self.position < before {
            self.went_back();
        }
        Ok(here)
    }

    fn went_back(&self) {
        metrics::counter!("pipeline_went_back_total").increment(1);
        tracing::warn!(
            partition = self.partition,
            position = self.position.0,
            "the shard is behind: reading again"
        );
    }

    /// Lets records gather until the shard's next beat.
    async fn linger(&self) {
        let Some(beat) = self.beat.next(Instant::now()) else {
            return;
        };
        if self.ending.at_the_end.is_cancelled() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(beat) => {}
            () = self.ending.at_the_end.cancelled() => {}
            () = self.ending.now.cancelled() => {}
        }
    }

    /// Takes the partition on every shard that serves it now, and goes to the lowest of their watermarks. Answers
    /// whether the partition is still read here.
    async fn adopt(&mut self, reader: &watch::Receiver<Reader>) -> Result<bool, String> {
        loop {
            if *reader.borrow() != Reader::Here {
                return Ok(false);
            }
            if self.ending.now.is_cancelled() {
                return Ok(true);
            }
            self.topology = self.shared.topology.current();
            self.homes = homes(&self.topology, self.partition, self.shared.log.partitions());
            self.take_turn();
            match self.take().await {
                Ok(()) => {
                    self.shared.done(self.partition, self.position);
                    return Ok(true);
                }
                Err(error) => match find::<ShardError>(&*error) {
                    Some(fatal @ ShardError::ForeignLog) => return Err(fatal.to_string()),
                    // At once where somebody says what is newer; else with the next look.
                    Some(ShardError::StaleEpoch { current })
                        if self.shared.topology.refresh(*current).await.is_ok() => {}
                    _ => self.pause(&chain(&*error)).await,
                },
            }
        }
    }

    /// Reads when the other partitions of its shard do, of its first one where slots have moved.
    fn take_turn(&mut self) {
        let shards = self.topology.shards();
        let home = self.homes.first().map(|(home, _)| home);
        let at = shards.iter().position(|shard| Some(shard.id()) == home);
        self.beat.take_turn(at.unwrap_or_default(), shards.len());
    }

    async fn take(&mut self) -> Result<(), BoxError> {
        let mut position = self.ask_all_homes().await?;
        if sabotage::on(Sabotage::SeekToCommitted) {
            position = self.shared.log.committed(self.partition).await?;
        }
        self.untold = None;
        if self.shared.cache.is_shared() {
            // Whoever had the partition may have ended between a commit and telling of it.
            let told = self.shared.log.committed(self.partition).await?;
            self.untold = Some(told).filter(|told| *told < position);
        }
        self.position = position;
        Ok(())
    }

    async fn ask_all_homes(&mut self) -> Result<Position, BoxError> {
        let mut lowest = None;
        for (_, slot) in self.homes.clone() {
            let ask = Ask::Adopt {
                partition: self.partition,
                log: self.shared.log.id(),
                epoch: self.topology.epoch(),
            };
            if let Handled::Done(ShardAnswer::Adopted(mark)) = self.call(slot, ask).await? {
                lowest = Some(lowest.map_or(mark.position, |low: Position| low.min(mark.position)));
            }
        }
        lowest.ok_or_else(|| "no shard serves the partition".into())
    }

    async fn apply(&mut self, chunk: Chunk) -> Result<(), String> {
        let start = Instant::now();
        let partitions = self.shared.log.partitions();
        let mut parts = Part::of(&chunk, self.position, self.partition, partitions);
        while let Some(mut part) = parts.pop_front() {
            if self.ending.now.is_cancelled() {
                // What is applied stays so: whoever goes on starts from the watermark.
                return Ok(());
            }
            match self.submit(&mut part).await {
                Next::Done => {}
                Next::Instead(smaller) => {
                    for part in smaller.into_iter().rev() {
                        parts.push_front(part);
                    }
                }
                Next::Back(position) => {
                    self.position = position;
                    self.went_back();
                    return Ok(());
                }
                Next::Adopt => {
                    let reader = self.shared.log.reader(self.partition);
                    self.adopt(&reader).await?;
                    return Ok(());
                }
                Next::Halt(why) => return Err(why),
            }
        }
        let records = chunk.entries.len();
        self.beat.read(start, records >= self.size.get());
        self.size.learn(records, start.elapsed());
        self.position = chunk.next;
        reach(Step::BeforeCommit);
        self.shared.done(self.partition, chunk.next);
        if self.untold.is_none() {
            self.shared.log.commit(self.partition, chunk.next);
        }
        Ok(())
    }

    /// Has every shard of the partition apply its rows of the part.
    async fn submit(&mut self, part: &mut Part) -> Next {
        // Before slots move a batch is one transaction: the first assignment is made so, and its cost rests on it.
        if self.topology.epoch() == FIRST_EPOCH && self.homes.len() > 1 {
            return Next::Halt("its batches span shards though no slot has moved".to_owned());
        }
        for (shard, slot) in self.homes.clone() {
            let served = self.shared.served(&shard);
            let ask = Ask::Apply(self.write(part, &shard));
            match self.call(slot, ask).await {
                Ok(Handled::Done(ShardAnswer::Applied(applied))) => self.served(&shard, &applied),
                Ok(Handled::Done(_)) => {
                    return Next::Halt("the shard answered another question".into());
                }
                Ok(Handled::DeadLettered(letter)) => {
                    self.shared.counters.dead.fetch_add(1, Ordering::Relaxed);
                    metrics::counter!("pipeline_rows_dead_total").increment(1);
                    tracing::info!(partition = self.partition, %letter, "a record was written off");
                }
                Err(error) => {
                    let others = self.shared.served(&shard) > served;
                    return self.failed(part, &error, others).await;
                }
            }
        }
        reach(Step::BeforeInvalidate);
        if !sabotage::on(Sabotage::NoInvalidation) && !self.invalidate(&part.rows).await {
            self.untold = self.untold.or(Some(part.from));
        }
        if self.homes.len() > 1 {
            self.shared
                .counters
                .spanning
                .fetch_add(1, Ordering::Relaxed);
            metrics::counter!("pipeline_batches_spanning_total").increment(1);
        }
        Next::Done
    }

    fn write(&self, part: &Part, shard: &ShardId) -> Write {
        let here = |row: &&Pending| match &row.record {
            Ok(record) => {
                Slot::new(record.slot).is_some_and(|slot| self.topology.owner(slot) == shard)
            }
            Err(_) => self.homes.first().is_some_and(|(first, _)| first == shard),
        };
        let rows: Vec<&Pending> = part.rows.iter().filter(here).collect();
        // Only a row that its batch continues from exactly can be written off: the sink repeats the batch
        // with another fate, and must not move the watermark over anything else.
        let alone = match &rows[..] {
            _ if sabotage::on(Sabotage::DropPoison) => None,
            [row] if part.rows.len() == 1 && part.from.0 == row.offset => Some(row.payload.clone()),
            _ => None,
        };
        let rows = rows.iter().filter_map(|row| {
            let record = row.record.as_ref().ok()?.clone();
            Some(Row {
                offset: row.offset,
                fate: Fate::Apply(record),
            })
        });
        let batch = Batch {
            partition: self.partition,
            log: self.shared.log.id(),
            epoch: self.topology.epoch(),
            from: part.from,
            next: part.next,
            rows: rows.collect(),
        };
        let condemned = part.condemned.clone().filter(|_| alone.is_some());
        Write {
            batch: Arc::new(batch),
            alone,
            condemned,
        }
    }

    fn served(&self, shard: &ShardId, applied: &Applied) {
        self.shared.count_batch(shard);
        let counters = &self.shared.counters;
        counters
            .applied
            .fetch_add(applied.orders.len() as u64, Ordering::Relaxed);
        counters
            .repeats
            .fetch_add(applied.repeats, Ordering::Relaxed);
        metrics::counter!("pipeline_batches_total").increment(1);
        metrics::counter!("pipeline_rows_applied_total").increment(applied.orders.len() as u64);
    }

    /// Makes readers forget what the records may have changed. Repeats too: an answer of ours may be
    /// cached for one, and what is cached must never be older than the log. Answers whether all of them will.
    async fn invalidate(&self, rows: &[Pending]) -> bool {
        let mut changed = Vec::with_capacity(2 * rows.len());
        for row in rows {
            let Ok(record) = &row.record else { continue };
            let version = row.offset + 1;
            if let Some(id) = record.order_id() {
                changed.push((Query::Order(id), version));
            }
            changed.push((Query::Account(record.account.clone()), version));
        }
        self.shared.cache.invalidate_all(changed).await
    }

    /// Reads again what readers may not have been told of, and tells them.
    async fn tell(&mut self) {
        let Some(mut from) = self.untold else { return };
        if !self.shared.cache.is_reachable() {
            return;
        }
        while from < self.position {
            let most = usize::try_from(self.position.0 - from.0).unwrap_or(usize::MAX);
            let read = self.shared.log.read(self.partition, from, most.min(1_000));
            let mut chunk = match read.await {
                Ok(chunk) if chunk.next == from => return,
                Ok(chunk) => chunk,
                // What is gone from the log is older than any answer is kept.
                Err(ReadError::BelowStart { start, .. }) => {
                    from = start;
                    continue;
                }
                Err(_) => return,
            };
            chunk.entries.retain(|entry| entry.offset < self.position.0);
            let parts = Part::of(&chunk, from, self.partition, self.shared.log.partitions());
            for part in parts {
                if !self.invalidate(&part.rows).await {
                    return;
                }
            }
            from = chunk.next;
            self.untold = Some(from);
        }
        self.untold = None;
        self.shared.log.commit(self.partition, self.position);
    }

    async fn failed(&self, part: &mut Part, error: &BoxError, others_served: bool) -> Next {
        match find::<ShardError>(&**error) {
            Some(ShardError::Gap { watermark }) => return Next::Back(*watermark),
            Some(ShardError::StaleEpoch { .. } | ShardError::NotAssigned { .. }) => {
                return Next::Adopt;
            }
            Some(ShardError::Refused(_)) => {
                self.pause(&chain(&**error)).await;
                return Next::Adopt;
            }
            Some(fatal @ ShardError::ForeignLog) => return Next::Halt(fatal.to_string()),
            Some(ShardError::Poison { offset, .. }) => {
                if sabotage::on(Sabotage::DropPoison) {
                    part.rows.retain(|row| row.offset != *offset);
                    return Next::Instead(vec![part.take()]);
                }
                let at = part.rows.iter().position(|row| row.offset == *offset);
                if let Some(at) = at.filter(|_| !part.is_alone()) {
                    let (before, alone, after) = part.take().around(at);
                    return Next::Instead(before.into_iter().chain([alone]).chain(after).collect());
                }
                // It was alone, so its letter could not be written. Nothing moves until it can be.
            }
            _ => {}
        }
        self.pause(&chain(&**error)).await;
        let mut again = part.take();
        if !others_served {
            return Next::Instead(vec![again]);
        }
        again.failed += 1;
        if again.failed < self.shared.settings.alone {
            return Next::Instead(vec![again]);
        }
        if again.is_alone() {
            again.condemned = Some(("fails-alone", error.to_string()));
            return Next::Instead(vec![again]);
        }
        Next::Instead(again.halves())
    }

    async fn pause(&self, why: &str) {
        self.shared.counters.pauses.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("pipeline_pauses_total").increment(1);
        tracing::warn!(partition = self.partition, why, "the partition waits");
        tokio::select! {
            () = tokio::time::sleep(self.shared.settings.pause) => {}
            () = self.ending.now.cancelled() => {}
        }
    }

    async fn call(&mut self, slot: Slot, ask: Ask) -> Result<Handled, BoxError> {
        self.stack
            .ready()
            .await?
            .call(ShardRequest { slot, ask })
            .await
    }
}

/// The shards that own slots of a partition, each with one such slot, in order.
fn homes(topology: &Topology, partition: u16, partitions: u16) -> Vec<(ShardId, Slot)> {
    let mut homes: Vec<(ShardId, Slot)> = Vec::new();
    for slot in Slot::all().filter(|slot| slot.get() % partitions == partition) {
        let owner = topology.owner(slot);
        if !homes.iter().any(|(shard, _)| shard == owner) {
            homes.push((owner.clone(), slot));
        }
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_lies_on_one_shard_at_first_and_on_two_after_a_move() {
        let topology = crate::shards::first_topology(10).expect("ten shards");
        for partition in 0..100 {
            assert_eq!(homes(&topology, partition, 100).len(), 1);
        }
        let grown = topology.with_shard("s10").expect("one more");
        assert!((0..100).any(|partition| homes(&grown, partition, 100).len() > 1));
    }
}
