//! One run against the embedded store.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use test_support::Proxy;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::disk::Disk;
use crate::process::{Server, Started, begin, finish, limits, reached};
use crate::report::{Outcome, failed};
use crate::strike::{Action, Kind, Strike, plan};

/// Shards of the data directory.
const SHARDS: u16 = 10;

/// The size of a disk that fills up, in MiB.
const DISK: u32 = 96;

/// How long a failpoint is waited for at least, once the server listens.
const REACHED: Duration = Duration::from_millis(1_000);

/// A load that is still going on at the last strike, about.
fn load_seconds(strikes: &[Strike]) -> String {
    let each = |strike: &Strike| {
        let waits = strike.kind.step().map_or(Duration::ZERO, |_| REACHED);
        strike.after + strike.lasts + waits
    };
    let all: Duration = strikes.iter().map(each).sum();
    format!("{:.1}", all.as_secs_f64() + 1.0)
}

/// A run: where its files lie, and what runs.
struct Run<'a> {
    program: &'a Path,
    home: PathBuf,
    disk: Disk,
    proxy: Proxy,
    server: Option<Server>,
    reached: Vec<String>,
}

/// Does one run in a directory of its own, which is removed when all was well.
pub async fn run(program: &Path, directory: &Path, seed: u64, kinds: &[Kind]) -> Outcome {
    let begun = Instant::now();
    let home = directory.join(format!("run-{seed}"));
    let strikes = plan(seed, kinds, SHARDS);
    let mut outcome = Outcome {
        seed,
        strikes: strikes.iter().map(ToString::to_string).collect(),
        reached: Vec::new(),
        failed: 0,
        accounting: Value::Null,
        wrong: None,
        seconds: 0.0,
    };
    let ran = attempt(program, &home, seed, &strikes, &mut outcome).await;
    outcome.seconds = begun.elapsed().as_secs_f64();
    match ran {
        Ok(()) => {
            // What is left over is only in the way.
            let _ = fs::remove_dir_all(&home);
        }
        Err(wrong) => outcome.wrong = Some(format!("{wrong:#}; its files: {}", home.display())),
    }
    outcome
}

async fn attempt(
    program: &Path,
    home: &Path,
    seed: u64,
    strikes: &[Strike],
    outcome: &mut Outcome,
) -> Result<()> {
    fs::create_dir_all(home)?;
    let fills = |strike: &Strike| matches!(strike.kind, Kind::FullDisk | Kind::FullDiskKill);
    // Every other time, so that both ways of having no room are met.
    let disk = match strikes.iter().any(fills) && seed.is_multiple_of(2) {
        true => Disk::make(&home.join("disk"), DISK)?,
        false => Disk::plain(&home.join("disk"))?,
    };
    let mut run = Run {
        program,
        home: home.to_owned(),
        disk,
        proxy: Proxy::to(0).await,
        server: None,
        reached: Vec::new(),
    };
    let done = run.through(seed, strikes, outcome).await;
    if done.is_err() {
        // Nobody writes any more, and a mounted disk goes with the run: its data is evidence.
        run.server = None;
        run.disk.keep(&home.join("data"))?;
    }
    done
}

