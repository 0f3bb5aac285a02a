//! What librdkafka tells of rebalances, on the thread that polls: where the group left what is assigned, and the time to
//! leave in order what is taken away.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::sync_channel,
    },
    time::Duration,
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance},
    error::KafkaResult,
    topic_partition_list::TopicPartitionListElem,
};
use tokio::sync::mpsc;

use super::{
    poll::{Control, Key},
    track::Mark,
};
use crate::{kafka::DEADLINE, telemetry};

/// How often the brokers are asked again for what a new assignment has to know.
const TRIES: u32 = 5;
const AGAIN: Duration = Duration::from_millis(200);

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

    /// The assignment of each partition that is assigned.
    pub(super) fn epochs(&self) -> std::sync::MutexGuard<'_, HashMap<Key, u64>> {
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

pub(super) fn key(of: &TopicPartitionListElem<'_>) -> Key {
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
