//! A consumer on a real Redis. To drop its future is as good as to kill it: nothing more is asked of Redis,
//! and the name in the group stays behind with what was unfinished.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    collections::HashMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use redis::{AsyncCommands, aio::ConnectionManager};
use seawall_dlq::{
    BoxError, ConsumeError, Consumer, DeadLetterLayer, Disposition, Failure, Letter, Message,
    Origin, Outcome, Pause, Queue, RedisSink, Redrive, Requeue, SinkError, Written,
};
use seawall_redis::Shared;
use support::{Broken, all, connect};
use test_support::Redis;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep},
};
use tower::{Layer, Service, service_fn};

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What was handled, in order, for tests to wait on.
#[derive(Clone)]
struct Log(watch::Sender<Vec<String>>);

impl Log {
    fn new() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }

    fn add(&self, message: &Message) {
        self.0.send_modify(|log| log.push(text(message)));
    }

    fn all(&self) -> Vec<String> {
        self.0.borrow().clone()
    }

    fn sorted(&self) -> Vec<String> {
        let mut all = self.all();
        all.sort();
        all
    }

    async fn until(&self, done: impl FnMut(&Vec<String>) -> bool) {
        let mut log = self.0.subscribe();
        log.wait_for(done).await.unwrap();
    }

    async fn until_len(&self, len: usize) {
        self.until(|log| log.len() >= len).await;
    }
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

struct World {
    server: Redis,
    client: redis::Client,
    connection: ConnectionManager,
}

impl World {
    async fn new() -> Self {
        Self::with_args(&[]).await
    }

    async fn with_args(args: &[&str]) -> Self {
        let server = Redis::with_args(args).await;
        let client = redis::Client::open(server.url()).unwrap();
        let connection = connect(server.port()).await;
        let group = ["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"];
        server.ask(&group).await;
        Self {
            server,
            client,
            connection,
        }
    }

    async fn add(&self, fields: &[(&str, &str)]) -> String {
        let mut connection = self.connection.clone();
        connection.xadd("{orders}", "*", fields).await.unwrap()
    }

    async fn add_numbers(&self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            self.add(&[("payload", &format!("{number:04}"))]).await;
        }
    }

    fn consumer(&self) -> Consumer {
        Consumer::redis(&self.client, "{orders}", "workers").claim_after(millis(150))
    }

    fn sink(&self) -> RedisSink<Shared<ConnectionManager>> {
        RedisSink::new(self.connection.clone(), "{orders}.dead")
            .acknowledging("{orders}", "workers")
    }

    /// How many messages are read and not acknowledged.
    async fn pending(&self) -> usize {
        let pending = self.server.ask(&["XPENDING", "{orders}", "workers"]).await;
        pending.lines().next().unwrap().parse().unwrap()
    }

    async fn now(&self) -> u64 {
        let time = self.server.ask(&["TIME"]).await;
        let mut parts = time.lines().map(|part| part.parse::<u64>().unwrap());
        parts.next().unwrap() * 1_000_000 + parts.next().unwrap()
    }
}

/// A handler that calls a closure, with letters for what fails.
fn dead_lettering<F, Fut>(
    world: &World,
    handle: F,
) -> impl Service<Message, Response = Outcome<()>, Error = BoxError, Future: Send> + Clone + Send + 'static
where
    F: FnMut(Message) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .layer(service_fn(handle))
}

#[tokio::test]
async fn a_message_is_acknowledged_when_it_is_done_or_dead() {
    let world = World::new().await;
    world.add_numbers(0..100).await;
    let log = Log::new();
    let seen = log.clone();
    let handler = dead_lettering(&world, move |message| {
        seen.add(&message);
        let bad = text(&message).ends_with('7');
        async move { if bad { Err(Broken.into()) } else { Ok(()) } }
    });
    let totals = world
        .consumer()
        .run(handler, log.until_len(100))
        .await
        .unwrap();
    assert_eq!((totals.done, totals.dead, totals.failed), (90, 10, 0));
    assert_eq!(world.pending().await, 0);
    assert_eq!(world.sink().depth().await.unwrap().letters, 10);
    let consumers = world
        .server
        .ask(&["XINFO", "CONSUMERS", "{orders}", "workers"])
        .await;
    assert_eq!(consumers.trim(), "", "it left the group");
}

