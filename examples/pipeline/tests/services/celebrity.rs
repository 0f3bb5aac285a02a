//! A user whom half of all readers ask for, and who orders all the time.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use test_support::{Kafka, Postgres, Redis};
use tokio::task::JoinSet;

use crate::common::places::remote::{file, patient};
use crate::common::{Answer, Server, get, post, send};

/// Orders of the celebrity, one after the other.
const ORDERS: u64 = 60;

/// A figure that the server shows.
async fn figure(server: &Server, name: &str) -> f64 {
    let shown = send(server.address, get("/metrics")).await;
    let shown = String::from_utf8(shown.body.to_vec()).unwrap();
    let line = shown.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

fn version(answer: &Answer) -> String {
    let version = answer.headers.get("x-version");
    version.unwrap().to_str().unwrap().to_owned()
}

/// Orders once, and answers the version of the order when it is applied.
async fn ordered(server: &Server, number: u64) -> String {
    let body = format!(r#"{{"requestId":"order-{number}","item":"product-1","quantity":1}}"#);
    let taken = send(server.address, post(body, &[("x-user-id", "celebrity")])).await;
    assert_eq!(taken.status, 202, "{taken:?}");
    let order = taken.headers["location"].to_str().unwrap().to_owned();
    let applied = crate::common::until(server.address, &order, |answer| {
        answer.status == 200 && answer.json()["status"] == "applied"
    })
    .await;
    version(&applied)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_a_celebrity_share_its_replicas_and_who_has_a_token_is_never_shown_less() {
    let (redis, kafka, primary) = tokio::join!(Redis::start(), Kafka::start(), Postgres::start());
    let replicas = [primary.replica().await, primary.replica().await];
    let shard = (primary.url(), Some(replicas[0].url()));
    let file = file(&redis.url(), &kafka.bootstrap(), &[shard]);
    patient(&file);
    let said = std::fs::read_to_string(file.path()).unwrap();
    let more = format!("replicas = [{:?}], replica = ", replicas[1].url());
    assert!(said.contains("replica = "));
    std::fs::write(file.path(), said.replace("replica = ", &more)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
    command.args(["serve", "--listen=127.0.0.1:0", "--ip-limit=1000000"]);
    command.args(["--user-limit=1000000", "--services"]);
    let server = Arc::new(Server::spawn({
        command.arg(file.path());
        command
    }));

    let (done, reads) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut readers = JoinSet::new();
    for reader in 0..4 {
        let (server, done, reads) = (Arc::clone(&server), Arc::clone(&done), Arc::clone(&reads));
        readers.spawn(async move {
            let mut last = 0;
            for round in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                let crowd = format!("/api/users/crowd-{reader}-{}", round % 500);
                send(server.address, get(&crowd)).await;
                let shown = send(server.address, get("/api/users/celebrity")).await;
                reads.fetch_add(1, Ordering::Relaxed);
                if shown.status == 200 {
                    let orders = shown.json()["orders"].as_u64().unwrap();
                    assert!(orders >= last, "{orders} after {last}");
                    last = orders;
                }
            }
        });
    }
    // Until it is known for one.
    tokio::time::timeout(Duration::from_secs(120), async {
        while figure(&server, "pipeline_hot_reads_total ").await == 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("half of all reads are of one key");
    let mut stale = 0;
    for number in 1..=ORDERS {
        let token = ordered(&server, number).await;
        let mut own = get("/api/users/celebrity");
        own.headers_mut()
            .insert("x-at-least", token.parse().unwrap());
        let own = send(server.address, own).await;
        assert_eq!(own.status, 200, "{own:?}");
        assert!(version(&own).parse::<u64>().unwrap() >= token.parse().unwrap());
        stale += u64::from(own.json()["orders"].as_u64().unwrap() < number);
    }
    // A version that there is not is not made up.
    let mut beyond = get("/api/users/celebrity");
    beyond
        .headers_mut()
        .insert("x-at-least", "999999".parse().unwrap());
    let beyond = send(server.address, beyond).await;
    assert_eq!((beyond.status.as_u16(), beyond.is_problem()), (503, true));
    done.store(true, Ordering::Relaxed);
    readers.join_all().await;

    let primary = figure(&server, r#"pipeline_shard_reads_total{by="primary"}"#).await;
    let replica = figure(&server, r#"pipeline_shard_reads_total{by="replica"}"#).await;
    let reads = reads.load(Ordering::Relaxed) as f64;
    // What had a token is let go there.
    let without = (primary - ORDERS as f64 - 1.0).max(0.0);
    let share = without / reads;
    println!(
        "of {reads} reads of one key {primary} went to the primary, and {replica} of all to replicas"
    );
    println!("figure pipeline/stale-under-a-token: {stale}");
    println!("figure pipeline/celebrity-reads-at-the-primary: {share:.4}");
    assert_eq!(stale, 0);
    assert!(replica > 0.0);
}
