//! What the workers do about each thing a shard may say, against a model of a log and a shard.
#![allow(
    clippy::unwrap_used,
    reason = "a poisoned lock of the model is a failed test"
)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use pipeline::cache::{Lease, Loaded, Looked, ReadCache, SecondLevel};
use pipeline::log::{AppendError, Chunk, Entry, Log, LogId, Position, ReadError, Reader};
use pipeline::order::{OpId, Order, Principal, Record};
use pipeline::shard::{
    Applied, Batch, Fate, Query, ShardDb, ShardError, State, StoredLetter, Tally, Versioned,
    Watermark,
};
use pipeline::shards::{Faults, first_topology, route};
use pipeline::stack::{RetrySettings, messages};
use pipeline::worker::{Shared, WorkerSettings, Workers};
use seawall_shard_router::{Role, TopologyHandle};
use tokio::sync::watch;

const LOG: LogId = LogId([1; 16]);

/// A log in memory. Offsets have holes: they count up over all partitions.
struct ModelLog {
    partitions: Vec<(Mutex<Vec<Entry>>, watch::Sender<Position>)>,
    next: Mutex<u64>,
    committed: Mutex<BTreeMap<u16, Position>>,
    readers: Vec<watch::Sender<Reader>>,
}

impl ModelLog {
    fn new(partitions: u16) -> Self {
        let partition = |_| (Mutex::default(), watch::Sender::new(Position::default()));
        Self {
            partitions: (0..partitions).map(partition).collect(),
            next: Mutex::new(3),
            committed: Mutex::default(),
            readers: (0..partitions)
                .map(|_| watch::Sender::new(Reader::Here))
                .collect(),
        }
    }

    fn push(&self, partition: u16, payload: Bytes) -> u64 {
        let mut next = self.next.lock().unwrap();
        let offset = *next;
        *next += 2;
        let (entries, end) = &self.partitions[usize::from(partition)];
        entries.lock().unwrap().push(Entry { offset, payload });
        end.send_replace(Position(offset + 1));
        offset
    }
}

impl Log for ModelLog {
    fn id(&self) -> LogId {
        LOG
    }

    fn partitions(&self) -> u16 {
        self.partitions.len() as u16
    }

    async fn append(&self, partition: u16, payload: Bytes) -> Result<u64, AppendError> {
        Ok(self.push(partition, payload))
    }

    async fn read(&self, partition: u16, from: Position, max: usize) -> Result<Chunk, ReadError> {
        let entries = self.partitions[usize::from(partition)].0.lock().unwrap();
        let found: Vec<Entry> = entries
            .iter()
            .filter(|e| e.offset >= from.0)
            .take(max)
            .cloned()
            .collect();
        let next = found
            .last()
            .map_or(from, |entry| Position(entry.offset + 1));
        Ok(Chunk {
            entries: found,
            next,
        })
    }

    fn reader(&self, partition: u16) -> watch::Receiver<Reader> {
        self.readers[usize::from(partition)].subscribe()
    }

    fn end(&self, partition: u16) -> watch::Receiver<Position> {
        self.partitions[usize::from(partition)].1.subscribe()
    }

    fn commit(&self, partition: u16, position: Position) {
        self.committed.lock().unwrap().insert(partition, position);
    }

    async fn committed(&self, partition: u16) -> Result<Position, ReadError> {
        let committed = self.committed.lock().unwrap();
        Ok(committed.get(&partition).copied().unwrap_or_default())
    }
}

/// What a shard does next, instead of just applying.
enum Trouble {
    Refuse,
    LoseAnswer,
    /// The primary dies, and a replica that has none of the last transactions takes over.
    FailOver {
        back: usize,
    },
    /// The batch is taken for one of another assignment.
    StaleEpoch,
}

#[derive(Clone, Default)]
struct Rows {
    marks: HashMap<u16, (u64, u64)>,
    ops: HashMap<OpId, (State, [u8; 16])>,
    /// Effects, in the order in which they were made. One twice is a bug.
    effects: Vec<(u64, OpId)>,
    letters: Vec<(String, String)>,
}

#[derive(Default)]
struct ModelShard {
    rows: Mutex<Rows>,
    earlier: Mutex<Vec<Rows>>,
    troubles: Mutex<VecDeque<Trouble>>,
    /// Items for which an apply fails without saying why.
    cursed: Mutex<Vec<String>>,
    refused_gaps: Mutex<u64>,
}

