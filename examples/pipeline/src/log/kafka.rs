//! The log on Kafka: one topic, each partition of ours a partition of it.
//!
//! - Appends are produced idempotently with `acks=all`, to the partition that the slot says, and answered by the
//!   broker's report. A partition that too few of its brokers serve takes nothing (`gate`): what is sent to it
//!   would be in doubt for as long as its client has patience.
//! - Partitions are read as a member of a group, which rebalances cooperatively. The group says who reads what, and
//!   nothing else: from where on is said by the shard's watermark, never by the group's offset.
//! - Each partition has a bounded queue; one that is full is paused.
//!
//! # Which log it is
//!
//! Its id follows from the cluster's id and the topic's name. A topic that was removed and made again is found
//! out as long as it ends below a watermark, and not after that.

mod consumer;
mod gate;
mod queue;
mod topic;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::watch;
use tokio::time::Instant;

use self::consumer::Consumer;
use self::gate::Gate;
use self::queue::{Queues, Taken};
use super::{AppendError, Chunk, Log, LogId, Position, ReadError, Reader};

/// How long an append may take. Long enough for a leader's place to be taken by another broker.
const PRODUCE: Duration = Duration::from_secs(15);

/// How often a record is sent whose place nobody says.
const TIMES: u32 = 5;

/// How long a read waits for the first record.
const WAIT: Duration = Duration::from_millis(200);

/// How long a read waits for a record that is known to be there, and after what time it goes there anew.
const FETCH: Duration = Duration::from_secs(20);
const ANEW: Duration = Duration::from_secs(4);

/// How long a question to the brokers may take.
pub(crate) const ASK: Duration = Duration::from_secs(5);

/// Where the log lies.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port` of brokers to begin with, by commas.
    pub brokers: String,
    /// The topic. It is made where there is none.
    pub topic: String,
    /// How many partitions it has to have.
    pub partitions: u16,
    /// How many brokers a new topic is kept by; one less than needed for a majority may be out.
    pub replication: u16,
    /// The group that shares the partitions.
    pub group: String,
    /// How long a record waits for others that go to its broker with it.
    pub linger: Duration,
}

/// How a process reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Not at all.
    Nothing,
    /// Its share of the partitions, as a member of the group.
    Share,
    /// All partitions, and as no member of anything: for whoever looks at what is there.
    All,
}

/// The log on Kafka.
pub struct KafkaLog {
    id: LogId,
    client: ClientConfig,
    topic: Arc<str>,
    producer: FutureProducer,
    gate: Gate,
    queues: Arc<Queues>,
    consumer: Option<Consumer>,
}

impl KafkaLog {
    /// Connects, and makes the topic where there is none. Lives on the current runtime.
    ///
    /// # Errors
    ///
    /// What is wrong, in one line: no broker answers, or the topic is not as it should be.
    pub async fn connect(settings: &Settings, reading: Reading) -> Result<Self, String> {
        let client = common(settings);
        let known = topic::find_or_make(&client, settings).await?;
        let producer: FutureProducer = client
            .clone()
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", PRODUCE.as_millis().to_string())
            .set(
                "queue.buffering.max.ms",
                settings.linger.as_millis().to_string(),
            )
            .set("queue.buffering.max.messages", "100000")
            // Or it would learn of a broker that is back only when that one leads again.
            .set("enable.sparse.connections", "false")
            .create()
            .map_err(|why| why.to_string())?;
        let topic: Arc<str> = settings.topic.as_str().into();
        let queues = Arc::new(Queues::new(settings.partitions));
        let consumer = match reading {
            Reading::Nothing => None,
            Reading::Share | Reading::All => {
                let consumer = Consumer::start(&client, settings, &topic, &queues, reading).await;
                Some(consumer.map_err(|why| why.to_string())?)
            }
        };
        let gate = Gate::watch(&producer, &topic, known.min_in_sync, settings.partitions);
        Ok(Self {
            id: known.id,
            client,
            topic,
            producer,
            gate,
            queues,
            consumer,
        })
    }

    /// Sends what was appended, leaves the group and ends its threads. From then on everything is refused.
    pub async fn close(&self) {
        self.gate.close();
        if let Some(consumer) = &self.consumer {
            consumer.stop().await;
        }
        let producer = self.producer.clone();
        let flushed = tokio::task::spawn_blocking(move || producer.flush(PRODUCE)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("not everything that was appended was sent");
        }
    }

    /// Drops the records of a partition below a position, as its retention does in time.
    ///
    /// # Errors
    ///
    /// When the brokers do not.
    pub async fn drop_below(&self, partition: u16, below: Position) -> Result<(), String> {
        topic::drop_below(&self.client, &self.topic, partition, below).await
    }

    /// Removes the topic and everything in it.
    ///
    /// # Errors
    ///
    /// When the brokers do not.
    pub async fn remove(&self) -> Result<(), String> {
        topic::remove(&self.client, &self.topic).await
    }

    fn consumer(&self) -> Result<&Consumer, ReadError> {
        self.consumer
            .as_ref()
            .ok_or_else(|| ReadError::Unavailable("this process does not read the log".to_owned()))
    }
}

/// What all clients have in common.
fn common(settings: &Settings) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &settings.brokers)
        .set("client.id", "pipeline")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "5000")
        .set("topic.metadata.refresh.fast.interval.ms", "100");
    client
}

impl Log for KafkaLog {
    fn id(&self) -> LogId {
        self.id
    }

    fn partitions(&self) -> u16 {
        self.queues.count()
    }

