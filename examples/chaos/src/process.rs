//! The program under attack, as a process.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a clean start may take; it may have a long log to work through.
const START: Duration = Duration::from_secs(120);

/// A process that serves, ended when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pid: Pid,
    /// Where it listens.
    pub port: u16,
}

/// What became of a start.
#[derive(Debug)]
pub enum Started {
    /// It listens.
    Listening(Server),
    /// It did not get there in time; it is killed.
    Stuck,
    /// It ended by itself.
    Ended(ExitStatus),
}

impl Server {
    /// Starts `pipeline` with these arguments, with a failpoint armed or without, and waits until it listens. What it
    /// says goes to `log`.
    ///
    /// # Errors
    ///
    /// When it cannot be run at all.
    pub async fn start(
        program: &Path,
        args: &[OsString],
        log: &Path,
        failpoint: Option<(&str, Duration)>,
    ) -> Result<Started> {
        let said = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("sh");
        command
            // A file that may not grow is an error for who writes, not the end of the process.
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said)
            .kill_on_drop(true);
        if let Some((point, _)) = failpoint {
            command.env("SEAWALL_FAILPOINT", point);
        }
        let mut child = command.spawn().context("sh cannot be run")?;
        let pid = Pid::from_raw(child.id().unwrap_or_default().cast_signed())
            .context("a process that was just started has an id")?;
        let stdout = child.stdout.take().context("its output is piped")?;
        let mut lines = BufReader::new(stdout).lines();
        let patience = failpoint.map_or(START, |(_, patience)| patience);
        let line = match timeout(patience, lines.next_line()).await {
            Ok(line) => line?,
            Err(_) => {
                child.kill().await?;
                return Ok(Started::Stuck);
            }
        };
        let Some(line) = line else {
            return Ok(Started::Ended(child.wait().await?));
        };
        let port = line
            .split_once("http://127.0.0.1:")
            .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        let Some(port) = port else {
            bail!("the server said {line:?}");
        };
        // The pipe must neither fill nor break.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Started::Listening(Self { child, pid, port }))
    }

    /// Ends it at once, as a crash would.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub async fn kill(mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to drain and waits until it has.
    ///
    /// # Errors
    ///
    /// When it takes longer than two minutes.
    pub async fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        let ended = timeout(START, self.child.wait()).await;
        Ok(ended.context("the server does not drain")??)
    }

    /// Halts it where it stands.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits until it ends by itself, at most so long.
    ///
    /// # Errors
    ///
    /// When it cannot be waited for.
    pub async fn ends_within(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        match timeout(patience, self.child.wait()).await {
            Ok(status) => Ok(Some(status?)),
            Err(_) => Ok(None),
        }
    }

    /// From here on no file of its may grow beyond so many bytes, or all may again.
    ///
    /// # Errors
    ///
    /// When the kernel does not allow it.
    pub fn limit_files(&self, bytes: Option<u64>) -> Result<()> {
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(Some(self.pid), Resource::Fsize, limit).context("prlimit")?;
        Ok(())
    }

    fn signal(&self, signal: Signal) {
        // It fails only for a process that has ended, and then there is nobody to tell.
        let _ = kill_process(self.pid, signal);
    }
}

/// Limits that a load does not reach, behind so many proxies.
pub fn limits(proxies: u8) -> Vec<OsString> {
    let proxies = proxies.to_string();
    [
        ["--proxies", &proxies],
        ["--user-limit", "1000000"],
        ["--ip-limit", "1000000"],
        ["--key-limit", "100000000"],
    ]
    .concat()
    .iter()
    .map(OsString::from)
    .collect()
}

/// How often processes that wrote to this log have said that they reached a step at which they were to fail.
///
/// # Errors
///
/// When the log cannot be read.
pub fn reached(log: &Path, step: &str) -> Result<usize> {
    let said = fs::read_to_string(log).context("a process that was started has a log")?;
    let reached = format!("failpoint {step} was reached");
    Ok(said.lines().filter(|line| line.contains(&reached)).count())
}

/// Runs the program to its end, with what it says in `log`.
///
/// # Errors
///
/// When it cannot be run.
pub async fn finish(command: &mut Command, log: &Path) -> Result<ExitStatus> {
    Ok(begin(command, log)?.wait().await?)
}

/// Starts the program, with what it says in `log`.
///
/// # Errors
///
/// When it cannot be run.
pub fn begin(command: &mut Command, log: &Path) -> Result<Child> {
    let said = OpenOptions::new().create(true).append(true).open(log)?;
    let child = command
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .kill_on_drop(true)
        .spawn();
    child.context("the program cannot be run")
}
