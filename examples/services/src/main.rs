//! Redis, Kafka, PostgreSQL and HAProxy for the pipeline, on loopback, until they are told to end.
//!
//! `up` leaves a keeper behind: a process in a session of its own, whose children the servers are. It outlives the
//! command, writes down where everything is once all of it answers, and ends its servers when it is told to end.
//! `down` finds it by its process id and by when that process began, so that a number that was given away since ends
//! nobody else.

mod args;
mod keeper;
mod record;

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use args::{Cli, Command as Asked, Up};
use clap::Parser;
use record::Record;
use tokio::time::{Instant, sleep};

/// How long servers may take to answer for the first time.
const UP: Duration = Duration::from_secs(300);

/// How long they may take to end in order.
const DOWN: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Asked::Up(up) => self::up(&up).await,
        Asked::Status { directory } => status(&directory).await,
        Asked::Down { directory } => down(&directory).await,
        Asked::Keep(up) => keeper::keep(&up).await.map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("services: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Starts a keeper, waits until everything answers and shows where it is.
async fn up(up: &Up) -> Result<bool> {
    let directory = &up.directory;
    if let Some(record) = Record::read(directory)?
        && record.keeper_runs()
    {
        bail!(
            "they are up already, in {}: take them down first",
            directory.display()
        );
    }
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Record::remove(directory)?;
    let log = directory.join("keeper.log");
    let said = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut keeper = Command::new(std::env::current_exe()?)
        .arg("keep")
        .args(up.as_args())
        .env("TMPDIR", std::path::absolute(directory)?)
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(said)
        .spawn()
        .context("cannot start the keeper")?;
    let until = Instant::now() + UP;
    loop {
        if let Some(record) = Record::read(directory)? {
            print!("{}", record.table());
            println!(
                "\npipeline demo --services {}",
                record.places(directory).display()
            );
            return Ok(true);
        }
        let ended = keeper.try_wait()?;
        if ended.is_some() || Instant::now() >= until {
            // It takes its servers with it.
            let _ = keeper.kill();
            bail!("{}", std::fs::read_to_string(&log)?.trim());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Shows where everything is and whether it answers.
async fn status(directory: &Path) -> Result<bool> {
    let Some(record) = Record::read(directory)?.filter(Record::keeper_runs) else {
        println!("nothing is up in {}", directory.display());
        return Ok(false);
    };
    let answers = record.answers().await;
    print!("{}", record.table_with(&answers));
    Ok(answers.iter().all(|answers| *answers))
}

/// Has the keeper end what it keeps.
async fn down(directory: &Path) -> Result<bool> {
    let Some(record) = Record::read(directory)?.filter(Record::keeper_runs) else {
        println!("nothing is up in {}", directory.display());
        Record::remove(directory)?;
        return Ok(true);
    };
    record.end_keeper()?;
    let until = Instant::now() + DOWN;
    while record.keeper_runs() {
        if Instant::now() >= until {
            bail!("the keeper, process {}, does not end", record.keeper);
        }
        sleep(Duration::from_millis(20)).await;
    }
    Record::remove(directory)?;
    println!("all ended");
    Ok(true)
}
