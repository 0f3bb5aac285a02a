//! The workers: one task for each partition reads batches from the log and has its shard apply them.
//!
//! A batch either applies whole, or the worker finds out what to do about it:
//! - *behind*: the shard's watermark lies below the batch. Read again from there; a gap is never jumped.
//! - *another epoch*: take the partition anew, then go on.
//! - *poison*: the shard names a record that can never apply. It is taken out of the batch and becomes a letter
//!   in the shard's own transaction; what was before and after it applies as usual.
//! - *anything else* is passing: the partition waits, the others go on. A batch that keeps failing while its shard
//!   serves others is cut in half, and a record that keeps failing alone is written off.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use seawall_shard_router::{BoxError, ShardId, Slot, Topology, TopologyHandle};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::cache::ReadCache;
use crate::errors::find;
use crate::log::{Chunk, Log, Position, ReadError};
use crate::order::Record;
use crate::shard::{Applied, Batch, Fate, Query, Row, ShardError};
use crate::shards::{Ask, ShardAnswer, ShardRequest, Write};
use crate::stack::{Handled, MessageStack, Stack, UNDECODABLE};

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

/// Records yet to be applied, continuing from `from`.
#[derive(Debug)]
struct Part {
    from: Position,
    next: Position,
    rows: Vec<Pending>,
    /// Times it failed while its shard served others.
    failed: u32,
    condemned: Option<(&'static str, String)>,
}

#[derive(Clone, Debug)]
struct Pending {
    offset: u64,
    payload: Bytes,
    record: Result<Record, String>,
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
                    Ok(chunk) => self.apply(chunk).await?,
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
                    self.position = position;
                    self.shared.done(self.partition, position);
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
        let mut parts = self.parts(&chunk);
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
        self.shared.done(self.partition, chunk.next);
        Ok(())
    }

    /// A chunk as one part, or as several around records that cannot even be read.
    fn parts(&self, chunk: &Chunk) -> VecDeque<Part> {
        let partitions = self.shared.log.partitions();
        let rows = chunk
            .entries
            .iter()
            .map(|entry| Pending {
                offset: entry.offset,
                payload: entry.payload.clone(),
                record: decode(&entry.payload, self.partition, partitions),
            })
            .collect();
        let mut rest = Part {
            from: self.position,
            next: chunk.next,
            rows,
            failed: 0,
            condemned: None,
        };
        let mut parts = VecDeque::new();
        while let Some(at) = rest.rows.iter().position(|row| row.record.is_err()) {
            let reason = rest.rows[at]
                .record
                .as_ref()
                .err()
                .cloned()
                .unwrap_or_default();
            let (before, mut alone, after) = rest.around(at);
            alone.condemned = Some((UNDECODABLE, reason));
            parts.extend(before);
            parts.push_back(alone);
            match after {
                Some(after) => rest = after,
                None => return parts,
            }
        }
        parts.push_back(rest);
        parts
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
        self.invalidate(part);
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
        std::future::poll_fn(|cx| self.stack.poll_ready(cx)).await?;
        self.stack
            .call(ShardRequest {
                slot,
                ask,
                attempt: 1,
            })
            .await
    }
}

impl Part {
    fn take(&mut self) -> Self {
        let empty = Self {
            from: self.from,
            next: self.next,
            rows: Vec::new(),
            failed: 0,
            condemned: None,
        };
        std::mem::replace(self, empty)
    }

    /// Whether it is one record, and nothing before it.
    fn is_alone(&self) -> bool {
        matches!(&self.rows[..], [row] if row.offset == self.from.0)
    }

    /// The part before a row, the row alone, and the part after it. Positions meet, so nothing lies between.
    fn around(mut self, at: usize) -> (Option<Self>, Self, Option<Self>) {
        let after = self.rows.split_off(at + 1);
        let alone = self.rows.split_off(at);
        let offset = alone[0].offset;
        let (here, behind) = (Position(offset), Position(offset + 1));
        let part = |from, next, rows| Self {
            from,
            next,
            rows,
            failed: 0,
            condemned: None,
        };
        let before = (self.from < here).then(|| part(self.from, here, self.rows));
        let rest = (behind < self.next).then(|| part(behind, self.next, after));
        (before, part(here, behind, alone), rest)
    }

    /// The two halves of a part of several rows; a part of one row becomes the way to it and the row alone.
    fn halves(mut self) -> Vec<Self> {
        if self.rows.len() < 2 {
            if self.rows.is_empty() {
                return vec![self];
            }
            let (before, alone, after) = self.around(0);
            return before.into_iter().chain([alone]).chain(after).collect();
        }
        let second = self.rows.split_off(self.rows.len() / 2);
        let middle = Position(second[0].offset);
        let first = Self {
            from: self.from,
            next: middle,
            rows: self.rows,
            failed: 0,
            condemned: None,
        };
        vec![
            first,
            Self {
                from: middle,
                next: self.next,
                rows: second,
                failed: 0,
                condemned: None,
            },
        ]
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

fn decode(payload: &[u8], partition: u16, partitions: u16) -> Result<Record, String> {
    let record: Record = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    match Slot::new(record.slot) {
        Some(slot) if slot.get() % partitions == partition => Ok(record),
        _ => Err(format!(
            "slot {} does not belong to partition {partition}",
            record.slot
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(from: u64, offsets: &[u64], next: u64) -> Part {
        let row = |&offset: &u64| Pending {
            offset,
            payload: Bytes::new(),
            record: Err(String::new()),
        };
        Part {
            from: Position(from),
            next: Position(next),
            rows: offsets.iter().map(row).collect(),
            failed: 0,
            condemned: None,
        }
    }

    fn shape(part: &Part) -> (u64, Vec<u64>, u64) {
        (
            part.from.0,
            part.rows.iter().map(|row| row.offset).collect(),
            part.next.0,
        )
    }

    #[test]
    fn parts_around_a_row_meet_without_a_gap() {
        let (before, alone, after) = part(10, &[12, 15, 19], 22).around(1);
        assert_eq!(before.as_ref().map(shape), Some((10, vec![12], 15)));
        assert_eq!(shape(&alone), (15, vec![15], 16));
        assert_eq!(after.as_ref().map(shape), Some((16, vec![19], 22)));
        assert!(alone.is_alone());
    }

    #[test]
    fn a_first_row_behind_a_hole_leaves_an_empty_part_that_moves_the_watermark() {
        let (before, alone, after) = part(10, &[12], 13).around(0);
        assert_eq!(before.as_ref().map(shape), Some((10, vec![], 12)));
        assert_eq!(shape(&alone), (12, vec![12], 13));
        assert!(after.is_none());
    }

    #[test]
    fn halves_cover_the_whole() {
        let shapes: Vec<_> = part(0, &[1, 4, 9], 12).halves().iter().map(shape).collect();
        assert_eq!(shapes, [(0, vec![1], 4), (4, vec![4, 9], 12)]);
        let shapes: Vec<_> = part(0, &[3], 5).halves().iter().map(shape).collect();
        assert_eq!(shapes, [(0, vec![], 3), (3, vec![3], 4), (4, vec![], 5)]);
    }

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
