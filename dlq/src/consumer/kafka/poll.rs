//! The thread that polls: records into a channel, rebalances to whoever owns the state. It never waits for long
//! without polling, so that a busy consumer stays a member of its group.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Message as _},
};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    delay::{self, Delays, Due},
    track::Mark,
};
use crate::{
    Message, PARKED_HEADER,
    consumer::message::{At, number},
    kafka::{DEADLINE, headers},
    telemetry,
};

/// How long a poll waits for a record.
const TURN: Duration = Duration::from_millis(50);
/// How long a full channel is waited for before the partitions are paused and polling goes on.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records of one partition of delays that are held here until they are due.
const HELD: usize = 100;
/// How often the brokers are asked again for what a new assignment has to know.
const TRIES: u32 = 5;
const AGAIN: Duration = Duration::from_millis(200);

/// A partition of a topic.
pub(super) type Key = (Arc<str>, i32);

/// A record, or that there is an offset without a message.
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) epoch: u64,
    pub(super) offset: i64,
    pub(super) message: Option<Message>,
    /// What is left to wait of a message that was put off, after it was here.
    pub(super) wait: Duration,
}

/// What is not a record.
pub(super) enum Control {
    Assigned(Vec<(Key, u64, Mark)>),
    /// Partitions are taken away. Whoever owns their state answers when it is written; where it is `lost` nothing can
    /// be written any more.
    Revoked {
        keys: Vec<Key>,
        lost: bool,
        done: SyncSender<()>,
    },
    Forgotten {
        key: Key,
        at: i64,
        first: i64,
        end: i64,
    },
    Failed(KafkaError),
}

pub(super) struct Context {
    control: mpsc::UnboundedSender<Control>,
    epochs: Mutex<HashMap<Key, u64>>,
    last_epoch: AtomicU64,
    give_back_within: Duration,
}

impl ClientContext for Context {}

impl Context {
    pub(super) fn new(control: mpsc::UnboundedSender<Control>, drain_for: Duration) -> Self {
        Self {
            control,
            epochs: Mutex::default(),
            last_epoch: AtomicU64::new(0),
            give_back_within: drain_for + DEADLINE,
        }
    }

    fn epochs(&self) -> std::sync::MutexGuard<'_, HashMap<Key, u64>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let mut tries = 1..=TRIES;
        let left = loop {
            match left_at(consumer, partitions) {
                // A leader that is new may not know yet how far the log goes.
                Ok(left)
                    if left.iter().any(|(_, left)| left.is_ahead()) && tries.next().is_some() =>
                {
                    std::thread::park_timeout(AGAIN);
                }
                Ok(left) => break left,
                Err(error) if tries.next().is_some() => telemetry::unreachable("assign", &error),
                Err(error) => return self.tell(Control::Failed(error)),
            }
        };
        let mut news = Vec::new();
        for (key, left) in left {
            match left {
                Left::At(mark) => {
                    let epoch = self.last_epoch.fetch_add(1, Relaxed) + 1;
                    self.epochs().insert(key.clone(), epoch);
                    news.push((key, epoch, mark));
                }
                Left::Elsewhere { at, first, end } => {
                    return self.tell(Control::Forgotten {
                        key,
                        at,
                        first,
                        end,
                    });
                }
            }
        }
        self.tell(Control::Assigned(news));
    }

    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &TopicPartitionList) {
        let keys: Vec<_> = partitions.elements().iter().map(|of| key(of)).collect();
        for key in &keys {
            self.epochs().remove(key);
        }
        let (done, is_done) = sync_channel(1);
        self.tell(Control::Revoked {
            keys,
            lost: consumer.assignment_lost(),
            done,
        });
        // Whoever does not answer is gone, or hangs; the group goes on.
        let _ = is_done.recv_timeout(self.give_back_within);
    }

    fn tell(&self, control: Control) {
        // Nobody listens any more when the consumer was dropped.
        drop(self.control.send(control));
    }
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(partitions) => self.assigned(consumer, partitions),
            Rebalance::Revoke(partitions) => self.revoked(consumer, partitions),
            Rebalance::Error(error) => telemetry::unreachable("rebalance", error),
        }
    }
}

