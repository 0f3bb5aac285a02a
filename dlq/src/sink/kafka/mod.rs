//! Letters in a topic of Kafka: written on all replicas in sync, removed by a record that says so.

mod index;
mod list;
mod options;
mod reader;
mod record;

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    error::KafkaError,
};
use xxhash_rust::xxh3::xxh3_64;

pub use self::options::{KafkaOpenError, KafkaOptions};
use self::{
    index::Entry,
    list::{cursor, list, not_a_letter, place},
    reader::Reader,
    record::Name,
};
use crate::{
    Cursor, Depth, Filter, Letter, LetterId, Page, Queue, Sink, SinkError, Span, Written,
    kafka::{
        DEADLINE,
        produce::{Outgoing, Producer, is_too_large, is_unknown},
    },
    letter::from_millis,
};

/// Keeps letters in a topic of Kafka. Clones share it.
///
/// A letter is reported as written when all replicas in sync have it (`acks=all`, by an idempotent producer): give the
/// topic three replicas, `min.insync.replicas=2` and no unclean election, and it outlives the loss of a broker. Its record has the
/// key, the value and the headers of the message as they were; behind these come `seawall-letter`, which is the rest of the
/// letter as JSON, and the headers by which consumers made for Spring (`kafka_dlt-...`) and for Kafka Connect
/// (`__connect.errors...`) know a dead record. Letters of one key lie in one partition, so they keep their order.
///
/// # What a log makes different
///
/// Nothing in a log tells at once whether a letter is there. So [`write`](Sink::write) answers [`Written::New`] also for a
/// repeat, unless this sink has read the topic since the letter came; **the letter is seen once** all the same, by everybody who
/// reads through this crate. Two requests that claim one origin are two letters, and not a conflict.
///
/// A letter is removed by a record that names it, in the same partition behind it. What lies before all letters
/// that are left is deleted (`DeleteRecords`), now and then; a client that may not do that leaves it to lie. The topic must keep
/// its records: [`open`](Self::open) refuses one that is compacted or forgets by age.
///
/// To count, list or find letters the topic is read once from its beginning, and then only what is new. In memory each
/// letter takes some 200 bytes; its payload stays in the topic.
///
/// # Example
///
/// ```
/// use std::time::SystemTime;
/// use rdkafka::ClientConfig;
/// use seawall_dlq::{Envelope, Failure, KafkaSink, Letter, Origin, Queue, Sink};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let kafka = test_support::Kafka::start().await;
/// # let address = kafka.bootstrap();
/// let mut config = ClientConfig::new();
/// config.set("bootstrap.servers", address);
/// let sink = KafkaSink::options().make_topic(3, -1).open(&config, "orders.dead").await?;
///
/// let envelope = Envelope::new(Origin::log("orders", 3, 17), "payload").key("customer 5");
/// let letter = Letter::new(envelope, Failure::new("timeout", "slow"), SystemTime::now());
/// sink.write(letter.clone()).await?;
/// assert_eq!(sink.depth().await?.letters, 1);
/// assert_eq!(sink.get(letter.id()).await?, Some(letter));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KafkaSink {
    open: Arc<Open>,
}

struct Open {
    topic: Arc<str>,
    partitions: i32,
    /// How large a record may be.
    limit: usize,
    producer: Producer,
    reader: Arc<Mutex<Reader>>,
    admin: AdminClient<DefaultClientContext>,
}

impl KafkaSink {
    /// Opens the letters in `topic` with the settings of a client, such as `bootstrap.servers` and those of security.
    ///
    /// # Errors
    ///
    /// If the topic is not there, does not keep records for ever, or Kafka cannot be asked.
    pub async fn open(
        config: &ClientConfig,
        topic: impl Into<Arc<str>>,
    ) -> Result<Self, KafkaOpenError> {
        Self::options().open(config, topic).await
    }

    /// Options that can be changed before a topic is opened.
    pub const fn options() -> KafkaOptions {
        KafkaOptions::new()
    }

    /// The topic of the letters.
    pub fn topic(&self) -> &str {
        &self.open.topic
    }

    /// Asks the reader, brought up to what the topic holds now.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Reader) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        self.locked(move |reader| {
            reader.catch_up()?;
            ask(reader)
        })
        .await?
    }

    /// Does something with the reader, which others may be using, beside the runtime.
    async fn locked<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Reader) -> T + Send + 'static,
    ) -> Result<T, SinkError> {
        let reader = Arc::clone(&self.open.reader);
        let asked = tokio::task::spawn_blocking(move || {
            work(&mut reader.lock().unwrap_or_else(PoisonError::into_inner))
        });
        asked.await.map_err(|_| SinkError::Closed)
    }

    /// Letters of one key lie in one partition, and the repeats of a letter without one.
    fn partition(&self, letter: &Letter) -> i32 {
        let hash = match &letter.key {
            Some(key) => xxh3_64(key),
            None => xxh3_64(&letter.id().to_bytes()),
        };
        let partitions = u64::from(self.open.partitions.unsigned_abs().max(1));
        i32::try_from(hash % partitions).unwrap_or_default()
    }

    /// Lets the brokers delete what lies before all letters that are left. If they do not, it lies there.
    async fn tidy(&self, floors: Vec<(i32, i64)>) {
        let mut before = TopicPartitionList::new();
        for (partition, floor) in floors {
            let at = Offset::Offset(floor);
            if before
                .add_partition_offset(&self.open.topic, partition, at)
                .is_err()
            {
                return;
            }
        }
        let options = AdminOptions::new().request_timeout(Some(DEADLINE));
        drop(self.open.admin.delete_records(&before, &options).await);
    }

    fn not_written(&self, error: KafkaError, id: LetterId, size: usize) -> SinkError {
        match error {
            error if is_too_large(&error) => SinkError::TooLarge {
                id,
                size,
                limit: self.open.limit,
            },
            error if is_unknown(&error) => SinkError::TimedOut(self.open.producer.within()),
            error => SinkError::other(error),
        }
    }
}