impl ShardDb for ModelShard {
    async fn adopt(&self, partition: u16, log: LogId, epoch: u64) -> Result<Watermark, ShardError> {
        let mut rows = self.rows.lock().unwrap();
        let mark = rows.marks.entry(partition).or_insert((epoch, 0));
        mark.0 = mark.0.max(epoch);
        Ok(Watermark {
            log,
            epoch: mark.0,
            position: Position(mark.1),
        })
    }

    async fn apply(&self, batch: Arc<Batch>) -> Result<Applied, ShardError> {
        let trouble = self.troubles.lock().unwrap().pop_front();
        match trouble {
            Some(Trouble::Refuse) => return Err(ShardError::Unavailable("refused".into())),
            Some(Trouble::FailOver { back }) => {
                let mut earlier = self.earlier.lock().unwrap();
                let keep = earlier.len().saturating_sub(back);
                earlier.truncate(keep);
                let mut rows = self.rows.lock().unwrap();
                let marks: HashMap<_, _> = rows
                    .marks
                    .iter()
                    .map(|(p, (epoch, _))| (*p, (*epoch, 0)))
                    .collect();
                *rows = earlier.last().cloned().unwrap_or(Rows {
                    marks,
                    ..Rows::default()
                });
            }
            Some(Trouble::StaleEpoch) => {
                return Err(ShardError::StaleEpoch {
                    current: batch.epoch,
                });
            }
            _ => {}
        }
        let mut rows = self.rows.lock().unwrap();
        let (epoch, mark) = *rows
            .marks
            .get(&batch.partition)
            .ok_or(ShardError::NotAssigned {
                partition: batch.partition,
            })?;
        if epoch != batch.epoch {
            return Err(ShardError::StaleEpoch { current: epoch });
        }
        if mark < batch.from.0 {
            *self.refused_gaps.lock().unwrap() += 1;
            return Err(ShardError::Gap {
                watermark: Position(mark),
            });
        }
        let mut new = rows.clone();
        let mut done = Applied {
            position: Position(mark.max(batch.next.0)),
            ..Applied::default()
        };
        for row in batch.rows.iter().filter(|row| row.offset >= mark) {
            match &row.fate {
                Fate::Apply(record) => {
                    if self.cursed.lock().unwrap().contains(&record.item) {
                        return Err(ShardError::Unavailable("no reason given".into()));
                    }
                    if record.item == "poison" {
                        let reason = "poison".to_owned();
                        return Err(ShardError::Poison {
                            offset: row.offset,
                            class: "poison",
                            reason,
                        });
                    }
                    if new
                        .ops
                        .insert(record.op(), (State::Applied, record.fingerprint))
                        .is_some()
                    {
                        done.repeats += 1;
                        continue;
                    }
                    new.effects.push((row.offset, record.op()));
                    done.orders
                        .push((record.op(), row.offset, record.account.clone()));
                }
                Fate::Dead(dead) => {
                    if let Some(record) = &dead.record {
                        new.ops
                            .insert(record.op(), (State::Dead, record.fingerprint));
                    }
                    new.letters.push((dead.letter.clone(), dead.class.clone()));
                    done.dead += 1;
                }
            }
        }
        new.marks.insert(batch.partition, (epoch, done.position.0));
        self.earlier.lock().unwrap().push(new.clone());
        *rows = new;
        match trouble {
            Some(Trouble::LoseAnswer) => Err(ShardError::Unavailable("the answer was lost".into())),
            _ => Ok(done),
        }
    }

    async fn read(&self, _: Role, _: Query) -> Result<Versioned, ShardError> {
        Ok(Versioned {
            version: 0,
            document: None,
        })
    }

    async fn tally(&self) -> Result<Tally, ShardError> {
        Ok(Tally::default())
    }

    async fn letters(&self) -> Result<u64, ShardError> {
        Ok(self.rows.lock().unwrap().letters.len() as u64)
    }

    async fn letters_page(&self, _: String, _: usize) -> Result<Vec<StoredLetter>, ShardError> {
        Err(ShardError::Unavailable("the model shows no letters".into()))
    }
}

struct Rig {
    log: Arc<ModelLog>,
    shards: Vec<Arc<ModelShard>>,
    shared: Arc<Shared<ModelLog>>,
    workers: Workers,
}

impl Rig {
    /// Ten partitions on so many shards.
    fn new(count: u16) -> Self {
        Self::with(count, ReadCache::new(1_000))
    }

