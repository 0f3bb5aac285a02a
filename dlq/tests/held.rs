//! Where order is kept, a key whose message is dead or waits holds back the others of it: over a crash, a redrive and a
//! second death, and without standing in anybody's way.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    collections::HashSet,
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use redis::{AsyncCommands, aio::ConnectionManager};
use seawall_dlq::{
    BoxError, Consumer, DeadLetterLayer, Disposition, HeldKeys, Message, Origin, Outcome, Queue,
    RedisSink, Redrive, Requeue, Totals,
};
use seawall_redis::Shared;
use support::{Broken, all, connect};
use test_support::Redis;
use tokio::{sync::watch, time::sleep};
use tower::{Layer, Service, service_fn};

const TICK: Duration = Duration::from_millis(5);

struct World {
    server: Redis,
    client: redis::Client,
    connection: ConnectionManager,
    /// Payloads that fail.
    bad: Arc<Mutex<HashSet<String>>>,
    /// Payloads that were handled well, in order.
    done: watch::Sender<Vec<String>>,
}

impl World {
    async fn new() -> Self {
        let server = Redis::start().await;
        let group = ["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"];
        server.ask(&group).await;
        Self {
            client: redis::Client::open(server.url()).unwrap(),
            connection: connect(server.port()).await,
            server,
            bad: Arc::default(),
            done: watch::Sender::new(Vec::new()),
        }
    }

    async fn add(&self, payload: &str) {
        let key = &payload[..1];
        let mut connection = self.connection.clone();
        let fields = [("key", key), ("payload", payload)];
        let _: String = connection.xadd("{orders}", "*", &fields).await.unwrap();
    }

    async fn add_all(&self, payloads: &[&str]) {
        for payload in payloads {
            self.add(payload).await;
        }
    }

    fn break_at(&self, payload: &str) {
        self.bad.lock().unwrap().insert(payload.to_owned());
    }

    fn mend(&self, payload: &str) {
        self.bad.lock().unwrap().remove(payload);
    }

    fn sink(&self) -> RedisSink<Shared<ConnectionManager>> {
        RedisSink::new(self.connection.clone(), "{orders}.dead")
            .acknowledging("{orders}", "workers")
            .holding_keys()
    }

    fn held(&self) -> HeldKeys<Shared<ConnectionManager>> {
        HeldKeys::new(self.connection.clone(), "{orders}", "workers").unwrap()
    }

    /// Key and number of those behind it, of each key that is held.
    async fn behind(&self) -> Vec<(String, u64)> {
        let held = self.held().list().await.unwrap();
        let mut held: Vec<_> = held
            .into_iter()
            .map(|held| (String::from_utf8(held.key.to_vec()).unwrap(), held.behind))
            .collect();
        held.sort();
        held
    }

    fn handler(
        &self,
        disposition: Disposition,
    ) -> impl Service<Message, Response = Outcome<()>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + 'static {
        let (bad, done) = (Arc::clone(&self.bad), self.done.clone());
        DeadLetterLayer::new(self.sink())
            .capture(Message::to_letter)
            .dispose(move |_| disposition)
            .layer(service_fn(move |message: Message| {
                let payload = String::from_utf8(message.payload.to_vec()).unwrap();
                let is_bad = bad.lock().unwrap().contains(&payload);
                if !is_bad {
                    done.send_modify(|done| done.push(payload));
                }
                async move { if is_bad { Err(Broken) } else { Ok(()) } }
            }))
    }

    fn consumer(&self) -> Consumer {
        Consumer::redis(&self.client, "{orders}", "workers")
            .ordered_by_key()
            .claim_after(Duration::from_millis(150))
            .concurrency(4)
            .window(16)
    }

    async fn run_until(&self, done: impl Future<Output = ()>) -> Totals {
        let handler = self.handler(Disposition::DeadLetter);
        self.consumer().run(handler, done).await.unwrap()
    }

    async fn until_done(&self, payload: &str) {
        let mut done = self.done.subscribe();
        let is_there = |done: &Vec<String>| done.iter().any(|done| done == payload);
        done.wait_for(is_there).await.unwrap();
    }

    async fn until_behind(&self, behind: &[(&str, u64)]) {
        let expected: Vec<_> = behind
            .iter()
            .map(|(key, n)| ((*key).to_owned(), *n))
            .collect();
        while self.behind().await != expected {
            sleep(TICK).await;
        }
    }

    fn of_key(&self, key: char) -> Vec<String> {
        let done = self.done.borrow();
        done.iter()
            .filter(|done| done.starts_with(key))
            .cloned()
            .collect()
    }

    async fn redrive(&self) {
        let requeue = Requeue::new(self.connection.clone());
        Redrive::new(self.sink()).through(requeue).await.unwrap();
    }
}

