//! The workers: one task for each partition reads batches from the log and has its shard apply them.
//!
//! A batch either applies whole, or the worker finds out what to do about it:
//! - *behind*: the shard's watermark lies below the batch. Read again from there; a gap is never jumped.
//! - *another epoch*: take the partition anew, then go on.
//! - *poison*: the shard names a record that can never apply. It is taken out of the batch and becomes a letter
//!   in the shard's own transaction; what was before and after it applies as usual.
//! - *anything else* is passing: the partition waits, the others go on. A batch that keeps failing while its shard
//!   serves others is cut in half, and a record that keeps failing alone is written off.

mod part;

use std::collections::HashMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use seawall_shard_router::{BoxError, ShardId, Slot, Topology, TopologyHandle};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use self::part::{Part, Pending};
use crate::cache::ReadCache;
use crate::chaos::failpoint::{Step, reach};
use crate::chaos::sabotage::{self, Sabotage};
use crate::errors::find;
use crate::log::{Chunk, Log, Position, ReadError};
use crate::shard::{Applied, Batch, Fate, Query, Row, ShardError};
use crate::shards::{Ask, ShardAnswer, ShardRequest, Write};
use crate::stack::{Handled, MessageStack, Stack};

/// The most records in one batch.
const MAX_BATCH: usize = 1_000;

/// How the workers go about it.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    /// How long a partition waits for company after its first new record. Fewer, larger transactions for
    /// a little latency that no client waits for.
    pub linger: Duration,
    /// How long a partition rests after its retries are exhausted.
    pub pause: Duration,
    /// How often a record may fail alone, while its shard serves others, before it is written off.
    pub alone: u32,
}

/// What the workers have done; shared.
#[derive(Debug, Default)]
pub struct Counters {
    /// Orders applied.
    pub applied: AtomicU64,
    /// Records written off.
    pub dead: AtomicU64,
    /// Records that were decided before.
    pub repeats: AtomicU64,
    /// Transactions.
    pub batches: AtomicU64,
    /// Transactions on a partition that lay on more than one shard.
    pub spanning: AtomicU64,
    /// Rests after exhausted retries.
    pub pauses: AtomicU64,
    /// Partitions that stopped because going on would lose or invent records.
    pub halted: AtomicU64,
}

/// What all partitions' workers share.
pub struct Shared<L> {
    /// The log.
    pub log: Arc<L>,
    /// Which shard owns which slot.
    pub topology: TopologyHandle,
    /// Dead letters around retries around the router.
    pub stack: MessageStack,
    /// Told of what changed.
    pub cache: ReadCache,
    /// Told of what happened.
    pub counters: Arc<Counters>,
    /// How to go about it.
    pub settings: WorkerSettings,
    /// Batches served, by shard.
    served: HashMap<ShardId, AtomicU64>,
    /// How far each partition is done, plus one; zero until its worker knows.
    done: Vec<AtomicU64>,
}

impl<L: Log> Shared<L> {
    /// Puts together what the workers need.
    pub fn new(
        log: Arc<L>,
        topology: TopologyHandle,
        stack: MessageStack,
        cache: ReadCache,
        settings: WorkerSettings,
    ) -> Self {
        let served = topology
            .current()
            .shards()
            .iter()
            .map(|s| (s.id().clone(), AtomicU64::new(0)))
            .collect();
        let done = (0..log.partitions()).map(|_| AtomicU64::new(0)).collect();
        Self {
            log,
            topology,
            stack,
            cache,
            counters: Arc::default(),
            settings,
            served,
            done,
        }
    }

    /// Partitions that are not done to their end, or whose worker has not found out yet.
    pub fn behind(&self) -> usize {
        let end = |partition| self.log.end(partition).borrow().0;
        (0..self.log.partitions())
            .zip(&self.done)
            .filter(|(partition, done)| done.load(Ordering::Relaxed) <= end(*partition))
            .count()
    }

    /// The position below which no partition has anything left to do, for a log whose offsets count up over all
    /// partitions.
    pub fn settled(&self) -> Position {
        let ends: Vec<Position> = (0..self.log.partitions())
            .map(|partition| *self.log.end(partition).borrow())
            .collect();
        // What is appended from here on lies above all of these ends.
        let last = ends.iter().copied().max().unwrap_or_default();
        ends.iter()
            .zip(&self.done)
            .fold(last, |settled, (end, done)| {
                match done.load(Ordering::Relaxed).checked_sub(1) {
                    Some(done) if done >= end.0 => settled,
                    done => settled.min(Position(done.unwrap_or(0))),
                }
            })
    }

    fn done(&self, partition: u16, position: Position) {
        self.done[usize::from(partition)].store(position.0 + 1, Ordering::Relaxed);
        self.log.commit(partition, position);
    }

    fn served(&self, shard: &ShardId) -> u64 {
        self.served
            .get(shard)
            .map_or(0, |n| n.load(Ordering::Relaxed))
    }
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            pause: Duration::from_millis(500),
            alone: 5,
        }
    }
}

impl<L> fmt::Debug for Shared<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

/// Running workers.
#[derive(Debug)]
pub struct Workers {
    tasks: JoinSet<()>,
    finish: CancellationToken,
}

impl Workers {
    /// Starts a worker for each partition on the current runtime.
    pub fn start<L: Log>(shared: &Arc<Shared<L>>) -> Self {
        let finish = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for partition in 0..shared.log.partitions() {
            let worker = PartitionWorker {
                shared: Arc::clone(shared),
                stack: shared.stack.service.clone(),
                partition,
                position: Position::default(),
                topology: shared.topology.current(),
                homes: Vec::new(),
                finish: finish.clone(),
            };
            tasks.spawn(worker.run());
        }
        Self { tasks, finish }
    }