#[tokio::test]
async fn what_fails_otherwise_is_not_acknowledged_and_handled_again() {
    let world = World::new().await;
    world.add_numbers(0..3).await;
    let log = Log::new();
    let seen = log.clone();
    // No letters here: one answers with an error twice, one panics.
    let handler = service_fn(move |message: Message| {
        seen.add(&message);
        let before = seen
            .all()
            .iter()
            .filter(|text| **text == *self::text(&message))
            .count();
        async move {
            match &*self::text(&message) {
                "0001" if before < 3 => Err(Broken),
                "0002" if before < 2 => panic!("again, please"),
                _ => Ok(Outcome::Done(())),
            }
        }
    });
    let totals = world
        .consumer()
        .run(handler, log.until_len(6))
        .await
        .unwrap();
    assert_eq!((totals.done, totals.failed), (3, 3));
    assert_eq!(world.pending().await, 0);
}

#[tokio::test]
async fn while_the_sink_is_down_nothing_that_fails_is_acknowledged() {
    let world = World::new().await;
    world.add_numbers(0..50).await;
    let down = Arc::new(AtomicBool::new(true));
    let letters = Arc::new(world.sink());
    let sink = {
        let (down, letters) = (down.clone(), letters.clone());
        move |letter: Letter| {
            let (down, letters) = (down.clone(), letters.clone());
            async move {
                match down.load(SeqCst) {
                    true => Err(SinkError::other("the sink is down")),
                    false => seawall_dlq::Sink::write(&letters, letter).await,
                }
            }
        }
    };
    let log = Log::new();
    let seen = log.clone();
    let handler = DeadLetterLayer::new(sink)
        .capture(Message::to_letter)
        .layer(service_fn(move |message: Message| {
            seen.add(&message);
            async { Err::<(), _>(Broken) }
        }));
    let shutdown = async {
        // All of them have failed, and some again.
        log.until_len(80).await;
        let acknowledged = 50 - world.pending().await;
        println!("figure dlq/consumer-sink-down-acknowledged: {acknowledged}");
        assert_eq!(acknowledged, 0);
        down.store(false, SeqCst);
        while world.pending().await > 0 {
            sleep(millis(5)).await;
        }
    };
    let totals = world.consumer().run(handler, shutdown).await.unwrap();
    assert_eq!(totals.dead, 50);
    println!(
        "figure dlq/consumer-sink-down-lost: {}",
        50 - all(&world.sink()).await.len()
    );
    assert_eq!(all(&world.sink()).await.len(), 50);
}

/// With delivery counts, three crashes condemned all 64 messages of a window in which one was poison.
#[tokio::test]
async fn one_poison_in_a_window_of_64_condemns_no_other() {
    let world = World::new().await;
    world.add_numbers(0..64).await;
    let starts = Arc::new(AtomicUsize::new(0));
    let (done, mut runs) = (Log::new(), 0);
    let finished =
        async || world.sink().depth().await.unwrap().letters == 1 && world.pending().await == 0;
    while !finished().await {
        runs += 1;
        let killed = Arc::new(tokio::sync::Notify::new());
        let (kill, starts, log) = (killed.clone(), starts.clone(), done.clone());
        let handler = dead_lettering(&world, move |message| {
            let poison = text(&message) == "0031";
            if poison {
                starts.fetch_add(1, SeqCst);
                kill.notify_one();
            }
            let (log, others) = (log.clone(), starts.load(SeqCst) > 0);
            async move {
                if poison {
                    pending::<()>().await;
                }
                // In the first run nobody gets to his end: all of the window is suspect.
                if !others {
                    pending::<()>().await;
                }
                log.add(&message);
                Ok(())
            }
        });
        let until_finished = async {
            while !finished().await {
                sleep(millis(5)).await;
            }
        };
        tokio::select! {
            // Dropped where it is, with a window of messages.
            () = killed.notified() => {}
            totals = world.consumer().run(handler, until_finished) => drop(totals.unwrap()),
        }
    }
    let starts = starts.load(SeqCst);
    assert!(starts <= 4, "started {starts} times");
    assert_eq!(runs, starts + 1);
    let letters = all(&world.sink()).await;
    assert_eq!(letters.len(), 1);
    assert_eq!(&letters[0].payload[..], b"0031");
    assert_eq!(letters[0].failure.class, "poison");
    let mut others = done.sorted();
    others.dedup();
    assert_eq!(others.len(), 63);
    assert_eq!(
        world
            .server
            .ask(&["EXISTS", "{orders}:workers:starts"])
            .await,
        "0"
    );
}