enum Left {
    At(Mark),
    /// What the log has begins behind, or ends before.
    Elsewhere {
        at: i64,
        first: i64,
        end: i64,
    },
}

impl Left {
    fn is_ahead(&self) -> bool {
        matches!(self, Self::Elsewhere { at, end, .. } if at > end)
    }
}

fn key(of: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>) -> Key {
    (of.topic().into(), of.partition())
}

/// Where the group left these partitions. It blocks.
fn left_at(
    consumer: &BaseConsumer<Context>,
    partitions: &TopicPartitionList,
) -> KafkaResult<Vec<(Key, Left)>> {
    let committed = consumer.committed_offsets(partitions.clone(), DEADLINE)?;
    let mut left = Vec::new();
    for of in committed.elements() {
        of.error()?;
        let (first, end) = consumer.fetch_watermarks(of.topic(), of.partition(), DEADLINE)?;
        let at = match of.offset() {
            Offset::Offset(at) if at < first || at > end => Left::Elsewhere { at, first, end },
            Offset::Offset(at) => Left::At(Mark::read(at, of.metadata())),
            _ => Left::At(Mark::read(first, "")),
        };
        left.push((key(&of), at));
    }
    Ok(left)
}

/// What the thread works with.
pub(super) struct Polling {
    pub(super) consumer: Arc<BaseConsumer<Context>>,
    pub(super) items: mpsc::Sender<Item>,
    pub(super) control: mpsc::UnboundedSender<Control>,
    pub(super) delays: Delays,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) runtime: Handle,
}

/// What the thread knows.
struct Thread {
    polling: Polling,
    topics: HashMap<String, Arc<str>>,
    /// Put off, and not due yet.
    held: HashMap<Key, VecDeque<(Due, Item)>>,
    backlog: VecDeque<Item>,
}

/// Polls until it is told to stop, then leaves the group.
pub(super) fn run(polling: Polling) {
    let mut thread = Thread {
        polling,
        topics: HashMap::new(),
        held: HashMap::new(),
        backlog: VecDeque::new(),
    };
    while !thread.is_stopped() {
        thread.turn();
    }
}

impl Thread {
    fn is_stopped(&self) -> bool {
        self.polling.stop.load(Relaxed) || self.polling.items.is_closed()
    }

    fn turn(&mut self) {
        let wait = self.deliver_due();
        let consumer = Arc::clone(&self.polling.consumer);
        match consumer.poll(wait) {
            None => {}
            Some(Ok(record)) => {
                if let Some(item) = self.take(&record) {
                    self.deliver(item);
                }
            }
            Some(Err(error)) if is_final(&error) => {
                drop(self.polling.control.send(Control::Failed(error)));
            }
            Some(Err(error)) => telemetry::unreachable("read", &error),
        }
    }

    /// A record that may be handed on now. What is not due is kept.
    fn take(&mut self, record: &BorrowedMessage<'_>) -> Option<Item> {
        let topic = match self.topics.get(record.topic()) {
            Some(topic) => Arc::clone(topic),
            None => {
                let topic: Arc<str> = record.topic().into();
                self.topics.insert(topic.to_string(), Arc::clone(&topic));
                topic
            }
        };
        let key = (topic, record.partition());
        let epoch = *self.polling.consumer.context().epochs().get(&key)?;
        let Some(delay) = self.polling.delays.of(&key.0) else {
            return Some(item(key, epoch, record));
        };
        let written = match record.timestamp() {
            Timestamp::LogAppendTime(millis) => Some(millis),
            _ => None,
        };
        let now = Instant::now();
        let clock = self.polling.delays.clock();
        let written = written.filter(|millis| clock.read(&key, *millis, now));
        let item = item(key.clone(), epoch, record);
        let due = Due {
            read: now,
            written,
            delay,
        };
        let held = self.held.entry(key.clone()).or_default();
        held.push_back((due, item));
        if held.len() >= HELD {
            self.pause(&key);
        }
        None
    }

