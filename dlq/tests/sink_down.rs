//! A broker that is down: nothing that fails is acknowledged, and nothing is lost.
#![cfg(all(feature = "redis", feature = "kafka"))]

mod down;
mod support;

use std::time::Duration;

use down::down_for;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_down_nothing_that_fails_is_acknowledged() {
    let (acknowledged, lost) = down_for(Duration::ZERO).await;
    println!("figure dlq/kafka-sink-down-acknowledged: {acknowledged}");
    println!("figure dlq/kafka-sink-down-lost: {lost}");
    assert_eq!((acknowledged, lost), (0, 0));
}
