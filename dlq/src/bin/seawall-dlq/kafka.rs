//! Letters in a topic of Kafka.

use std::time::Duration;

use rdkafka::ClientConfig;
use seawall_dlq::{KafkaOpenError, KafkaRequeue, KafkaSink};

use crate::{Stop, chain};

/// What names a Kafka rather than a Redis.
pub(crate) const SCHEME: &str = "kafka://";
/// A person waits: better soon an error than late an answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

pub(crate) async fn open(url: &str, topic: &str) -> Result<KafkaSink, Stop> {
    let config = config(url)?;
    reachable(url, &config).await?;
    // A person may look at what a topic has although it will not have it for ever.
    let opened = KafkaSink::options().may_forget().open(&config, topic).await;
    opened.map_err(|error| match error {
        KafkaOpenError::NoTopic(topic) => Stop::Wrong(format!(
            "there is no topic {topic} at {}: nothing died there yet, or its name is another",
            shown(url)
        )),
        error @ KafkaOpenError::Compacted(_) => Stop::Wrong(chain(&error)),
        error => Stop::wrong(&error),
    })
}

pub(crate) async fn back(url: &str) -> Result<KafkaRequeue, Stop> {
    let config = config(url)?;
    reachable(url, &config).await?;
    KafkaRequeue::new(&config).map_err(|error| Stop::Wrong(chain(&error)))
}

/// `kafka://host:9092,host:9092/?security.protocol=ssl&...`: behind the question mark any setting of a client.
fn config(url: &str) -> Result<ClientConfig, Stop> {
    let mut config = ClientConfig::new();
    let rest = url.strip_prefix(SCHEME).unwrap_or(url);
    let (brokers, settings) = rest.split_once('?').unwrap_or((rest, ""));
    let brokers = brokers.trim_end_matches('/');
    if brokers.is_empty() {
        return Err(Stop::Wrong(
            "the address names no broker: say kafka://host:9092".to_owned(),
        ));
    }
    config.set("bootstrap.servers", brokers);
    for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
        let Some((name, value)) = setting.split_once('=') else {
            return Err(Stop::Wrong(format!(
                "{setting} is no setting of a Kafka client: say name=value"
            )));
        };
        config.set(name, value);
    }
    match config.create_native_config() {
        Ok(_) => Ok(config),
        // The value may be a password.
        Err(error) => Err(Stop::Wrong(match error {
            rdkafka::error::KafkaError::ClientConfig(_, why, name, _) => {
                format!("{name} is no setting of a Kafka client: {why}")
            }
            error => chain(&error),
        })),
    }
}

/// The client itself would try for longer.
async fn reachable(url: &str, config: &ClientConfig) -> Result<(), Stop> {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    let asker: BaseConsumer = config
        .create()
        .map_err(|error| Stop::Wrong(chain(&error)))?;
    let asked = tokio::task::spawn_blocking(move || {
        let metadata = asker.fetch_metadata(None, CONNECT_WITHIN);
        metadata.map(drop)
    });
    let asked = asked.await.map_err(|error| Stop::wrong(&error))?;
    asked.map_err(|error| {
        Stop::Wrong(format!(
            "no Kafka answers at {}: {}; see that it is up and that host, port and security settings are right",
            shown(url),
            chain(&error)
        ))
    })
}

/// An address without its settings: there may be a password among them.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}