#[tokio::test]
async fn a_dead_message_holds_its_key_until_it_is_redriven_and_done() {
    let world = World::new().await;
    world.break_at("a2");
    world
        .add_all(&["a1", "a2", "b1", "a3", "b2", "a4", "b3"])
        .await;
    let script = async {
        world.until_done("b3").await;
        world.until_behind(&[("a", 2)]).await;
        world.add_all(&["a5", "b4"]).await;
        world.until_done("b4").await;
        world.until_behind(&[("a", 3)]).await;
        assert_eq!(world.of_key('a'), ["a1"]);
        let held = world.held().list().await.unwrap();
        assert!(matches!(&held[0].by, Origin::Stream { stream, .. } if **stream == *"{orders}"));
        // Dead a second time: the others still wait.
        world.redrive().await;
        while all(&world.sink())
            .await
            .first()
            .is_none_or(|letter| letter.generation == 0)
        {
            sleep(TICK).await;
        }
        world.until_behind(&[("a", 3)]).await;
        assert_eq!(world.of_key('a'), ["a1"]);
        world.mend("a2");
        world.redrive().await;
        world.until_done("a5").await;
        world.until_behind(&[]).await;
    };
    let totals = Box::pin(world.run_until(script)).await;
    println!("figure dlq/passed-a-dead-one: {}", {
        let order = world.of_key('a');
        order
            .iter()
            .zip(["a1", "a2", "a3", "a4", "a5"])
            .filter(|(is, should)| is != should)
            .count()
    });
    assert_eq!(world.of_key('a'), ["a1", "a2", "a3", "a4", "a5"]);
    assert_eq!(world.of_key('b'), ["b1", "b2", "b3", "b4"]);
    assert_eq!((totals.dead, totals.set_aside), (2, 3));
    assert_eq!(world.sink().depth().await.unwrap().letters, 0);
    let left = [
        "EXISTS",
        "{orders}:workers:held",
        "{orders}:workers:aside",
        "{orders}:workers:starts",
    ];
    assert_eq!(world.server.ask(&left).await, "0");
}

#[tokio::test]
async fn one_that_dies_on_its_way_back_holds_those_behind_it() {
    let world = World::new().await;
    world.break_at("a1");
    world.break_at("a2");
    world.add_all(&["a1", "a2", "a3", "b1"]).await;
    let script = async {
        world.until_done("b1").await;
        world.until_behind(&[("a", 2)]).await;
        // Dismissed: the first dead one is not waited for any more, and the second holds the third.
        assert!(world.held().let_go(b"a").await.unwrap());
        world.until_behind(&[("a", 1)]).await;
        while world.sink().depth().await.unwrap().letters < 2 {
            sleep(TICK).await;
        }
        world.add_all(&["b2"]).await;
        world.until_done("b2").await;
        assert_eq!(world.of_key('a'), [""; 0]);
        assert!(world.held().let_go(b"a").await.unwrap());
        world.until_done("a3").await;
        world.until_behind(&[]).await;
        assert!(!world.held().let_go(b"a").await.unwrap());
    };
    let totals = Box::pin(world.run_until(script)).await;
    assert_eq!((totals.dead, world.of_key('a')), (2, vec!["a3".to_owned()]));
    // To dismiss is not to throw away.
    assert_eq!(world.sink().depth().await.unwrap().letters, 2);
}

