//! The same as `sink_down.rs` for a minute.
#![cfg(all(feature = "redis", feature = "kafka"))]

mod down;
mod support;

use down::down_for;
use support::seconds;

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_down_for_a_minute_nothing_that_fails_is_acknowledged() {
    let (acknowledged, lost) = down_for(seconds(60)).await;
    println!(
        "figure dlq/kafka-sink-down-for-a-minute: {}",
        acknowledged + lost
    );
    assert_eq!((acknowledged, lost), (0, 0));
}