#[tokio::test]
async fn a_suspect_that_fails_and_comes_back_is_not_condemned_for_it() {
    let world = World::new().await;
    world.add_numbers(0..1).await;
    let log = Log::new();
    let seen = log.clone();
    let forgotten = service_fn(move |message: Message| {
        seen.add(&message);
        pending::<Result<Outcome<()>, Broken>>()
    });
    tokio::select! {
        () = log.until_len(1) => {}
        _ = world.consumer().run(forgotten, pending()) => unreachable!(),
    }
    // Ten failures are more than the starts that it has.
    let seen = log.clone();
    let handler = service_fn(move |message: Message| {
        seen.add(&message);
        let failing = seen.all().len() < 8;
        async move {
            if failing {
                Err(Broken)
            } else {
                Ok(Outcome::Done(()))
            }
        }
    });
    let consumer = world.consumer().poison_after(2);
    let totals = consumer.run(handler, log.until_len(8)).await.unwrap();
    assert_eq!(
        (totals.done, totals.condemned, totals.taken_over),
        (1, 0, 1)
    );
    assert_eq!(world.pending().await, 0);
}

#[tokio::test]
async fn suspects_run_with_nothing_beside_them() {
    let world = World::new().await;
    world.add_numbers(0..20).await;
    let log = Log::new();
    let seen = log.clone();
    let forgotten = service_fn(move |message: Message| {
        seen.add(&message);
        pending::<Result<Outcome<()>, Broken>>()
    });
    tokio::select! {
        () = log.until_len(20) => {}
        _ = world.consumer().run(forgotten, pending()) => unreachable!(),
    }
    world.add_numbers(20..220).await;
    let running = Arc::new(Mutex::new(Vec::<u32>::new()));
    let beside = Arc::new(AtomicUsize::new(0));
    let log = Log::new();
    let (seen, state, seen_beside) = (log.clone(), running.clone(), beside.clone());
    let handler = service_fn(move |message: Message| {
        let (seen, running, beside) = (seen.clone(), state.clone(), seen_beside.clone());
        async move {
            let number: u32 = text(&message).parse().unwrap();
            running.lock().unwrap().push(number);
            // So long that others run when the suspects are found.
            sleep(millis(8)).await;
            {
                let mut running = running.lock().unwrap();
                let suspects = running.iter().any(|&running| running < 20);
                beside.fetch_add(usize::from(suspects && running.len() > 1), SeqCst);
                running.retain(|&running| running != number);
            }
            seen.add(&message);
            Ok::<_, Broken>(Outcome::Done(()))
        }
    });
    let totals = world
        .consumer()
        .concurrency(4)
        .run(handler, log.until_len(220))
        .await
        .unwrap();
    // Or one more: the last read of the one that was dropped may have reached the server.
    assert_eq!(totals.done, 220);
    assert!(totals.taken_over >= 20, "{totals:?}");
    assert_eq!(beside.load(SeqCst), 0);
}

/// Parked messages that became idle were taken over by others while their owner was well.
#[tokio::test]
async fn a_parked_message_is_held_by_its_owner_and_counts_no_delivery() {
    let world = World::new().await;
    world.add_numbers(0..1).await;
    let handler = DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(Duration::from_secs(3600)))
        .layer(service_fn(|_: Message| async { Err::<(), _>(Broken) }));
    let consumer = world.consumer().park_up_to(Duration::MAX);
    let held = async {
        let mut idle = 0;
        loop {
            let ask = ["XPENDING", "{orders}", "workers", "-", "+", "1"];
            let pending = world.server.ask(&ask).await;
            let lines: Vec<&str> = pending.lines().collect();
            if let [.., now, deliveries] = lines[..] {
                assert_eq!(deliveries, "1");
                let now: u64 = now.parse().unwrap();
                if now < idle {
                    return;
                }
                idle = now;
            }
            sleep(millis(5)).await;
        }
    };
    tokio::select! {
        () = held => {}
        _ = consumer.run(handler, pending()) => unreachable!(),
    }
}

