//! The claims that take minutes: a million calls from eight processes, and a hundred kills.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/processes.rs"]
mod processes;
mod support;

use processes::{duplicates, kill, orders, race, works_until_killed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_execution_of_a_million_calls() {
    if let Some(orders) = orders() {
        return duplicates(&orders).await;
    }
    let wrong = race("one_execution_of_a_million_calls", 1_000).await;
    println!("figure idempotency/eight-processes-1m: {wrong}");
    assert_eq!(wrong, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_a_hundred_times() {
    if let Some(orders) = orders() {
        return works_until_killed(&orders).await;
    }
    let wrong = kill("killed_a_hundred_times", 100).await;
    println!("figure idempotency/kill-9-100: {wrong}");
    assert_eq!(wrong, 0);
}
