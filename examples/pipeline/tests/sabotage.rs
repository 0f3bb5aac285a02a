//! The checker, checked: each rule of the protocol is taken away, in the situation that needs it, and the books must
//! not close. With the rule in place the same situation closes.

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use common::{Server, command, until};
use pipeline::load::{LedgerFile, Load, Mix, Run};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;

const FLAGS: [&str; 6] = [
    "--retry-scale=0.01",
    "--proxies=1",
    "--ip-limit=1000000",
    "--user-limit=1000000",
    "--key-limit=10000000",
    "--drain=60",
];

/// A data directory and what clients were told about it.
struct Trial {
    home: TempDir,
    sabotage: &'static str,
}

/// What the checker says.
#[derive(Debug)]
struct Verdict {
    code: Option<i32>,
    said: String,
    accounting: Value,
}

impl Verdict {
    fn is_green(&self) -> bool {
        self.code == Some(0) && self.accounting["closed"] == true
    }

    /// Whether the books are open, and this is among the reasons.
    fn is_red_for(&self, fault: &str) -> bool {
        self.code == Some(1) && self.accounting[fault].as_u64().is_some_and(|n| n > 0)
    }
}

impl Trial {
    /// The pipeline without these rules.
    fn without(sabotage: &'static str) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        Self { home, sabotage }
    }

    fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    fn ledger(&self) -> PathBuf {
        self.home.path().join("ledger")
    }

    fn server(&self, failpoint: Option<&str>) -> Server {
        let mut command = command(&self.data(), &FLAGS);
        command.env("SEAWALL_SABOTAGE", self.sabotage);
        command.envs(failpoint.map(|point| ("SEAWALL_FAILPOINT", point)));
        Server::spawn(command)
    }

    fn load(server: &Server, seed: u64) -> Load {
        Load {
            server: server.address,
            rate: 1_000,
            duration: Duration::from_millis(1_500),
            connections: 32,
            users: 300,
            products: 1_000,
            mix: Mix {
                writes: 0.8,
                repeats: 0.2,
                poison: 0.05,
                ..Mix::default()
            },
            seed,
        }
    }

    fn run(&self, load: &Load) -> Run {
        let file = LedgerFile::open(&self.ledger()).expect("it opens");
        Run::new(load, Some(file))
    }

    /// Sends a whole load.
    async fn send(&self, server: &Server, seed: u64) {
        let load = Self::load(server, seed);
        let run = self.run(&load);
        run.drive(&load).await;
        run.close().expect("it is written");
    }

