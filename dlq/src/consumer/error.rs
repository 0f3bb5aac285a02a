//! Why a consumer stops.

use std::{error::Error, fmt};

use tokio::task::JoinError;

use crate::ConfigError;

/// Why a consumer stopped. What it had not acknowledged by then comes again.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConsumeError {
    /// A setting cannot work.
    Config(ConfigError),
    /// There is no such stream.
    #[cfg(feature = "redis")]
    NoStream(String),
    /// Redis cannot be used.
    #[cfg(feature = "redis")]
    Redis(seawall_redis::Error),
    /// There is no such topic.
    #[cfg(feature = "kafka")]
    NoTopic(std::sync::Arc<str>),
    /// The log does not have the records with which the group would go on: it forgot them before they were done, **and they are
    /// lost** unless they can be had from elsewhere, or it is another log of the same name. Set the group's offset by hand to go on.
    #[cfg(feature = "kafka")]
    Forgotten {
        /// The topic.
        topic: std::sync::Arc<str>,
        /// The partition.
        partition: i32,
        /// Where the group would go on.
        at: i64,
        /// The first record that it has.
        first: i64,
        /// The end of the log.
        end: i64,
    },
    /// The letters of poison messages cannot be written where they belong by default.
    #[cfg(feature = "kafka")]
    Letters(crate::KafkaOpenError),
    /// Kafka cannot be used.
    #[cfg(feature = "kafka")]
    Kafka(rdkafka::error::KafkaError),
    /// A task of the consumer itself ended: the runtime is shutting down.
    Ended(JoinError),
}

impl ConsumeError {
    pub(super) fn lost(error: JoinError) -> Self {
        Self::Ended(error)
    }
}

impl fmt::Display for ConsumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            #[cfg(feature = "redis")]
            Self::NoStream(stream) => write!(f, "there is no stream {stream}"),
            #[cfg(feature = "redis")]
            Self::Redis(_) => f.write_str("Redis cannot be used"),
            #[cfg(feature = "kafka")]
            Self::NoTopic(topic) => write!(f, "there is no topic {topic}"),
            #[cfg(feature = "kafka")]
            Self::Forgotten {
                topic,
                partition,
                at,
                first,
                end,
            } => write!(
                f,
                "{topic}/{partition} has records from {first} to {end}, and the group would go on at {at}"
            ),
            #[cfg(feature = "kafka")]
            Self::Letters(_) => f.write_str("letters of poison messages cannot be written"),
            #[cfg(feature = "kafka")]
            Self::Kafka(_) => f.write_str("Kafka cannot be used"),
            Self::Ended(_) => f.write_str("a task of the consumer ended"),
        }
    }
}

impl Error for ConsumeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(_) => None,
            #[cfg(feature = "redis")]
            Self::NoStream(_) => None,
            #[cfg(feature = "redis")]
            Self::Redis(error) => Some(error),
            #[cfg(feature = "kafka")]
            Self::NoTopic(_) | Self::Forgotten { .. } => None,
            #[cfg(feature = "kafka")]
            Self::Letters(error) => Some(error),
            #[cfg(feature = "kafka")]
            Self::Kafka(error) => Some(error),
            Self::Ended(error) => Some(error),
        }
    }
}

impl From<ConfigError> for ConsumeError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

#[cfg(feature = "redis")]
impl From<seawall_redis::Error> for ConsumeError {
    fn from(error: seawall_redis::Error) -> Self {
        Self::Redis(error)
    }
}

#[cfg(feature = "redis")]
impl From<::redis::RedisError> for ConsumeError {
    fn from(error: ::redis::RedisError) -> Self {
        Self::Redis(error.into())
    }
}

#[cfg(feature = "kafka")]
impl From<rdkafka::error::KafkaError> for ConsumeError {
    fn from(error: rdkafka::error::KafkaError) -> Self {
        Self::Kafka(error)
    }
}
