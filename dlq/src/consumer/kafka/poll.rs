//! The thread that polls: records into a channel, rebalances to whoever owns the state. It never waits for long
//! without polling, so that a busy consumer stays a member of its group.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::SyncSender,
    },
    time::Duration,
};

use rdkafka::{
    Timestamp, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, Message as _},
};
use tokio::{
    runtime::Handle,
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    delay::{self, Delays, Due},
    rebalance::{Context, key},
    track::Mark,
};
use crate::{
    Message, PARKED_HEADER,
    consumer::message::{At, number},
    kafka::headers,
    telemetry,
};

/// How long a poll waits for a record.
const TURN: Duration = Duration::from_millis(50);
/// How long a full channel is waited for before the partitions are paused and polling goes on.
const PATIENCE: Duration = Duration::from_secs(1);
/// Records of one partition of delays that are held here until they are due.
const HELD: usize = 100;

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
