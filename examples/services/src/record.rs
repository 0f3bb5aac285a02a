//! What is written down about what runs: for the pipeline, and for `status` and `down`.

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an address may take to be connected to.
const ANSWER: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The keeper's process.
    pub(crate) keeper: i32,
    /// When that process began, as the kernel counts it.
    began: u64,
    rows: Vec<Row>,
    /// Where the pipeline finds what, as TOML.
    places: String,
}

/// One server.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) service: String,
    pub(crate) role: String,
    pub(crate) address: SocketAddr,
}

impl Record {
    /// Of what this process keeps.
    pub(crate) fn of_us(rows: Vec<Row>, places: String) -> Result<Self> {
        let keeper = rustix::process::getpid().as_raw_nonzero().get();
        let began = began(keeper).context("this needs /proc, so Linux")?;
        Ok(Self {
            keeper,
            began,
            rows,
            places,
        })
    }

    /// What was written down in a directory, if anything.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>> {
        let file = directory.join("services.json");
        match fs::read(&file) {
            Ok(json) => serde_json::from_slice(&json)
                .map(Some)
                .with_context(|| format!("{} is not ours", file.display())),
            Err(missing) if missing.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }

    /// Writes it down: the places first, then what says that everything is up.
    pub(crate) fn write(&self, directory: &Path) -> Result<()> {
        fs::write(self.places(directory), &self.places)?;
        let whole = directory.join("services.json.new");
        fs::write(&whole, serde_json::to_vec_pretty(self)?)?;
        Ok(fs::rename(whole, directory.join("services.json"))?)
    }

    /// Forgets what was written down.
    pub(crate) fn remove(directory: &Path) -> Result<()> {
        for name in ["services.json", "services.toml"] {
            match fs::remove_file(directory.join(name)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {name}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn places(&self, directory: &Path) -> PathBuf {
        directory.join("services.toml")
    }

    /// Whether the very process that wrote this down still runs.
    pub(crate) fn keeper_runs(&self) -> bool {
        began(self.keeper) == Some(self.began)
    }

    pub(crate) fn end_keeper(&self) -> Result<()> {
        let keeper = Pid::from_raw(self.keeper).context("a process has a number")?;
        kill_process(keeper, Signal::TERM).context("the keeper cannot be told to end")
    }

    /// Whether each server's address can be connected to.
    pub(crate) async fn answers(&self) -> Vec<bool> {
        let mut answers = Vec::new();
        for row in &self.rows {
            let connected = timeout(ANSWER, TcpStream::connect(row.address)).await;
            answers.push(matches!(connected, Ok(Ok(_))));
        }
        answers
    }

    pub(crate) fn table(&self) -> String {
        self.table_with(&[])
    }

    /// A line for each server, with what is known of whether it answers.
    pub(crate) fn table_with(&self, answers: &[bool]) -> String {
        let mut table = String::new();
        for (at, row) in self.rows.iter().enumerate() {
            let state = match answers.get(at) {
                Some(true) => "answers",
                Some(false) => "DOES NOT ANSWER",
                None => "",
            };
            let line = format!(
                "{:<10} {:<22} {:<22} {state}",
                row.service, row.role, row.address
            );
            // Writing to a string does not fail.
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }
}

/// When a process began, in the kernel's ticks since the machine did; nothing when it has ended.
fn began(process: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows it has fixed places.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    (state != "Z").then_some(())?;
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_when_it_began() {
        let mut record = Record::of_us(Vec::new(), String::new()).expect("there is /proc");
        assert!(record.keeper_runs());
        // The number was given to another process since.
        record.began += 1;
        assert!(!record.keeper_runs());
        record.keeper = i32::MAX;
        assert!(!record.keeper_runs());
    }
}
