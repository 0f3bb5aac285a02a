//! Apache Kafka's own brokers, without ZooKeeper: one, or three with everything on three.

mod jars;
mod layout;

use std::io::{self, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;
use tokio::sync::{OnceCell, oneshot};

pub use jars::{KAFKA_VERSION, kafka_jars};
pub use layout::KafkaLayout;

use crate::redis::follow;

/// Waits for the end of its input. The directory above goes with the last of the brokers.
const HEIR: &str = r#"read -r nothing; kill -9 "$0"; rm -rf "$1"; rmdir "${1%/*}" 2>/dev/null"#;
/// How often other ports are drawn when somebody else took one in between.
const PORTS_TO_TRY: usize = 5;

/// Kafka of the test's own, on free loopback ports and in a directory of its own. Topics are not made by
/// writing to them.
///
/// Brokers are counted from 0 and are killed by their process ids when the value is dropped, paused or not,
/// and also when the test's process is killed. They run on Java 17 or newer: `java` from `PATH`, or what `JAVA` names.
#[derive(Debug)]
pub struct Kafka {
    layout: KafkaLayout,
    processes: Vec<Mutex<Option<Process>>>,
    // Behind the processes, so that the directory goes after those who write to it.
    _directory: TempDir,
}

#[derive(Debug)]
struct Process {
    broker: Child,
    /// Kills the broker and takes its data away when the pipe to it closes, as it does when this process ends however
    /// it ends.
    heir: Child,
}

impl Kafka {
    /// One broker; returns once it takes requests.
    ///
    /// # Panics
    ///
    /// When Java or Kafka's jars are missing or it does not start; the message says what to do.
    pub async fn start() -> Self {
        Self::with(1, &[]).await
    }

    /// Three brokers, each a controller too: replication factor 3, `min.insync.replicas` 2, no unclean election.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub async fn cluster() -> Self {
        Self::with(3, &[]).await
    }

    /// So many brokers with further settings, such as `&[("message.max.bytes", "2000")]`.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub async fn with(brokers: usize, settings: &[(&str, &str)]) -> Self {
        for _ in 0..PORTS_TO_TRY {
            let directory = tempfile::Builder::new()
                .prefix("test-kafka-")
                .tempdir()
                .expect("the directory for temporary files is writable");
            let layout = KafkaLayout::prepare(directory.path(), brokers, settings)
                .unwrap_or_else(|missing| panic!("this test needs Kafka: {missing}"));
            let kafka = Self {
                layout,
                processes: (0..brokers).map(|_| Mutex::new(None)).collect(),
                _directory: directory,
            };
            match kafka.launch(0..brokers).await {
                Ok(()) => return kafka,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("Kafka did not start:\n{log}"),
            }
        }
        panic!("Kafka found no free ports in {PORTS_TO_TRY} attempts");
    }

    /// One broker for all tests of this process that need nothing but a broker: topics of their own names keep them
    /// apart. Nobody pauses or kills it; it ends with the process.
    ///
    /// # Panics
    ///
    /// As [`start`](Self::start).
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// `127.0.0.1:<port>,...`: what a client bootstraps from.
    pub fn bootstrap(&self) -> String {
        self.layout.bootstrap()
    }

    /// How many brokers there are, running or not.
    pub fn brokers(&self) -> usize {
        self.layout.brokers()
    }

    /// The port of this broker, also after [`restart`](Self::restart).
    pub fn port(&self, broker: usize) -> u16 {
        self.layout.port(broker)
    }

    /// Stops the process where it stands (SIGSTOP) and returns once it has stopped: connections stay open and
    /// nothing is answered.
    pub fn pause(&self, broker: usize) {
        let pid = self.signal(broker, Signal::STOP);
        waitpid(Some(pid), WaitOptions::UNTRACED).expect("the broker is a child of ours");
    }

    /// Lets a paused process go on (SIGCONT).
    pub fn resume(&self, broker: usize) {
        self.signal(broker, Signal::CONT);
    }

    /// Kills the process (SIGKILL) and returns once it is gone.
    pub fn kill(&self, broker: usize) {
        let process = self.process(broker).take();
        drop(process);
    }

    /// Lets the process hand over what it leads and end by itself (SIGTERM), and returns once it is gone.
    pub fn stop(&self, broker: usize) {
        let process = self.process(broker).take();
        if let Some(mut process) = process {
            let pid = Pid::from_child(&process.broker);
            kill_process(pid, Signal::TERM).expect("the broker is a child of ours");
            let _ = process.broker.wait();
        }
    }

    /// Starts a broker again on the same ports and data, killing it first if it still runs.
    ///
    /// # Panics
    ///
    /// When it does not come up again; the message is its log. With too few others up it waits for them.
    pub async fn restart(&self, broker: usize) {
        self.restart_all([broker]).await;
    }

    /// Starts brokers again at once, as is needed when they make up the majority.
    ///
    /// # Panics
    ///
    /// As [`restart`](Self::restart).
    pub async fn restart_all(&self, brokers: impl IntoIterator<Item = usize>) {
        let brokers: Vec<_> = brokers.into_iter().collect();
        for broker in &brokers {
            self.kill(*broker);
        }
        if let Err(log) = self.launch(brokers).await {
            panic!("Kafka did not start again:\n{log}");
        }
    }

    /// Starts processes and waits until each says that it is up; the error is the log of one that did not.
    async fn launch(&self, brokers: impl IntoIterator<Item = usize>) -> Result<(), String> {
        let mut coming = Vec::new();
        for broker in brokers {
            let (output, writer) = io::pipe().expect("a pipe can be made");
            let errors = writer.try_clone().expect("a pipe's end can be shared");
            let mut command = self.layout.command(broker);
            command.stdout(writer).stderr(errors);
            let process = Process::spawn(&mut command)?;
            drop(command);
            *self.process(broker) = Some(process);
            let (ready, is_ready) = oneshot::channel();
            thread::spawn(move || follow(BufReader::new(output), layout::STARTED, ready));
            coming.push((broker, is_ready));
        }
        let mut outcome = Ok(());
        for (broker, is_ready) in coming {
            let came = is_ready
                .await
                .expect("the thread that reads the log answers");
            if let Err(log) = came {
                self.kill(broker);
                outcome = outcome.and(Err(log));
                // The others may be waiting for this one.
                (0..self.brokers()).for_each(|broker| self.kill(broker));
            }
        }
        outcome
    }

    fn signal(&self, broker: usize, signal: Signal) -> Pid {
        let process = self.process(broker);
        let process = process.as_ref().expect("the broker runs");
        let pid = Pid::from_child(&process.broker);
        kill_process(pid, signal).expect("the broker is a child of ours");
        pid
    }

    fn process(&self, broker: usize) -> std::sync::MutexGuard<'_, Option<Process>> {
        let process = &self.processes[broker];
        process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    fn spawn(command: &mut Command) -> Result<Self, String> {
        let program = command.get_program().to_owned();
        let mut broker = command.spawn().map_err(|error| {
            format!(
                "cannot run {}: {error}. Kafka needs Java 17 or newer: install it (Debian, Ubuntu: apt-get install \
                 openjdk-17-jre-headless; macOS: brew install openjdk@17), put the program's path into JAVA, or let \
                 `cargo xtask test` do it.",
                program.display()
            )
        })?;
        let heir = Command::new("sh")
            .args(["-c", HEIR])
            .arg(broker.id().to_string())
            .args(command.get_current_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match heir {
            Ok(heir) => Ok(Self { broker, heir }),
            Err(error) => {
                let _ = broker.kill();
                let _ = broker.wait();
                Err(format!("cannot run sh: {error}"))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The heir first: it must not kill by a number that may be somebody else's by then. Each fails only for a
        // process that is gone already.
        let _ = self.heir.kill();
        let _ = self.heir.wait();
        let _ = self.broker.kill();
        let _ = self.broker.wait();
    }
}
