//! The sink is away: nothing that fails is acknowledged, and all of it has its letter afterwards.
#![cfg(feature = "redis")]

mod outages;
mod support;

use std::time::Duration;

#[tokio::test]
async fn a_frozen_and_killed_sink_costs_no_message_and_no_acknowledgement() {
    let account = outages::sink_away_for(Duration::ZERO).await;
    println!(
        "figure dlq/redis-sink-down-acknowledged: {}",
        account.acknowledged
    );
    println!("figure dlq/redis-sink-down-lost: {}", account.lost);
    assert_eq!(
        (account.acknowledged, account.lost, account.repeated),
        (0, 0, 0)
    );
}
