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
    pub(crate) async fn send(&self, record: Outgoing<'_>) -> KafkaResult<Delivery> {
        let mut outgoing: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(record.topic)
            .partition(record.partition)
            .headers(record.headers);
        outgoing.key = record.key;
        outgoing.payload = record.payload;
        let producer = self.current();
        match sent(&producer, outgoing).await {
            Ok(delivery) => Ok(delivery),
            Err(error) => {
                self.renew(&producer)?;
                Err(error)
            }
        }
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
