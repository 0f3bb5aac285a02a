//! What the sink, the way back and the consumer on Kafka share.

pub(crate) mod headers;
pub(crate) mod produce;
pub(crate) mod requeue;

use std::{collections::HashMap, time::Duration};

use rdkafka::{ClientConfig, consumer::BaseConsumer, consumer::Consumer, error::KafkaResult};

/// How long a broker may take to answer what is asked of it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The settings of a client: ours where the caller named none.
pub(crate) fn with_defaults(config: &ClientConfig, defaults: &[(&str, &str)]) -> ClientConfig {
    let mut config = config.clone();
    for (name, value) in defaults {
        if config.get(name).is_none() {
            config.set(*name, *value);
        }
    }
    config
}

/// A client that only asks: it is in no group, and makes no topic by naming it.
pub(crate) fn asker(config: &ClientConfig) -> KafkaResult<BaseConsumer> {
    let mut config = with_defaults(config, &[("group.id", "seawall-dlq-reader")]);
    config
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", "read_committed")
        // What it reads it was asked for: nothing is fetched ahead for long.
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.wait.max.ms", "100");
    config.create()
}

/// How many partitions each topic has. It blocks.
pub(crate) fn topics(asker: &BaseConsumer) -> KafkaResult<HashMap<String, i32>> {
    // Of all topics: naming one that is not there could make it.
    let metadata = asker.fetch_metadata(None, DEADLINE)?;
    let topics = metadata.topics().iter();
    Ok(topics
        .filter(|topic| topic.error().is_none())
        .map(|topic| {
            let partitions = i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX);
            (topic.name().to_owned(), partitions)
        })
        .collect())
}
