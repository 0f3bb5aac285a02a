//! Slots that move to a shard that joins, while load runs.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pipeline::accounting::Accounting;
use pipeline::backend::Backend;
use pipeline::load::{LedgerFile, Load, Mix, Run, read_ledger};
use pipeline::log::kafka::Reading;
use pipeline::log::{Log, LogId};
use pipeline::reshard::PostgresMover;
use pipeline::services::{Assigned, Places, ShardPlace};
use seawall_shard_router::{
    BoxError, Mover, Outcome, Plan, Progress, Reshard, ReshardError, Shard, ShardId, Stage, Step,
};
use tempfile::{NamedTempFile, TempDir};
use test_support::{Kafka, Postgres, Redis};
use tokio::task::JoinHandle;

use crate::common::Server;
use crate::common::places::remote::{books, file, patient, settled};

/// Two shards with replicas under load, and the database of a third.
struct Trial {
    home: TempDir,
    file: NamedTempFile,
    joins: ShardPlace,
    servers: Vec<Server>,
    _services: (Redis, Kafka, Postgres, Postgres),
}

impl Trial {
    async fn start() -> Self {
        let (redis, kafka, primary) =
            tokio::join!(Redis::start(), Kafka::start(), Postgres::start());
        for shard in ["s00", "s01", "s02"] {
            primary.create_database(shard).await;
        }
        let replica = primary.replica().await;
        // The servers ask for no password; what matters is where it comes to lie.
        let secret = |url: String| url.replace("postgres@", "postgres:hidden@");
        let at = |shard| {
            let (primary, replica) = (primary.url_of(shard), replica.url_of(shard));
            (secret(primary), Some(secret(replica)))
        };
        let file = file(&redis.url(), &kafka.bootstrap(), &["s00", "s01"].map(at));
        patient(&file);
        let (joins, follows) = at("s02");
        let process = |role: &str, more: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
            command.args([role, "--listen=127.0.0.1:0", "--services"]);
            Server::spawn({
                command.arg(file.path()).args(more);
                command
            })
        };
        let limits = ["--proxies=1", "--ip-limit=1000000", "--user-limit=1000000"];
        let servers = vec![
            process("api", &limits),
            process("worker", &["--retry-scale=0.01"]),
            process("worker", &["--retry-scale=0.01"]),
        ];
        Self {
            home: tempfile::tempdir().unwrap(),
            joins: ShardPlace {
                primary: joins,
                replica: follows,
                replicas: Vec::new(),
            },
            file,
            servers,
            _services: (redis, kafka, primary, replica),
        }
    }

    fn load(&self, seed: u64, seconds: u64) -> Load {
        Load {
            server: self.servers[0].address,
            rate: 150,
            duration: Duration::from_secs(seconds),
            connections: 64,
            users: 300,
            products: 1_000,
            mix: Mix {
                writes: 0.5,
                repeats: 0.1,
                ..Mix::default()
            },
            seed,
        }
    }

    /// Starts a load.
    fn send(&self, seed: u64, seconds: u64) -> Sending {
        let load = self.load(seed, seconds);
        let ledger = LedgerFile::open(&self.home.path().join("ledger")).unwrap();
        let run = Run::new(&load, Some(ledger));
        let driver = tokio::spawn({
            let run = run.clone();
            async move { run.drive(&load).await }
        });
        Sending { run, driver }
    }

    fn reshard(&self, action: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
        command.args(["reshard", action, "--services"]);
        command.arg(self.file.path()).args(more);
        if action == "add" {
            command.args(["--primary", &self.joins.primary]);
            command.args(["--replica", self.joins.replica.as_deref().unwrap()]);
        }
        command
    }

    /// What a shard keeps of the assignment and the move.
    async fn kept(&self, shard: &str) -> String {
        let places = Places::read(self.file.path()).unwrap();
        let (_, _, primary, _) = &self._services;
        let kept = format!("SELECT body FROM {}.kept", places.kafka.topic);
        primary.ask_in(shard, &kept).await
    }

    async fn account(self) -> (Accounting, Vec<usize>) {
        settled(&self.file).await;
        for server in self.servers {
            assert!(server.stop().success());
        }
        let told = read_ledger(&self.home.path().join("ledger")).unwrap();
        let books = books(&self.file).await;
        let applied = books.shards.iter().map(|shard| shard.applied.len());
        (Accounting::of(&told, &books), applied.collect())
    }
}