#[tokio::test]
async fn a_wait_in_the_process_is_never_early() {
    let world = World::new().await;
    world.add_numbers(0..1).await;
    let started = Arc::new(Mutex::new(Vec::new()));
    let times = started.clone();
    let handler = DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(millis(120)))
        .layer(service_fn(move |message: Message| {
            times.lock().unwrap().push((Instant::now(), message.parked));
            async move {
                if message.parked == 2 {
                    Ok(())
                } else {
                    Err(Broken)
                }
            }
        }));
    let finished = async {
        while started.lock().unwrap().len() < 3 {
            sleep(millis(5)).await;
        }
    };
    let totals = world.consumer().run(handler, finished).await.unwrap();
    assert_eq!((totals.done, totals.parked), (1, 2));
    let started = started.lock().unwrap();
    for pair in started.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= millis(120));
        assert_eq!(pair[1].1, pair[0].1 + 1);
    }
}

#[tokio::test]
async fn a_wait_on_the_server_is_never_early_and_the_message_stays_itself() {
    let world = World::new().await;
    let id = world
        .add(&[("a", "1"), ("key", "k"), ("payload", "x"), ("a", "2")])
        .await;
    let (asked, back) = (Arc::new(Mutex::new(None)), Arc::new(Mutex::new(None)));
    let (first, second) = (asked.clone(), back.clone());
    let server = Arc::new(world);
    let world = server.clone();
    let handler = DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(millis(300)))
        .layer(service_fn(move |message: Message| {
            let (first, second, world) = (first.clone(), second.clone(), server.clone());
            async move {
                let now = world.now().await;
                if message.parked == 0 {
                    *first.lock().unwrap() = Some((now, message));
                    return Err(Broken);
                }
                *second.lock().unwrap() = Some((now, message));
                Ok(())
            }
        }));
    let finished = async {
        while back.lock().unwrap().is_none() {
            sleep(millis(5)).await;
        }
    };
    let consumer = world.consumer().park_up_to(Duration::ZERO);
    let totals = consumer.run(handler, finished).await.unwrap();
    assert_eq!((totals.done, totals.parked), (1, 1));
    let (asked_at, first) = asked.lock().unwrap().take().unwrap();
    let (back_at, second) = back.lock().unwrap().take().unwrap();
    let early = 300_000_u64.saturating_sub(back_at - asked_at);
    println!("figure dlq/delayed-early-us: {early}");
    assert_eq!(early, 0);
    assert_ne!(first.id, second.id);
    let (first, second) = (first.to_letter(), second.to_letter());
    assert_eq!(first.id(), second.id());
    assert_eq!(second.origin, Origin::stream("{orders}", &*id));
    assert_eq!(
        (first.key, first.headers, first.payload),
        (second.key, second.headers, second.payload)
    );
    assert_eq!(
        world
            .server
            .ask(&[
                "EXISTS",
                "{orders}:workers:delayed",
                "{orders}:workers:delayed:messages"
            ])
            .await,
        "0"
    );
}

/// With the payload as the member of the delay set, equal payloads became one.
#[tokio::test]
async fn equal_payloads_that_are_put_off_all_come_back() {
    let world = World::new().await;
    for _ in 0..20 {
        world.add(&[("payload", "the same")]).await;
    }
    let log = Log::new();
    let seen = log.clone();
    let handler = DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(millis(20)))
        .layer(service_fn(move |message: Message| {
            if message.parked > 0 {
                seen.add(&message);
            }
            async move {
                if message.parked > 0 {
                    Ok(())
                } else {
                    Err(Broken)
                }
            }
        }));
    let consumer = world.consumer().park_up_to(Duration::ZERO);
    let totals = consumer.run(handler, log.until_len(20)).await.unwrap();
    assert_eq!((totals.done, totals.parked), (20, 20));
}

