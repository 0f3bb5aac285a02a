//! The thread that fetches.
//!
//! It alone polls, seeks, pauses and resumes, so that a record that it holds can never be from before a seek that
//! it has made. Whoever reads sends it wishes.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{ClientConfig, ClientContext, Message, Offset, TopicPartitionList};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::queue::Queues;
use super::{ASK, Reading, Settings};
use crate::log::{Entry, Position, ReadError, Reader};

/// How long one poll waits, and so a wish.
const POLL: Duration = Duration::from_millis(10);

/// How often positions are committed.
const COMMIT: Duration = Duration::from_millis(500);

/// How long to wait for leaders that are just being found.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a seek may take, which asks nobody.
const SEEK: Duration = Duration::from_secs(1);

/// Where a partition stands until somebody says from where on it is read: paused, at an offset for which nobody has to
/// be asked.
const NOWHERE: Offset = Offset::Offset(0);

/// Fetches records into the queues.
pub(super) struct Consumer {
    client: Arc<BaseConsumer<Context>>,
    topic: Arc<str>,
    queues: Arc<Queues>,
    wishes: Sender<Wish>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

enum Wish {
    Seek {
        partition: u16,
        from: Position,
        done: oneshot::Sender<KafkaResult<()>>,
    },
    Resume {
        partition: u16,
    },
    Stop,
}

/// Hears of rebalances.
pub(super) struct Context {
    queues: Arc<Queues>,
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        client: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions: Vec<u16> = list
            .elements()
            .iter()
            .filter_map(|element| element.partition().try_into().ok())
            .collect();
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                // Not from the group's offset: each waits for its worker, who knows the shard's watermark.
                let set = list.set_all_offsets(NOWHERE);
                let assigned = set
                    .and_then(|()| client.incremental_assign(list))
                    .and_then(|()| client.pause(list));
                self.queues.assign(&partitions, Reader::Here);
                assigned
            }
            _ => {
                // A worker that is at a batch of it ends that: its successor meets it at the watermark.
                self.queues.assign(&partitions, Reader::Elsewhere);
                client.incremental_unassign(list)
            }
        };
        if let Err(why) = done {
            tracing::warn!(%why, "a rebalance was not followed");
        }
        metrics::counter!("pipeline_log_rebalances_total").increment(1);
        tracing::info!(?what, partitions = partitions.len(), "the group rebalances");
    }
}

