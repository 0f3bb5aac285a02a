//! One run against the services: two APIs behind HAProxy, two workers, and everything under them may fail.

mod blow;
mod strikes;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use test_support::Proxy;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::ground::Ground;
use crate::process::{Server, Started, begin, finish, limits};
use crate::report::{Outcome, failed};

pub use blow::Blow;
use blow::{Struck, plan};

/// How long everything that was accepted may take to be applied at the end.
const SETTLE: Duration = Duration::from_secs(300);

/// How long a process is started again for, while a service that it needs does not answer.
const START: Duration = Duration::from_secs(90);

/// What a process of the pipeline does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Api,
    Worker,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Worker => "worker",
        }
    }
}

struct Run<'a> {
    program: &'a Path,
    ground: &'a mut Ground,
    home: PathBuf,
    proxy: Proxy,
    topic: String,
    /// Whether Redis is a cluster in this run.
    clustered: bool,
    apis: [Option<Server>; 2],
    workers: [Option<Server>; 2],
    reached: Vec<String>,
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
        strikes: plan.iter().map(ToString::to_string).collect(),
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
        topic: format!("run_{seed}_{}", std::process::id()),
        clustered: plan
            .iter()
            .any(|struck| struck.blow == Blow::ClusterFailOver),
        apis: [None, None],
        workers: [None, None],
        reached: Vec::new(),
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
        if self.clustered {
            self.ground.cluster().await;
        }
        self.tell()?;
        for which in 0..2 {
            self.start(Role::Api, which).await?;
            self.start(Role::Worker, which).await?;
        }
        let lasts: Duration = plan.iter().map(Struck::whole).sum();
        let seconds = format!("{:.1}", lasts.as_secs_f64() + 3.0);
        let mut load = begin(&mut self.load(seed, &seconds, "0"), &self.file("load.log"))?;
        for struck in plan {
            sleep(struck.after).await;
            let done = self.strike(struck).await;
            done.with_context(|| format!("step {struck}"))?;
        }
        outcome.reached = std::mem::take(&mut self.reached);
        ensure!(load.wait().await?.success(), "the load failed");
        outcome.failed = failed(&fs::read_to_string(self.file("load.log"))?);
        // To be rolled is no failure to be got over: nobody may notice.
        if plan.iter().all(|struck| struck.blow == Blow::Roll) {
            ensure!(outcome.failed == 0, "{} requests failed", outcome.failed);
        }
        // Everything again from its beginning, as clients that had no answer do.
        self.repeat(seed, "2", "0").await?;
        // What readers are shown is compared with what the shards hold in the end, so nothing may be on its way then; and
        // what is sent with it is known already.
        self.settle().await?;
        self.repeat(seed, "1", "30").await?;
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

    /// Writes down where everything is, for whoever starts from here on.
    fn tell(&self) -> Result<()> {
        let places = self.ground.places(&self.topic, self.clustered);
        Ok(fs::write(self.places(), places)?)
    }

    /// How one of the APIs or workers is run.
    fn args(&self, role: Role, which: usize) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec![
            role.name().into(),
            "--services".into(),
            self.places().into(),
        ];
        match role {
            Role::Api => {
                let at = format!("127.0.0.1:{}", self.ground.apis[which]);
                args.extend(["--listen".into(), at.into()]);
                // The load names its clients' addresses, and HAProxy adds that of the load.
                args.extend(limits(2));
            }
            Role::Worker => {
                let own = ["--listen", "127.0.0.1:0", "--retry-scale", "0.01"];
                args.extend(own.iter().map(OsString::from));
            }
        }
        args
    }

    /// Where it says what it has to say.
    fn said(&self, role: Role, which: usize) -> PathBuf {
        self.file(&format!("{}-{which}.log", role.name()))
    }

    fn server(&mut self, role: Role, which: usize) -> &mut Option<Server> {
        match role {
            Role::Api => &mut self.apis[which],
            Role::Worker => &mut self.workers[which],
        }
    }

    /// Starts one, and again while it ends by itself: as whatever supervises a process does, because a service that
    /// it needs may be out.
    async fn start(&mut self, role: Role, which: usize) -> Result<()> {
        let (args, log) = (self.args(role, which), self.said(role, which));
        let until = Instant::now() + START;
        loop {
            match Server::start(self.program, &args, &log, None).await? {
                Started::Listening(server) => {
                    *self.server(role, which) = Some(server);
                    return Ok(());
                }
                Started::Ended(status) if Instant::now() >= until => {
                    bail!("{} {which} does not start: {status}", role.name())
                }
                Started::Ended(_) => sleep(Duration::from_millis(200)).await,
                Started::Stuck => bail!("{} {which} does not start", role.name()),
            }
        }
    }

    async fn kill(&mut self, role: Role, which: usize) -> Result<()> {
        let server = self.server(role, which).take();
        server.context("it runs")?.kill().await
    }

    async fn repeat(&self, seed: u64, seconds: &str, read_back: &str) -> Result<()> {
        let mut load = self.load(seed, seconds, read_back);
        let again = finish(&mut load, &self.file("load.log")).await?;
        ensure!(again.success(), "the load failed when it was repeated");
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
