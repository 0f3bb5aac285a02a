use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::port::free_port;
use crate::resp;

/// The line by which the server itself says that it answers.
const READY: &str = "Ready to accept connections";
/// How often another port is drawn when somebody else took the first in between.
const PORTS_TO_TRY: usize = 20;

/// A redis-server of the test's own, on a free loopback port and in a directory of its own.
///
/// It is killed by its process id when the value is dropped, paused or not. Persistence is off unless
/// [`with_args`](Redis::with_args) turns it on, and then [`restart`](Redis::restart) finds the data
/// again. The program is `redis-server` from `PATH`, or what `REDIS_SERVER` names.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    args: Vec<String>,
    process: Mutex<Option<Child>>,
    // Behind the process, so that the directory goes after the server that writes to it.
    directory: TempDir,
}

impl Redis {
    /// Starts a server and returns once it answers.
    ///
    /// # Panics
    ///
    /// When redis-server is not installed or does not start; the message says what to do.
    pub async fn start() -> Self {
        Self::with_args::<&str>(&[]).await
    }

    /// Like [`start`](Redis::start), with further arguments, such as `&["--appendonly", "yes"]`.
    ///
    /// # Panics
    ///
    /// When redis-server is not installed or does not start; the message says what to do.
    pub async fn with_args<A: AsRef<str>>(args: &[A]) -> Self {
        let mut redis = Self {
            port: 0,
            args: args.iter().map(|arg| arg.as_ref().to_owned()).collect(),
            process: Mutex::new(None),
            directory: tempfile::Builder::new()
                .prefix("test-redis-")
                .tempdir()
                .expect("the directory for temporary files is writable"),
        };
        for _ in 0..PORTS_TO_TRY {
            redis.port = free_port();
            match redis.launch().await {
                Ok(()) => return redis,
                Err(log) if log.contains("Address already in use") => {}
                Err(log) => panic!("redis-server did not start:\n{log}"),
            }
        }
        panic!("redis-server found no free port in {PORTS_TO_TRY} attempts");
    }

    /// `redis://127.0.0.1:<port>/`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The port it listens on, also after [`restart`](Redis::restart).
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops the process where it stands (SIGSTOP) and returns once it has stopped: connections stay
    /// open and nothing is answered.
    pub fn pause(&self) {
        let pid = self.signal(Signal::STOP);
        waitpid(Some(pid), WaitOptions::UNTRACED).expect("the server is a child of ours");
    }

    /// Lets a paused process go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills the process (SIGKILL) and returns once it is gone. What was not yet on disk is lost.
    pub fn kill(&self) {
        let child = self.process().take();
        if let Some(mut child) = child {
            // Both fail only for a process that is gone already, which is what was asked for.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port, directory and arguments, killing it first if it still runs.
    ///
    /// # Panics
    ///
    /// When it does not come up again; the message is its log.
    pub async fn restart(&self) {
        self.kill();
        if let Err(log) = self.launch().await {
            panic!("redis-server did not start again:\n{log}");
        }
    }

    /// Sends one command and returns its reply as text: an array as one line per element, nil as an
    /// empty text.
    ///
    /// # Panics
    ///
    /// When the server is not there or answers with an error.
    pub async fn ask(&self, words: &[&str]) -> String {
        match resp::ask(self.port, words).await {
            Ok(reply) => reply,
            Err(error) => panic!("redis-server on port {}: {words:?}: {error}", self.port),
        }
    }

    /// How often each command was called since the server started or since
    /// [`reset_stats`](Redis::reset_stats), by its name in lower case (`"get"`, `"config|get"`).
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub async fn commandstats(&self) -> BTreeMap<String, u64> {
        self.ask(&["INFO", "commandstats"])
            .await
            .lines()
            .filter_map(|line| {
                let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
                let calls = figures.split(',').next()?.parse().ok()?;
                Some((name.to_owned(), calls))
            })
            .collect()
    }

    /// Starts [`commandstats`](Redis::commandstats) again from nothing.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub async fn reset_stats(&self) {
        self.ask(&["CONFIG", "RESETSTAT"]).await;
    }

    /// Makes the server forget every script it has seen, as a failover or a restart does.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub async fn flush_scripts(&self) {
        self.ask(&["SCRIPT", "FLUSH"]).await;
    }

    /// Starts the process and waits until it says that it is ready; the error is its log.
    async fn launch(&self) -> Result<(), String> {
        let program =
            std::env::var_os("REDIS_SERVER").unwrap_or_else(|| OsString::from("redis-server"));
        let (output, writer) = io::pipe().expect("a pipe can be made");
        let errors = writer.try_clone().expect("a pipe's end can be shared");
        let child = Command::new(&program)
            .args(["--port", &self.port.to_string()])
            .args(["--bind", "127.0.0.1"])
            .args(["--save", ""])
            .args(["--daemonize", "no"])
            .args(["--loglevel", "notice"])
            .args(["--logfile", ""])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{}", cannot_run(&program, &error)));
        let (ready, is_ready) = oneshot::channel();
        thread::spawn(move || follow(BufReader::new(output), READY, ready));
        *self.process() = Some(child);
        let outcome = is_ready
            .await
            .expect("the thread that reads the log answers");
        if outcome.is_err() {
            self.kill();
        }
        outcome
    }

    fn signal(&self, signal: Signal) -> Pid {
        let process = self.process();
        let child = process.as_ref().expect("the server runs");
        let pid = Pid::from_child(child);
        kill_process(pid, signal).expect("the server is a child of ours");
        pid
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads the log to its end, so that the server never blocks on a full pipe, and answers once: with `up`'s line, or with the log.
pub(crate) fn follow(lines: impl BufRead, up: &str, ready: oneshot::Sender<Result<(), String>>) {
    let mut ready = Some(ready);
    let mut log = String::new();
    for line in lines.lines().map_while(Result::ok) {
        let Some(waiting) = ready.take() else {
            continue;
        };
        if line.contains(up) {
            // Nobody listens any more when the test was dropped while the server came up.
            let _ = waiting.send(Ok(()));
        } else {
            log.push_str(&line);
            log.push('\n');
            ready = Some(waiting);
        }
    }
    if let Some(waiting) = ready {
        let _ = waiting.send(Err(log));
    }
}

fn cannot_run(program: &std::ffi::OsStr, error: &io::Error) -> String {
    format!(
        "cannot run {}: {error}. This test needs redis-server 7 or newer: install it (Debian, Ubuntu: \
         apt-get install redis-server; macOS: brew install redis), put the program's path into \
         REDIS_SERVER, or let `cargo xtask test` do it.",
        program.display()
    )
}
