//! What this crate promises, each with its figure.

#![allow(clippy::unwrap_used, reason = "what is unwrapped here fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bb8::Pool;
use redis::{Cmd, Value};
use seawall_redis::{Breaker, Client, Error, Script};
use test_support::Redis;

const PATIENT: Duration = Duration::from_secs(30);

async fn pool(url: &str, size: u32) -> Pool<redis::Client> {
    Pool::builder()
        .max_size(size)
        .test_on_check_out(false)
        .build(redis::Client::open(url).unwrap())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_pool_serves_every_task_alike() {
    const TASKS: usize = 256;
    const EACH: usize = 40;
    let redis = Redis::start().await;
    let client = Client::pooled(pool(&redis.url(), 4).await).deadline(PATIENT);
    let served = Arc::new(AtomicUsize::new(0));
    let start = Arc::new(tokio::sync::Barrier::new(TASKS));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (client, served, start) = (client.clone(), served.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                let mut own = 0;
                while served.fetch_add(1, Ordering::Relaxed) < TASKS * EACH {
                    client.command(&Cmd::ping()).await.unwrap();
                    own += 1;
                }
                own
            })
        })
        .collect();
    let mut least = usize::MAX;
    for task in tasks {
        least = least.min(task.await.unwrap());
    }
    let share = least as f64 / EACH as f64;
    println!("figure redis/pool-fairness: {share}");
    assert!(
        share >= 0.5,
        "the least served task got {share} of its share"
    );
}

#[tokio::test]
async fn an_open_breaker_sends_nothing() {
    let redis = Redis::start().await;
    let client = Client::pooled(pool(&redis.url(), 1).await)
        .deadline(Duration::from_millis(20))
        .breaker(Breaker::new(1, PATIENT));
    redis.pause();
    client.command(&Cmd::ping()).await.unwrap_err();
    redis.resume();
    redis.reset_stats().await;
    for _ in 0..1_000 {
        let error = client.command(&redis::cmd("ECHO").arg("x").clone()).await;
        assert!(matches!(error, Err(Error::Open { .. })));
    }
    let sent = redis.commandstats().await.get("echo").copied();
    let sent = sent.unwrap_or_default();
    println!("figure redis/open-breaker-commands: {sent}");
    assert_eq!(sent, 0);
}

#[tokio::test]
async fn a_forgotten_script_costs_one_command_more() {
    static SCRIPT: Script = Script::new("return 1");
    let redis = Redis::start().await;
    let client = Client::pooled(pool(&redis.url(), 1).await).deadline(PATIENT);
    client.script(&SCRIPT, &[], &[]).await.unwrap();
    redis.flush_scripts().await;
    redis.reset_stats().await;
    let reply = client.script(&SCRIPT, &[], &[]).await.unwrap();
    assert_eq!(reply, Value::Int(1));
    let calls: u64 = redis
        .commandstats()
        .await
        .iter()
        .filter(|(name, _)| name.starts_with("eval"))
        .map(|(_, calls)| calls)
        .sum();
    println!("figure redis/script-after-flush-commands: {calls}");
    assert_eq!(calls, 2);
}

#[tokio::test]
async fn a_pool_is_whole_again_when_the_server_is() {
    let redis = Redis::start().await;
    let client = Client::pooled(pool(&redis.url(), 4).await)
        .deadline(PATIENT)
        .breaker(Breaker::never());
    client.command(&Cmd::ping()).await.unwrap();
    redis.kill();
    client.command(&Cmd::ping()).await.unwrap_err();
    redis.restart().await;
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(client.command(&Cmd::ping()).await.is_err());
    }
    println!("figure redis/failures-after-restart: {failed}");
    assert_eq!(failed, 0);
}
