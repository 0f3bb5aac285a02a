//! The way back: a copy of a letter into the partition it came from.

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use rdkafka::{ClientConfig, consumer::BaseConsumer, error::KafkaError};
use tokio::time::Instant;
use tower_service::Service;

use super::{
    asker, headers,
    produce::{Outgoing, Producer, is_too_large},
    topics,
};
use crate::{Letter, LetterId, Origin};

/// As the largest that a broker can be told to take.
const LARGEST: usize = 1_000_000_000;
/// How long it is believed which topics there are.
const FRESH: Duration = Duration::from_secs(5);

/// A service that writes a letter into the topic and partition from which it came, for
/// [`Redrive::through`](crate::Redrive::through): key, headers and payload byte for byte, null where they were null, and the
/// two headers that make it a copy of its generation. It answers when all replicas in sync have the copy.
///
/// ```no_run
/// use rdkafka::ClientConfig;
/// use seawall_dlq::{BoxError, KafkaRequeue, KafkaSink, Redrive};
///
/// # async fn redrive() -> Result<(), BoxError> {
/// let mut config = ClientConfig::new();
/// config.set("bootstrap.servers", "127.0.0.1:9092");
/// let letters = KafkaSink::open(&config, "orders.dead").await?;
/// let back = KafkaRequeue::new(&config)?;
/// let summary = Redrive::new(letters).per_second(500.0).through(back).await?;
/// println!("{} letters are back", summary.redriven);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct KafkaRequeue {
    shared: Arc<Shared>,
}

struct Shared {
    producer: Producer,
    asker: Arc<BaseConsumer>,
    /// The topics, and when they were asked for.
    known: Mutex<Option<(Instant, Known)>>,
}

type Known = Arc<HashMap<String, i32>>;

impl KafkaRequeue {
    /// With clients of its own, made of these settings.
    ///
    /// # Errors
    ///
    /// If the settings are not those of a Kafka client. Nothing is asked of a broker yet.
    pub fn new(config: &ClientConfig) -> Result<Self, KafkaError> {
        Ok(Self {
            shared: Arc::new(Shared {
                producer: Producer::new(config, LARGEST)?,
                asker: Arc::new(asker(config)?),
                known: Mutex::new(None),
            }),
        })
    }
}

impl Service<Letter> for KafkaRequeue {
    type Response = ();
    type Error = KafkaRequeueError;
    type Future = Pin<Box<dyn Future<Output = Result<(), KafkaRequeueError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), KafkaRequeueError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, letter: Letter) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.send(&letter).await })
    }
}

impl Shared {
    async fn send(&self, letter: &Letter) -> Result<(), KafkaRequeueError> {
        let Origin::Log {
            topic, partition, ..
        } = &letter.origin
        else {
            return Err(KafkaRequeueError::NotFromALog(letter.origin.clone()));
        };
        self.check(topic, *partition).await?;
        let id = letter.id();
        let unsendable = |name: Arc<str>| KafkaRequeueError::Header { id, name };
        let (headers, is_null) = headers::to_send(&letter.headers_to_send()).map_err(unsendable)?;
        let record = Outgoing {
            topic,
            partition: i32::try_from(*partition).unwrap_or(i32::MAX),
            key: letter.key.as_deref(),
            payload: (!is_null).then_some(&letter.payload[..]),
            headers,
        };
        match self.producer.send(record).await {
            Ok(_) => Ok(()),
            Err(error) if is_too_large(&error) => Err(KafkaRequeueError::TooLarge {
                id,
                size: letter.payload.len(),
            }),
            Err(error) => Err(KafkaRequeueError::Kafka(error)),
        }
    }

    async fn topics(&self) -> Result<Known, KafkaRequeueError> {
        let now = Instant::now();
        let fresh = |asked: &(Instant, Known)| now.duration_since(asked.0) < FRESH;
        if let Some((_, known)) = self.known().as_ref().filter(|asked| fresh(asked)) {
            return Ok(Arc::clone(known));
        }
        let asker = Arc::clone(&self.asker);
        let asked = tokio::task::spawn_blocking(move || topics(&asker)).await;
        let topics = asked
            .map_err(|_| KafkaRequeueError::Kafka(KafkaError::Canceled))?
            .map_err(KafkaRequeueError::Kafka)?;
        let topics = Arc::new(topics);
        *self.known() = Some((now, Arc::clone(&topics)));
        Ok(topics)
    }

    fn known(&self) -> MutexGuard<'_, Option<(Instant, Known)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A topic that is not there has no reader, and would be made by writing to it: the letter is better off where it is.
    async fn check(&self, topic: &Arc<str>, partition: u32) -> Result<(), KafkaRequeueError> {
        let topics = self.topics().await?;
        match topics.get(&**topic) {
            None => Err(KafkaRequeueError::NoTopic(topic.to_string())),
            Some(partitions) if i64::from(partition) >= i64::from(*partitions) => {
                Err(KafkaRequeueError::NoPartition {
                    topic: topic.to_string(),
                    partition,
                })
            }
            Some(_) => Ok(()),
        }
    }
}

impl fmt::Debug for KafkaRequeue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaRequeue").finish_non_exhaustive()
    }
}

/// Why a copy is not known to be in its partition.
#[derive(Debug)]
#[non_exhaustive]
pub enum KafkaRequeueError {
    /// The letter came from somewhere else.
    NotFromALog(Origin),
    /// There is no such topic.
    NoTopic(String),
    /// The topic has no such partition any more.
    NoPartition {
        /// The topic.
        topic: String,
        /// The partition from which the letter came.
        partition: u32,
    },
    /// The copy is larger than the topic takes.
    TooLarge {
        /// The id that the letter of this copy would have.
        id: LetterId,
        /// The size of the payload in bytes.
        size: usize,
    },
    /// The name of a header has a zero byte in it, which Kafka's client cannot send.
    Header {
        /// The id that the letter of this copy would have.
        id: LetterId,
        /// The name.
        name: Arc<str>,
    },
    /// Kafka failed; the copy may be there.
    Kafka(KafkaError),
}

impl fmt::Display for KafkaRequeueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFromALog(origin) => write!(f, "{origin} is no record of a Kafka topic"),
            Self::NoTopic(topic) => write!(f, "there is no topic {topic}"),
            Self::NoPartition { topic, partition } => {
                write!(f, "the topic {topic} has no partition {partition}")
            }
            Self::TooLarge { id, size } => {
                write!(
                    f,
                    "copy {id} of {size} bytes is larger than its topic takes"
                )
            }
            Self::Header { id, name } => {
                write!(f, "copy {id} has a header that cannot be sent: {name:?}")
            }
            Self::Kafka(_) => f.write_str("Kafka failed"),
        }
    }
}

impl Error for KafkaRequeueError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Kafka(error) => Some(error),
            _ => None,
        }
    }
}
