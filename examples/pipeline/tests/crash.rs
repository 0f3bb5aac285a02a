//! kill -9 in the middle of a load, and a restart: nothing accepted is lost, nothing is applied twice.

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::places::{Embedded, Place};
use common::{Server, until};
use pipeline::accounting::Accounting;
use pipeline::load::{Ledger, LedgerFile, Load, Mix, Run, read_ledger};
use rusqlite::OptionalExtension;

fn load(server: &Server, seed: u64) -> Load {
    Load {
        server: server.address,
        rate: 1_500,
        duration: Duration::from_secs(3),
        connections: 64,
        users: 2_000,
        products: 1_000,
        mix: Mix {
            writes: 0.8,
            repeats: 0.2,
            ..Mix::default()
        },
        seed,
    }
}

/// Kills it three times under load, and answers what clients were told and what was found.
async fn killed<P: Place>(place: &P, noted: &Path) -> (Ledger, Accounting) {
    let flags = [
        "--retry-scale",
        "0.01",
        "--ip-limit",
        "1000000",
        "--proxies",
        "1",
    ];
    for seed in 0..3 {
        let server = Server::on(place, &flags);
        let load = load(&server, seed);
        let run = Run::new(&load, Some(LedgerFile::open(noted).expect("it opens")));
        let driver = tokio::spawn({
            let run = run.clone();
            async move { run.drive(&load).await }
        });
        // It is killed once enough was accepted, wherever it is then.
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, async {
            while run.look(|ledger, _| ledger.accepted()) < 500 + 300 * seed {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the load gets through");
        server.kill();
        // What was under way is now in doubt, and noted as such; the rest cannot even be sent.
        driver.await.expect("the load ends");
    }
    // The last start works through what is left, and stops in order.
    let server = Server::on(place, &flags);
    until(server.address, "/readyz", |answer| answer.status == 200).await;
    place.settled().await;
    assert!(server.stop().success());

    let told = read_ledger(noted).expect("it reads");
    assert!(
        told.accepted() > 1_500,
        "the load was too small to mean anything"
    );
    let accounting = Accounting::of(&told, &place.books().await);
    assert!(accounting.closed, "{accounting:?}");
    (told, accounting)
}

#[tokio::test]
async fn nothing_accepted_is_lost_when_the_server_is_killed_under_load_and_nothing_applies_twice() {
    let home = tempfile::tempdir().expect("a directory");
    let noted = home.path().join("ledger");
    let place = Embedded::fresh().await;
    let path = place.data();
    let (told, accounting) = killed(&place, &noted).await;
    println!("figure pipeline/lost-over-kills: {}", accounting.lost);
    println!(
        "figure pipeline/twice-over-kills: {}",
        accounting.double_applied
    );

    // The command says the same, and no longer once an order is gone.
    let check = || {
        Command::new(env!("CARGO_BIN_EXE_pipeline"))
            .arg("check")
            .arg("--log")
            .arg(&noted)
            .arg("--data")
            .arg(&path)
            .output()
            .expect("it runs")
    };
    assert!(check().status.success());
    let first = told
        .operations()
        .iter()
        .find(|(_, operation)| operation.accepted.is_some());
    let (op, _) = first.expect("many were accepted");
    for shard in 0..10 {
        let db = rusqlite::Connection::open(path.join(format!("shard-{shard:02}.db")))
            .expect("it opens");
        let gone: Option<(String, u32)> = db
            .query_row(
                "DELETE FROM op WHERE op = ?1 RETURNING account, quantity",
                [op.0],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .expect("it is a shard");
        if let Some((account, quantity)) = gone {
            db.execute(
                "UPDATE account SET orders = orders - 1, units = units - ?2 WHERE id = ?1",
                (account, quantity),
            )
            .expect("its account is there");
        }
    }
    let said = check();
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(
        said.contains("lost 1,") && said.contains("NOT CLOSED"),
        "{said}"
    );
}

#[cfg(feature = "services")]
#[tokio::test]
async fn nothing_accepted_is_lost_on_services_when_the_server_is_killed_under_load() {
    let home = tempfile::tempdir().expect("a directory");
    let place = common::places::Services::fresh().await;
    let (_, accounting) = killed(&place, &home.path().join("ledger")).await;
    println!(
        "figure pipeline/lost-over-kills-on-services: {}",
        accounting.lost
    );
    println!(
        "figure pipeline/twice-over-kills-on-services: {}",
        accounting.double_applied
    );
}
