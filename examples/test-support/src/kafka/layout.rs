//! Where the brokers of a cluster lie: ports, directories, settings, and the command of each.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::jars::kafka_jars;
use crate::port::free_port;

/// The line by which a broker says that it is a member of its cluster and takes requests.
pub(super) const STARTED: &str = "Kafka Server started";
/// The same for all: it is a name within the directory, not a secret.
const CLUSTER: &str = "c2Vhd2FsbC1jbHVzdGVyMQ";
/// Warnings, and the one line that says that a broker is up.
const LOG: &str = "log4j.rootLogger=WARN, out
log4j.logger.kafka.server.KafkaRaftServer=INFO
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %m (%c)%n
";

/// A cluster of Kafka brokers as it lies in a directory, each broker also a controller. It runs nothing: what
/// [`command`](Self::command) answers is started and ended by the caller. Tests take [`Kafka`](crate::Kafka).
///
/// With three brokers a record lies on three, an acknowledged write on at least two, and a broker that
/// lags behind never becomes leader.
#[derive(Debug, Clone)]
pub struct KafkaLayout {
    brokers: Vec<Broker>,
    jars: PathBuf,
}

#[derive(Debug, Clone)]
struct Broker {
    port: u16,
    controller: u16,
    directory: PathBuf,
}

impl KafkaLayout {
    /// Draws ports for so many brokers and writes their settings below `directory`, which is theirs from now on.
    /// `settings` are further lines of `server.properties`, such as `("message.max.bytes", "2000")`.
    ///
    /// # Errors
    ///
    /// If Kafka's jars are neither there nor to be fetched, or the directory cannot be written.
    pub fn prepare(
        directory: &Path,
        brokers: usize,
        settings: &[(&str, &str)],
    ) -> Result<Self, String> {
        let jars = kafka_jars()?;
        let mut layout = Self {
            brokers: Vec::new(),
            jars,
        };
        for broker in 1..=brokers {
            layout.brokers.push(Broker {
                port: layout.unused_port(),
                controller: 0,
                directory: directory.join(format!("broker-{broker}")),
            });
            let last = layout.brokers.len() - 1;
            layout.brokers[last].controller = layout.unused_port();
        }
        for broker in 0..brokers {
            layout
                .write(broker, settings)
                .map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        Ok(layout)
    }

    /// How many brokers it has.
    pub fn brokers(&self) -> usize {
        self.brokers.len()
    }

    /// The port of this broker, counted from 0.
    pub fn port(&self, broker: usize) -> u16 {
        self.brokers[broker].port
    }

    /// `127.0.0.1:<port>,...`: what a client bootstraps from.
    pub fn bootstrap(&self) -> String {
        let addresses: Vec<_> = self
            .brokers
            .iter()
            .map(|broker| format!("127.0.0.1:{}", broker.port))
            .collect();
        addresses.join(",")
    }

    /// The process of this broker, counted from 0: it writes its log to standard output, ends by SIGTERM, and finds
    /// its data again when it is started again. The line with `Kafka Server started` says that it takes requests.
    pub fn command(&self, broker: usize) -> Command {
        let directory = &self.brokers[broker].directory;
        let java = std::env::var_os("JAVA").unwrap_or_else(|| OsString::from("java"));
        let mut log = OsString::from("-Dlog4j.configuration=file:");
        log.push(directory.join("log4j.properties"));
        let mut command = Command::new(java);
        command
            .args(["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC"])
            // It is young for most of its life: the second compiler would only be busy beside the tests.
            .arg("-XX:TieredStopAtLevel=1")
            .arg("-XX:-UsePerfData")
            .arg(log)
            .arg("-cp")
            .arg(self.jars.join("*"))
            .arg("kafka.Kafka")
            .arg(directory.join("server.properties"))
            .current_dir(directory)
            .stdin(Stdio::null());
        command
    }

    fn unused_port(&self) -> u16 {
        loop {
            let port = free_port();
            let taken = |broker: &Broker| broker.port == port || broker.controller == port;
            if !self.brokers.iter().any(taken) {
                return port;
            }
        }
    }

    fn write(&self, broker: usize, settings: &[(&str, &str)]) -> io::Result<()> {
        let node = broker + 1;
        let Broker {
            port,
            controller,
            directory,
        } = &self.brokers[broker];
        let data = directory.join("data");
        fs::create_dir_all(&data)?;
        // What `kafka-storage format` writes, without a second Java to write it.
        fs::write(
            data.join("meta.properties"),
            format!("version=1\ncluster.id={CLUSTER}\nnode.id={node}\n"),
        )?;
        fs::write(directory.join("log4j.properties"), LOG)?;

        let voters: Vec<_> = (1..)
            .zip(&self.brokers)
            .map(|(node, broker)| format!("{node}@127.0.0.1:{}", broker.controller))
            .collect();
        let copies = self.brokers.len().min(3);
        let in_sync = copies.div_ceil(2);
        let mut lines = format!(
            "process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BROKER://127.0.0.1:{port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKER
log.dirs={data}
default.replication.factor={copies}
min.insync.replicas={in_sync}
unclean.leader.election.enable=false
auto.create.topics.enable=false
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controlled.shutdown.enable=true
num.network.threads=2
num.io.threads=4
log.segment.delete.delay.ms=1000
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.backoff.ms=200
",
            voters = voters.join(","),
            data = data.display(),
        );
        for (name, value) in settings {
            let _ = writeln!(lines, "{name}={value}");
        }
        fs::write(directory.join("server.properties"), lines)
    }
}