impl Consumer {
    pub(super) async fn start(
        client: &ClientConfig,
        settings: &Settings,
        topic: &Arc<str>,
        queues: &Arc<Queues>,
        reading: Reading,
    ) -> Result<Self, String> {
        let context = Context {
            queues: Arc::clone(queues),
        };
        let client: BaseConsumer<Context> = client
            .clone()
            .set("group.id", &settings.group)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // A position that is gone is an accident that somebody has to look at.
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            // A fetch costs brokers the same for one record as for a hundred, and workers read a few times a second.
            .set("fetch.wait.max.ms", "50")
            .set("fetch.min.bytes", "16384")
            .set("fetch.error.backoff.ms", "100")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "2000")
            // Besides our own queues.
            .set("queued.min.messages", "2000")
            .set("queued.max.messages.kbytes", "4096")
            .create_with_context(context)
            .map_err(|why| why.to_string())?;
        let consumer = Arc::new(client);
        match reading {
            Reading::All => {
                let mut all = TopicPartitionList::new();
                for partition in 0..queues.count() {
                    all.add_partition_offset(topic, partition.into(), NOWHERE)
                        .map_err(|why| why.to_string())?;
                }
                consumer
                    .assign(&all)
                    .and_then(|()| consumer.pause(&all))
                    .map_err(|why| why.to_string())?;
                let partitions: Vec<u16> = (0..queues.count()).collect();
                queues.assign(&partitions, Reader::Here);
            }
            _ => consumer
                .subscribe(&[topic])
                .map_err(|why| why.to_string())?,
        }
        let (wishes, heard) = channel();
        let thread = {
            let fetcher = Fetcher {
                client: Arc::clone(&consumer),
                topic: Arc::clone(topic),
                queues: Arc::clone(queues),
                wishes: heard,
                in_group: reading == Reading::Share,
            };
            std::thread::Builder::new()
                .name("log-fetch".to_owned())
                .spawn(move || fetcher.run())
                .map_err(|why| why.to_string())?
        };
        let started = Self {
            client: consumer,
            topic: Arc::clone(topic),
            queues: Arc::clone(queues),
            wishes,
            thread: Mutex::new(Some(thread)),
        };
        if reading == Reading::All {
            for partition in 0..queues.count() {
                started.find_end(partition).await?;
            }
        }
        Ok(started)
    }

    /// Learns where a partition ends. One that is just being given to another leader has none for a moment.
    async fn find_end(&self, partition: u16) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.bounds(partition).await {
                Ok(_) => return Ok(()),
                Err(why) if Instant::now() >= until => return Err(why.to_string()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Goes to a position, which has to be there.
    pub(super) async fn seek(&self, partition: u16, from: Position) -> Result<(), ReadError> {
        if !self.queues.is_here(partition) {
            return Err(ReadError::Unavailable(format!(
                "partition {partition} is read elsewhere"
            )));
        }
        self.within(partition, from).await?;
        let (done, sought) = oneshot::channel();
        let wish = Wish::Seek {
            partition,
            from,
            done,
        };
        let closed = || ReadError::Unavailable("the log is closed".to_owned());
        self.wishes.send(wish).map_err(|_| closed())?;
        sought
            .await
            .map_err(|_| closed())?
            .map_err(|why| ReadError::Unavailable(why.to_string()))
    }

    /// Lets a partition that was paused go on.
    pub(super) fn resume(&self, partition: u16) {
        // It fails only when the thread is gone, and then nothing goes on.
        let _ = self.wishes.send(Wish::Resume { partition });
    }

    /// Why a position cannot be read from.
    pub(super) async fn explain(&self, partition: u16, from: Position) -> ReadError {
        self.queues.restart(partition, None);
        match self.within(partition, from).await {
            Err(why) => why,
            Ok(()) => ReadError::Unavailable("the brokers did not find it".to_owned()),
        }
    }

    /// Whether a position is there.
    async fn within(&self, partition: u16, from: Position) -> Result<(), ReadError> {
        let (start, end) = self.bounds(partition).await?;
        if from < start {
            return Err(ReadError::BelowStart { partition, start });
        }
        if from > end {
            return Err(ReadError::BeyondEnd { partition, end });
        }
        Ok(())
    }

    /// Where a partition starts and ends, asked of its broker.
    async fn bounds(&self, partition: u16) -> Result<(Position, Position), ReadError> {
        let (client, topic) = (Arc::clone(&self.client), Arc::clone(&self.topic));
        let asked = tokio::task::spawn_blocking(move || {
            client.fetch_watermarks(&topic, partition.into(), ASK)
        });
        let (low, high) = asked
            .await
            .map_err(|panic| ReadError::Unavailable(panic.to_string()))?
            .map_err(|why| ReadError::Unavailable(why.to_string()))?;
        let end = Position(high.cast_unsigned());
        self.queues.reaches(partition, end);
        Ok((Position(low.cast_unsigned()), end))
    }

    /// What the group has for a partition.
    pub(super) async fn committed(&self, partition: u16) -> Result<Position, ReadError> {
        let (client, topic) = (Arc::clone(&self.client), Arc::clone(&self.topic));
        let asked = tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, partition.into());
            client.committed_offsets(list, ASK)
        });
        let list = asked
            .await
            .map_err(|panic| ReadError::Unavailable(panic.to_string()))?
            .map_err(|why| ReadError::Unavailable(why.to_string()))?;
        let committed = list.elements().first().map(|element| element.offset());
        Ok(match committed {
            Some(Offset::Offset(offset)) => Position(offset.cast_unsigned()),
            _ => Position(0),
        })
    }

    /// Commits, leaves the group and ends the thread.
    pub(super) async fn stop(&self) {
        // It fails only when the thread is gone already.
        let _ = self.wishes.send(Wish::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of it was shown.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

struct Fetcher {
    client: Arc<BaseConsumer<Context>>,
    topic: Arc<str>,
    queues: Arc<Queues>,
    wishes: Receiver<Wish>,
    in_group: bool,
}

impl Fetcher {
    fn run(self) {
        let mut committed = Instant::now();
        loop {
            while let Ok(wish) = self.wishes.try_recv() {
                match wish {
                    Wish::Seek {
                        partition,
                        from,
                        done,
                    } => {
                        // Nobody waits for it any more where this fails.
                        let _ = done.send(self.seek(partition, from));
                    }
                    Wish::Resume { partition } => self.resume(partition),
                    Wish::Stop => {
                        self.commit(CommitMode::Sync);
                        self.client.unsubscribe();
                        return;
                    }
                }
            }
            match self.client.poll(POLL) {
                None => {}
                Some(Ok(message)) => self.take(&message),
                Some(Err(why)) => self.heard(&why),
            }
            if committed.elapsed() >= COMMIT {
                self.commit(CommitMode::Async);
                committed = Instant::now();
            }
        }
    }

    fn seek(&self, partition: u16, from: Position) -> KafkaResult<()> {
        self.queues.restart(partition, None);
        let offset = Offset::Offset(from.0.cast_signed());
        self.client
            .seek(&self.topic, partition.into(), offset, SEEK)?;
        self.queues.restart(partition, Some(from));
        self.client.resume(&self.only(partition))
    }

    fn resume(&self, partition: u16) {
        if self.queues.is_here(partition)
            && let Err(why) = self.client.resume(&self.only(partition))
        {
            tracing::warn!(partition, %why, "a partition does not go on");
        }
    }

    fn take(&self, message: &impl Message) {
        let (Ok(partition), Ok(offset)) = (
            u16::try_from(message.partition()),
            u64::try_from(message.offset()),
        ) else {
            return;
        };
        let entry = Entry {
            offset,
            // A record without a payload cannot be read as an order, and is written off as such.
            payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        };
        if self.queues.push(partition, entry)
            && let Err(why) = self.client.pause(&self.only(partition))
        {
            tracing::warn!(partition, %why, "a partition is not paused");
        }
    }

    fn heard(&self, why: &KafkaError) {
        match why.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                self.queues.lose();
            }
            // Brokers come and go; what is read says so where it matters.
            _ => tracing::debug!(%why, "the consumer heard of a failure"),
        }
    }

    /// Tells the group how far its partitions are done, for people who watch lag and for the next who has them.
    fn commit(&self, mode: CommitMode) {
        if !self.in_group {
            return;
        }
        let mut list = TopicPartitionList::new();
        for (partition, position) in self.queues.take_commits() {
            let offset = Offset::Offset(position.0.cast_signed());
            if let Err(why) = list.add_partition_offset(&self.topic, partition.into(), offset) {
                tracing::debug!(%why, "a position cannot be committed");
            }
        }
        if list.count() > 0
            && let Err(why) = self.client.commit(&list, mode)
        {
            tracing::debug!(%why, "positions were not committed");
        }
    }

    fn only(&self, partition: u16) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, partition.into());
        list
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}