    fn with(count: u16, cache: ReadCache) -> Self {
        let log = Arc::new(ModelLog::new(10));
        let shards: Vec<Arc<ModelShard>> = (0..count).map(|_| Arc::default()).collect();
        let topology = TopologyHandle::new(first_topology(count).expect("shards"));
        let routed = route(&topology, &shards, &Arc::new(Faults::default()));
        let stack = messages(&routed, &topology, LOG, RetrySettings { scale: 1.0 });
        let settings = WorkerSettings {
            linger: Duration::from_millis(5),
            recheck: Some(Duration::from_secs(5)),
            ..WorkerSettings::default()
        };
        let shared = Arc::new(Shared::new(
            Arc::clone(&log),
            topology,
            stack,
            cache,
            settings,
        ));
        let workers = Workers::start(&shared);
        Self {
            log,
            shards,
            shared,
            workers,
        }
    }

    /// Appends an order to a partition.
    fn order(&self, partition: u16, n: u32, item: &str) -> OpId {
        let principal = Principal::User("u".into());
        let op = OpId::derive(&principal, &n.to_string());
        let order = Order {
            request_id: None,
            item: item.into(),
            quantity: 1,
        };
        let record = Record {
            op: op.0,
            slot: partition,
            account: principal.account(),
            item: item.into(),
            quantity: 1,
            fingerprint: order.fingerprint(),
            at_ms: 0,
        };
        self.log.push(partition, record.encode());
        op
    }

