//! Workers killed with SIGKILL at every step, with some thousand messages.
#![cfg(all(feature = "redis", feature = "file", unix))]
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod kills;
mod support;

use kills::{Account, Letters, World, kill_everywhere, payloads};

fn report(sink: &str, accounts: &[Account; 2]) {
    let lost: usize = accounts.iter().map(|account| account.lost).sum();
    let repeated: usize = accounts
        .iter()
        .map(|account| account.repeated_letters)
        .sum();
    let condemned: usize = accounts.iter().map(|account| account.condemned).sum();
    println!("figure dlq/{sink}-kill-lost: {lost}");
    println!("figure dlq/{sink}-kill-repeated-letters: {repeated}");
    assert_eq!((lost, repeated, condemned), (0, 0, 0));
}

#[tokio::test]
async fn no_message_is_lost_with_letters_in_redis() {
    report("redis", &kill_everywhere(Letters::Redis, 3_000, 2).await);
}

#[tokio::test]
async fn no_message_is_lost_with_letters_in_a_file() {
    report("file", &kill_everywhere(Letters::File, 3_000, 2).await);
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn no_message_is_lost_with_messages_and_letters_in_kafka() {
    report("kafka", &kill_everywhere(Letters::Kafka, 3_000, 2).await);
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn a_message_of_kafka_that_kills_its_worker_is_dead_soon_and_alone() {
    dead_soon_and_alone("kafka-", Letters::Kafka).await;
}

/// With plain delivery counts, three crashes condemned all that was near a message which kills its worker.
#[tokio::test]
async fn a_message_that_kills_its_worker_is_dead_soon_and_alone() {
    dead_soon_and_alone("", Letters::Redis).await;
}

async fn dead_soon_and_alone(of: &str, letters: Letters) {
    let mut world = World::new(letters).await;
    let all = || {
        payloads(60)
            .chain(["poison".to_owned()])
            .chain(payloads(300).skip(60))
    };
    world.add(all()).await;
    world.finish(true).await;
    let account = world.account(all()).await;
    let starts = world.begun("poison").await;
    println!("figure dlq/{of}poison-starts: {starts}");
    println!("figure dlq/{of}innocents-condemned: {}", account.condemned);
    assert!(starts <= 4, "{starts}");
    assert_eq!(world.kills, starts);
    assert_eq!(
        (account.lost, account.condemned, account.letters),
        (0, 0, 1)
    );
    assert_eq!(world.letters().await[0].failure.class, "poison");
}
