//! What is counted, with its bounded labels.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "what is unwrapped here fails the test")]

use std::time::Duration;

use redis::{Cmd, Pipeline, RedisResult, Value};
use seawall_redis::{Breaker, Client, Source};
use test_support::Figures;

/// Never answers a PING, and everything else at once.
#[derive(Debug, Clone)]
struct Deaf;

impl Source for Deaf {
    async fn command(&self, cmd: &Cmd) -> RedisResult<Value> {
        if cmd.get_packed_command() == Cmd::ping().get_packed_command() {
            std::future::pending::<()>().await;
        }
        Ok(Value::Okay)
    }

    async fn pipeline(&self, _: &Pipeline) -> RedisResult<Vec<Value>> {
        Ok(Vec::new())
    }
}

#[test]
fn failures_and_changes_of_the_breaker_are_counted() {
    let counts = Figures::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    metrics::with_local_recorder(&counts, || {
        runtime.block_on(async {
            let client = Client::new(Deaf).breaker(Breaker::new(1, Duration::from_secs(1)));
            client.command(&Cmd::ping()).await.unwrap_err();
            client.command(&Cmd::ping()).await.unwrap_err();
            tokio::time::advance(Duration::from_secs(1)).await;
            client.command(&redis::cmd("TIME")).await.unwrap();
        });
    });
    let counted: Vec<_> = counts.all().into_iter().collect();
    let expected = [
        ("seawall_redis_breaker_changes_total to=closed", 1.0),
        ("seawall_redis_breaker_changes_total to=half_open", 1.0),
        ("seawall_redis_breaker_changes_total to=open", 1.0),
        ("seawall_redis_failures_total reason=deadline", 1.0),
        ("seawall_redis_failures_total reason=open", 1.0),
    ]
    .map(|(name, count)| (name.to_owned(), count));
    assert_eq!(counted, expected);
}