/// The letter, the acknowledgement and the hold are one step: what was read already is late after a crash.
#[tokio::test]
async fn a_crash_right_after_the_letter_lets_nothing_pass() {
    let world = World::new().await;
    world.break_at("a1");
    world.add_all(&["a1", "a2", "a3"]).await;
    // Its consumer hears nothing of the letter: as good as dead.
    let letters = world.sink();
    let unheard = DeadLetterLayer::new(move |letter| {
        let letters = letters.clone();
        async move {
            seawall_dlq::Sink::write(&letters, letter).await?;
            pending().await
        }
    })
    .capture(Message::to_letter)
    .write_within(Duration::from_secs(3600))
    .layer(service_fn(|_: Message| async { Err::<(), _>(Broken) }));
    let written = async {
        while world.sink().depth().await.unwrap().letters == 0 {
            sleep(TICK).await;
        }
    };
    tokio::select! {
        () = written => {}
        _ = world.consumer().run(unheard, pending()) => unreachable!(),
    }
    let script = async {
        world.add_all(&["a4", "b1"]).await;
        world.until_done("b1").await;
        world.until_behind(&[("a", 3)]).await;
        assert_eq!(world.of_key('a'), [""; 0]);
        world.mend("a1");
        world.redrive().await;
        world.until_done("a4").await;
        world.until_behind(&[]).await;
    };
    Box::pin(world.run_until(script)).await;
    assert_eq!(world.of_key('a'), ["a1", "a2", "a3", "a4"]);
}

/// Twice a window of messages behind one that waits for five minutes filled the window, and nobody was read any more.
#[tokio::test]
async fn a_crowd_behind_one_that_waits_stands_in_nobodys_way() {
    let world = World::new().await;
    world.break_at("a00");
    for number in 0..40 {
        world.add(&format!("a{number:02}")).await;
    }
    for number in 0..40 {
        world.add(&format!("b{number:02}")).await;
    }
    let handler = world.handler(Disposition::Park(Duration::from_secs(300)));
    let others = world.until_done("b39");
    let totals = world.consumer().run(handler, others).await.unwrap();
    assert_eq!((totals.done, totals.parked), (40, 1));
    assert_eq!(world.of_key('a'), [""; 0]);
    // By the next worker, for which it does not fail, all of it in order.
    world.mend("a00");
    world.run_until(world.until_done("a39")).await;
    let order = world.of_key('a');
    assert!(order.len() == 40 && order.is_sorted(), "{order:?}");
    assert_eq!(world.behind().await, []);
}

#[tokio::test]
async fn by_choice_the_dead_hold_nobody() {
    let world = World::new().await;
    world.break_at("a1");
    world.add_all(&["a1", "a2"]).await;
    let sink = RedisSink::new(world.connection.clone(), "{orders}.dead");
    let done = world.done.clone();
    let bad = Arc::clone(&world.bad);
    let handler = DeadLetterLayer::new(sink)
        .capture(Message::to_letter)
        .layer(service_fn(move |message: Message| {
            let payload = String::from_utf8(message.payload.to_vec()).unwrap();
            let is_bad = bad.lock().unwrap().contains(&payload);
            if !is_bad {
                done.send_modify(|done| done.push(payload));
            }
            async move { if is_bad { Err(Broken) } else { Ok(()) } }
        }));
    let consumer = world.consumer().pass_dead();
    let totals = consumer.run(handler, world.until_done("a2")).await.unwrap();
    assert_eq!((totals.done, totals.dead, totals.set_aside), (1, 1, 0));
    assert_eq!(world.behind().await, []);
}
