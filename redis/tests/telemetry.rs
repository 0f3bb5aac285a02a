//! What is counted, with its bounded labels.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, reason = "what is unwrapped here fails the test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use redis::{Cmd, Pipeline, RedisResult, Value};
use seawall_redis::{Breaker, Client, Source};

/// Counts by `name{label=value}`.
#[derive(Debug, Default, Clone)]
struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

struct One(Counts, String);

impl CounterFn for One {
    fn increment(&self, value: u64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }

    fn absolute(&self, _: u64) {}
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        Counter::from_arc(Arc::new(One(self.clone(), name)))
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

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
    let counts = Counts::default();
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
    let counted: Vec<_> = counts.0.lock().unwrap().clone().into_iter().collect();
    let expected = [
        ("seawall_redis_breaker_changes_total{to=closed}", 1),
        ("seawall_redis_breaker_changes_total{to=half_open}", 1),
        ("seawall_redis_breaker_changes_total{to=open}", 1),
        ("seawall_redis_failures_total{reason=deadline}", 1),
        ("seawall_redis_failures_total{reason=open}", 1),
    ]
    .map(|(name, count)| (name.to_owned(), count));
    assert_eq!(counted, expected);
}
