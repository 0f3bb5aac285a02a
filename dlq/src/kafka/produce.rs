//! Writing records so that an answer means that they are there: on all replicas in sync, once and in order.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig, Timestamp,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::OwnedHeaders,
    producer::{FutureProducer, FutureRecord, Producer as _, future_producer::Delivery},
};

use super::with_defaults;

/// How long a record may be on its way before it is not known whether it is there.
const WITHIN_MS: &str = "5000";

/// How often a record is sent whose place nobody says.
const TIMES: u32 = 5;

/// A producer that is made again when the one before ended for good.
pub(crate) struct Producer {
    config: ClientConfig,
    within: Duration,
    current: Mutex<FutureProducer>,
}

/// A record to be written.
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) payload: Option<&'a [u8]>,
    pub(crate) headers: OwnedHeaders,
}

impl Producer {
    pub(crate) fn new(config: &ClientConfig, largest: usize) -> KafkaResult<Self> {
        let mut config = with_defaults(
            config,
            &[
                ("message.timeout.ms", WITHIN_MS),
                // Letters are few and waited for; many at once share a request all the same.
                ("linger.ms", "0"),
                ("topic.metadata.refresh.interval.ms", "30000"),
                ("reconnect.backoff.max.ms", "1000"),
            ],
        );
        let largest = largest.clamp(1000, 1_000_000_000);
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // What is larger is refused here by name, rather than by the broker with all that shares its request.
            .set("message.max.bytes", largest.to_string())
            .set("batch.size", largest.min(1_000_000).to_string());
        for of_consumers in ["group.id", "auto.offset.reset"] {
            config.remove(of_consumers);
        }
        let within = config.get("message.timeout.ms");
        let within = within.and_then(|millis| millis.parse().ok());
        Ok(Self {
            within: Duration::from_millis(within.unwrap_or_default()),
            current: Mutex::new(config.create()?),
            config,
        })
    }

    /// How long a record may be on its way.
    pub(crate) fn within(&self) -> Duration {
        self.within
    }

    /// Writes a record; answers when it is known to be there. Dropping the future leaves that open.
    ///
    /// A report of success that does not say where the record lies is no proof. The client gives it when a broker
    /// refused the record and took a later one of the same producer: a new leader, or one that remembers nothing
    /// of the producer, takes any number for the first, and the client concludes that what came before is there
    /// too (confluent-kafka-go#921 has the loss). So it is sent again: it may be there twice then, never not at all.
    pub(crate) async fn send(&self, record: Outgoing<'_>) -> KafkaResult<Delivery> {
        for _ in 0..TIMES {
            let mut outgoing: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(record.topic)
                .partition(record.partition)
                .headers(record.headers.clone());
            outgoing.key = record.key;
            outgoing.payload = record.payload;
            let producer = self.current();
            match sent(&producer, outgoing).await {
                Ok(delivery) if delivery.offset < 0 => {}
                Ok(delivery) => return Ok(delivery),
                Err(error) => {
                    self.renew(&producer)?;
                    return Err(error);
                }
            }
        }
        Err(KafkaError::MessageProduction(
            RDKafkaErrorCode::MessageTimedOut,
        ))
    }

    fn current(&self) -> FutureProducer {
        let current = self.current.lock();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An idempotent producer that has lost its place takes no more records: the next shall have another.
    fn renew(&self, used: &FutureProducer) -> KafkaResult<()> {
        if used.client().fatal_error().is_none() {
            return Ok(());
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.client().fatal_error().is_some() {
            *current = self.config.create()?;
        }
        Ok(())
    }
}

fn sent<'a>(
    producer: &'a FutureProducer,
    record: FutureRecord<'a, [u8], [u8]>,
) -> impl Future<Output = KafkaResult<Delivery>> + 'a {
    // Its own queue is full only when nothing goes out: `message.timeout.ms` makes room in it.
    let sending = producer.send(record, super::DEADLINE);
    async move { sending.await.map_err(|(error, _)| error) }
}

/// When the broker wrote it, by its clock, where the topic keeps that: milliseconds since 1970.
pub(crate) fn written_at(delivery: &Delivery) -> Option<i64> {
    match delivery.timestamp {
        Timestamp::LogAppendTime(millis) => Some(millis),
        _ => None,
    }
}

pub(crate) fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

/// Whether the record may be there although nobody said so.
pub(crate) fn is_unknown(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut)
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::{
        Offset, TopicPartitionList,
        consumer::{BaseConsumer, Consumer as _},
        message::Message as _,
        mocking::MockCluster,
        types::{RDKafkaApiKey, RDKafkaRespErr},
    };

    use super::*;

    fn record(payload: &[u8]) -> Outgoing<'_> {
        Outgoing {
            topic: "letters",
            partition: 0,
            key: None,
            payload: Some(payload),
            headers: OwnedHeaders::new(),
        }
    }

    /// The broker refuses the first record while the second, numbered after it, is on its way, and takes that one.
    #[tokio::test]
    async fn what_is_only_said_to_be_there_is_sent_again() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("letters", 1, 1).unwrap();
        cluster
            .broker_round_trip_time(1, Duration::from_millis(200))
            .unwrap();
        cluster.request_errors(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION],
        );
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", cluster.bootstrap_servers())
            // Each record in a request of its own.
            .set("batch.num.messages", "1");
        let producer = Producer::new(&config, 1_000).unwrap();
        let (one, two) = tokio::join!(producer.send(record(b"one")), producer.send(record(b"two")));
        let said = [one.unwrap().offset, two.unwrap().offset];

        let reader: BaseConsumer = config.set("group.id", "readers").create().unwrap();
        let mut all = TopicPartitionList::new();
        all.add_partition_offset("letters", 0, Offset::Beginning)
            .unwrap();
        reader.assign(&all).unwrap();
        let mut read = Vec::new();
        while read.len() < 2 {
            let record = reader.poll(Duration::from_secs(30)).expect("one is there");
            let record = record.unwrap();
            read.push((record.offset(), record.payload().unwrap().to_vec()));
        }
        for (offset, payload) in said.into_iter().zip([b"one", b"two"]) {
            assert!(
                read.contains(&(offset, payload.to_vec())),
                "{said:?} {read:?}"
            );
        }
    }
}