    /// Lets each worker go on to the end of its partition and waits for them, at most so long. Answers
    /// whether all of them got there.
    pub async fn finish(mut self, within: Duration) -> bool {
        self.finish.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(within, all).await.is_ok()
    }
}

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

struct PartitionWorker<L> {
    shared: Arc<Shared<L>>,
    stack: Stack,
    partition: u16,
    position: Position,
    topology: Arc<Topology>,
    /// The shards that serve this partition, each with a slot of it that it owns.
    homes: Vec<(ShardId, Slot)>,
    finish: CancellationToken,
}

impl<L: Log> PartitionWorker<L> {
    async fn run(mut self) {
        // A panic stops the partition like any other reason to go no further, and is as visible.
        let worked = AssertUnwindSafe(self.work()).catch_unwind().await;
        if let Err(why) = worked.unwrap_or_else(|_| Err("its worker panicked".to_owned())) {
            self.shared.counters.halted.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("pipeline_partitions_halted_total").increment(1);
            tracing::error!(partition = self.partition, %why, "the partition is halted");
        }
    }

    async fn work(&mut self) -> Result<(), String> {
        let mut end = self.shared.log.end(self.partition);
        self.adopt().await?;
        loop {
            if *end.borrow_and_update() > self.position {
                if !self.finish.is_cancelled() && !self.shared.settings.linger.is_zero() {
                    tokio::time::sleep(self.shared.settings.linger).await;
                }
                match self
                    .shared
                    .log
                    .read(self.partition, self.position, MAX_BATCH)
                    .await
                {
                    Ok(chunk) => {
                        reach(Step::AfterRead);
                        if sabotage::on(Sabotage::CommitBeforeWrite) {
                            self.shared.log.commit(self.partition, chunk.next);
                        }
                        self.apply(chunk).await?;
                    }
                    Err(ReadError::Unavailable(why)) => self.pause(&why).await,
                    Err(damage) => return Err(damage.to_string()),
                }
            } else if self.finish.is_cancelled() {
                return Ok(());
            } else {
                tokio::select! {
                    changed = end.changed() => if changed.is_err() { return Ok(()) },
                    () = self.finish.cancelled() => {}
                }
            }
        }
    }

    /// Takes the partition on every shard that serves it now, and goes to the lowest of their watermarks.
    async fn adopt(&mut self) -> Result<(), String> {
        loop {
            self.topology = self.shared.topology.current();
            self.homes = homes(&self.topology, self.partition, self.shared.log.partitions());
            match self.ask_all_homes().await {
                Ok(position) => {
                    self.position = match sabotage::on(Sabotage::SeekToCommitted) {
                        true => self.shared.log.committed(self.partition),
                        false => position,
                    };
                    self.shared.done(self.partition, self.position);
                    return Ok(());
                }
                Err(error) => match find::<ShardError>(&*error) {
                    Some(fatal @ ShardError::ForeignLog) => return Err(fatal.to_string()),
                    _ => self.pause(&error.to_string()).await,
                },
            }
        }
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
        let partitions = self.shared.log.partitions();
        let mut parts = Part::of(&chunk, self.position, self.partition, partitions);
        while let Some(mut part) = parts.pop_front() {
            match self.submit(&mut part).await {
                Next::Done => {}
                Next::Instead(smaller) => {
                    for part in smaller.into_iter().rev() {
                        parts.push_front(part);
                    }
                }
                Next::Back(position) => {
                    tracing::warn!(
                        partition = self.partition,
                        position = position.0,
                        "the shard is behind: reading again"
                    );
                    self.position = position;
                    return Ok(());
                }
                Next::Adopt => return self.adopt().await,
                Next::Halt(why) => return Err(why),
            }
        }
        self.position = chunk.next;
        reach(Step::BeforeCommit);
        self.shared.done(self.partition, chunk.next);
        Ok(())
    }

    /// Has every shard of the partition apply its rows of the part.
    async fn submit(&mut self, part: &mut Part) -> Next {
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
        if !sabotage::on(Sabotage::NoInvalidation) {
            self.invalidate(part);
        }
        if self.homes.len() > 1 {
            self.shared
                .counters
                .spanning
                .fetch_add(1, Ordering::Relaxed);
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
        if let Some(served) = self.shared.served.get(shard) {
            served.fetch_add(1, Ordering::Relaxed);
        }
        let counters = &self.shared.counters;
        counters.batches.fetch_add(1, Ordering::Relaxed);
        counters
            .applied
            .fetch_add(applied.orders.len() as u64, Ordering::Relaxed);
        counters
            .repeats
            .fetch_add(applied.repeats, Ordering::Relaxed);
        metrics::counter!("pipeline_batches_total").increment(1);
        metrics::counter!("pipeline_rows_applied_total").increment(applied.orders.len() as u64);
    }

    /// Makes readers forget what the part's records may have changed. Repeats too: an answer of ours may be
    /// cached for one, and what is cached must never be older than the log.
    fn invalidate(&self, part: &Part) {
        for row in &part.rows {
            let Ok(record) = &row.record else { continue };
            let version = row.offset + 1;
            if let Some(id) = record.order_id() {
                self.shared.cache.invalidate(Query::Order(id), version);
            }
            self.shared
                .cache
                .invalidate(Query::Account(record.account.clone()), version);
        }
    }

    async fn failed(&self, part: &mut Part, error: &BoxError, others_served: bool) -> Next {
        match find::<ShardError>(&**error) {
            Some(ShardError::Gap { watermark }) => return Next::Back(*watermark),
            Some(ShardError::StaleEpoch { .. } | ShardError::NotAssigned { .. }) => {
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
        self.pause(&error.to_string()).await;
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
        tokio::time::sleep(self.shared.settings.pause).await;
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
