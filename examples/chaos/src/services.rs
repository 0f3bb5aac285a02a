//! One run against the services: two APIs behind HAProxy, two workers, and everything under them may fail.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;
use serde_json::Value;
use test_support::Proxy;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::ground::Ground;
use crate::process::{Server, Started, begin, finish, limits};
use crate::report::{Outcome, failed};

/// How long everything that was accepted may take to be applied at the end.
const SETTLE: Duration = Duration::from_secs(300);

/// How long a process is started again for, while a service that it needs does not answer.
const START: Duration = Duration::from_secs(90);

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL of an API, and a start.
    KillApi,
    /// SIGSTOP of an API for a while.
    FreezeApi,
    /// SIGKILL of a worker, and a start.
    KillWorker,
    /// SIGSTOP of a worker for a while: others take its partitions, and then it goes on.
    FreezeWorker,
    /// SIGKILL of both workers, and a start.
    KillWorkers,
    /// Each API and worker is told to drain and started again, one by one.
    Roll,
    /// SIGKILL of a broker, and a start.
    KillBroker,
    /// SIGSTOP of a broker for a while.
    FreezeBroker,
    /// SIGKILL of two brokers, and a start of both.
    KillTwoBrokers,
    /// SIGKILL of Redis, which forgets everything, and a start.
    KillRedis,
    /// SIGKILL of Redis, and a start with what it had written to its file a while before.
    AgeRedis,
    /// SIGSTOP of Redis for a while.
    FreezeRedis,
    /// SIGKILL of the PostgreSQL primary, and a start.
    KillPrimary,
    /// SIGSTOP of the PostgreSQL primary for a while.
    FreezePrimary,
    /// The PostgreSQL replica stops receiving for a while; then the primary dies and the replica takes over.
    FailOver,
    /// Every connection of the load ends, for a while.
    Cut,
    /// Every connection of the load hangs, for a while.
    Stall,
    /// Everything between the load and HAProxy is late, for a while.
    Delay,
}

impl Blow {
    /// All of them, with their names.
    pub const ALL: &[(&str, Self)] = &[
        ("kill-api", Self::KillApi),
        ("freeze-api", Self::FreezeApi),
        ("kill-worker", Self::KillWorker),
        ("freeze-worker", Self::FreezeWorker),
        ("kill-workers", Self::KillWorkers),
        ("roll", Self::Roll),
        ("kill-broker", Self::KillBroker),
        ("freeze-broker", Self::FreezeBroker),
        ("kill-two-brokers", Self::KillTwoBrokers),
        ("kill-redis", Self::KillRedis),
        ("freeze-redis", Self::FreezeRedis),
        ("kill-primary", Self::KillPrimary),
        ("freeze-primary", Self::FreezePrimary),
        ("fail-over", Self::FailOver),
        ("cut", Self::Cut),
        ("stall", Self::Stall),
        ("delay", Self::Delay),
        ("age-redis", Self::AgeRedis),
    ];

    /// The one of this name.
    pub fn by_name(name: &str) -> Option<(&'static str, Self)> {
        Self::ALL.iter().copied().find(|(known, _)| *known == name)
    }
}

/// One blow of a run.
struct Struck {
    name: &'static str,
    blow: Blow,
    after: Duration,
    lasts: Duration,
    /// Which of several, counted round.
    which: usize,
}

