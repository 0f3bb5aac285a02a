//! The same as `outage.rs` for a minute.
#![cfg(feature = "redis")]

mod outages;
mod support;

use std::time::Duration;

#[tokio::test]
async fn a_sink_that_is_away_for_a_minute_costs_no_message_and_no_acknowledgement() {
    let account = outages::sink_away_for(Duration::from_secs(60)).await;
    println!(
        "figure dlq/redis-sink-down-a-minute-acknowledged: {}",
        account.acknowledged
    );
    println!("figure dlq/redis-sink-down-a-minute-lost: {}", account.lost);
    assert_eq!(
        (account.acknowledged, account.lost, account.repeated),
        (0, 0, 0)
    );
}