    /// Kills the server while a load goes on, once `now` says so or it has ended by itself.
    async fn kill_when(&self, mut server: Server, seed: u64, now: impl Fn(&Run) -> bool) {
        let load = Load {
            duration: Duration::from_secs(20),
            ..Self::load(&server, seed)
        };
        let run = self.run(&load);
        let driver = tokio::spawn({
            let run = run.clone();
            async move { run.drive(&load).await }
        });
        let patience = Duration::from_secs(60);
        let waited = tokio::time::timeout(patience, async {
            while !server.has_ended() && !now(&run) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.expect("it comes to that");
        server.kill();
        // The rest of the load has nobody to go to.
        driver.abort();
        let _ = driver.await;
        drop(run);
    }

    /// A last start that works through what is left, and an end in order.
    async fn finish(&self) -> Verdict {
        let server = self.server(None);
        until(server.address, "/readyz", |answer| answer.status == 200).await;
        self.stop(server)
    }

    fn stop(&self, server: Server) -> Verdict {
        server.stop();
        let report = self.home.path().join("report.json");
        let output = Command::new(env!("CARGO_BIN_EXE_pipeline"))
            .args(["check", "--log"])
            .arg(self.ledger())
            .arg("--data")
            .arg(self.data())
            .arg("--report")
            .arg(&report)
            .output()
            .expect("it runs");
        let said = [output.stdout, output.stderr].concat();
        Verdict {
            code: output.status.code(),
            said: String::from_utf8_lossy(&said).into_owned(),
            accounting: std::fs::read(&report)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default(),
        }
    }

    /// Partitions whose committed position, as it lies on the disk, is beyond their shard's watermark.
    fn committed_beyond_watermarks(&self) -> bool {
        let open = |name: &str| {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
            Connection::open_with_flags(self.data().join(name), flags).expect("it opens")
        };
        let pairs = |db: &Connection, sql: &str| -> Vec<(u16, u64)> {
            db.prepare(sql)
                .and_then(|mut select| {
                    select
                        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                        .collect()
                })
                .expect("it is one of ours")
        };
        let committed = pairs(
            &open("log.db"),
            "SELECT partition, position FROM committed WHERE position > 0",
        );
        let marks: std::collections::HashMap<u16, u64> = (0..10)
            .flat_map(|shard| {
                pairs(
                    &open(&format!("shard-{shard:02}.db")),
                    "SELECT partition, position FROM watermark",
                )
            })
            .collect();
        committed
            .iter()
            .any(|(partition, position)| marks.get(partition).is_some_and(|mark| mark < position))
    }
}

fn accepted(at_least: u64) -> impl Fn(&Run) -> bool {
    move |run| run.look(|ledger, _| ledger.accepted()) >= at_least
}

/// A load, kill -9 in the middle of it, the load again from its beginning, and an end in order.
async fn killed(sabotage: &'static str, failpoint: Option<&str>) -> Verdict {
    let trial = Trial::without(sabotage);
    let server = trial.server(failpoint);
    trial.kill_when(server, 1, accepted(500)).await;
    // The same seed: every order of the first load is sent again.
    let server = trial.server(None);
    trial.send(&server, 1).await;
    trial.stop(server)
}

/// A shard hangs before its commit until committed positions have overtaken it on the disk, or, where nothing commits
/// early, for a while. Then everything is killed,
/// and started again under load.
async fn overtaken(sabotage: &'static str) -> Verdict {
    let trial = Trial::without(sabotage);
    // Beyond the commits by which a start takes the partitions.
    let server = trial.server(Some("shard.before-commit:400:hang"));
    let early = sabotage.contains("commit-before-write");
    trial
        .kill_when(server, 1, |run| {
            accepted(2_000)(run) && (!early || trial.committed_beyond_watermarks())
        })
        .await;
    // A refused gap shows when something follows it.
    let server = trial.server(None);
    trial.send(&server, 2).await;
    trial.stop(server)
}

async fn quiet(sabotage: &'static str) -> Verdict {
    let trial = Trial::without(sabotage);
    let server = trial.server(None);
    trial.send(&server, 1).await;
    trial.stop(server)
}

async fn read_back(sabotage: &'static str, patience: Duration) -> Verdict {
    let trial = Trial::without(sabotage);
    let server = trial.server(None);
    let load = Trial::load(&server, 1);
    let run = trial.run(&load);
    run.drive(&load).await;
    let (orders, accounts) = run.read_back(load.server, 40, patience).await;
    assert!(orders > 0 && accounts > 0, "nothing was read back");
    run.close().expect("it is written");
    trial.stop(server)
}

#[tokio::test]
async fn the_unbroken_pipeline_is_green_in_each_of_the_situations() {
    for verdict in [
        quiet("").await,
        killed("", None).await,
        overtaken("").await,
        read_back("", Duration::from_secs(60)).await,
    ] {
        assert!(verdict.is_green(), "{verdict:?}");
        assert!(
            verdict.accounting["dead_lettered"].as_u64() > Some(0),
            "{verdict:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_before_the_order_is_durable_loses_it_and_turns_orders_round() {
    let verdict = killed("early-202,forget-keys", None).await;
    assert!(!verdict.is_green(), "{verdict:?}");
    let verdict = {
        let trial = Trial::without("early-202");
        let server = trial.server(None);
        trial.kill_when(server, 1, accepted(500)).await;
        trial.finish().await
    };
    assert!(verdict.is_red_for("lost"), "{verdict:?}");
    let verdict = quiet("early-202").await;
    assert!(verdict.is_red_for("out_of_order"), "{verdict:?}");
}

#[tokio::test]
async fn a_position_committed_before_the_write_loses_what_lies_between() {
    let verdict = overtaken("commit-before-write,seek-to-committed,jump-gaps").await;
    assert!(verdict.is_red_for("lost"), "{verdict:?}");
    assert!(verdict.is_red_for("skipped"), "{verdict:?}");
}

#[tokio::test]
async fn the_watermark_alone_is_enough_and_where_a_worker_passes_it_the_refused_gap_keeps_what_is_owed()
 {
    let verdict = overtaken("commit-before-write,jump-gaps").await;
    assert!(verdict.is_green(), "{verdict:?}");
    // A partition that nothing follows in is not drained; what it holds is not passed over either.
    let verdict = overtaken("commit-before-write,seek-to-committed").await;
    assert_eq!(verdict.accounting["skipped"], 0, "{verdict:?}");
    assert_eq!(verdict.accounting["sums_match"], true, "{verdict:?}");
}

#[tokio::test]
async fn an_operation_applies_twice_where_neither_keys_nor_conflicts_are_heeded() {
    let verdict = quiet("forget-keys,no-on-conflict").await;
    // The shard contradicts itself: the directory is not even opened.
    assert_eq!(verdict.code, Some(2), "{verdict:?}");
    assert!(verdict.said.contains("its accounts count"), "{verdict:?}");
    let verdict = quiet("forget-keys").await;
    assert!(verdict.is_green(), "the shard decides: {verdict:?}");
}

#[tokio::test]
async fn a_batch_that_is_sent_again_applies_twice_without_watermark_and_conflicts() {
    let again = Some("worker.before-commit:200:abort");
    let verdict = killed("no-watermark,no-on-conflict,seek-to-committed", again).await;
    assert_eq!(verdict.code, Some(2), "{verdict:?}");
    assert!(verdict.said.contains("its accounts count"), "{verdict:?}");
    for either in [
        "no-watermark,seek-to-committed",
        "no-on-conflict,seek-to-committed",
    ] {
        let verdict = killed(either, again).await;
        assert!(verdict.is_green(), "{either}: {verdict:?}");
    }
}

#[tokio::test]
async fn poison_without_a_letter_is_lost() {
    let verdict = quiet("drop-poison").await;
    assert!(verdict.is_red_for("lost"), "{verdict:?}");
    assert!(verdict.is_red_for("skipped"), "{verdict:?}");
}

#[tokio::test]
async fn a_cache_that_is_not_told_shows_what_is_not_so() {
    let verdict = read_back("no-invalidation", Duration::from_secs(2)).await;
    assert!(verdict.is_red_for("wrong_reads"), "{verdict:?}");
}

#[tokio::test]
async fn a_replay_with_other_bytes_is_noticed() {
    let verdict = killed("other-bytes", None).await;
    assert!(verdict.is_red_for("replay_mismatches"), "{verdict:?}");
}

#[test]
fn an_unknown_rule_or_step_is_refused_in_one_line() {
    for (variable, value) in [
        ("SEAWALL_SABOTAGE", "everything"),
        ("SEAWALL_FAILPOINT", "shard.after-commit"),
    ] {
        let home = tempfile::tempdir().expect("a directory");
        let output = command(&home.path().join("data"), &[])
            .env(variable, value)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(variable) && said.lines().count() == 1,
            "{said}"
        );
    }
}
