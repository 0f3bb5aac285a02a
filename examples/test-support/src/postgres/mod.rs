//! PostgreSQL of the test's own: a primary, its replicas, and what befalls them.

mod process;
mod programs;

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;

use self::process::Process;
use self::programs::Programs;
use crate::port::free_port;

/// How often another port is drawn when somebody else took the first in between.
const PORTS_TO_TRY: usize = 20;

/// What makes a server of tests small and quick; it survives the death of its processes, not of the machine.
const QUICK: &[(&str, &str)] = &[
    ("fsync", "off"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "off"),
    ("shared_buffers", "32MB"),
    ("max_connections", "200"),
    // What a replica that was away needs is still there.
    ("wal_keep_size", "512MB"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_retrieve_retry_interval", "100ms"),
    ("wal_receiver_timeout", "5s"),
    ("wal_sender_timeout", "5s"),
    ("max_standby_streaming_delay", "-1"),
    ("autovacuum", "off"),
    ("jit", "off"),
];

/// A PostgreSQL server of the test's own, on a free loopback port and in a directory of its own.
///
/// All its processes are killed by their ids when the value is dropped, paused or not. Its one user is
/// `postgres`, the superuser, who needs no password. The programs are those beside the `postgres` that
/// `POSTGRES_SERVER` names, on `PATH`, or where distributions put them; where the tests run as root, they are
/// run as `postgres` or `nobody`. Pausing and killing need `/proc`, so Linux.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use test_support::Postgres;
/// let primary = Postgres::start().await;
/// let replica = primary.replica().await;
/// primary.ask("CREATE TABLE t (n int); INSERT INTO t VALUES (7)").await;
/// replica.caught_up(primary.position().await).await;
/// assert_eq!(replica.ask("SELECT n FROM t").await, "7");
/// # });
/// ```
#[derive(Debug)]
pub struct Postgres {
    programs: Programs,
    port: u16,
    settings: Vec<(String, String)>,
    process: Mutex<Option<Process>>,
    // Behind the process, so that the directory goes after the server that writes to it.
    directory: TempDir,
}

impl Postgres {
    /// Makes a server and returns once it answers. It does not sync to disk: a killed server loses nothing, a
    /// machine without power would.
    ///
    /// # Panics
    ///
    /// When PostgreSQL is not installed or does not start; the message says what to do.
    pub async fn start() -> Self {
        Self::with_settings::<&str>(&[]).await
    }

    /// One that syncs each commit to disk, as in production: `fsync` and `full_page_writes` are on.
    ///
    /// # Panics
    ///
    /// As [`start`](Postgres::start).
    pub async fn durable() -> Self {
        Self::with_settings(&[("fsync", "on"), ("full_page_writes", "on")]).await
    }

    /// Like [`start`](Postgres::start), with further settings, which go before the ones that it makes:
    /// `&[("fsync", "on"), ("synchronous_standby_names", "*")]`. Replicas get the same.
    ///
    /// # Panics
    ///
    /// As [`start`](Postgres::start).
    pub async fn with_settings<T: AsRef<str>>(settings: &[(T, T)]) -> Self {
        let programs = Programs::find();
        let directory = directory(&programs);
        let mut initdb = programs.command("initdb");
        initdb
            .args(["--username", "postgres", "--auth", "trust"])
            .args(["--encoding", "UTF8", "--locale", "C", "--no-sync"])
            .arg("--pgdata")
            .arg(directory.path().join("data"));
        output(initdb).await;
        let own = |(name, value): &(T, T)| (name.as_ref().to_owned(), value.as_ref().to_owned());
        let settings = settings.iter().map(own).collect();
        Self::launched(programs, directory, settings).await
    }

    /// A replica of this server that streams from it, from a copy that is taken now. It reads only, until it is
    /// [promoted](Postgres::promote).
    ///
    /// # Panics
    ///
    /// When the copy cannot be taken or the replica does not start.
    pub async fn replica(&self) -> Self {
        let directory = directory(&self.programs);
        let mut copy = self.programs.command("pg_basebackup");
        copy.args(["--dbname", &self.url()])
            .args(["--checkpoint", "fast", "--wal-method", "stream"])
            .args(["--write-recovery-conf", "--no-sync", "--pgdata"])
            .arg(directory.path().join("data"));
        output(copy).await;
        Self::launched(self.programs.clone(), directory, self.settings.clone()).await
    }

    /// `postgres://postgres@127.0.0.1:<port>/postgres`
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same, of another [database](Postgres::create_database).
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port it listens on, also after [`restart`](Postgres::restart).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its data.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Runs statements on a connection of its own and returns what they answer: a line for each row, `|`
    /// between its columns, nothing for NULL.
    ///
    /// # Panics
    ///
    /// When the server is not there or answers with an error.
    pub async fn ask(&self, sql: &str) -> String {
        self.ask_in("postgres", sql).await
    }

    /// The same, in another database.
    ///
    /// # Panics
    ///
    /// As [`ask`](Postgres::ask).
    pub async fn ask_in(&self, database: &str, sql: &str) -> String {
        match self.try_ask_in(database, sql).await {
            Ok(answer) => answer,
            Err(said) => panic!("PostgreSQL on port {}: {sql:?}: {said}", self.port),
        }
    }

    /// The same, where an error is an answer as well: what the server said.
    ///
    /// # Errors
    ///
    /// What the server, or the attempt to reach it, says.
    pub async fn try_ask_in(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = self.programs.command("psql");
        psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set", "ON_ERROR_STOP=1", "--set", "VERBOSITY=verbose"])
            .args(["--dbname", &self.url_of(database), "--command", sql]);
        run(psql).await
    }

    /// One more database on this server, and its URL.
    ///
    /// # Panics
    ///
    /// When it is there already, or its name is not one.
    pub async fn create_database(&self, name: &str) -> String {
        self.ask(&format!("CREATE DATABASE \"{name}\"")).await;
        self.url_of(name)
    }

    /// How far this server is, in bytes of its write-ahead log: on a primary what is written, on a replica what
    /// is applied.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub async fn position(&self) -> u64 {
        let position = self.ask(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END \
             - '0/0'::pg_lsn",
        );
        position.await.parse().expect("a position is a number")
    }

    /// Returns when this replica has applied everything up to this [position](Postgres::position).
    ///
    /// # Panics
    ///
    /// When it has not within a minute, or does not answer.
    pub async fn caught_up(&self, position: u64) {
        self.ask(&format!(
            "SET statement_timeout = '60s'; DO $$ BEGIN \
             WHILE pg_last_wal_replay_lsn() - '0/0'::pg_lsn < {position} LOOP PERFORM pg_sleep(0.005); END LOOP; \
             END $$"
        ))
        .await;
    }

    /// Makes this replica lag: it goes on receiving and applies nothing, until
    /// [`resume_replay`](Postgres::resume_replay). Returns when it has stopped applying.
    ///
    /// # Panics
    ///
    /// When it is no replica.
    pub async fn pause_replay(&self) {
        self.ask(
            "SELECT pg_wal_replay_pause(); DO $$ BEGIN \
             WHILE pg_get_wal_replay_pause_state() = 'pause requested' LOOP PERFORM pg_sleep(0.005); END LOOP; END $$",
        )
        .await;
    }

    /// Lets this replica apply again what it has received.
    ///
    /// # Panics
    ///
    /// When it is no replica.
    pub async fn resume_replay(&self) {
        self.ask("SELECT pg_wal_replay_resume()").await;
    }

    /// Makes this replica a primary and returns once it takes writes.
    ///
    /// # Panics
    ///
    /// When it is no replica, or has not become one within a minute.
    pub async fn promote(&self) {
        let done = self.ask("SELECT pg_promote(true, 60)").await;
        assert_eq!(
            done, "t",
            "the replica on port {} did not become a primary",
            self.port
        );
    }

    /// From now on this replica streams from another server, such as one that was promoted.
    ///
    /// # Panics
    ///
    /// When it is no replica.
    pub async fn follow(&self, primary: &Postgres) {
        let url = primary.url();
        self.ask(&format!("ALTER SYSTEM SET primary_conninfo = '{url}'"))
            .await;
        self.ask("SELECT pg_reload_conf()").await;
    }

    /// Stops all its processes where they stand (SIGSTOP) and returns once they have stopped: connections stay
    /// open and nothing is answered.
    pub fn pause(&self) {
        self.process().as_ref().expect("the server runs").pause();
    }

    /// Lets a paused server go on (SIGCONT).
    pub fn resume(&self) {
        self.process().as_ref().expect("the server runs").resume();
    }

    /// Kills all its processes (SIGKILL) and returns once they are gone.
    pub fn kill(&self) {
        let process = self.process().take();
        if let Some(process) = process {
            process.kill();
        }
    }

    /// Ends it in order, cutting its connections, and returns once it has ended.
    pub fn stop(&self) {
        let process = self.process().take();
        if let Some(process) = process {
            process.stop();
        }
    }

    /// Starts it again on the same port, directory and settings, killing it first if it still runs.
    ///
    /// # Panics
    ///
    /// When it does not come up again; the message is its log.
    pub async fn restart(&self) {
        self.kill();
        if let Err(log) = self.launch().await {
            panic!("PostgreSQL did not start again:\n{log}");
        }
    }

    async fn launched(
        programs: Programs,
        directory: TempDir,
        settings: Vec<(String, String)>,
    ) -> Self {
        let mut server = Self {
            programs,
            port: 0,
            settings,
            process: Mutex::new(None),
            directory,
        };
        for _ in 0..PORTS_TO_TRY {
            server.port = free_port();
            match server.launch().await {
                Ok(()) => return server,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("PostgreSQL did not start:\n{log}"),
            }
        }
        panic!("PostgreSQL found no free port in {PORTS_TO_TRY} attempts");
    }

    async fn launch(&self) -> Result<(), String> {
        let mut command = self.programs.command("postgres");
        command.arg("-D").arg(self.data());
        let own = self
            .settings
            .iter()
            .map(|(name, value)| (&**name, &**value));
        let port = self.port.to_string();
        let place = [
            ("port", &*port),
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("logging_collector", "off"),
        ];
        // Of two settings of one name the later counts.
        for (name, value) in QUICK.iter().copied().chain(own).chain(place) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let process = Process::start(command).await?;
        *self.process() = Some(process);
        Ok(())
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory of the user that runs the programs.
fn directory(programs: &Programs) -> TempDir {
    let directory = tempfile::Builder::new()
        .prefix("test-postgres-")
        .tempdir()
        .expect("the directory for temporary files is writable");
    programs.give(directory.path());
    directory
}

/// Runs a program to its end; what it wrote, or what it complained of.
async fn run(mut command: Command) -> Result<String, String> {
    let ended = tokio::task::spawn_blocking(move || command.output());
    let output = ended
        .await
        .expect("waiting for a program does not panic")
        .unwrap_or_else(|error| panic!("a program of PostgreSQL cannot be run: {error}"));
    if output.status.success() {
        let text = String::from_utf8_lossy(&output.stdout);
        return Ok(text.trim_end_matches('\n').to_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn output(command: Command) -> String {
    let program = command.get_program().to_owned();
    run(command)
        .await
        .unwrap_or_else(|said| panic!("{} failed:\n{said}", program.display()))
}