impl Sink for KafkaSink {
    async fn write(&self, letter: Letter) -> Result<Written, SinkError> {
        let id = letter.id();
        let unsendable = |name: Arc<str>| {
            SinkError::other(format!(
                "letter {id} has a header that Kafka's client cannot send: {name:?}"
            ))
        };
        let headers = record::headers(&letter).map_err(unsendable)?;
        let size = size(&letter, &headers);
        let record = Outgoing {
            topic: &self.open.topic,
            partition: self.partition(&letter),
            key: letter.key.as_deref(),
            payload: Some(&letter.payload),
            headers,
        };
        let sent = self.open.producer.send(record).await;
        sent.map_err(|error| self.not_written(error, id, size))?;
        let name = Name::of(&letter);
        // Somebody may be reading just now, and nobody waits for that.
        let known = self.open.reader.try_lock();
        Ok(match known {
            Ok(reader) if !reader.index.places_of(name).is_empty() => Written::Repeat,
            _ => Written::New,
        })
    }
}

impl Queue for KafkaSink {
    async fn depth(&self) -> Result<Depth, SinkError> {
        self.ask(|reader| {
            let index = &reader.index;
            Ok(Depth {
                letters: index.len() as u64,
                oldest: match index.first() {
                    Some(Entry::Letter { died, .. }) => from_millis(*died),
                    _ => None,
                },
                end: index.last().map(cursor),
            })
        })
        .await
    }

    async fn list(&self, filter: &Filter, span: &Span, limit: usize) -> Result<Page, SinkError> {
        let bound = |cursor: &Option<Cursor>| match cursor {
            None => Ok(None),
            Some(cursor) => place(cursor).map(Some),
        };
        let (after, until) = (bound(&span.after)?, bound(&span.until)?);
        let (filter, topic) = (filter.clone(), Arc::clone(&self.open.topic));
        self.ask(move |reader| list(reader, &topic, &filter, after, until, limit))
            .await
    }

    async fn get(&self, id: LetterId) -> Result<Option<Letter>, SinkError> {
        let topic = Arc::clone(&self.open.topic);
        self.ask(move |reader| {
            let Some((_, places)) = reader.index.find(id) else {
                return Ok(None);
            };
            let found = reader.letters(&places[..1])?.pop();
            found
                .map(|(at, letter)| letter.map_err(|source| not_a_letter(&topic, at, source)))
                .transpose()
        })
        .await
    }

    async fn remove(&self, id: LetterId) -> Result<bool, SinkError> {
        let known = self.locked(move |reader| reader.index.find(id)).await?;
        let found = match known {
            Some(found) => Some(found),
            None => self.ask(move |reader| Ok(reader.index.find(id))).await?,
        };
        let Some((name, places)) = found else {
            return Ok(false);
        };
        for place in &places {
            let record = Outgoing {
                topic: &self.open.topic,
                partition: place.partition,
                key: None,
                payload: None,
                headers: record::removal(name),
            };
            let sent = self.open.producer.send(record).await;
            sent.map_err(|error| self.not_written(error, id, 0))?;
        }
        let floors = self.locked(move |reader| {
            places.iter().for_each(|place| reader.index.doom(*place));
            // What cannot be read now is read the next time.
            let look = reader.index.is_worth_a_look() && reader.catch_up().is_ok();
            look.then(|| reader.index.worth_tidying()).flatten()
        });
        if let Some(floors) = floors.await? {
            self.tidy(floors).await;
        }
        Ok(true)
    }
}

/// The bytes of a record, as a topic's limit counts them, about.
fn size(letter: &Letter, headers: &rdkafka::message::OwnedHeaders) -> usize {
    use rdkafka::message::Headers;
    let headers: usize = headers
        .iter()
        .map(|header| header.key.len() + header.value.map_or(0, <[u8]>::len) + 4)
        .sum();
    headers + letter.payload.len() + letter.key.as_ref().map_or(0, |key| key.len()) + 70
}

impl fmt::Debug for KafkaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSink")
            .field("topic", &self.open.topic)
            .finish_non_exhaustive()
    }
}