    async fn append(&self, partition: u16, payload: Bytes) -> Result<u64, AppendError> {
        if partition >= self.partitions() {
            return Err(AppendError::Refused(format!(
                "there is no partition {partition}"
            )));
        }
        self.gate.pass(partition).map_err(AppendError::Refused)?;
        let offset = deliver(&self.producer, &self.topic, partition, &payload).await?;
        self.queues.reaches(partition, Position(offset + 1));
        Ok(offset)
    }

    async fn read(&self, partition: u16, from: Position, max: usize) -> Result<Chunk, ReadError> {
        let consumer = self.consumer()?;
        let start = Instant::now();
        let mut sought = start;
        loop {
            let arrived = self.queues.arrived(partition);
            let mut arrived = std::pin::pin!(arrived);
            // Looked for before the queue is, or what comes in between would not wake it.
            arrived.as_mut().enable();
            match self.queues.take(partition, from, max) {
                Taken::Records { chunk, resume } => {
                    if resume {
                        consumer.resume(partition);
                    }
                    return Ok(chunk);
                }
                Taken::Elsewhere => {
                    consumer.seek(partition, from).await?;
                    sought = Instant::now();
                }
                Taken::Lost => return Err(consumer.explain(partition, from).await),
                Taken::Nothing => {}
            }
            let is_there = self.queues.end(partition) > from;
            if is_there && start.elapsed() >= FETCH {
                return Err(ReadError::Unavailable(
                    "the brokers do not send what is there".to_owned(),
                ));
            }
            if !is_there && start.elapsed() >= WAIT {
                return Ok(Chunk {
                    entries: Vec::new(),
                    next: from,
                });
            }
            if sought.elapsed() >= ANEW {
                // Whatever became of the last seek: a leader may have changed meanwhile.
                self.queues.restart(partition, None);
                continue;
            }
            // It fails when nothing arrived, and that is looked at above.
            let _ = tokio::time::timeout(WAIT, arrived).await;
        }
    }

    fn end(&self, partition: u16) -> watch::Receiver<Position> {
        self.queues.follow_end(partition)
    }

    fn commit(&self, partition: u16, position: Position) {
        self.queues.commit(partition, position);
    }

    async fn committed(&self, partition: u16) -> Result<Position, ReadError> {
        self.consumer()?.committed(partition).await
    }

    fn reader(&self, partition: u16) -> watch::Receiver<Reader> {
        self.queues.follow_reader(partition)
    }
}

/// Writes a record, and answers where it lies.
///
/// A report of success that does not say where is no proof. The client gives it when a broker refused the record and
/// took a later one of the same producer: a leader that remembers nothing of the producer, as that of a topic that
/// was just made, takes any number for the first, and the client concludes that what came before is there too
/// (confluent-kafka-go#921 has the loss). So it is sent again. It may lie there twice then: a shard applies an
/// operation once, however often the log has it.
async fn deliver(
    producer: &FutureProducer,
    topic: &str,
    partition: u16,
    payload: &[u8],
) -> Result<u64, AppendError> {
    let unknown = |why: String| Err(AppendError::Unknown(why));
    for again in (0..TIMES).map(|time| time > 0) {
        let record: FutureRecord<'_, (), [u8]> = FutureRecord::to(topic)
            .partition(partition.into())
            .payload(payload);
        let report = match producer.send_result(record) {
            Ok(report) => report,
            // What was sent before may be there.
            Err((why, _)) if again => return unknown(why.to_string()),
            // It was not even taken.
            Err((why, _)) => return Err(AppendError::Refused(why.to_string())),
        };
        match report.await {
            Ok(Ok(delivery)) => {
                if let Ok(offset) = u64::try_from(delivery.offset) {
                    return Ok(offset);
                }
            }
            Ok(Err((why, _))) if is_refusal(&why) && !again => {
                return Err(AppendError::Refused(why.to_string()));
            }
            Ok(Err((why, _))) => return unknown(why.to_string()),
            Err(canceled) => return unknown(canceled.to_string()),
        }
    }
    unknown("the broker has seen it, and does not say where it is".to_owned())
}

/// Whether a report says that nothing was written, and nothing will be. What may have been sent before, and was only
/// refused when it was sent again, is none of these.
fn is_refusal(why: &KafkaError) -> bool {
    matches!(
        why.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::QueueFull
                | RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidMessage
                | RDKafkaErrorCode::InvalidMessageSize
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
        )
    )
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.gate.close();
        if let Some(consumer) = &self.consumer {
            // It has no one to wait for it.
            let _ = consumer.stop().now_or_never();
        }
    }
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog")
            .field("id", &self.id)
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    /// The broker refuses the first record while the second, numbered after it, is on its way, and takes that one.
    #[tokio::test]
    async fn a_record_is_taken_for_written_only_where_it_is_known_to_lie() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("orders", 1, 1).unwrap();
        cluster
            .broker_round_trip_time(1, Duration::from_millis(200))
            .unwrap();
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
        );
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", cluster.bootstrap_servers())
            .set("enable.idempotence", "true")
            // Each record in a request of its own.
            .set("batch.num.messages", "1")
            .create()
            .unwrap();
        let append = |payload: &'static [u8]| deliver(&producer, "orders", 0, payload);
        let (one, two) = tokio::join!(append(b"one"), append(b"two"));
        let mut offsets = [one.unwrap(), two.unwrap()];
        offsets.sort_unstable();
        assert_eq!(offsets, [0, 1]);
    }
}
