//! The process whose children the servers are.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use test_support::{Haproxy, Kafka, Postgres, Redis, RedisCluster, free_port};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Service, Up};
use crate::record::{Record, Row};

/// What runs, and what is written down about it.
#[derive(Default)]
struct Kept {
    rows: Vec<Row>,
    places: String,
    redis: Option<Redis>,
    redis_cluster: Option<RedisCluster>,
    kafka: Option<Kafka>,
    postgres: Option<(Postgres, Postgres)>,
    haproxy: Option<Haproxy>,
}

/// Starts what is wanted, writes down where it is, and ends it when it is told to.
pub(crate) async fn keep(up: &Up) -> Result<()> {
    // A session of its own: neither Ctrl-C in the terminal nor the end of who started it ends the servers.
    rustix::process::setsid().context("setsid")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut kept = Kept::default();
    if up.wants(Service::Redis) {
        if up.cluster {
            kept.redis_cluster().await;
        } else {
            kept.redis().await;
        }
    }
    if up.wants(Service::Kafka) {
        kept.kafka(up.brokers.into()).await;
    }
    if up.wants(Service::Postgres) {
        kept.postgres(up.shards).await;
    }
    if up.wants(Service::Haproxy) {
        kept.haproxy().await;
    }
    let rows = std::mem::take(&mut kept.rows);
    let record = Record::of_us(rows, std::mem::take(&mut kept.places))?;
    record.write(&up.directory)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    // Nobody is to find them any more.
    Record::remove(&up.directory)?;
    drop(kept);
    Ok(())
}

impl Kept {
    fn row(&mut self, service: &str, role: impl Into<String>, port: u16) {
        self.rows.push(Row {
            service: service.to_owned(),
            role: role.into(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        });
    }

    fn place(&mut self, lines: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.places, "{lines}");
    }

    async fn redis(&mut self) {
        let redis = Redis::with_args(&["--appendonly", "yes", "--appendfsync", "everysec"]).await;
        self.row("redis", "single", redis.port());
        self.place(&format!("[redis]\nurls = [\"{}\"]\n", redis.url()));
        self.redis = Some(redis);
    }

    async fn redis_cluster(&mut self) {
        let cluster = RedisCluster::with_replicas().await;
        for (role, nodes) in [
            ("primary", cluster.nodes()),
            ("replica", cluster.replicas()),
        ] {
            for (at, node) in nodes.iter().enumerate() {
                self.row("redis", format!("{role} {}", at + 1), node.port());
            }
        }
        let quoted: Vec<_> = cluster
            .urls()
            .iter()
            .map(|at| format!("\"{at}\""))
            .collect();
        self.place(&format!("[redis]\nurls = [{}]\n", quoted.join(", ")));
        self.redis_cluster = Some(cluster);
    }

    async fn kafka(&mut self, brokers: usize) {
        let kafka = Kafka::with(brokers, &[]).await;
        for broker in 0..brokers {
            self.row(
                "kafka",
                format!("broker {}", broker + 1),
                kafka.port(broker),
            );
        }
        let bootstrap = kafka.bootstrap();
        let quoted: Vec<_> = bootstrap.split(',').map(|at| format!("\"{at}\"")).collect();
        self.place(&format!("[kafka]\nbrokers = [{}]\n", quoted.join(", ")));
        self.kafka = Some(kafka);
    }

    async fn postgres(&mut self, shards: u16) {
        let primary = Postgres::durable().await;
        for shard in 0..shards {
            primary.create_database(&format!("s{shard:02}")).await;
        }
        let replica = primary.replica().await;
        self.row(
            "postgres",
            format!("primary, {shards} shards"),
            primary.port(),
        );
        self.row("postgres", "streaming replica", replica.port());
        self.place("[postgres]\nshards = [");
        for shard in 0..shards {
            let database = format!("s{shard:02}");
            let (primary, replica) = (primary.url_of(&database), replica.url_of(&database));
            self.place(&format!(
                "    {{ primary = \"{primary}\", replica = \"{replica}\" }},"
            ));
        }
        self.place("]\n");
        self.postgres = Some((primary, replica));
    }

    /// In front of two ports on which nobody listens yet: `pipeline api` takes them.
    async fn haproxy(&mut self) {
        let apis = [free_port(), free_port()];
        let haproxy = Haproxy::in_front_of(apis).await;
        self.row("haproxy", "for clients", haproxy.port());
        self.place(&format!("[haproxy]\nurl = \"{}\"", haproxy.url()));
        for (at, port) in apis.iter().enumerate() {
            let line = format!(
                "# pipeline api --listen 127.0.0.1:{port} is its server {}",
                at + 1
            );
            self.place(&line);
        }
        self.haproxy = Some(haproxy);
    }
}