/// A load under way.
struct Sending {
    run: Run,
    driver: JoinHandle<()>,
}

impl Sending {
    async fn accepted(&self, at_least: u64) {
        let wait = async {
            while self.run.look(|ledger, _| ledger.accepted()) < at_least {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("orders are accepted");
    }

    /// Waits for its end, and counts the requests that got no answer, or one that says that the server could not.
    async fn end(self) -> u64 {
        self.driver.await.unwrap();
        let (failed, said) = self.run.look(|_, figures| {
            let failed = figures
                .statuses
                .iter()
                .filter(|((_, status), _)| *status == 0 || *status >= 500);
            let failed: u64 = failed.map(|(_, count)| count).sum();
            (failed, format!("{:?}", figures.statuses))
        });
        println!("{said}");
        self.run.close().unwrap();
        failed
    }
}

async fn ended(mut child: Child) -> (bool, String) {
    tokio::task::spawn_blocking(move || {
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        std::io::Read::read_to_string(&mut stdout, &mut said).unwrap();
        (child.wait().unwrap().success(), said)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_joins_under_load_killed_on_the_way_and_no_request_fails() {
    let trial = Trial::start().await;
    let load = trial.send(7, 15);
    load.accepted(200).await;

    // A dry run says what would move, and moves nothing.
    let dry = trial.reshard("add", &["--dry-run"]).output().unwrap();
    let dry = String::from_utf8(dry.stdout).unwrap();
    assert!(
        dry.contains("epoch 1 to 2: 5461 of 16384 slots move"),
        "{dry}"
    );
    assert!(dry.contains("freeze at the source"), "{dry}");

    let mut child = trial
        .reshard("add", &[])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let frozen = lines.find(|line| line.as_ref().unwrap().starts_with("WritesFrozen"));
    assert!(frozen.is_some(), "it never froze the slots");
    child.kill().unwrap();
    child.wait().unwrap();

    let resumed = trial
        .reshard("resume", &["--finish"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (well, said) = ended(resumed).await;
    assert!(well, "{said}");
    assert!(said.contains("are deleted where they were"), "{said}");
    let failed = load.end().await + trial.send(9, 3).end().await;

    let (accounting, applied) = trial.account().await;
    println!("figure pipeline/failed-while-growing: {failed}");
    println!("figure pipeline/lost-while-growing: {}", accounting.lost);
    println!(
        "figure pipeline/twice-while-growing: {}",
        accounting.double_applied
    );
    assert_eq!(failed, 0);
    assert!(accounting.closed, "{accounting:?}");
    assert!(applied.len() == 3 && applied[2] > 100, "{applied:?}");
}

/// Loses the answer of every step once: as when the process is killed behind it, before the journal knows.
struct Killed {
    inner: PostgresMover,
    lost: BTreeMap<String, u32>,
}

impl Mover for Killed {
    async fn run(&mut self, step: &Step<'_>) -> Result<Outcome, BoxError> {
        let outcome = self.inner.run(step).await?;
        let times = self.lost.entry(step.to_string()).or_default();
        *times += 1;
        if *times == 1 {
            return Err("killed".into());
        }
        Ok(outcome)
    }

    async fn save(&mut self, progress: &Progress) -> Result<(), BoxError> {
        self.inner.save(progress).await
    }

    async fn load(&mut self) -> Result<Option<Progress>, BoxError> {
        self.inner.load().await
    }
}

/// The log that the shards apply.
async fn log(file: &NamedTempFile) -> LogId {
    let places = Places::read(file.path()).unwrap();
    let there = pipeline::services::Services::connect(&places, Reading::Nothing)
        .await
        .unwrap();
    let log = there.log().id();
    there.close().await;
    log
}

/// What a process that moves slots has at hand.
async fn assigned(file: &NamedTempFile, log: LogId) -> Arc<Assigned> {
    let places = Places::read(file.path()).unwrap();
    Assigned::open(&places, log).await.unwrap()
}

async fn begun(trial: &Trial, shards: &Arc<Assigned>) -> Reshard<PostgresMover> {
    let base = shards.newest().topology;
    let shard = Shard::new("s02")
        .primary("s02/primary")
        .replica("s02/replica");
    let plan: Plan = base.with_shard(shard).unwrap().plan_from(&base);
    shards.join(2, &trial.joins).await.unwrap();
    let joined = BTreeMap::from([("s02".to_owned(), trial.joins.clone())]);
    let mover = PostgresMover::new(shards, joined).await.unwrap();
    Reshard::begin(mover, &base, plan).await.unwrap()
}

/// Goes on as new processes would, each of which is killed behind the first step whose answer was never lost.
async fn through_kills(trial: &Trial, log: LogId, back: bool) -> (Stage, u32) {
    let (mut kills, mut lost) = (0, BTreeMap::new());
    loop {
        let shards = assigned(&trial.file, log).await;
        shards.join(2, &trial.joins).await.unwrap();
        let joined = BTreeMap::from([("s02".to_owned(), trial.joins.clone())]);
        let inner = loop {
            // PostgreSQL frees the lock of a process that is gone when it notices.
            match PostgresMover::new(&shards, joined.clone()).await {
                Ok(mover) => break mover,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let mover = Killed { inner, lost };
        let mut moving = Reshard::resume(mover).await.unwrap().unwrap();
        let done = if back {
            moving.roll_back().await
        } else {
            match moving.run().await {
                Ok(Stage::Reversible) => moving.finish().await,
                done => done,
            }
        };
        lost = moving.into_mover().lost;
        match done {
            Ok(stage) => return (stage, kills),
            Err(ReshardError::Step { .. }) => kills += 1,
            Err(other) => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_behind_each_step_a_move_is_gone_on_with_and_the_books_close() {
    let trial = Trial::start().await;
    let first = trial.send(7, 15);
    first.accepted(100).await;
    let log = log(&trial.file).await;
    drop(begun(&trial, &assigned(&trial.file, log).await).await);
    let (stage, kills) = through_kills(&trial, log, false).await;
    assert_eq!(stage, Stage::Done);
    for shard in ["s00", "s01", "s02"] {
        let kept = trial.kept(shard).await;
        assert!(kept.contains("dbname='s02'"), "{kept}");
        assert!(!kept.contains("hidden"), "{kept}");
    }
    first.end().await;
    trial.send(9, 3).end().await;
    let (accounting, applied) = trial.account().await;
    println!("figure pipeline/kills-while-growing: {kills}");
    let open = u8::from(!accounting.closed);
    println!("figure pipeline/open-over-kills-while-growing: {open}");
    assert!(kills >= 15, "{kills}");
    assert!(accounting.closed, "{accounting:?}");
    assert!(applied[2] > 50, "{applied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn taken_back_through_kills_what_the_new_shard_wrote_is_with_the_old_ones() {
    let trial = Trial::start().await;
    let first = trial.send(7, 15);
    first.accepted(100).await;
    let log = log(&trial.file).await;
    let shards = assigned(&trial.file, log).await;
    let mut moving = begun(&trial, &shards).await;
    assert_eq!(moving.run().await.unwrap(), Stage::Reversible);
    first.end().await;
    trial.send(8, 4).end().await;
    settled(&trial.file).await;
    drop(moving);
    let tally = {
        use pipeline::shard::ShardDb;
        let shard = shards.opened().get(&ShardId::from("s02")).unwrap();
        shard.tally().await.unwrap()
    };
    assert!(tally.applied.len() > 50, "{}", tally.applied.len());
    let last = trial.send(9, 8);
    let (stage, kills) = through_kills(&trial, log, true).await;
    assert_eq!(stage, Stage::RolledBack);
    assert!(kills >= 8, "{kills}");
    last.end().await;
    let (accounting, applied) = trial.account().await;
    assert!(accounting.closed, "{accounting:?}");
    assert_eq!(applied.get(2), Some(&0), "{applied:?}");
}
