//! The same as `kill.rs` with 100,000 messages.
#![cfg(all(feature = "redis", feature = "file", unix))]
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod kills;
mod support;

use kills::{Letters, kill_everywhere};

async fn lost(letters: Letters) -> usize {
    let accounts = kill_everywhere(letters, 100_000, 20).await;
    for account in &accounts {
        assert_eq!((account.repeated_letters, account.condemned), (0, 0));
    }
    accounts.iter().map(|account| account.lost).sum()
}

#[tokio::test]
async fn no_message_of_many_is_lost_with_letters_in_redis() {
    let lost = lost(Letters::Redis).await;
    println!("figure dlq/redis-kill-lost-of-100000: {lost}");
    assert_eq!(lost, 0);
}

#[tokio::test]
async fn no_message_of_many_is_lost_with_letters_in_a_file() {
    let lost = lost(Letters::File).await;
    println!("figure dlq/file-kill-lost-of-100000: {lost}");
    assert_eq!(lost, 0);
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn no_message_of_many_is_lost_with_messages_and_letters_in_kafka() {
    let lost = lost(Letters::Kafka).await;
    println!("figure dlq/kafka-kill-lost-of-100000: {lost}");
    assert_eq!(lost, 0);
}
