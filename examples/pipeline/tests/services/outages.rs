//! Brokers and database servers that go away under load.

use std::time::Duration;

use pipeline::accounting::Accounting;
use pipeline::load::{Ledger, LedgerFile, Load, Mix, Run, read_ledger};
use pipeline::order::{OpId, Principal};
use tempfile::{NamedTempFile, TempDir};
use test_support::{Kafka, Postgres, Redis};

use crate::common::places::remote::{books, file, patient, settled};
use crate::common::{Answer, Server, get, post, send, until};

/// A server on services, and what clients were told by it.
struct Trial {
    home: TempDir,
    file: NamedTempFile,
    server: Server,
}

impl Trial {
    fn start(redis: &Redis, kafka: &Kafka, shards: &[(String, Option<String>)]) -> Self {
        let file = file(&redis.url(), &kafka.bootstrap(), shards);
        patient(&file);
        Self::serve(file)
    }

    /// Where Redis itself goes away, and its deadline is what matters.
    fn impatient(redis: &Redis, kafka: &Kafka, shards: &[(String, Option<String>)]) -> Self {
        Self::serve(file(&redis.url(), &kafka.bootstrap(), shards))
    }

    fn serve(file: NamedTempFile) -> Self {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pipeline"));
        command
            .args([
                "serve",
                "--listen=127.0.0.1:0",
                "--retry-scale=0.01",
                "--proxies=1",
            ])
            .args(["--ip-limit=1000000", "--user-limit=1000000", "--services"])
            .arg(file.path());
        Self {
            home: tempfile::tempdir().unwrap(),
            file,
            server: Server::spawn(command),
        }
    }

    fn load(&self, seed: u64, seconds: u64) -> Load {
        Load {
            server: self.server.address,
            rate: 300,
            duration: Duration::from_secs(seconds),
            connections: 64,
            users: 300,
            products: 1_000,
            mix: Mix {
                writes: 0.8,
                repeats: 0.2,
                ..Mix::default()
            },
            seed,
        }
    }

    /// Sends a load, and answers how many orders were accepted in it.
    async fn send(&self, seed: u64, seconds: u64) -> u64 {
        let load = self.load(seed, seconds);
        let run = self.run(&load);
        run.drive(&load).await;
        let accepted = run.look(|ledger, _| ledger.accepted());
        run.close().unwrap();
        accepted
    }

    fn run(&self, load: &Load) -> Run {
        let ledger = LedgerFile::open(&self.home.path().join("ledger")).unwrap();
        Run::new(load, Some(ledger))
    }

    /// Asks to take an order of `user` until it answers as wanted.
    async fn order_until(&self, user: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        let body = r#"{"requestId":"probe","item":"no-such-product","quantity":1}"#;
        self.send_until(user, body, wanted).await
    }