fn plan(seed: u64, blows: &[(&'static str, Blow)]) -> Vec<Struck> {
    let mut rng = Rng::with_seed(seed);
    (0..rng.usize(1..=3))
        .map(|_| {
            let (name, blow) = blows[rng.usize(..blows.len())];
            Struck {
                name,
                blow,
                after: Duration::from_millis(rng.u64(200..1_500)),
                lasts: Duration::from_millis(rng.u64(200..3_000)),
                which: rng.usize(..6),
            }
        })
        .collect()
}

struct Run<'a> {
    program: &'a Path,
    ground: &'a mut Ground,
    home: PathBuf,
    proxy: Proxy,
    apis: [Option<Server>; 2],
    workers: [Option<Server>; 2],
}

/// Does one run in a directory of its own, which is removed when all was well.
pub async fn run(
    program: &Path,
    ground: &mut Ground,
    directory: &Path,
    seed: u64,
    blows: &[(&'static str, Blow)],
) -> Outcome {
    let begun = Instant::now();
    let home = directory.join(format!("services-{seed}"));
    let plan = plan(seed, blows);
    let mut outcome = Outcome {
        seed,
        strikes: plan.iter().map(|struck| struck.name.to_owned()).collect(),
        reached: Vec::new(),
        failed: 0,
        accounting: Value::Null,
        wrong: None,
        seconds: 0.0,
    };
    let proxy = Proxy::to(ground.haproxy.port()).await;
    let mut run = Run {
        program,
        ground,
        home: home.clone(),
        proxy,
        apis: [None, None],
        workers: [None, None],
    };
    let ran = run.through(seed, &plan, &mut outcome).await;
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

impl Run<'_> {
    async fn through(&mut self, seed: u64, plan: &[Struck], outcome: &mut Outcome) -> Result<()> {
        fs::create_dir_all(&self.home)?;
        let topic = format!("run_{seed}_{}", std::process::id());
        fs::write(self.places(), self.ground.places(&topic))?;
        for which in 0..2 {
            self.api(which).await?;
            self.worker(which).await?;
        }
        let lasts: Duration = plan.iter().map(|struck| struck.after + struck.lasts).sum();
        let seconds = format!("{:.1}", lasts.as_secs_f64() + 3.0);
        let mut load = begin(&mut self.load(seed, &seconds, "0"), &self.file("load.log"))?;
        for struck in plan {
            sleep(struck.after).await;
            let done = self.strike(struck).await;
            done.with_context(|| format!("step {}", struck.name))?;
        }
        ensure!(load.wait().await?.success(), "the load failed");
        outcome.failed = failed(&fs::read_to_string(self.file("load.log"))?);
        // To be rolled is no failure to be got over: nobody may notice.
        if plan.iter().all(|struck| struck.blow == Blow::Roll) {
            ensure!(outcome.failed == 0, "{} requests failed", outcome.failed);
        }
        // Everything again from its beginning, as clients that had no answer do; then what readers are shown.
        let again = finish(&mut self.load(seed, "2", "30"), &self.file("load.log")).await?;
        ensure!(again.success(), "the load failed when it was repeated");
        let settled = self.settle().await;
        for server in self.apis.iter_mut().chain(&mut self.workers) {
            if let Some(server) = server.take() {
                server.kill().await?;
            }
        }
        outcome.accounting = settled?;
        ensure!(
            outcome.accounting["closed"] == true,
            "the books do not close: {}",
            outcome.accounting
        );
        Ok(())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn places(&self) -> PathBuf {
        self.file("services.toml")
    }

    async fn start(&self, role: &str, which: usize, args: Vec<OsString>) -> Result<Server> {
        let log = self.file(&format!("{role}-{which}.log"));
        let mut all: Vec<OsString> = vec![role.into(), "--services".into(), self.places().into()];
        all.extend(args);
        // As whatever supervises a process does: what ends because a service is out is started again.
        let until = Instant::now() + START;
        loop {
            match Server::start(self.program, &all, &log, None).await? {
                Started::Listening(server) => return Ok(server),
                Started::Ended(status) if Instant::now() >= until => {
                    bail!("{role} {which} does not start: {status}")
                }
                Started::Ended(_) => sleep(Duration::from_millis(200)).await,
                Started::Stuck => bail!("{role} {which} does not start"),
            }
        }
    }

    async fn api(&mut self, which: usize) -> Result<()> {
        let at = format!("127.0.0.1:{}", self.ground.apis[which]);
        let mut args: Vec<OsString> = vec!["--listen".into(), at.into()];
        // The load names its clients' addresses, and HAProxy adds that of the load.
        args.extend(limits(2));
        self.apis[which] = Some(self.start("api", which, args).await?);
        Ok(())
    }

    async fn worker(&mut self, which: usize) -> Result<()> {
        let args = ["--listen", "127.0.0.1:0", "--retry-scale", "0.01"];
        let args = args.iter().map(OsString::from).collect();
        self.workers[which] = Some(self.start("worker", which, args).await?);
        Ok(())
    }

    fn load(&self, seed: u64, seconds: &str, read_back: &str) -> Command {
        let mut command = Command::new(self.program);
        command
            // HAProxy asks the other API where one gave no answer.
            .args(["load", "--resent", "--rate", "150", "--writes", "0.6"])
            .args(["--connections", "48", "--seconds", seconds])
            .args(["--seed", &seed.to_string(), "--read-back", read_back])
            .args(["--target", &format!("127.0.0.1:{}", self.proxy.port())])
            .arg("--log")
            .arg(self.file("ledger"));
        command
    }

    async fn strike(&mut self, struck: &Struck) -> Result<()> {
        let Struck { lasts, which, .. } = *struck;
        let one = which % 2;
        let broker = which % 3;
        match struck.blow {
            Blow::KillApi => {
                kill(&mut self.apis[one]).await?;
                self.api(one).await
            }
            Blow::KillWorker => {
                kill(&mut self.workers[one]).await?;
                self.worker(one).await
            }
            Blow::KillWorkers => {
                for which in 0..2 {
                    kill(&mut self.workers[which]).await?;
                }
                sleep(lasts).await;
                for which in 0..2 {
                    self.worker(which).await?;
                }
                Ok(())
            }
            Blow::FreezeApi => freeze(self.apis[one].as_ref(), lasts).await,
            Blow::FreezeWorker => freeze(self.workers[one].as_ref(), lasts).await,
            Blow::Roll => self.roll().await,
            Blow::KillBroker => {
                self.ground.kafka.kill(broker);
                sleep(lasts).await;
                self.ground.kafka.restart(broker).await;
                Ok(())
            }
            Blow::FreezeBroker => {
                self.ground.kafka.pause(broker);
                sleep(lasts).await;
                self.ground.kafka.resume(broker);
                Ok(())
            }
            Blow::KillTwoBrokers => {
                let two = [broker, (broker + 1) % 3];
                for broker in two {
                    self.ground.kafka.kill(broker);
                }
                sleep(lasts).await;
                self.ground.kafka.restart_all(two).await;
                Ok(())
            }
            Blow::KillRedis => {
                self.ground.redis.kill();
                sleep(lasts).await;
                self.ground.redis.restart().await;
                // It may have found the file of an earlier blow.
                self.ground.redis.ask(&["FLUSHALL"]).await;
                Ok(())
            }
            Blow::AgeRedis => {
                self.ground.redis.ask(&["SAVE"]).await;
                sleep(lasts).await;
                self.ground.redis.restart().await;
                Ok(())
            }
            Blow::FreezeRedis => {
                self.ground.redis.pause();
                sleep(lasts).await;
                self.ground.redis.resume();
                Ok(())
            }
            Blow::KillPrimary => {
                self.ground.primary.kill();
                sleep(lasts).await;
                self.ground.primary.restart().await;
                Ok(())
            }
            Blow::FreezePrimary => {
                self.ground.primary.pause();
                sleep(lasts).await;
                self.ground.primary.resume();
                Ok(())
            }
            Blow::FailOver => self.fail_over(lasts).await,
            Blow::Cut => {
                self.proxy.cut();
                sleep(lasts).await;
                self.proxy.heal();
                Ok(())
            }
            Blow::Stall => {
                self.proxy.stall();
                sleep(lasts).await;
                self.proxy.flow();
                Ok(())
            }
            Blow::Delay => {
                self.proxy.delay(lasts / 10);
                sleep(lasts).await;
                self.proxy.delay(Duration::ZERO);
                Ok(())
            }
        }
    }

    /// One by one, each is told to drain and started again.
    async fn roll(&mut self) -> Result<()> {
        for which in 0..2 {
            if let Some(api) = self.apis[which].take() {
                let status = api.stop().await?;
                ensure!(status.success(), "api {which} did not drain: {status}");
            }
            self.api(which).await?;
            if let Some(worker) = self.workers[which].take() {
                let status = worker.stop().await?;
                ensure!(status.success(), "worker {which} did not drain: {status}");
            }
            self.worker(which).await?;
        }
        Ok(())
    }

    /// The replica takes over without what was committed in the last while.
    async fn fail_over(&mut self, lasts: Duration) -> Result<()> {
        self.ground.cut_replica().await;
        sleep(lasts).await;
        self.ground.fail_over().await;
        // Those who run know the two servers of before, which is enough: one of them is the primary. Whoever starts
        // from here on is told of the new replica as well.
        self.ground.mend().await;
        let said = fs::read_to_string(self.places())?;
        let topic = said
            .lines()
            .find_map(|line| line.strip_prefix("topic = "))
            .context("the places name a topic")?
            .trim_matches('"')
            .to_owned();
        fs::write(self.places(), self.ground.places(&topic))?;
        Ok(())
    }

    /// Asks the checker until everything that is in the log is applied, and answers with what it says then.
    async fn settle(&self) -> Result<Value> {
        let until = Instant::now() + SETTLE;
        loop {
            let said = self.check().await;
            let drained = said.as_ref().is_ok_and(|said| said["drained"] == true);
            if drained || Instant::now() >= until {
                return said;
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn check(&self) -> Result<Value> {
        let report = self.file("report.json");
        let _ = fs::remove_file(&report);
        let log = self.file("check.log");
        let mut command = Command::new(self.program);
        command
            .arg("check")
            .arg("--log")
            .arg(self.file("ledger"))
            .arg("--services")
            .arg(self.places())
            .arg("--report")
            .arg(&report);
        finish(&mut command, &log).await?;
        match fs::read(&report) {
            Ok(report) => Ok(serde_json::from_slice(&report)?),
            Err(_) => bail!("the checker says: {}", fs::read_to_string(log)?.trim()),
        }
    }
}

async fn kill(server: &mut Option<Server>) -> Result<()> {
    server.take().context("it runs")?.kill().await
}

async fn freeze(server: Option<&Server>, lasts: Duration) -> Result<()> {
    let server = server.context("it runs")?;
    server.freeze();
    sleep(lasts).await;
    server.thaw();
    Ok(())
}
