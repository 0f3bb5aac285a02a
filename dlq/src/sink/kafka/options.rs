//! Opening a topic of letters, and finding out first whether it keeps them.

use std::{fmt, sync::Arc};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{KafkaSink, Open, reader::Reader};
use crate::kafka::{DEADLINE, asker, produce::Producer, topics};

/// What a topic takes that says nothing else: 1 MiB and the head of a batch.
const USUAL_LIMIT: usize = 1_048_588;

/// How a topic of letters is opened.
#[derive(Debug, Clone)]
#[must_use = "options do nothing until a topic is opened"]
pub struct KafkaOptions {
    make: Option<(i32, i32)>,
    may_forget: bool,
}

impl KafkaOptions {
    pub(super) const fn new() -> Self {
        Self {
            make: None,
            may_forget: false,
        }
    }

    /// Makes the topic where there is none: so many partitions, each with so many replicas (-1 for as many as the cluster
    /// makes by itself), kept for ever. Without this a topic that is not there is an error, for most often the name
    /// is wrong.
    pub fn make_topic(mut self, partitions: i32, replicas: i32) -> Self {
        self.make = Some((partitions, replicas));
        self
    }

    /// Takes a topic that forgets its records by age or size: **letters will be lost** when they are as old, redriven or
    /// not.
    pub fn may_forget(mut self) -> Self {
        self.may_forget = true;
        self
    }

    /// Opens the letters in `topic` with the settings of a client, such as `bootstrap.servers` and those of security.
    /// What it needs for itself it sets: `acks=all`, `enable.idempotence`, no group.
    ///
    /// # Errors
    ///
    /// If the topic is not there, does not keep records for ever, or Kafka cannot be asked.
    pub async fn open(
        self,
        config: &ClientConfig,
        topic: impl Into<Arc<str>>,
    ) -> Result<KafkaSink, KafkaOpenError> {
        let topic = topic.into();
        let admin: AdminClient<DefaultClientContext> = config.create()?;
        let asker = Arc::new(asker(config)?);
        let partitions = loop {
            let asking = Arc::clone(&asker);
            let asked = tokio::task::spawn_blocking(move || topics(&asking)).await;
            let known = asked.map_err(|_| KafkaError::Canceled)??;
            match (known.get(&*topic), self.make) {
                (Some(partitions), _) => break *partitions,
                (None, None) => return Err(KafkaOpenError::NoTopic(topic)),
                (None, Some((partitions, replicas))) => {
                    make(&admin, &topic, partitions, replicas).await?;
                    // It is not known everywhere at once.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        };
        let limit = self.check(&admin, &topic).await?;
        Ok(KafkaSink {
            open: Arc::new(Open {
                producer: Producer::new(config, limit)?,
                reader: Arc::new(std::sync::Mutex::new(Reader::new(
                    asker,
                    Arc::clone(&topic),
                ))),
                admin,
                topic,
                partitions,
                limit,
            }),
        })
    }

    /// Whether the topic keeps what it gets; answers how large a record may be.
    async fn check(
        &self,
        admin: &AdminClient<DefaultClientContext>,
        topic: &Arc<str>,
    ) -> Result<usize, KafkaOpenError> {
        let options = AdminOptions::new().request_timeout(Some(DEADLINE));
        let resource = [ResourceSpecifier::Topic(topic)];
        let mut found = admin.describe_configs(&resource, &options).await?;
        let settings = match found.pop() {
            Some(Ok(settings)) => settings,
            Some(Err(code)) => return Err(KafkaError::AdminOp(code).into()),
            None => return Err(KafkaError::AdminOp(RDKafkaErrorCode::Unknown).into()),
        };
        let value = |name| settings.get(name).and_then(|entry| entry.value.clone());
        let number = |name| value(name).and_then(|value| value.parse::<i64>().ok());
        let policy = value("cleanup.policy").unwrap_or_default();
        if policy.contains("compact") {
            return Err(KafkaOpenError::Compacted(Arc::clone(topic)));
        }
        if !self.may_forget {
            for name in ["retention.ms", "retention.bytes"] {
                if number(name).is_some_and(|limit| limit >= 0) {
                    return Err(KafkaOpenError::Forgets {
                        topic: Arc::clone(topic),
                        setting: name,
                    });
                }
            }
        }
        let limit = number("max.message.bytes").and_then(|limit| usize::try_from(limit).ok());
        Ok(limit.unwrap_or(USUAL_LIMIT))
    }
}

async fn make(
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
    partitions: i32,
    replicas: i32,
) -> Result<(), KafkaError> {
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas))
        .set("cleanup.policy", "delete")
        .set("retention.ms", "-1")
        .set("retention.bytes", "-1");
    let options = AdminOptions::new().request_timeout(Some(DEADLINE));
    let made = admin.create_topics([&topic], &options).await?;
    match made.into_iter().next() {
        // Somebody else was faster.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | Some(Ok(_)) => Ok(()),
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
        None => Err(KafkaError::AdminOp(RDKafkaErrorCode::Unknown)),
    }
}

/// Why a topic of letters was not opened. It is as it was.
#[derive(Debug)]
#[non_exhaustive]
pub enum KafkaOpenError {
    /// There is no such topic.
    NoTopic(Arc<str>),
    /// The topic is compacted (`cleanup.policy`): of two letters with one key it would keep one.
    Compacted(Arc<str>),
    /// The topic forgets records, and letters with them.
    Forgets {
        /// The topic.
        topic: Arc<str>,
        /// The setting by which it does: `retention.ms` or `retention.bytes`. For ever is -1.
        setting: &'static str,
    },
    /// Kafka failed.
    Kafka(KafkaError),
}

impl fmt::Display for KafkaOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTopic(topic) => write!(f, "there is no topic {topic}"),
            Self::Compacted(topic) => write!(
                f,
                "the topic {topic} is compacted and would keep one letter of each key: letters need \
                 cleanup.policy=delete"
            ),
            Self::Forgets { topic, setting } => write!(
                f,
                "the topic {topic} forgets letters after a while: set its {setting} to -1, or say that it may"
            ),
            Self::Kafka(_) => f.write_str("Kafka failed"),
        }
    }
}

impl std::error::Error for KafkaOpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kafka(error) => Some(error),
            _ => None,
        }
    }
}

impl From<KafkaError> for KafkaOpenError {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error)
    }
}