impl Run<'_> {
    async fn through(
        &mut self,
        seed: u64,
        strikes: &[Strike],
        outcome: &mut Outcome,
    ) -> Result<()> {
        self.serve().await?;
        let seconds = load_seconds(strikes);
        let mut load = begin(&mut self.load(seed, &seconds, "0"), &self.file("load.log"))?;
        for strike in strikes {
            sleep(strike.after).await;
            let struck = self.strike(strike).await;
            struck.with_context(|| format!("step {strike}"))?;
        }
        outcome.reached = std::mem::take(&mut self.reached);
        ensure!(load.wait().await?.success(), "the load failed");
        outcome.failed = failed(&fs::read_to_string(self.file("load.log"))?);
        // Everything again from its beginning, as clients that had no answer do; then what readers are shown.
        let again = finish(&mut self.load(seed, "1", "50"), &self.file("load.log")).await?;
        ensure!(again.success(), "the load failed when it was repeated");
        if let Some(server) = self.server.take() {
            let status = server.stop().await?;
            ensure!(status.success(), "the server did not drain: {status}");
        }
        let (closed, accounting) = self.check().await?;
        outcome.accounting = accounting;
        ensure!(closed, "the books do not close: {}", outcome.accounting);
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn load(&self, seed: u64, seconds: &str, read_back: &str) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(["load", "--rate", "1000", "--writes", "0.6"])
            .args(["--connections", "48", "--seconds", seconds])
            .args(["--seed", &seed.to_string(), "--read-back", read_back])
            .args(["--target", &format!("127.0.0.1:{}", self.proxy.port())])
            .arg("--log")
            .arg(self.file("ledger"));
        command
    }

    fn serve_args(&self) -> Vec<OsString> {
        let own = ["serve", "--listen", "127.0.0.1:0", "--drain", "60"];
        let more = ["--shards", "10", "--retry-scale", "0.01", "--data"];
        let mut args: Vec<OsString> = own.iter().chain(&more).map(OsString::from).collect();
        args.push(self.disk.data().into());
        args.extend(limits(1));
        args
    }

    /// A clean start. It must succeed, whatever happened before.
    async fn serve(&mut self) -> Result<()> {
        let log = self.file("server.log");
        match Server::start(self.program, &self.serve_args(), &log, None).await? {
            Started::Listening(server) => {
                self.proxy.aim(server.port);
                self.server = Some(server);
                Ok(())
            }
            Started::Stuck => bail!("the server does not start"),
            Started::Ended(status) => bail!("the server does not start: {status}"),
        }
    }

    fn running(&mut self) -> Result<Server> {
        self.server.take().context("no server runs")
    }

    async fn strike(&mut self, strike: &Strike) -> Result<()> {
        match strike.kind {
            Kind::Kill => {
                self.running()?.kill().await?;
                self.serve().await
            }
            Kind::Freeze => {
                let server = self.running()?;
                server.freeze();
                sleep(strike.lasts).await;
                server.thaw();
                self.server = Some(server);
                Ok(())
            }
            Kind::FreezeKill => {
                let server = self.running()?;
                server.freeze();
                sleep(strike.lasts).await;
                server.kill().await?;
                self.serve().await
            }
            Kind::Restart => {
                let status = self.running()?.stop().await?;
                ensure!(status.success(), "the server did not drain: {status}");
                self.serve().await
            }
            Kind::Failpoint(_) => {
                self.running()?.kill().await?;
                self.at_failpoint(strike).await?;
                self.serve().await
            }
            Kind::Cut => {
                self.proxy.cut();
                sleep(strike.lasts).await;
                self.proxy.heal();
                Ok(())
            }
            Kind::Stall => {
                self.proxy.stall();
                sleep(strike.lasts).await;
                self.proxy.flow();
                Ok(())
            }
            Kind::Delay => {
                self.proxy.delay(strike.lasts / 10);
                sleep(strike.lasts).await;
                self.proxy.delay(Duration::ZERO);
                Ok(())
            }
            Kind::FullDisk | Kind::FullDiskKill => self.without_room(strike).await,
            Kind::OldShard => {
                self.running()?.kill().await?;
                self.keep_shard(strike.shard)?;
                self.serve().await?;
                sleep(strike.lasts).await;
                self.running()?.kill().await?;
                self.put_shard_back(strike.shard)?;
                self.serve().await
            }
        }
    }

    /// A start that is to fail at a step; it is ended, however far it got.
    async fn at_failpoint(&mut self, strike: &Strike) -> Result<()> {
        let point = strike.failpoint().context("a failpoint has a step")?;
        let step = strike.kind.step().context("a failpoint has a step")?;
        let log = self.file("server.log");
        let before = reached(&log, step)?;
        let armed = Some((&*point, Duration::from_secs(3)));
        let started = Server::start(self.program, &self.serve_args(), &log, armed).await?;
        if let Started::Listening(mut server) = started {
            self.proxy.aim(server.port);
            let patience = REACHED + strike.lasts;
            let ended = server.ends_within(patience).await?;
            if ended.is_none() {
                if strike.action == Action::Stop && strike.times.is_multiple_of(2) {
                    // It goes on where it stood.
                    server.thaw();
                    sleep(strike.lasts).await;
                }
                server.kill().await?;
            }
        }
        if reached(&log, step)? > before {
            self.reached.push(point);
        }
        Ok(())
    }

    /// For a while there is no room. The server may end of it; it must not lie.
    async fn without_room(&mut self, strike: &Strike) -> Result<()> {
        let mut server = self.running()?;
        self.disk.fill(&server)?;
        let ended = server.ends_within(strike.lasts).await?;
        if strike.kind == Kind::FullDiskKill || ended.is_some() {
            server.kill().await?;
            self.disk.free(None)?;
            return self.serve().await;
        }
        self.disk.free(Some(&server))?;
        self.server = Some(server);
        Ok(())
    }

    fn shard_files(&self, shard: u16) -> [(PathBuf, PathBuf); 2] {
        ["", "-wal"].map(|kind| {
            let name = format!("shard-{shard:02}.db{kind}");
            (self.disk.data().join(&name), self.file(&name))
        })
    }

    fn keep_shard(&self, shard: u16) -> Result<()> {
        for (file, kept) in self.shard_files(shard) {
            if file.exists() {
                fs::copy(file, kept)?;
            } else if kept.exists() {
                fs::remove_file(kept)?;
            }
        }
        Ok(())
    }

    fn put_shard_back(&self, shard: u16) -> Result<()> {
        let index = format!("shard-{shard:02}.db-shm");
        let index = self.disk.data().join(index);
        if index.exists() {
            fs::remove_file(index)?;
        }
        for (file, kept) in self.shard_files(shard) {
            if kept.exists() {
                fs::copy(kept, file)?;
            } else if file.exists() {
                fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    async fn check(&self) -> Result<(bool, Value)> {
        let report = self.file("report.json");
        let mut command = Command::new(self.program);
        command
            .arg("check")
            .arg("--log")
            .arg(self.file("ledger"))
            .arg("--data")
            .arg(self.disk.data())
            .arg("--report")
            .arg(&report);
        let status = finish(&mut command, &self.file("check.log")).await?;
        let accounting = match fs::read(&report) {
            Ok(report) => serde_json::from_slice(&report)?,
            Err(_) => bail!(
                "the checker says: {}",
                fs::read_to_string(self.file("check.log"))?.trim()
            ),
        };
        Ok((status.success(), accounting))
    }
}
