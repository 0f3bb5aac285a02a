//! kill -9 in the middle of a load, and a restart: nothing accepted is lost, nothing is applied twice.

mod common;

use std::time::Duration;

use common::{Server, tally, until};
use pipeline::accounting::Accounting;
use pipeline::load::{Load, Mix, Run};

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

#[tokio::test]
async fn nothing_accepted_is_lost_when_the_server_is_killed_under_load_and_nothing_applies_twice() {
    let data = tempfile::tempdir().expect("a directory");
    let path = data.path().join("data");
    let flags = [
        "--retry-scale",
        "0.01",
        "--ip-limit",
        "1000000",
        "--proxies",
        "1",
    ];
    let mut ledgers = Vec::new();
    for seed in 0..3 {
        let server = Server::start(&path, &flags);
        let load = load(&server, seed);
        let run = Run::new(&load);
        let driver = tokio::spawn({
            let run = run.clone();
            async move { run.drive(&load).await }
        });
        // It is killed once enough was accepted, wherever it is then.
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, async {
            while run.ledger(|ledger| ledger.accepted.len()) < 500 + 300 * seed as usize {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("the load gets through");
        server.kill();
        // What was under way is now in doubt, and noted as such; the rest cannot even be sent.
        driver.await.expect("the load ends");
        ledgers.push(run);
    }
    // The last start works through what is left, and stops in order.
    let server = Server::start(&path, &flags);
    until(server.address, "/readyz", |answer| answer.status == 200).await;
    assert!(server.stop().success());

    let shards = tally(&path).await;
    let mut all = pipeline::load::Ledger::new();
    for run in &ledgers {
        run.ledger(|ledger| {
            all.accepted.extend(ledger.accepted.drain());
            all.unknown.extend(ledger.unknown.drain());
            all.replay_mismatches += ledger.replay_mismatches;
        });
    }
    assert!(
        all.accepted.len() > 1_500,
        "the load was too small to mean anything"
    );
    let books = Accounting::of(&all, &shards, true);
    println!("figure pipeline/lost-over-kills: {}", books.lost);
    println!("figure pipeline/twice-over-kills: {}", books.double_applied);
    assert!(books.closed, "{books:?}");
}
