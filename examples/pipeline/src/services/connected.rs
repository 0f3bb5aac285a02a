//! A process that is connected to all of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use seawall_ratelimit::Outage;
use seawall_redis::{Client, Shared};
use seawall_shard_router::Topology;

use super::{Assigned, Connection, Places};
use crate::app::PARTITIONS;
use crate::backend::{Backend, CACHE, Newer};
use crate::cache::{ReadCache, RedisLevel};
use crate::log::Log;
use crate::log::kafka::{KafkaLog, Reading, Settings};
use crate::order::hex;
use crate::shard::PostgresShard;
use crate::shard::postgres::Patience;
use crate::shards::Opened;

/// How long the record of a key is kept.
const KEEP_RECORDS: Duration = Duration::from_secs(24 * 60 * 60);

/// The share of a limit that this process holds its clients to while Redis is out.
const SHARE: f64 = 0.5;

/// How long an order waits for others on its way to its broker, where nothing is said.
const LINGER: Duration = Duration::from_millis(5);

/// Connections to all services.
#[derive(Debug)]
pub struct Services {
    log: Arc<KafkaLog>,
    shards: Vec<Arc<PostgresShard>>,
    assigned: Arc<Assigned>,
    redis: Connection,
    is_cluster: bool,
    /// Of a call to Redis, where the default is not wanted.
    deadline: Option<Duration>,
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
        let assigned = Assigned::open(places, log.id())
            .await
            .context("PostgreSQL")?;
        let shards = assigned.opened().all();
        Ok(Self {
            log: Arc::new(log),
            shards: shards.into_iter().map(|(_, shard)| shard).collect(),
            assigned,
            redis,
            is_cluster: places.is_cluster(),
            deadline: places
                .redis
                .deadline_ms
                .map(|ms| Duration::from_millis(ms.get().into())),
        })
    }

    /// The shards, and which of them owns which slot.
    pub fn assigned(&self) -> &Arc<Assigned> {
        &self.assigned
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
        let client = Client::new(Shared::new(self.redis.clone()));
        match self.deadline {
            Some(deadline) => client.deadline(deadline),
            None => client,
        }
    }
}

fn settings(places: &Places) -> Settings {
    Settings {
        brokers: places.kafka.brokers.join(","),
        topic: places.kafka.topic.clone(),
        partitions: PARTITIONS,
        replication: places.replication(),
        group: format!("{}-workers", places.kafka.topic),
        linger: places
            .kafka
            .linger_ms
            .map_or(LINGER, |ms| Duration::from_millis(ms.into())),
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

    fn opened(&self) -> Opened<PostgresShard> {
        self.assigned.opened().clone()
    }

    fn topology(&self) -> Topology {
        self.assigned.newest().topology
    }

    fn newer(&self) -> Option<Newer> {
        let assigned = Arc::clone(&self.assigned);
        Some(Arc::new(move || {
            let assigned = Arc::clone(&assigned);
            async move { assigned.look(Patience::Read).await }.boxed()
        }))
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