    /// Hands on what is due; answers how long a poll may wait.
    fn deliver_due(&mut self) -> Duration {
        let mut wait = TURN;
        let keys: Vec<_> = self.held.keys().cloned().collect();
        for key in keys {
            loop {
                let now = Instant::now();
                let Some((due, item)) = self.held.get(&key).and_then(VecDeque::front) else {
                    self.held.remove(&key);
                    break;
                };
                let is_ours =
                    self.polling.consumer.context().epochs().get(&key) == Some(&item.epoch);
                let at = match item.message {
                    Some(_) if is_ours => self.polling.delays.clock().due_at(&key, due),
                    _ => now,
                };
                if at > now {
                    wait = wait.min(at - now);
                    break;
                }
                let Some(held) = self.held.get_mut(&key) else {
                    break;
                };
                let item = held.pop_front();
                if held.len() == HELD / 2 {
                    self.resume(&key);
                }
                if let Some((_, item)) = item.filter(|_| is_ours) {
                    telemetry::back(1);
                    self.deliver(item);
                }
            }
        }
        wait
    }

    /// Hands an item on. Where there is no room for long, the partitions are paused and polling goes on.
    fn deliver(&mut self, item: Item) {
        self.backlog.push_back(item);
        let mut paused = None;
        while let Some(item) = self.backlog.pop_front() {
            let items = self.polling.items.clone();
            let reserved = match items.try_reserve() {
                Ok(room) => Ok(Ok(room)),
                Err(_) => {
                    let reserving = async { timeout(PATIENCE, items.reserve()).await };
                    self.polling.runtime.block_on(reserving)
                }
            };
            match reserved {
                Ok(Ok(room)) => room.send(item),
                Ok(Err(_)) => return,
                Err(_) => {
                    self.backlog.push_front(item);
                    if self.is_stopped() {
                        return;
                    }
                    let consumer = Arc::clone(&self.polling.consumer);
                    if paused.is_none()
                        && let Ok(all) = consumer.assignment()
                        && consumer.pause(&all).is_ok()
                    {
                        paused = Some(all);
                    }
                    // A record that was on its way is kept for later.
                    if let Some(Ok(record)) = consumer.poll(Duration::ZERO)
                        && let Some(item) = self.take(&record)
                    {
                        self.backlog.push_back(item);
                    }
                }
            }
        }
        if let Some(all) = paused {
            for of in all.elements() {
                let key = key(&of);
                if self.held.get(&key).is_none_or(|held| held.len() < HELD) {
                    self.resume(&key);
                }
            }
        }
    }

    fn pause(&self, key: &Key) {
        // It fails for a partition that is not ours any more, which needs no pause.
        drop(self.polling.consumer.pause(&one(key)));
    }

    fn resume(&self, key: &Key) {
        drop(self.polling.consumer.resume(&one(key)));
    }
}

pub(super) fn one((topic, partition): &Key) -> TopicPartitionList {
    let mut one = TopicPartitionList::with_capacity(1);
    one.add_partition(topic, *partition);
    one
}

fn item(key: Key, epoch: u64, record: &BorrowedMessage<'_>) -> Item {
    let offset = record.offset();
    let (mut pairs, payload) = headers::read(record);
    let mut wait = Duration::ZERO;
    let mut parked = 0;
    let mut tick = false;
    pairs.retain(|(name, value)| {
        match &**name {
            delay::TICK_HEADER => tick = true,
            delay::WAIT_HEADER => {
                wait = Duration::from_millis(number(value).unwrap_or_default());
            }
            PARKED_HEADER => parked = number(value).unwrap_or_default(),
            _ => return true,
        }
        false
    });
    let (topic, partition) = (&key.0, key.1);
    let message = (!tick).then(|| Message {
        stream: Arc::clone(topic),
        id: format!("{topic}/{partition}@{offset}").into(),
        key: record.key().map(bytes::Bytes::copy_from_slice),
        headers: pairs,
        payload,
        parked,
        at: At::Record {
            partition: partition.unsigned_abs(),
            offset: offset.unsigned_abs(),
        },
    });
    Item {
        key,
        epoch,
        offset,
        message,
        wait,
    }
}

/// Whether asking again cannot help.
pub(super) fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::SaslAuthenticationFailed
                | Code::Fatal
        )
    )
}
