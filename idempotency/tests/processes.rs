//! Several processes on one Redis: duplicates that race, and processes that are killed.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "support/processes.rs"]
mod processes;
mod support;

use processes::{duplicates, kill, orders, race, works_until_killed};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_execution_in_eight_processes() {
    if let Some(orders) = orders() {
        return duplicates(&orders).await;
    }
    let wrong = race("one_execution_in_eight_processes", 50).await;
    println!("figure idempotency/eight-processes: {wrong}");
    assert_eq!(wrong, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_points() {
    if let Some(orders) = orders() {
        return works_until_killed(&orders).await;
    }
    let wrong = kill("killed_at_random_points", 20).await;
    println!("figure idempotency/kill-9: {wrong}");
    assert_eq!(wrong, 0);
}
