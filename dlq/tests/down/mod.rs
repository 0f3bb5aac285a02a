//! Letters on a broker that is gone for a while.
#![allow(clippy::unwrap_used, unreachable_pub)] // in helpers, which are tests as well

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{all, client, connect, make_topic};
use redis::AsyncCommands;
use seawall_dlq::{BoxError, Consumer, DeadLetterLayer, KafkaSink, MemorySink, Message, Queue};
use test_support::{Kafka, Redis};
use tokio::time::{Instant, sleep};
use tower::{Layer, service_fn};

const MESSAGES: usize = 60;
/// A third of them fail.
const FAILING: usize = 20;

/// Kills the broker before anything is handled, and starts it again when so much time is over and each failing
/// message has been tried twice. Answers how many of these were acknowledged in between, and how many letters
/// are missing at the end.
pub async fn down_for(time: Duration) -> (usize, usize) {
    let (server, kafka) = tokio::join!(Redis::start(), Kafka::start());
    make_topic(&kafka, "orders.dead", 2, &[("retention.ms", "-1")]).await;
    let mut config = client(&kafka);
    config.set("message.timeout.ms", "1000");
    let sink = KafkaSink::open(&config, "orders.dead").await.unwrap();
    let mut connection = connect(server.port()).await;
    for number in 0..MESSAGES {
        let fields = [("payload", number.to_string())];
        let _: String = connection.xadd("{orders}", "*", &fields).await.unwrap();
    }
    kafka.kill(0);

    let tries = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let counting = Arc::clone(&tries);
    let handler = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(move |message: Message| {
            let text = String::from_utf8(message.payload.to_vec()).unwrap();
            let fails = text.parse::<usize>().unwrap() % 3 == 0;
            if fails {
                *counting.lock().unwrap().entry(text).or_default() += 1;
            }
            async move {
                match fails {
                    true => Err(BoxError::from("it cannot be read")),
                    false => Ok(()),
                }
            }
        }));
    let pending = async || -> usize {
        let pending = server.ask(&["XPENDING", "{orders}", "workers"]).await;
        pending.lines().next().unwrap().parse().unwrap()
    };
    let acknowledged = Arc::new(Mutex::new(0));
    let found = Arc::clone(&acknowledged);
    let shutdown = async {
        let until = Instant::now() + time;
        let tried_twice = || {
            let tries = tries.lock().unwrap();
            tries.values().filter(|tries| **tries >= 2).count() == FAILING
        };
        while !tried_twice() || Instant::now() < until || pending().await > FAILING {
            sleep(Duration::from_millis(20)).await;
        }
        *found.lock().unwrap() = FAILING - pending().await;
        kafka.restart(0).await;
        while pending().await > 0 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let redis = redis::Client::open(server.url()).unwrap();
    let totals = Consumer::redis(&redis, "{orders}", "workers")
        .poison_to(MemorySink::with_capacity(1))
        .run(handler, shutdown)
        .await
        .unwrap();
    assert_eq!(
        totals.done,
        (MESSAGES - FAILING) as u64,
        "the others flow on"
    );
    let letters = all(&sink).await;
    assert_eq!(sink.depth().await.unwrap().letters, letters.len() as u64);
    let there: std::collections::HashSet<_> = letters.iter().map(|letter| letter.id()).collect();
    assert_eq!(there.len(), letters.len(), "no letter is seen twice");
    let acknowledged = *acknowledged.lock().unwrap();
    (acknowledged, FAILING - there.len())
}