#[tokio::test]
async fn what_is_put_off_survives_a_kill_of_the_server_and_of_the_worker() {
    let world = World::with_args(DURABLE).await;
    world.add_numbers(0..20).await;
    let log = Log::new();
    let seen = log.clone();
    let parking = DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(millis(400)))
        .layer(service_fn(move |message: Message| {
            seen.add(&message);
            async { Err::<(), _>(Broken) }
        }));
    let put_off = async {
        while world
            .server
            .ask(&["ZCARD", "{orders}:workers:delayed"])
            .await
            != "20"
        {
            sleep(millis(5)).await;
        }
    };
    tokio::select! {
        () = put_off => {}
        _ = world.consumer().park_up_to(Duration::ZERO).run(parking, pending()) => unreachable!(),
    }
    world.server.restart().await;
    let log = Log::new();
    let seen = log.clone();
    let handler = service_fn(move |message: Message| {
        seen.add(&message);
        async { Ok::<_, Broken>(Outcome::Done(())) }
    });
    world
        .consumer()
        .run(handler, log.until_len(20))
        .await
        .unwrap();
    let expected: Vec<_> = (0..20).map(|number| format!("{number:04}")).collect();
    assert_eq!(log.sorted(), expected);
    assert_eq!(world.pending().await, 0);
}

/// A parked message that would fill the window goes to the server, so that others are read.
#[tokio::test]
async fn the_window_caps_what_is_unacknowledged_and_parked_messages_do_not_fill_it() {
    let world = World::new().await;
    world.add_numbers(0..100).await;
    let most = Arc::new(AtomicUsize::new(0));
    let log = Log::new();
    let seen = log.clone();
    let handler = DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(Duration::from_secs(3600)))
        .layer(service_fn(move |message: Message| {
            seen.add(&message);
            async { Err::<(), _>(Broken) }
        }));
    let watching = async {
        while log.all().len() < 100 {
            if log.all().len() > 1 {
                most.fetch_max(world.pending().await, SeqCst);
            }
            sleep(millis(1)).await;
        }
    };
    let consumer = world
        .consumer()
        .concurrency(4)
        .window(10)
        .park_up_to(Duration::MAX);
    let totals = consumer.run(handler, watching).await.unwrap();
    assert_eq!(totals.parked, 100);
    assert!(most.load(SeqCst) <= 10, "{most:?}");
    // All of them on the server at the end, and none left to be suspect.
    assert_eq!(world.pending().await, 0);
    assert_eq!(
        world
            .server
            .ask(&["ZCARD", "{orders}:workers:delayed"])
            .await,
        "100"
    );
}

#[tokio::test]
async fn order_per_key_holds_while_one_of_the_key_is_parked_or_fails() {
    let world = World::new().await;
    for number in 0..60 {
        let key = format!("k{}", number % 3);
        world
            .add(&[("key", &key), ("payload", &format!("{number:04}"))])
            .await;
    }
    let log = Log::new();
    let seen = log.clone();
    let tried = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let handler = DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(millis(30)))
        .layer(service_fn(move |message: Message| {
            let tries = {
                let mut tried = tried.lock().unwrap();
                let tries = tried.entry(text(&message)).or_default();
                *tries += 1;
                *tries
            };
            // Every tenth is parked once.
            let fails = text(&message).ends_with('0') && tries == 1;
            if !fails {
                seen.add(&message);
            }
            async move { if fails { Err(Broken) } else { Ok(()) } }
        }));
    let consumer = world.consumer().ordered_by_key();
    let totals = consumer.run(handler, log.until_len(60)).await.unwrap();
    assert_eq!((totals.done, totals.parked), (60, 6));
    for key in 0..3 {
        let order: Vec<u32> = log
            .all()
            .iter()
            .map(|text| text.parse().unwrap())
            .filter(|number| number % 3 == key)
            .collect();
        assert!(order.is_sorted(), "key {key}: {order:?}");
    }
    assert!(!log.all().is_sorted(), "keys do not wait for each other");
}

/// Messages of other keys that are held back while one key waits for five minutes.
#[tokio::test]
async fn a_key_that_waits_for_five_minutes_holds_back_nobody_else() {
    let world = World::new().await;
    world.add(&[("key", "slow"), ("payload", "first")]).await;
    world.add(&[("key", "slow"), ("payload", "second")]).await;
    for number in 0..500 {
        let key = format!("k{}", number % 50);
        world
            .add(&[("key", &key), ("payload", &format!("{number:04}"))])
            .await;
    }
    let log = Log::new();
    let seen = log.clone();
    let handler = DeadLetterLayer::new(world.sink())
        .capture(Message::to_letter)
        .dispose(|_| Disposition::Park(Duration::from_secs(300)))
        .layer(service_fn(move |message: Message| {
            seen.add(&message);
            async move {
                if text(&message) == "first" {
                    Err(Broken)
                } else {
                    Ok(())
                }
            }
        }));
    let others = log.until(|log| log.iter().filter(|text| text.len() == 4).count() == 500);
    let consumer = world.consumer().ordered_by_key().concurrency(4);
    let totals = consumer.run(handler, others).await.unwrap();
    assert_eq!((totals.done, totals.parked), (500, 1));
    println!("figure dlq/held-back-by-another-key: {}", 500 - totals.done);
    assert!(!log.all().contains(&"second".to_owned()));
    assert_eq!(world.pending().await, 2);
}