    async fn settle(&self) {
        let patience = Duration::from_secs(24 * 60 * 60);
        tokio::time::timeout(patience, async {
            while self.shared.behind() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the workers get to the end");
    }

    fn effects(&self, shard: usize) -> Vec<OpId> {
        self.shards[shard]
            .rows
            .lock()
            .unwrap()
            .effects
            .iter()
            .map(|(_, op)| *op)
            .collect()
    }

    fn letters(&self, shard: usize) -> Vec<String> {
        self.shards[shard]
            .rows
            .lock()
            .unwrap()
            .letters
            .iter()
            .map(|(_, class)| class.clone())
            .collect()
    }

    fn trouble(&self, shard: usize, troubles: impl IntoIterator<Item = Trouble>) {
        self.shards[shard].troubles.lock().unwrap().extend(troubles);
    }
}

#[tokio::test(start_paused = true)]
async fn orders_of_a_partition_apply_once_and_in_order() {
    let rig = Rig::new(5);
    let ops: Vec<_> = (0..500).map(|n| rig.order(3, n, "tea")).collect();
    rig.settle().await;
    assert_eq!(rig.effects(3), ops);
    assert!(rig.workers.finish(Duration::from_secs(1)).await);
}

#[tokio::test(start_paused = true)]
async fn records_that_trickle_in_gather_and_one_after_a_rest_is_applied_at_once() {
    let rig = Rig::new(2);
    rig.settle().await;
    rig.order(2, 0, "lamp");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(rig.effects(0).len(), 1);
    let batches = || rig.shared.counters.batches.load(Ordering::Relaxed);
    let before = batches();
    for n in 1..=100 {
        rig.order(2, n, "lamp");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    rig.settle().await;
    assert_eq!(rig.effects(0).len(), 101);
    // One in five milliseconds, and perhaps one at once and one at the end.
    let made = batches() - before;
    assert!((19..=22).contains(&made), "{made} batches");
}

#[tokio::test(start_paused = true)]
async fn what_is_settled_ends_below_the_first_record_that_is_not_applied() {
    let rig = Rig::new(5);
    rig.trouble(2, (0..1_000).map(|_| Trouble::Refuse));
    rig.order(0, 0, "tea");
    let stuck = rig.order(2, 1, "tea");
    rig.order(1, 2, "tea");
    let patience = Duration::from_secs(2);
    tokio::time::timeout(patience, async {
        while rig.shared.behind() > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the others are done at once");
    let offset = rig.log.partitions[2].0.lock().unwrap()[0].offset;
    assert!(
        rig.shared.settled() <= Position(offset),
        "{stuck} would be pruned before it is applied"
    );
    rig.shards[2].troubles.lock().unwrap().clear();
    rig.settle().await;
    assert!(rig.shared.settled() > Position(offset));
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_nothing_applies_twice() {
    let rig = Rig::new(1);
    rig.trouble(
        0,
        [Trouble::LoseAnswer, Trouble::Refuse, Trouble::LoseAnswer],
    );
    let ops: Vec<_> = (0..20).map(|n| rig.order(0, n, "tea")).collect();
    rig.settle().await;
    assert_eq!(rig.effects(0), ops);
    assert!(rig.shared.stack.retries() >= 3);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_failed_over_to_a_lagging_replica_refuses_the_gap_and_is_fed_again() {
    let rig = Rig::new(1);
    let mut ops = Vec::new();
    for n in 0..10 {
        ops.push(rig.order(0, n, "tea"));
        rig.settle().await;
    }
    rig.trouble(0, [Trouble::FailOver { back: 4 }]);
    ops.push(rig.order(0, 10, "tea"));
    rig.settle().await;
    assert_eq!(
        *rig.shards[0].refused_gaps.lock().unwrap(),
        1,
        "the gap was never seen"
    );
    assert_eq!(rig.effects(0), ops);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_would_span_shards_before_slots_move_halts_its_partition() {
    // Three shards do not divide ten partitions, so slots of one lie on all of them.
    let rig = Rig::new(3);
    rig.order(0, 1, "tea");
    let halted = async {
        while rig
            .shared
            .counters
            .halted
            .load(std::sync::atomic::Ordering::Relaxed)
            == 0
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = Duration::from_secs(24 * 60 * 60);
    tokio::time::timeout(patience, halted).await.unwrap();
    for shard in &rig.shards {
        assert!(shard.tally().await.unwrap().applied.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_under_another_epoch_takes_the_partition_anew() {
    let rig = Rig::new(1);
    rig.trouble(0, [Trouble::StaleEpoch]);
    let ops: Vec<_> = (0..5).map(|n| rig.order(0, n, "tea")).collect();
    rig.settle().await;
    assert_eq!(rig.effects(0), ops);
}

#[tokio::test(start_paused = true)]
async fn poison_anywhere_in_a_batch_becomes_a_letter_and_its_neighbours_apply() {
    for at in [
        vec![0],
        vec![4],
        vec![9],
        vec![0, 1, 2],
        vec![3, 7],
        (0..10).collect(),
    ] {
        let rig = Rig::new(1);
        let ops: Vec<_> = (0..10)
            .map(|n| {
                (
                    n,
                    rig.order(0, n, if at.contains(&n) { "poison" } else { "tea" }),
                )
            })
            .collect();
        rig.settle().await;
        let good: Vec<_> = ops
            .iter()
            .filter(|(n, _)| !at.contains(n))
            .map(|(_, op)| *op)
            .collect();
        assert_eq!(rig.effects(0), good, "{at:?}");
        assert_eq!(rig.letters(0), vec!["poison"; at.len()], "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_becomes_a_letter_and_claims_no_operation() {
    let rig = Rig::new(1);
    let first = rig.order(0, 0, "tea");
    rig.log.push(0, Bytes::from_static(b"\xff not an order"));
    // An order of another partition's slot is no order of this one.
    let stray = rig.order(1, 1, "tea");
    let entry = rig.log.partitions[1].0.lock().unwrap()[0].payload.clone();
    rig.log.push(0, entry);
    let last = rig.order(0, 2, "tea");
    rig.settle().await;
    let mut effects = rig.effects(0);
    effects.retain(|op| *op != stray);
    assert_eq!(effects, [first, last]);
    assert_eq!(rig.letters(0), ["undecodable", "undecodable"]);
    assert_eq!(rig.effects(0).iter().filter(|op| **op == stray).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_out_for_an_hour_makes_no_letters_and_loses_nothing() {
    let rig = Rig::new(1);
    rig.trouble(0, (0..2_000).map(|_| Trouble::Refuse));
    let ops: Vec<_> = (0..50)
        .map(|n| rig.order((n % 10) as u16, n, "tea"))
        .collect();
    rig.settle().await;
    let mut effects = rig.effects(0);
    effects.sort();
    let mut expected = ops;
    expected.sort();
    assert_eq!(effects, expected);
    assert!(rig.letters(0).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_keeps_failing_alone_while_its_shard_serves_others_is_written_off() {
    let rig = Rig::new(1);
    rig.shards[0].cursed.lock().unwrap().push("cursed".into());
    let mut good = Vec::new();
    for n in 0..10 {
        let op = rig.order(0, n, if n == 6 { "cursed" } else { "tea" });
        if n != 6 {
            good.push(op);
        }
    }
    // Others on the same shard are served all the while.
    let busy = tokio::spawn({
        let log = Arc::clone(&rig.log);
        async move {
            loop {
                log.push(1, Bytes::from_static(b"served, if only as a letter"));
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    });
    let patience = Duration::from_secs(24 * 60 * 60);
    tokio::time::timeout(patience, async {
        while !rig.letters(0).contains(&"fails-alone".to_owned()) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("it is written off in the end");
    busy.abort();
    rig.settle().await;
    assert_eq!(rig.effects(0), good, "its neighbours applied, in order");
    assert_eq!(
        rig.letters(0)
            .iter()
            .filter(|class| *class == "fails-alone")
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn one_hung_shard_leaves_the_partitions_of_the_others_alone() {
    let rig = Rig::new(5);
    rig.trouble(2, (0..1_000).map(|_| Trouble::Refuse));
    for n in 0..100 {
        rig.order((n % 10) as u16, n, "tea");
    }
    // Two partitions lie on the sick shard; the rest finish while it is sick.
    let patience = Duration::from_secs(2);
    tokio::time::timeout(patience, async {
        while rig.shared.behind() > 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("eight partitions are done at once");
    assert_eq!(rig.effects(2), []);
}

#[tokio::test(start_paused = true)]
async fn a_failover_that_no_batch_meets_is_noticed_all_the_same() {
    let rig = Rig::new(1);
    let mut ops = Vec::new();
    for n in 0..10 {
        ops.push(rig.order(3, n, "tea"));
        rig.settle().await;
    }
    // A replica takes over that has none of it, and nobody orders anything any more.
    rig.shards[0].rows.lock().unwrap().clone_from(&Rows {
        marks: (0..10).map(|partition| (partition, (1, 0))).collect(),
        ..Rows::default()
    });
    assert_eq!(rig.effects(0), []);
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, async {
        while rig.effects(0) != ops {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("it is applied again");
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_read_elsewhere_is_left_alone_until_it_comes_back() {
    let rig = Rig::new(1);
    rig.log.readers[4].send_replace(Reader::Elsewhere);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let op = rig.order(4, 1, "tea");
    rig.settle().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.effects(0), []);
    rig.log.readers[4].send_replace(Reader::Here);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rig.effects(0), [op]);
    assert!(rig.workers.finish(Duration::from_secs(60)).await);
}

/// A shared level of the cache that is there or not, and remembers what it was told.
#[derive(Default)]
struct Level {
    out: Mutex<bool>,
    told: Mutex<BTreeMap<u64, Query>>,
}

impl SecondLevel for Level {
    fn get<'a>(&'a self, _: &'a Query) -> BoxFuture<'a, Looked> {
        ready(Looked::Unreachable).boxed()
    }

    fn set<'a>(&'a self, _: &'a Query, _: &'a Loaded, _: Option<&'a Lease>) -> BoxFuture<'a, ()> {
        ready(()).boxed()
    }

    fn invalidate<'a>(&'a self, changed: &'a [(Query, u64)]) -> BoxFuture<'a, bool> {
        let out = *self.out.lock().unwrap();
        if !out {
            let orders = changed
                .iter()
                .filter(|(query, _)| matches!(query, Query::Order(_)));
            let told = orders.map(|(query, version)| (*version, query.clone()));
            self.told.lock().unwrap().extend(told);
        }
        ready(!out).boxed()
    }

    fn is_reachable(&self) -> bool {
        !*self.out.lock().unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn what_readers_could_not_be_told_of_is_applied_not_committed_and_told_later() {
    let level = Arc::new(Level::default());
    let rig = Rig::with(1, ReadCache::over(1_000, level.clone()));
    rig.order(0, 0, "tea");
    rig.settle().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let committed = rig.log.committed(0).await.unwrap();
    assert_eq!(level.told.lock().unwrap().len(), 1);

    *level.out.lock().unwrap() = true;
    for n in 1..6 {
        rig.order(0, n, "tea");
        rig.settle().await;
    }
    assert_eq!(rig.effects(0).len(), 6);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.log.committed(0).await.unwrap(), committed);
    assert_eq!(level.told.lock().unwrap().len(), 1);

    *level.out.lock().unwrap() = false;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(level.told.lock().unwrap().len(), 6);
    assert_eq!(
        rig.log.committed(0).await.unwrap(),
        *rig.log.end(0).borrow()
    );
}

#[tokio::test(start_paused = true)]
async fn who_takes_a_partition_over_tells_again_what_lies_behind_the_commit() {
    let level = Arc::new(Level::default());
    let rig = Rig::with(1, ReadCache::over(1_000, level.clone()));
    for n in 0..5 {
        rig.order(0, n, "tea");
    }
    rig.settle().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Whoever had it ended between the transaction and the word to readers.
    rig.log.commit(0, Position(0));
    level.told.lock().unwrap().clear();
    rig.log.readers[0].send_replace(Reader::Elsewhere);
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.log.readers[0].send_replace(Reader::Here);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(level.told.lock().unwrap().len(), 5);
    assert_eq!(rig.effects(0).len(), 5);
    assert_eq!(
        rig.log.committed(0).await.unwrap(),
        *rig.log.end(0).borrow()
    );
}
