//! The services that a campaign runs on, and what befalls them. They stay for the whole campaign; each run has a topic
//! and tables of its own.

use std::fmt::Write as _;

use test_support::{Haproxy, Kafka, Postgres, Redis, RedisCluster, free_port};

/// Shards: databases of one server.
pub const SHARDS: u16 = 10;

/// Redis, three brokers, PostgreSQL with a replica, and HAProxy in front of two ports.
#[derive(Debug)]
pub struct Ground {
    /// Without persistence: a restart forgets everything.
    pub redis: Redis,
    /// Three primaries with a replica each, from the first run on that wants it.
    cluster: Option<RedisCluster>,
    /// Three brokers.
    pub kafka: Kafka,
    /// The server that takes writes now.
    pub primary: Postgres,
    /// What streams from it.
    pub replica: Postgres,
    /// In front of [`apis`](Self::apis).
    pub haproxy: Haproxy,
    /// The ports of the two APIs.
    pub apis: [u16; 2],
}

impl Ground {
    /// Starts all of them.
    ///
    /// # Panics
    ///
    /// When one of them is not installed or does not start; the message says what to do.
    pub async fn start() -> Self {
        let apis = [free_port(), free_port()];
        let redis = Redis::start().await;
        let primary = Postgres::start().await;
        for shard in 0..SHARDS {
            primary.create_database(&format!("s{shard:02}")).await;
        }
        let replica = primary.replica().await;
        Self {
            redis,
            cluster: None,
            kafka: Kafka::cluster().await,
            primary,
            replica,
            haproxy: Haproxy::in_front_of(apis).await,
            apis,
        }
    }

    /// The cluster of Redis, which is started when it is first asked for.
    ///
    /// # Panics
    ///
    /// When it does not start.
    pub async fn cluster(&mut self) -> &RedisCluster {
        if self.cluster.is_none() {
            self.cluster = Some(RedisCluster::with_replicas().await);
        }
        self.cluster.as_ref().expect("it was just started")
    }

    /// Where they are, as the pipeline reads it, with this topic, and with Redis as one server or as the cluster.
    pub fn places(&self, topic: &str, clustered: bool) -> String {
        let redis = match &self.cluster {
            Some(cluster) if clustered => cluster.urls(),
            _ => vec![self.redis.url()],
        };
        let redis: Vec<_> = redis.iter().map(|url| format!("\"{url}\"")).collect();
        let brokers = self.kafka.bootstrap();
        let brokers: Vec<_> = brokers.split(',').map(|at| format!("\"{at}\"")).collect();
        let mut places = format!(
            "[redis]\nurls = [{}]\n\n[kafka]\nbrokers = [{}]\ntopic = \"{topic}\"\n\n[postgres]\nshards = [\n",
            redis.join(", "),
            brokers.join(", ")
        );
        for shard in 0..SHARDS {
            let database = format!("s{shard:02}");
            // Writing to a string does not fail.
            let _ = writeln!(
                places,
                "    {{ primary = \"{}\", replica = \"{}\" }},",
                self.primary.url_of(&database),
                self.replica.url_of(&database)
            );
        }
        places.push_str("]\n");
        places
    }

    /// From now on the replica receives nothing: whatever is committed is lost if it takes over.
    pub async fn cut_replica(&self) {
        self.replica
            .ask("ALTER SYSTEM SET primary_conninfo = ''")
            .await;
        self.replica.ask("SELECT pg_reload_conf()").await;
        // Until nobody streams, or commits would still arrive.
        while self
            .primary
            .ask("SELECT count(*) FROM pg_stat_replication")
            .await
            != "0"
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// The primary dies, and the replica takes over with what it has.
    pub async fn fail_over(&mut self) {
        self.primary.kill();
        self.replica.promote().await;
        std::mem::swap(&mut self.primary, &mut self.replica);
    }

    /// Gives the primary a replica again, where a failover left it without.
    pub async fn mend(&mut self) {
        self.replica = self.primary.replica().await;
    }
}
