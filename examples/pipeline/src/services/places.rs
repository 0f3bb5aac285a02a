//! Where the services are, as a file says it.
//!
//! ```toml
//! [redis]
//! urls = ["redis://127.0.0.1:6379"]
//!
//! [kafka]
//! brokers = ["127.0.0.1:9092", "127.0.0.1:9093", "127.0.0.1:9094"]
//!
//! [postgres]
//! shards = [
//!     { primary = "postgres://pipeline@127.0.0.1:5432/s00", replica = "postgres://pipeline@127.0.0.1:5433/s00" },
//! ]
//!
//! [haproxy]
//! url = "http://127.0.0.1:8080"
//! ```

use std::num::NonZeroU32;
use std::path::Path;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::app::PARTITIONS;

/// Where all services are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    /// Idempotency keys, limits and the shared level of the read cache.
    pub redis: RedisPlace,
    /// The log.
    pub kafka: KafkaPlace,
    /// The shards.
    pub postgres: PostgresPlace,
    /// What stands in front of the API.
    #[serde(default)]
    pub haproxy: Option<HaproxyPlace>,
}

/// Where Redis is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisPlace {
    /// One server, or nodes of one cluster to begin with.
    pub urls: Vec<String>,
    /// Whether it is a cluster; several addresses are.
    #[serde(default)]
    pub cluster: bool,
    /// How long a call may take before it counts as an outage, in milliseconds: 250 where nothing is said.
    #[serde(default)]
    pub deadline_ms: Option<NonZeroU32>,
}

/// Where Kafka is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaPlace {
    /// `host:port` of brokers to begin with.
    pub brokers: Vec<String>,
    /// The topic of orders, and the schema of the shards' tables.
    #[serde(default = "orders")]
    pub topic: String,
    /// How many brokers keep each record of a topic that is made: as many as there are, at most three.
    #[serde(default)]
    pub replication: Option<u16>,
    /// How long an order waits for others that go to its broker with it, in milliseconds: 5 where nothing is said. More
    /// makes orders later, and brokers busy with fewer and larger requests.
    #[serde(default)]
    pub linger_ms: Option<u16>,
}

/// Where PostgreSQL is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresPlace {
    /// The shards, by number.
    pub shards: Vec<ShardPlace>,
}

/// Where one shard is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardPlace {
    /// Its database on the server that is the primary at first.
    pub primary: String,
    /// The same on a replica of that server.
    #[serde(default)]
    pub replica: Option<String>,
    /// The same on further replicas, which share its reads: for a shard that more is read of than one can answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<String>,
}

/// Where HAProxy is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HaproxyPlace {
    /// Its address for clients.
    pub url: String,
}

fn orders() -> String {
    "orders".to_owned()
}

impl Places {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, holds what it should not or leaves out what it must hold.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let said = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&said).with_context(|| format!("in {}", path.display()))
    }

    /// Reads a file's text.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let places: Self =
            toml::from_str(text).map_err(|why| anyhow::anyhow!("{}", one_line(text, &why)))?;
        ensure!(!places.redis.urls.is_empty(), "[redis] urls is empty");
        ensure!(!places.kafka.brokers.is_empty(), "[kafka] brokers is empty");
        let topic = &places.kafka.topic;
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        ensure!(
            (1..=60).contains(&topic.len())
                && topic.starts_with(|c: char| c.is_ascii_lowercase())
                && topic.chars().all(good),
            "[kafka] topic {topic:?} names the schema of the shards' tables too: 1 to 60 small letters, digits \
             and `_`, a letter first"
        );
        ensure!(
            places.kafka.replication != Some(0),
            "[kafka] replication is 0: a record is kept by one broker at least"
        );
        let shards = places.postgres.shards.len();
        if shards == 0 || !usize::from(PARTITIONS).is_multiple_of(shards) {
            bail!(
                "[postgres] has {shards} shards: give a divisor of the {PARTITIONS} partitions, such as 10, so \
                 that a batch is one transaction"
            );
        }
        Ok(places)
    }

    /// How many brokers keep each record of a topic that is made.
    pub fn replication(&self) -> u16 {
        let all = u16::try_from(self.kafka.brokers.len()).unwrap_or(u16::MAX);
        self.kafka.replication.unwrap_or(all.min(3))
    }

    /// Whether Redis is a cluster.
    pub fn is_cluster(&self) -> bool {
        self.redis.cluster || self.redis.urls.len() > 1
    }
}

/// What is wrong with a text of TOML, and where, in one line.
pub(crate) fn one_line(text: &str, why: &toml::de::Error) -> String {
    let said = why.message().replace('\n', " ");
    match why.span() {
        Some(span) => {
            let line = text
                .get(..span.start)
                .map_or(0, |up| up.matches('\n').count())
                + 1;
            format!("line {line}: {said}")
        }
        None => said,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        [redis]
        urls = ["redis://127.0.0.1:6379"]
        [kafka]
        brokers = ["127.0.0.1:9092", "127.0.0.1:9093", "127.0.0.1:9094", "127.0.0.1:9095"]
        [postgres]
        shards = [{ primary = "postgres://u@h/a", replica = "postgres://u@h/b" }, { primary = "postgres://u@h/c" }]
    "#;

    #[test]
    fn a_file_says_where_everything_is() {
        let places = Places::parse(GOOD).expect("it is good");
        assert_eq!(places.postgres.shards.len(), 2);
        assert_eq!(places.kafka.topic, "orders");
        assert_eq!(places.replication(), 3);
        assert!(!places.is_cluster());
    }

    #[test]
    fn what_is_wrong_is_one_line_that_says_where() {
        let without = |what: &str| GOOD.replace(what, "");
        for (text, said) in [
            (without("[kafka]"), "unknown field `brokers`"),
            (GOOD.replace("urls", "url"), "unknown field `url`"),
            (
                GOOD.replace("[kafka]", "deadline_ms = 0\n[kafka]"),
                "nonzero",
            ),
            (
                GOOD.replace("\"redis://127.0.0.1:6379\"", ""),
                "urls is empty",
            ),
            (GOOD.replace("redis://", "redis://\n"), "line "),
            (
                GOOD.replace("[kafka]", "[kafka]\ntopic = \"orders; DROP\""),
                "small letters",
            ),
            (GOOD.replace("{ primary = \"postgres://u@h/c\" }", ""), ""),
            (
                GOOD.replace(
                    "{ primary = \"postgres://u@h/c\" }",
                    "{ primary = \"x\" }, { primary = \"y\" }",
                ),
                "divisor",
            ),
            (format!("{GOOD}\n[mysql]\n"), "unknown field `mysql`"),
        ] {
            match Places::parse(&text) {
                Ok(_) => assert!(said.is_empty(), "{text}"),
                Err(why) => {
                    let why = format!("{why:#}");
                    assert!(why.contains(said) && why.lines().count() == 1, "{why}");
                }
            }
        }
    }
}