#[tokio::test]
async fn a_pause_begins_nothing_while_others_of_the_group_go_on() {
    let world = World::new().await;
    world.add_numbers(0..20).await;
    let (log, pause) = (Log::new(), Pause::new());
    let (seen, pausing) = (log.clone(), pause.clone());
    let handler = dead_lettering(&world, move |message| {
        seen.add(&message);
        if text(&message) == "0005" {
            pausing.pause();
        }
        async { Ok(()) }
    });
    let consumer = || world.consumer().claim_after(millis(60_000));
    let shutdown = async {
        log.until_len(6).await;
        // Another takes what the first has not read.
        let others = Log::new();
        let seen = others.clone();
        let other = dead_lettering(&world, move |message| {
            seen.add(&message);
            async { Ok(()) }
        });
        world.add_numbers(20..40).await;
        let enough = others.until_len(20);
        let totals = Box::pin(consumer().run(other, enough)).await.unwrap();
        assert_eq!(log.all().len(), 6);
        pause.resume();
        log.until_len(40 - totals.done as usize).await;
    };
    let consumer = consumer().concurrency(1).pausing(&pause);
    consumer.run(handler, shutdown).await.unwrap();
    assert_eq!(world.pending().await, 0);
}

/// How long each message takes from when it is added until it is handled, of one key after the other: the median.
async fn latency(world: &World, handled: &mut mpsc::UnboundedReceiver<()>) -> Duration {
    let mut took = Vec::new();
    for number in 0..40 {
        let added = Instant::now();
        let key = format!("k{number}");
        world.add(&[("key", &key), ("payload", "quick")]).await;
        handled.recv().await.unwrap();
        took.push(added.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

/// Two consumers in turns, one of which has a key that waits for five minutes. It asserts no time: the figure is judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_waits_for_five_minutes_slows_nobody_down() {
    let (plain, waiting) = tokio::join!(World::new(), World::new());
    let work = |world: &World| {
        let (told, handled) = mpsc::unbounded_channel();
        let handler = DeadLetterLayer::new(world.sink())
            .capture(Message::to_letter)
            .dispose(|_| Disposition::Park(Duration::from_secs(300)))
            .layer(service_fn(move |message: Message| {
                let slow = text(&message) == "slow";
                if !slow {
                    told.send(()).unwrap();
                }
                async move {
                    match slow {
                        true => Err(Broken),
                        false => Ok(()),
                    }
                }
            }));
        // It waits in the process, where it could be in the way.
        let consumer = world.consumer().park_up_to(Duration::from_secs(600));
        let (stop, stopped) = oneshot::channel::<()>();
        let work = tokio::spawn(async move {
            let shutdown = async { stopped.await.unwrap() };
            consumer.run(handler, shutdown).await.unwrap()
        });
        (handled, stop, work)
    };
    let (mut by_plain, stop_plain, plain_work) = work(&plain);
    let (mut by_waiting, stop_waiting, waiting_work) = work(&waiting);
    waiting.add(&[("key", "slow"), ("payload", "slow")]).await;
    let mut ratios = Vec::new();
    for _ in 0..41 {
        let without = latency(&plain, &mut by_plain).await;
        let with = latency(&waiting, &mut by_waiting).await;
        ratios.push(with.as_secs_f64() / without.as_secs_f64());
    }
    stop_plain.send(()).unwrap();
    stop_waiting.send(()).unwrap();
    plain_work.await.unwrap();
    let totals = waiting_work.await.unwrap();
    assert_eq!(
        (totals.parked, totals.done),
        (1, 41 * 40),
        "it is not early"
    );
    ratios.sort_by(f64::total_cmp);
    let added = ratios[ratios.len() / 2] - 1.0;
    println!("figure dlq/delay-slows-others-by: {:.4}", added.max(0.0));
}

#[tokio::test]
async fn order_per_key_holds_over_a_crash_and_among_several_consumers() {
    let world = World::new().await;
    for number in 0..40 {
        world
            .add(&[("key", "k"), ("payload", &format!("{number:04}"))])
            .await;
    }
    let log = Log::new();
    let handler = |stop_at: usize| {
        let seen = log.clone();
        service_fn(move |message: Message| {
            let stuck = seen.all().len() == stop_at;
            if !stuck {
                seen.add(&message);
            }
            async move {
                if stuck {
                    pending::<()>().await;
                }
                Ok::<_, Broken>(Outcome::Done(()))
            }
        })
    };
    tokio::select! {
        () = log.until_len(10) => {}
        _ = world.consumer().ordered_by_key().run(handler(10), pending()) => unreachable!(),
    }
    let all_of_them = || log.until(|log| log.last().is_some_and(|last| last == "0039"));
    let (a, b) = tokio::join!(
        world
            .consumer()
            .ordered_by_key()
            .run(handler(1000), all_of_them()),
        world
            .consumer()
            .ordered_by_key()
            .run(handler(1000), all_of_them()),
    );
    a.unwrap();
    b.unwrap();
    let order = log.all();
    // The crash repeats what was not acknowledged, and mixes nothing.
    let (before, after) = order.split_at(10);
    assert!(before.is_sorted() && after.is_sorted(), "{order:?}");
    let mut order = log.sorted();
    order.dedup();
    assert_eq!(order.len(), 40);
}

#[tokio::test]
async fn a_shutdown_ends_what_runs_and_leaves_nothing_behind() {
    let world = World::new().await;
    world.add_numbers(0..10).await;
    let log = Log::new();
    let seen = log.clone();
    let handler = service_fn(move |message: Message| {
        seen.add(&message);
        async move {
            sleep(millis(100)).await;
            Ok::<_, Broken>(Outcome::Done(()))
        }
    });
    let consumer = world.consumer().concurrency(4);
    let totals = consumer.run(handler, log.until_len(2)).await.unwrap();
    assert_eq!(totals.done as usize, log.all().len());
    assert_eq!(world.pending().await, 0);
}

#[tokio::test]
async fn what_does_not_end_in_time_is_left_to_the_next_consumer_at_once() {
    let world = World::new().await;
    world.add_numbers(0..3).await;
    let log = Log::new();
    let seen = log.clone();
    let stuck = service_fn(move |message: Message| {
        seen.add(&message);
        pending::<Result<Outcome<()>, Broken>>()
    });
    // Were they to become idle by themselves, the test would never end.
    let consumer = || {
        world
            .consumer()
            .claim_after(Duration::from_secs(3600))
            .drain_for(millis(20))
    };
    let totals = consumer().run(stuck, log.until_len(3)).await.unwrap();
    assert_eq!((totals.done, world.pending().await), (0, 3));
    let log = Log::new();
    let seen = log.clone();
    let handler = service_fn(move |message: Message| {
        seen.add(&message);
        async { Ok::<_, Broken>(Outcome::Done(())) }
    });
    let totals = consumer().run(handler, log.until_len(3)).await.unwrap();
    assert_eq!(
        (totals.done, totals.taken_over, world.pending().await),
        (3, 3, 0)
    );
}

#[tokio::test]
async fn a_stream_that_is_not_there_is_an_error_unless_it_may_be_made() {
    let world = World::new().await;
    world.server.ask(&["DEL", "{orders}"]).await;
    let handler = service_fn(|_: Message| async { Ok::<_, Broken>(Outcome::Done(())) });
    let consumer = || Consumer::redis(&world.client, "{orders}", "workers");
    let error = consumer().run(handler, async {}).await.unwrap_err();
    assert!(
        matches!(&error, ConsumeError::NoStream(stream) if stream == "{orders}"),
        "{error}"
    );
    consumer()
        .make_stream()
        .run(handler, async {})
        .await
        .unwrap();
    let error = Consumer::redis(&world.client, "a}b", "workers")
        .run(handler, async {})
        .await;
    assert!(matches!(error, Err(ConsumeError::Config(_))));
    // And one that is taken away while it is read.
    let taken = async {
        sleep(millis(20)).await;
        world.server.ask(&["DEL", "{orders}"]).await;
        pending().await
    };
    let error = consumer().run(handler, taken).await.unwrap_err();
    assert!(matches!(error, ConsumeError::Redis(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_costs_no_message() {
    let world = World::with_args(DURABLE).await;
    world.add_numbers(0..300).await;
    let log = Log::new();
    let seen = log.clone();
    let handler = dead_lettering(&world, move |message| {
        let seen = seen.clone();
        async move {
            sleep(millis(2)).await;
            seen.add(&message);
            if text(&message).ends_with('5') {
                return Err(Broken.into());
            }
            Ok(())
        }
    });
    let killed_twice = async {
        for at in [50, 150] {
            log.until_len(at).await;
            world.server.restart().await;
        }
        loop {
            let mut seen = log.sorted();
            seen.dedup();
            if seen.len() == 300 && world.pending().await == 0 {
                return;
            }
            sleep(millis(10)).await;
        }
    };
    let consumer = world
        .consumer()
        .concurrency(8)
        .claim_after(Duration::from_secs(1));
    consumer.run(handler, killed_twice).await.unwrap();
    let letters = all(&world.sink()).await;
    let mut dead: Vec<_> = letters.iter().map(|letter| &letter.payload[..]).collect();
    dead.dedup();
    assert_eq!((letters.len(), dead.len()), (30, 30));
}

/// A redriven copy that failed again was taken for a repeat, not written, and then removed.
#[tokio::test]
async fn a_redriven_copy_that_dies_again_has_a_letter_of_its_own() {
    let world = World::new().await;
    world.add_numbers(0..5).await;
    let log = Log::new();
    let seen = log.clone();
    let handler = dead_lettering(&world, move |message| {
        seen.add(&message);
        async { Err(Broken.into()) }
    });
    let redriven = async {
        while world.sink().depth().await.unwrap().letters < 5 {
            sleep(millis(5)).await;
        }
        let requeue = Requeue::new(world.connection.clone());
        let summary = Redrive::new(world.sink()).through(requeue).await.unwrap();
        assert_eq!(summary.redriven, 5);
        while log.all().len() < 10 || world.pending().await > 0 {
            sleep(millis(5)).await;
        }
    };
    world.consumer().run(handler, redriven).await.unwrap();
    let letters = all(&world.sink()).await;
    assert_eq!(letters.len(), 5);
    for letter in letters {
        assert_eq!(letter.generation, 1);
        assert!(letter.copy_at.is_some());
        assert_ne!(letter.copy_at, Some(letter.origin.clone()));
    }
}

#[tokio::test]
async fn poison_goes_to_the_sink_that_is_named() {
    let world = World::new().await;
    world.add_numbers(0..1).await;
    let letters = Arc::new(Mutex::new(Vec::<Letter>::new()));
    let consumer = || {
        let letters = letters.clone();
        world
            .consumer()
            .poison_after(1)
            .poison_to(move |letter: Letter| {
                letters.lock().unwrap().push(letter);
                std::future::ready(Ok(Written::New))
            })
    };
    for _ in 0..2 {
        let log = Log::new();
        let seen = log.clone();
        let handler = service_fn(move |message: Message| {
            seen.add(&message);
            pending::<Result<Outcome<()>, Broken>>()
        });
        tokio::select! {
            () = log.until_len(1) => {}
            _ = consumer().run(handler, pending()) => unreachable!(),
        }
    }
    let handler = service_fn(|_: Message| async { Ok::<_, Broken>(Outcome::Done(())) });
    let written = async {
        while letters.lock().unwrap().is_empty() {
            sleep(millis(5)).await;
        }
    };
    let totals = consumer().run(handler, written).await.unwrap();
    assert_eq!((totals.done, totals.dead, totals.condemned), (0, 1, 1));
    assert_eq!(world.pending().await, 0);
    let letters = letters.lock().unwrap();
    let expected = Failure::new(
        "poison",
        "its worker ended 1 times while it handled this message",
    );
    assert_eq!(letters[0].failure, expected);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let client = redis::Client::open("redis://127.0.0.1/").unwrap();
    let consumer = || Consumer::redis(&client, "{orders}", "workers");
    assert!(consumer().try_concurrency(0).is_err());
    assert!(consumer().try_concurrency(1025).is_err());
    assert!(consumer().try_window(63).is_err());
    assert!(consumer().try_claim_after(millis(9)).is_err());
    assert!(consumer().try_poison_after(0).is_err());
}
