//! A worker whose letters go to a Redis of their own, which is frozen, killed and started again.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test uses its part

use std::{
    collections::HashMap,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::AsyncCommands;
use seawall_dlq::{Consumer, DeadLetterLayer, Message, Queue, RedisSink};
use seawall_redis::Client;
use test_support::Redis;
use tokio::time::sleep;
use tower::{Layer, service_fn};

use crate::support::{Broken, all, connect};

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
const MESSAGES: usize = 200;

/// What became of the messages of a worker whose sink was away.
#[derive(Debug)]
pub struct Account {
    /// Messages that failed, and were acknowledged while no letter could be written.
    pub acknowledged: usize,
    /// Messages that failed and have no letter in the end.
    pub lost: usize,
    /// Letters that are there twice.
    pub repeated: usize,
}

fn fails(number: usize) -> bool {
    number % 4 == 1
}

/// Freezes the letters' server, and kills it after a while, and starts it again after another. It is away
/// for so long, and until each message that fails has done so twice.
pub async fn sink_away_for(away: Duration) -> Account {
    let orders = Redis::start().await;
    let group = ["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"];
    orders.ask(&group).await;
    let dead = Redis::with_args(DURABLE).await;
    let mut connection = connect(orders.port()).await;

    let letters = connect(dead.port()).await;
    let deadline = Duration::from_millis(250);
    let letters = Client::shared(letters).deadline(deadline);
    let sink = RedisSink::try_over(letters, "{orders}.dead").unwrap();
    let tried = Arc::new(Mutex::new(HashMap::<usize, u32>::new()));
    let trying = Arc::clone(&tried);
    let handler = DeadLetterLayer::new(sink)
        .capture(Message::to_letter)
        .layer(service_fn(move |message: Message| {
            let number: usize = std::str::from_utf8(&message.payload)
                .unwrap()
                .parse()
                .unwrap();
            *trying.lock().unwrap().entry(number).or_default() += 1;
            async move { if fails(number) { Err(Broken) } else { Ok(()) } }
        }));
    let all_tried = async |times: u32| {
        let enough = || {
            let tried = tried.lock().unwrap();
            let times_of = |number| tried.get(&number).copied().unwrap_or(0);
            (0..MESSAGES).all(|number| times_of(number) >= if fails(number) { times } else { 1 })
        };
        while !enough() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let pending_now = async || {
        let pending = orders.ask(&["XPENDING", "{orders}", "workers"]).await;
        pending.lines().next().unwrap().parse::<usize>().unwrap()
    };

    dead.pause();
    for number in 0..MESSAGES {
        let payload = number.to_string();
        let fields = [("payload", payload)];
        let _: String = connection.xadd("{orders}", "*", &fields).await.unwrap();
    }
    let failing = (0..MESSAGES).filter(|number| fails(*number)).count();
    let client = redis::Client::open(orders.url()).unwrap();
    let script = async {
        all_tried(2).await;
        sleep(away / 2).await;
        dead.kill();
        // Refused now, instead of left without an answer.
        sleep(away / 2).await;
        all_tried(3).await;
        // What is done may be acknowledged a little later. What failed is not.
        while pending_now().await > failing {
            sleep(Duration::from_millis(10)).await;
        }
        let acknowledged = failing - pending_now().await;
        dead.restart().await;
        while pending_now().await > 0 {
            sleep(Duration::from_millis(20)).await;
        }
        acknowledged
    };
    let consumer = Consumer::redis(&client, "{orders}", "workers");
    let acknowledged = tokio::select! {
        acknowledged = script => acknowledged,
        ended = consumer.run(handler, pending()) => panic!("{ended:?}"),
    };

    let letters = RedisSink::new(connect(dead.port()).await, "{orders}.dead");
    let mut written: Vec<_> = all(&letters)
        .await
        .into_iter()
        .map(|letter| letter.payload)
        .collect();
    assert_eq!(letters.depth().await.unwrap().letters, written.len() as u64);
    written.sort();
    let before = written.len();
    written.dedup();
    Account {
        acknowledged,
        lost: failing - written.len(),
        repeated: before - written.len(),
    }
}
