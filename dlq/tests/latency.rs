//! What a key that waits for five minutes costs the others.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{AsyncCommands, aio::ConnectionManager};
use seawall_dlq::{Consumer, DeadLetterLayer, Disposition, Message, Outcome, RedisSink};
use support::{Broken, connect};
use test_support::Redis;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tower::{Layer, Service, service_fn};

const FIVE_MINUTES: Duration = Duration::from_secs(300);
const MESSAGES: usize = 300;
const ROUNDS: usize = 7;

/// Parks a message whose key is `slow` for five minutes, and answers when it handled which other.
fn handler(
    connection: ConnectionManager,
) -> (
    impl Service<Message, Response = Outcome<()>, Error = seawall_dlq::BoxError, Future: Send>
    + Clone
    + Send
    + 'static,
    watch::Receiver<HashMap<String, Instant>>,
) {
    let (handled, seen) = watch::channel(HashMap::new());
    let handled = Arc::new(handled);
    let handler = DeadLetterLayer::new(RedisSink::new(connection, "{orders}.dead"))
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(FIVE_MINUTES))
        .layer(service_fn(move |message: Message| {
            let slow = message.key.as_deref() == Some(b"slow");
            if !slow {
                let now = Instant::now();
                handled.send_modify(|handled| {
                    handled.insert(message.id.to_string(), now);
                });
            }
            async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                if slow { Err(Broken) } else { Ok(()) }
            }
        }));
    (handler, seen)
}

/// The median time from adding a message to its handling, and how many were parked meanwhile.
async fn median(server: &Redis, round: usize, ordered: bool, slow: usize) -> (Duration, u64) {
    let stream = format!("{{orders}}-{round}-{ordered}-{slow}");
    server
        .ask(&["XGROUP", "CREATE", &stream, "workers", "0", "MKSTREAM"])
        .await;
    for number in 0..slow {
        let number = number.to_string();
        let add = ["XADD", &stream, "*", "key", "slow", "payload", &number];
        server.ask(&add).await;
    }
    let mut connection = connect(server.port()).await;
    let (handler, mut handled) = handler(connection.clone());
    let client = redis::Client::open(server.url()).unwrap();
    let mut consumer = Consumer::redis(&client, &*stream, "workers").concurrency(8);
    if ordered {
        consumer = consumer.ordered_by_key();
    }
    let added = Mutex::new(HashMap::new());
    let adding = async {
        let mut ticks = interval(Duration::from_millis(2));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 0..MESSAGES {
            ticks.tick().await;
            let fields = [
                ("key", format!("k{}", number % 50)),
                ("payload", number.to_string()),
            ];
            let now = Instant::now();
            let id: String = connection.xadd(&stream, "*", &fields).await.unwrap();
            added.lock().unwrap().insert(id, now);
        }
        handled
            .wait_for(|handled| handled.len() == MESSAGES)
            .await
            .unwrap();
    };
    let totals = consumer.run(handler, adding).await.unwrap();
    assert_eq!(totals.done as usize, MESSAGES);
    let added = added.into_inner().unwrap();
    let handled = handled.borrow();
    let mut waits: Vec<_> = handled.iter().map(|(id, at)| *at - added[id]).collect();
    waits.sort();
    (waits[waits.len() / 2], totals.parked)
}

/// Nothing here depends on a clock but the figure, which is of rounds in turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_waits_for_five_minutes_adds_nothing_to_the_latency_of_others() {
    let server = Redis::start().await;
    let mut added = 0.0_f64;
    for ordered in [false, true] {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let (alone, parked) = median(&server, round, ordered, 0).await;
            assert_eq!(parked, 0);
            without.push(alone);
            let (beside, parked) = median(&server, round, ordered, 20).await;
            // Each of them, or only the first, which holds the others of its key.
            assert_eq!(parked, if ordered { 1 } else { 20 });
            with.push(beside);
        }
        without.sort();
        with.sort();
        let (without, with) = (without[ROUNDS / 2], with[ROUNDS / 2]);
        println!("ordered {ordered}: {without:?} without, {with:?} with");
        added = added.max(with.as_secs_f64() / without.as_secs_f64() - 1.0);
    }
    println!("figure dlq/delayed-key-latency-added: {added:.3}");
}

/// By the clock of the server, which alone says when they are over.
#[tokio::test]
async fn five_minutes_on_the_server_are_not_a_millisecond_less() {
    let server = Redis::start().await;
    let group = ["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"];
    server.ask(&group).await;
    let add = ["XADD", "{orders}", "*", "key", "slow", "payload", "x"];
    server.ask(&add).await;
    let time = server.ask(&["TIME"]).await;
    let mut parts = time.lines().map(|part| part.parse::<u128>().unwrap());
    let before = parts.next().unwrap() * 1_000_000 + parts.next().unwrap();
    let (handler, _handled) = handler(connect(server.port()).await);
    let client = redis::Client::open(server.url()).unwrap();
    let delayed = [
        "ZRANGE",
        "{orders}:workers:delayed",
        "0",
        "-1",
        "WITHSCORES",
    ];
    let put_off = async {
        loop {
            let range = server.ask(&delayed).await;
            if !range.is_empty() {
                return range;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let range = tokio::select! {
        range = put_off => range,
        _ = Consumer::redis(&client, "{orders}", "workers").run(handler, std::future::pending()) => {
            unreachable!()
        }
    };
    let due: u128 = range.lines().nth(1).unwrap().parse().unwrap();
    let early = (before + FIVE_MINUTES.as_micros()).saturating_sub(due * 1000);
    println!("figure dlq/five-minutes-early-us: {early}");
    assert_eq!(early, 0);
}