    /// Sends this order of `user` until it is answered as wanted.
    async fn send_until(&self, user: &str, body: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
        tokio::time::timeout(Duration::from_secs(120), async {
            loop {
                let request = post(body.to_owned(), &[("x-user-id", user)]);
                let answer = send(self.server.address, request).await;
                if wanted(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{user}'s order never came to what was wanted"))
    }

    async fn account(self) -> Accounting {
        settled(&self.file).await;
        assert!(self.server.stop().success());
        let told = self.home.path().join("ledger");
        let told = if told.exists() {
            read_ledger(&told).unwrap()
        } else {
            Ledger::default()
        };
        let books = books(&self.file).await;
        let accounting = Accounting::of(&told, &books);
        if accounting.lost > 0 {
            // What a person wants to know who has to find out why.
            for (op, operation) in told.operations() {
                let held = books.shards.iter().any(|shard| {
                    shard
                        .applied
                        .iter()
                        .chain(&shard.dead)
                        .any(|held| held.op == *op)
                });
                let logged = books
                    .partitions
                    .iter()
                    .flat_map(|partition| &partition.records);
                let logged = logged
                    .filter(|record| record.order.as_ref().is_some_and(|order| order.op == *op));
                if operation.accepted.is_some() && !held {
                    println!(
                        "lost {op}: {operation:?}, in the log {} times",
                        logged.count()
                    );
                }
            }
        }
        accounting
    }
}

#[tokio::test]
async fn with_two_of_three_brokers_down_orders_are_refused_and_nothing_is_lost() {
    let (redis, kafka, postgres) =
        tokio::join!(Redis::start(), Kafka::cluster(), Postgres::start());
    let trial = Trial::start(&redis, &kafka, &[(postgres.url(), None)]);
    let before = trial.send(1, 2).await;
    assert!(before > 50, "{before}");

    // Under load, so that some records are under way.
    let load = trial.load(2, 4);
    let run = trial.run(&load);
    let driver = tokio::spawn({
        let run = run.clone();
        async move { run.drive(&load).await }
    });
    while run.look(|ledger, _| ledger.accepted()) < 50 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "{} accepted when they are killed",
        run.look(|ledger, _| ledger.accepted())
    );
    kafka.kill(1);
    kafka.kill(2);
    let refused = trial
        .order_until("outage", |answer| answer.status == 503)
        .await;
    let status = refused.status.as_u16();
    let why = refused.json()["detail"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        refused.is_problem() && why.contains("do not"),
        "{refused:?}"
    );
    assert!(refused.headers.contains_key("retry-after"));
    // Reads go on.
    let read = send(trial.server.address, get("/api/products/product-1")).await;
    assert_eq!(read.status, 200);
    driver.await.unwrap();
    run.close().unwrap();

    kafka.restart_all([1, 2]).await;
    trial
        .order_until("outage", |answer| answer.status == 202)
        .await;
    assert!(trial.send(3, 2).await > 50);
    let accounting = trial.account().await;
    println!("figure pipeline/two-brokers-down-status: {status}");
    println!("figure pipeline/two-brokers-down-lost: {}", accounting.lost);
    assert_eq!(
        (accounting.lost, accounting.double_applied),
        (0, 0),
        "{accounting:?}"
    );
    assert!(accounting.drained, "{accounting:?}");
}

#[tokio::test]
async fn a_replica_that_lagged_takes_over_and_the_log_is_applied_again_from_where_it_was() {
    let (redis, kafka, primary) = tokio::join!(Redis::start(), Kafka::start(), Postgres::start());
    let replica = primary.replica().await;
    let shard = (primary.url(), Some(replica.url()));
    let trial = Trial::start(&redis, &kafka, &[shard]);
    trial.send(1, 2).await;
    settled(&trial.file).await;
    // From here on it receives nothing.
    replica.pause();
    let unseen = trial.send(2, 2).await;
    assert!(unseen > 50, "{unseen}");
    settled(&trial.file).await;
    primary.kill();
    replica.resume();
    replica.promote().await;
    // It goes on without anybody's help.
    let after = trial.send(3, 2).await;
    assert!(after > 50, "{after}");
    let figures = until(trial.server.address, "/metrics", |answer| {
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        said.lines()
            .any(|line| line.starts_with("pipeline_went_back_total ") && !line.ends_with(" 0"))
    })
    .await;
    assert_eq!(figures.status, 200);
    let accounting = trial.account().await;
    println!("figure pipeline/lost-over-failover: {}", accounting.lost);
    println!(
        "figure pipeline/twice-over-failover: {}",
        accounting.double_applied
    );
    assert!(accounting.closed, "{accounting:?}");
}

#[tokio::test]
async fn without_redis_orders_are_refused_and_with_an_empty_one_keys_are_still_known() {
    let (redis, kafka, postgres) = tokio::join!(Redis::start(), Kafka::start(), Postgres::start());
    let trial = Trial::impatient(&redis, &kafka, &[(postgres.url(), None)]);
    let body = r#"{"requestId":"once","item":"product-1","quantity":1}"#;
    let other = r#"{"requestId":"once","item":"product-1","quantity":2}"#;
    let order =
        |body: &'static str| send(trial.server.address, post(body, &[("x-user-id", "alice")]));
    let first = order(body).await;
    assert_eq!(first.status, 202);
    settled(&trial.file).await;
    redis.pause();
    let refused = trial
        .order_until("outage", |answer| answer.status == 503)
        .await;
    assert!(refused.is_problem(), "{refused:?}");
    // Reads go on without it, from the shards.
    until(trial.server.address, "/api/users/alice", |answer| {
        answer.status == 200
    })
    .await;
    redis.resume();
    trial
        .order_until("outage", |answer| answer.status == 202)
        .await;
    // As after a restart without persistence.
    assert_eq!(redis.ask(&["FLUSHALL"]).await, "OK");
    let again = order(body).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(order(other).await.status, 422);
    assert_eq!(trial.account().await.double_applied, 0);
}

/// Whether a user's orders lie on the second of two shards.
fn on_the_second(user: &Principal) -> bool {
    user.slot(OpId([0; 16])).get() % 2 == 1
}

/// Nobody writes off what only has to wait, and whoever is of another shard does not notice.
#[tokio::test]
async fn a_shard_that_is_out_costs_no_letter_and_the_other_goes_on() {
    const ROUNDS: u64 = 5;
    let (redis, kafka, first, second) = tokio::join!(
        Redis::start(),
        Kafka::start(),
        Postgres::start(),
        Postgres::start()
    );
    let shards = [(first.url(), None), (second.url(), None)];
    let file = file(&redis.url(), &kafka.bootstrap(), &shards);
    patient(&file);
    let trial = Trial::serve(file);
    let users = || (0..300).map(|user| format!("u{user}"));
    let is_second = |user: &String| on_the_second(&Principal::User(user.clone()));
    let of_first = users().find(|user| !is_second(user)).unwrap();
    let of_second = users().find(is_second).unwrap();

    // The 99th percentile of the second shard's users, and how many orders were accepted.
    let send = async |seed| {
        let mut load = trial.load(seed, 5);
        load.mix = Mix {
            writes: 1.0,
            repeats: 0.0,
            poison: 0.0,
            ..Mix::default()
        };
        let run = trial.run(&load).watching(on_the_second);
        run.drive(&load).await;
        let told = run.look(|ledger, sent| {
            let p99 = sent.watched_latency.value_at_quantile(0.99);
            (p99 as f64, ledger.accepted())
        });
        run.close().unwrap();
        told
    };
    // An order of this user, until it is applied.
    let applied = async |user: &str, key: String| {
        let body = format!(r#"{{"requestId":"{key}","item":"product-1","quantity":1}}"#);
        let answer = trial
            .send_until(user, &body, |answer| answer.status == 202)
            .await;
        let id = answer.json()["orderId"].as_str().unwrap().to_owned();
        until(
            trial.server.address,
            &format!("/api/orders/{id}"),
            |answer| answer.json()["status"] == "applied",
        )
        .await;
    };
    send(1).await;
    let mut ratios = Vec::new();
    for round in 1..=ROUNDS {
        let (before, _) = send(2 * round).await;
        first.kill();
        let (during, accepted) = send(2 * round + 1).await;
        assert!(accepted > 50, "{accepted}");
        applied(&of_second, format!("out-{round}")).await;
        first.restart().await;
        applied(&of_first, format!("back-{round}")).await;
        println!("round {round}: p99 {before} us before, {during} us during the outage");
        ratios.push(during / before);
    }
    ratios.sort_by(f64::total_cmp);
    let p99 = ratios[ratios.len() / 2];
    let accounting = trial.account().await;
    println!(
        "figure pipeline/letters-of-a-shard-outage: {}",
        accounting.dead_lettered
    );
    println!("figure pipeline/others-p99-in-a-shard-outage: {p99:.3}");
    assert_eq!(
        (
            accounting.dead_lettered,
            accounting.lost,
            accounting.double_applied
        ),
        (0, 0, 0),
        "{accounting:?}"
    );
    // Those that were sent beside the load are not in its record.
    assert_eq!(accounting.phantom, 2 * ROUNDS, "{accounting:?}");
    assert!(accounting.drained, "{accounting:?}");
}
