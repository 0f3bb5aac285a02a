//! API processes and workers that are restarted one by one behind a load balancer.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use pipeline::accounting::Accounting;
use pipeline::load::{LedgerFile, Load, Mix, Run, read_ledger};
use tempfile::NamedTempFile;
use test_support::{Haproxy, Kafka, Postgres, Redis, free_port};

use crate::common::places::remote::{books, file, patient, settled};
use crate::common::{Answer, Server};

fn api(file: &NamedTempFile, port: u16) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
    command
        .args(["api", "--proxies=2", "--ip-limit=1000000"])
        .args(["--user-limit=1000000", "--listen"])
        .arg(format!("127.0.0.1:{port}"))
        .arg("--services")
        .arg(file.path());
    Server::spawn(command)
}

fn worker(file: &NamedTempFile) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
    command
        .args(["worker", "--listen=127.0.0.1:0", "--services"])
        .arg(file.path());
    Server::spawn(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn api_and_workers_are_restarted_one_by_one_under_load_and_no_request_fails() {
    let (redis, kafka, postgres) = tokio::join!(Redis::start(), Kafka::start(), Postgres::start());
    let file = file(&redis.url(), &kafka.bootstrap(), &[(postgres.url(), None)]);
    patient(&file);
    // Each keeps its own through its restarts.
    let ports = [free_port(), free_port()];
    let mut apis = ports.map(|port| Some(api(&file, port)));
    let mut workers = [worker(&file), worker(&file)].map(Some);
    let haproxy = Haproxy::in_front_of(ports).await;
    let front = SocketAddr::from(([127, 0, 0, 1], haproxy.port()));
    crate::common::until(front, "/readyz", |answer| answer.status == 200).await;

    let home = tempfile::tempdir().unwrap();
    let load = Load {
        server: front,
        rate: 100,
        duration: Duration::from_secs(25),
        connections: 32,
        users: 200,
        products: 1_000,
        mix: Mix {
            writes: 0.5,
            repeats: 0.1,
            ..Mix::default()
        },
        seed: 11,
    };
    let ledger = home.path().join("ledger");
    let run = Run::new(&load, Some(LedgerFile::open(&ledger).unwrap())).behind_a_proxy();
    let driver = tokio::spawn({
        let run = run.clone();
        async move { run.drive(&load).await }
    });
    let mut restarts = 0;
    for at in 0..2 {
        // What it takes to drain is its own; the other serves meanwhile.
        let old = apis[at].take().unwrap();
        assert!(
            tokio::task::spawn_blocking(move || old.stop())
                .await
                .unwrap()
                .success()
        );
        apis[at] = Some(api(&file, ports[at]));
        let own = SocketAddr::from(([127, 0, 0, 1], ports[at]));
        crate::common::until(own, "/readyz", |answer| answer.status == 200).await;
        // The balancer has noticed, and sends it requests.
        let asked =
            |answer: &Answer| String::from_utf8_lossy(&answer.body).contains("route=\"/api/");
        crate::common::until(own, "/metrics", asked).await;
        let old = workers[at].take().unwrap();
        assert!(
            tokio::task::spawn_blocking(move || old.stop())
                .await
                .unwrap()
                .success()
        );
        workers[at] = Some(worker(&file));
        restarts += 2;
    }
    let under_load = !driver.is_finished();
    driver.await.unwrap();
    let (failed, said) = run.look(|_, figures| {
        let failed = figures.statuses.iter();
        let failed = failed.filter(|((_, status), _)| *status == 0 || *status >= 500);
        let failed: u64 = failed.map(|(_, count)| count).sum();
        (failed, format!("{:?}", figures.statuses))
    });
    run.close().unwrap();
    settled(&file).await;
    for server in apis.into_iter().chain(workers).flatten() {
        assert!(server.stop().success());
    }
    let accounting = Accounting::of(&read_ledger(&ledger).unwrap(), &books(&file).await);
    println!("{said}");
    println!("figure pipeline/restarts-while-rolling: {restarts}");
    println!("figure pipeline/failed-while-rolling: {failed}");
    println!("figure pipeline/lost-while-rolling: {}", accounting.lost);
    assert!(
        under_load,
        "the load ended before the last of them was restarted"
    );
    assert_eq!(failed, 0, "{said}");
    assert!(accounting.closed, "{accounting:?}");
}
