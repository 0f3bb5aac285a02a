//! A process that is connected to all of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use seawall_ratelimit::Outage;
use seawall_redis::{Client, Shared};

use super::{Connection, Places};
use crate::app::PARTITIONS;
use crate::backend::{Backend, CACHE};
use crate::cache::{ReadCache, RedisLevel};
use crate::log::Log;
use crate::log::kafka::{KafkaLog, Reading, Settings};
use crate::order::hex;
use crate::shard::PostgresShard;
use crate::shard::postgres::{Identity, Place};

/// How long the record of a key is kept.
const KEEP_RECORDS: Duration = Duration::from_secs(24 * 60 * 60);

/// The share of a limit that this process holds its clients to while Redis is out.
const SHARE: f64 = 0.5;

/// Connections to all services.
#[derive(Debug)]
pub struct Services {
    log: Arc<KafkaLog>,
    shards: Vec<Arc<PostgresShard>>,
    redis: Connection,
    is_cluster: bool,
}

impl Services {
    /// Connects, and makes the topic and the tables where there are none. Lives on the current runtime.
    ///
    /// # Errors
    ///
    /// Which service it is, and what is wrong with it.
    pub async fn connect(places: &Places, reading: Reading) -> anyhow::Result<Self> {
        let redis = Connection::open(places).await.context("Redis")?;
        let log = KafkaLog::connect(&settings(places), reading)
            .await
            .map_err(|why| anyhow::anyhow!("Kafka: {why}"))?;
        let shards = u16::try_from(places.postgres.shards.len()).context("too many shards")?;
        let opened = (0..shards).zip(&places.postgres.shards).map(|(shard, at)| {
            let identity = Identity {
                log: log.id(),
                shard,
                shards,
            };
            async move {
                let name = format!("shard {shard}");
                let servers = std::iter::once(&at.primary)
                    .chain(&at.replica)
                    .map(|url| url.parse())
                    .collect::<Result<_, tokio_postgres::Error>>();
                let servers = servers.with_context(|| format!("{name}: an address is none"))?;
                let place = Place {
                    name: name.clone(),
                    servers,
                    schema: places.kafka.topic.clone(),
                };
                let opened = PostgresShard::open(place, identity).await;
                anyhow::Ok(Arc::new(opened.with_context(|| name)?))
            }
        });
        let shards = futures_util::future::try_join_all(opened)
            .await
            .context("PostgreSQL")?;
        Ok(Self {
            log: Arc::new(log),
            shards,
            redis,
            is_cluster: places.is_cluster(),
        })
    }

    /// Removes the topic and the shards' tables.
    ///
    /// # Errors
    ///
    /// What could not be removed.
    pub async fn remove(&self) -> anyhow::Result<()> {
        for shard in &self.shards {
            shard.remove().await?;
        }
        self.log
            .remove()
            .await
            .map_err(|why| anyhow::anyhow!("Kafka: {why}"))
    }

    /// What the names of keys in Redis begin with: the log's own, so that two pipelines can share a server.
    fn prefix(&self, of: &str) -> String {
        format!("pipeline:{}:{of}:", &hex(&self.log.id().0)[..8])
    }

    fn client(&self) -> Client<Shared<Connection>> {
        Client::new(Shared::new(self.redis.clone()))
    }
}

fn settings(places: &Places) -> Settings {
    Settings {
        brokers: places.kafka.brokers.join(","),
        topic: places.kafka.topic.clone(),
        partitions: PARTITIONS,
        replication: places.replication(),
        group: format!("{}-workers", places.kafka.topic),
    }
}

impl Backend for Services {
    type Log = KafkaLog;
    type Shard = PostgresShard;
    type Records = seawall_idempotency::RedisStore<Shared<Connection>>;
    type Windows = seawall_ratelimit::RedisStore<Shared<Connection>>;

    const ALONE: bool = false;

    fn log(&self) -> &Arc<KafkaLog> {
        &self.log
    }

    fn shards(&self) -> &[Arc<PostgresShard>] {
        &self.shards
    }

    fn records(&self) -> (Self::Records, Duration) {
        let records = seawall_idempotency::RedisStore::from(self.client());
        (records.prefix(&self.prefix("key")), KEEP_RECORDS)
    }

    fn windows(&self, _: usize) -> Self::Windows {
        seawall_ratelimit::RedisStore::from(self.client())
            .prefix(&self.prefix("limit"))
            .on_outage(Outage::Local { share: SHARE })
    }

    fn cache(&self) -> ReadCache {
        let level = RedisLevel::new(self.client(), &self.prefix("cache"));
        let level = if self.is_cluster {
            level.clustered()
        } else {
            level
        };
        ReadCache::over(CACHE, Arc::new(level))
    }

    async fn close(self) {
        self.log.close().await;
    }
}
