//! The consumer on Apache Kafka's own brokers.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use seawall_dlq::{
    BoxError, ConsumeError, Consumer, DeadLetterLayer, Disposition, KafkaSink, KafkaSource,
    MemorySink, Message, NULLS_HEADER, Origin, Pause, Totals,
};
use support::{all, client, make_topic, seconds};
use test_support::Kafka;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tower::{Layer, Service, service_fn};

const MS: Duration = Duration::from_millis(1);

async fn config() -> ClientConfig {
    let mut config = client(Kafka::shared().await);
    // A member that is dropped is found to be gone as soon as the broker allows.
    config
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "500");
    config
}

async fn topic(name: &str, partitions: i32) {
    make_topic(Kafka::shared().await, name, partitions, &[]).await;
}

async fn consumer(topic: &str) -> Consumer<KafkaSource> {
    Consumer::kafka(&config().await, topic, "workers").poison_to(MemorySink::with_capacity(1000))
}

/// Writes one message a payload, to each partition in turn; its key is what comes before a `:`.
async fn send(topic: &str, partitions: i32, payloads: impl IntoIterator<Item = String>) {
    let producer: FutureProducer = config().await.create().unwrap();
    let mut sent = Vec::new();
    for (number, payload) in (0_i32..).zip(payloads) {
        let key = payload.split_once(':').map(|(key, _)| key.to_owned());
        let mut record: FutureRecord<'_, str, str> = FutureRecord::to(topic)
            .partition(number % partitions)
            .payload(&payload);
        record.key = key.as_deref();
        sent.push(
            producer
                .send_result(record)
                .map_err(|(error, _)| error)
                .unwrap(),
        );
    }
    for sent in sent {
        sent.await.unwrap().unwrap();
    }
}

fn numbers(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|number| number.to_string())
}

fn text(message: &Message) -> String {
    String::from_utf8(message.payload.to_vec()).unwrap()
}

/// Whether a broker that has just started does not know yet for which groups it answers.
fn is_settling(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::CoordinatorNotAvailable
        )
    )
}

/// What the group has committed, and its metadata, by partition.
async fn committed(topic: &str) -> Vec<(i64, String)> {
    let mut config = config().await;
    config.set("group.id", "workers");
    let topic = topic.to_owned();
    let read = move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&topic), seconds(60)).unwrap();
        let mut wanted = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            wanted.add_partition(&topic, partition.id());
        }
        let committed = loop {
            match consumer.committed_offsets(wanted.clone(), seconds(60)) {
                Ok(committed) => break committed,
                // A broker that has just started does not know yet for which groups it answers.
                Err(error) if is_settling(&error) => drop(consumer.poll(MS)),
                Err(error) => panic!("what was committed cannot be read: {error}"),
            }
        };
        let committed = committed.elements();
        let committed = committed.iter().map(|of| {
            let at = match of.offset() {
                Offset::Offset(at) => at,
                _ => -1,
            };
            (at, of.metadata().to_owned())
        });
        committed.collect()
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    while !holds().await {
        tokio::time::sleep(MS).await;
    }
}

/// A consumer at work, and how to end it in order.
struct Worker {
    stop: oneshot::Sender<()>,
    work: JoinHandle<Result<Totals, ConsumeError>>,
}

impl Worker {
    fn start<S>(consumer: Consumer<KafkaSource>, handler: S) -> Self
    where
        S: Service<Message, Response = seawall_dlq::Outcome<()>, Error = BoxError>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let (stop, stopped) = oneshot::channel::<()>();
        let work = tokio::spawn(async move {
            let shutdown = async {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            consumer.run(handler, shutdown).await
        });
        Self { stop, work }
    }

    async fn end(self) -> Totals {
        self.stop.send(()).unwrap();
        self.work.await.unwrap().unwrap()
    }

    /// As good as a crash.
    async fn crash(self) {
        self.work.abort();
        drop(self.work.await);
    }
}

/// A handler with letters in memory.
fn handler<F, Fut>(
    letters: &MemorySink,
    work: F,
) -> impl Service<
    Message,
    Response = seawall_dlq::Outcome<()>,
    Error = BoxError,
    Future = impl Future<Output = Result<seawall_dlq::Outcome<()>, BoxError>> + Send + use<F, Fut>,
>
+ Clone
+ Send
+ 'static
+ use<F, Fut>
where
    F: FnMut(Message) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    DeadLetterLayer::new(letters.clone())
        .capture(Message::to_letter)
        .dispose(|error: &BoxError| match error.to_string().split_once(' ') {
            Some(("wait", millis)) => {
                Disposition::Park(Duration::from_millis(millis.parse().unwrap()))
            }
            Some(("again", _)) => Disposition::Propagate,
            _ => Disposition::DeadLetter,
        })
        .layer(service_fn(work))
}

fn letters() -> MemorySink {
    MemorySink::with_capacity(1000)
}

/// How often each payload was handled.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn add(&self, message: &Message) {
        self.0.lock().unwrap().push(text(message));
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_worker_commits_what_is_done_or_dead() {
    topic("whole", 4).await;
    let options = KafkaSink::options().make_topic(2, -1);
    let sink = options.open(&config().await, "whole.dead").await.unwrap();
    send("whole", 4, numbers(500)).await;
    let seen = Seen::default();
    let counting = seen.clone();
    let handler = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(move |message: Message| {
            counting.add(&message);
            async move {
                match text(&message).ends_with('7') {
                    true => Err(BoxError::from("it cannot be read")),
                    false => Ok(()),
                }
            }
        }));
    let worker = Worker::start(
        Consumer::kafka(&config().await, "whole", "workers"),
        handler,
    );
    until(async || seen.count() == 500).await;
    let totals = worker.end().await;
    assert_eq!((totals.done, totals.dead, totals.taken_over), (450, 50, 0));
    let expected: HashSet<_> = numbers(500).collect();
    assert_eq!(seen.all().into_iter().collect::<HashSet<_>>(), expected);
    assert_eq!(all(&sink).await.len(), 50);
    assert_eq!(committed("whole").await, vec![(125, String::new()); 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_done_comes_again_after_a_shutdown_and_blames_nobody() {
    topic("again", 1).await;
    send("again", 1, numbers(10)).await;
    let (letters, seen) = (letters(), Seen::default());
    let counting = seen.clone();
    let failing = handler(&letters, move |message: Message| {
        counting.add(&message);
        async move {
            match &*text(&message) {
                "4" => Err("wait 3600000".into()),
                _ => Ok(()),
            }
        }
    });
    let worker = Worker::start(consumer("again").await, failing);
    until(async || seen.count() == 10).await;
    let totals = worker.end().await;
    assert_eq!((totals.done, totals.parked), (9, 1));
    assert_eq!(
        committed("again").await,
        [(4, String::new())],
        "what is parked holds it back"
    );

    let seen = Seen::default();
    let counting = seen.clone();
    let mended = handler(&letters, move |message: Message| {
        counting.add(&message);
        async move { Ok(()) }
    });
    let worker = Worker::start(consumer("again").await, mended);
    until(async || seen.count() == 6).await;
    let totals = worker.end().await;
    assert_eq!((totals.done, totals.taken_over), (6, 0));
    assert_eq!(committed("again").await, [(10, String::new())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_message_comes_when_it_is_due_and_holds_nobody_up() {
    topic("parked", 1).await;
    send("parked", 1, numbers(50)).await;
    let (letters, times) = (letters(), Arc::new(Mutex::new(Vec::new())));
    let (seen, counting) = (Seen::default(), Seen::default());
    let all_seen = seen.clone();
    let timed = Arc::clone(&times);
    let work = handler(&letters, move |message: Message| {
        let first = message.parked == 0;
        let is_it = text(&message) == "0";
        match is_it {
            true => timed.lock().unwrap().push(Instant::now()),
            false => counting.add(&message),
        }
        all_seen.add(&message);
        async move {
            match is_it && first {
                true => Err("wait 1500".into()),
                false => Ok(()),
            }
        }
    });
    let worker = Worker::start(consumer("parked").await, work);
    until(async || seen.count() == 51).await;
    worker.end().await;
    let times = times.lock().unwrap().clone();
    assert_eq!(times.len(), 2);
    assert!(times[1] - times[0] >= Duration::from_millis(1500));
    assert_eq!(
        seen.all().last().unwrap(),
        "0",
        "the others did not wait for it"
    );
    assert_eq!(committed("parked").await, [(50, String::new())]);
}

/// The window caps how far anything is begun beyond what is committed.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_further_from_what_is_done_than_the_window() {
    topic("window", 1).await;
    send("window", 1, numbers(200)).await;
    let (letters, seen) = (letters(), Seen::default());
    let counting = seen.clone();
    let release = Arc::new(AtomicBool::new(false));
    let released = Arc::clone(&release);
    let work = handler(&letters, move |message: Message| {
        counting.add(&message);
        let waits = text(&message) == "3" && !released.load(SeqCst);
        async move {
            match waits {
                true => Err("wait 200".into()),
                false => Ok(()),
            }
        }
    });
    let worker = Worker::start(consumer("window").await.concurrency(4).window(20), work);
    // As far as it may: 0 to 22. The parked one comes again and again meanwhile.
    until(async || seen.all().iter().filter(|seen| **seen == "3").count() == 4).await;
    let furthest = seen
        .all()
        .iter()
        .map(|seen| seen.parse::<u32>().unwrap())
        .max();
    assert_eq!(furthest, Some(22));
    release.store(true, SeqCst);
    until(async || seen.all().contains(&"199".to_owned())).await;
    worker.end().await;
    assert_eq!(committed("window").await, [(200, String::new())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_one_key_keep_their_order_behind_one_that_is_parked() {
    topic("ordered", 2).await;
    let payloads = (0..60).map(|number| format!("{}:{number}", number % 6));
    send("ordered", 2, payloads).await;
    let (letters, done) = (letters(), Seen::default());
    let finished = done.clone();
    let work = handler(&letters, move |message: Message| {
        let done = finished.clone();
        async move {
            if text(&message) == "2:2" && message.parked == 0 {
                return Err("wait 700".into());
            }
            tokio::task::yield_now().await;
            done.add(&message);
            Ok(())
        }
    });
    let worker = Worker::start(consumer("ordered").await.ordered_by_key().pass_dead(), work);
    until(async || done.count() == 60).await;
    worker.end().await;
    let mut by_key = HashMap::<String, Vec<u32>>::new();
    for done in done.all() {
        let (key, number) = done.split_once(':').unwrap();
        by_key
            .entry(key.to_owned())
            .or_default()
            .push(number.parse().unwrap());
    }
    for (key, numbers) in by_key {
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
    let place = |of: &str| done.all().iter().position(|done| done == of).unwrap();
    assert!(
        place("2:2") > place("0:54"),
        "other keys did not wait for it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_off_is_never_early_and_comes_back_as_the_message_it_was() {
    topic("delayed", 1).await;
    let producer: FutureProducer = config().await.create().unwrap();
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "a",
            value: None::<&[u8]>,
        })
        .insert(Header {
            key: "b",
            value: Some(""),
        })
        .insert(Header {
            key: "a",
            value: Some(&[255, 0][..]),
        });
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to("delayed").headers(headers);
    record.key = Some(&[7, 0, 200]);
    producer.send(record, seconds(60)).await.unwrap();

    let letters = letters();
    let (told, mut handled) = mpsc::unbounded_channel();
    let work = handler(&letters, move |message: Message| {
        told.send((Instant::now(), message.clone())).unwrap();
        async move {
            match message.parked {
                0 => Err("wait 3100".into()),
                _ => Err("dead".into()),
            }
        }
    });
    let delays = [Duration::from_millis(500), seconds(1)];
    let consumer = consumer("delayed").await.make_topics(1, -1).delays(delays);
    let worker = Worker::start(consumer.park_up_to(Duration::ZERO), work);
    let (first, before) = handled.recv().await.unwrap();
    // It is not held here: the commit goes on without it.
    until(async || committed("delayed").await[0].0 == 1).await;
    let (second, after) = handled.recv().await.unwrap();
    assert!(
        second - first >= Duration::from_millis(3100),
        "{:?}",
        second - first
    );
    assert_eq!(after.parked, 1);
    assert_ne!(after.stream, before.stream);
    assert_eq!((&after.key, &after.payload), (&before.key, &before.payload));
    assert_eq!(&*before.headers.last().unwrap().0, NULLS_HEADER);

    let totals = worker.end().await;
    assert_eq!((totals.parked, totals.dead), (1, 1));
    let letters = all(&letters).await;
    let [letter] = &letters[..] else { panic!() };
    assert_eq!(letter.origin, Origin::log("delayed", 0, 0));
    assert_eq!(letter.headers, before.headers);
    for topic in [
        "delayed.workers.delay-500ms",
        "delayed.workers.delay-1000ms",
    ] {
        let [(at, metadata)] = &committed(topic).await[..] else {
            panic!()
        };
        assert!(*at > 0 && metadata.is_empty(), "{topic}: {at} {metadata}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_put_off_is_not_early_after_its_consumer_ended() {
    topic("outlived", 1).await;
    send("outlived", 1, ["x".to_owned()]).await;
    let letters = letters();
    let (told, mut handled) = mpsc::unbounded_channel();
    let work = handler(&letters, move |message: Message| {
        told.send(Instant::now()).unwrap();
        async move {
            match message.parked {
                0 => Err("wait 4000".into()),
                _ => Ok(()),
            }
        }
    });
    let consumer = async || {
        let consumer = consumer("outlived").await.make_topics(1, -1);
        consumer.delays([seconds(4)]).park_up_to(Duration::ZERO)
    };
    let worker = Worker::start(consumer().await, work.clone());
    let first = handled.recv().await.unwrap();
    until(async || committed("outlived").await[0].0 == 1).await;
    worker.end().await;
    let worker = Worker::start(consumer().await, work);
    let second = handled.recv().await.unwrap();
    assert!(second - first >= seconds(4), "{:?}", second - first);
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_shared_and_given_back_without_loss_or_repeat() {
    topic("shared", 6).await;
    let (letters, seen) = (letters(), Seen::default());
    let work = |by: &Arc<AtomicU64>| {
        let (counting, by) = (seen.clone(), Arc::clone(by));
        handler(&letters, move |message: Message| {
            counting.add(&message);
            by.fetch_add(1, SeqCst);
            async move {
                tokio::time::sleep(MS).await;
                Ok(())
            }
        })
    };
    let (by_one, by_other) = (Arc::default(), Arc::default());
    let one = Worker::start(consumer("shared").await, work(&by_one));
    let mut sent = 0;
    let mut more = async || {
        send(
            "shared",
            6,
            (sent..sent + 60).map(|number| number.to_string()),
        )
        .await;
        sent += 60;
    };
    more().await;
    until(async || by_one.load(SeqCst) > 0).await;
    let other = Worker::start(consumer("shared").await, work(&by_other));
    while by_other.load(SeqCst) == 0 {
        more().await;
    }
    let totals = one.end().await;
    assert_eq!(totals.taken_over, 0);
    more().await;
    until(async || seen.all().into_iter().collect::<HashSet<_>>().len() == sent as usize).await;
    let totals = other.end().await;
    assert_eq!(totals.taken_over, 0, "nobody crashed");
    assert_eq!(seen.count(), sent as usize, "no message was handled twice");
}

/// One that kills its worker is found by its starts, with the innocent around it.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_its_worker_is_dead_after_its_starts_and_no_other_is_condemned() {
    topic("poison", 2).await;
    let payloads = (0..40).map(|number| match number {
        17 => "poison".to_owned(),
        number => number.to_string(),
    });
    send("poison", 2, payloads).await;
    let (letters, seen, begun) = (letters(), Seen::default(), Arc::new(AtomicU64::new(0)));
    let killed = Arc::new(Notify::new());
    let mut crashes = 0;
    let totals = loop {
        let (counting, begun, kill) = (seen.clone(), Arc::clone(&begun), Arc::clone(&killed));
        let work = handler(&letters, move |message: Message| {
            let (counting, begun, kill) = (counting.clone(), Arc::clone(&begun), Arc::clone(&kill));
            async move {
                if text(&message) == "poison" {
                    begun.fetch_add(1, SeqCst);
                    kill.notify_one();
                    std::future::pending::<()>().await;
                }
                counting.add(&message);
                Ok(())
            }
        });
        let consumer = consumer("poison")
            .await
            .concurrency(8)
            .window(40)
            .poison_to(letters.clone());
        let worker = Worker::start(consumer, work);
        let finished = until(async || {
            let committed = committed("poison").await;
            committed.iter().all(|(at, _)| *at == 20)
        });
        tokio::select! {
            () = killed.notified() => {
                worker.crash().await;
                crashes += 1;
            }
            () = finished => break worker.end().await,
        }
    };
    // The first is with others beside it, and counts for nothing.
    assert_eq!((crashes, begun.load(SeqCst)), (4, 4));
    assert_eq!((totals.condemned, totals.dead), (1, 1));
    let dead = all(&letters).await;
    let [letter] = &dead[..] else {
        panic!("{dead:?}")
    };
    assert_eq!(
        (&letter.payload[..], &*letter.failure.class),
        (&b"poison"[..], "poison")
    );
    assert_eq!(letter.failure.attempts, 3);
    let applied: HashSet<_> = seen.all().into_iter().collect();
    assert_eq!(applied.len(), 39, "the others are done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_begins_nothing_and_loses_no_place_in_the_group() {
    topic("pausing", 1).await;
    send("pausing", 1, numbers(20)).await;
    let (letters, seen) = (letters(), Seen::default());
    let counting = seen.clone();
    let pause = Pause::new();
    let pausing = pause.clone();
    let work = handler(&letters, move |message: Message| {
        counting.add(&message);
        if text(&message) == "5" {
            pausing.pause();
        }
        async move { Ok(()) }
    });
    let consumer = consumer("pausing").await.concurrency(1).pausing(&pause);
    let worker = Worker::start(consumer, work);
    until(async || committed("pausing").await[0].0 == 6).await;
    assert_eq!(seen.count(), 6);
    pause.resume();
    until(async || seen.count() == 20).await;
    worker.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_the_log_forgot_are_an_error() {
    topic("forgot", 1).await;
    send("forgot", 1, numbers(10)).await;
    let (letters, seen) = (letters(), Seen::default());
    let counting = seen.clone();
    let work = handler(&letters, move |message: Message| {
        counting.add(&message);
        async move { Ok(()) }
    });
    let worker = Worker::start(consumer("forgot").await, work.clone());
    until(async || seen.count() == 10).await;
    worker.end().await;
    send("forgot", 1, numbers(10)).await;
    let admin: AdminClient<DefaultClientContext> = config().await.create().unwrap();
    let mut before = TopicPartitionList::new();
    before
        .add_partition_offset("forgot", 0, Offset::Offset(15))
        .unwrap();
    admin
        .delete_records(&before, &AdminOptions::new())
        .await
        .unwrap();
    let worker = Worker::start(consumer("forgot").await, work);
    match worker.work.await.unwrap() {
        Err(ConsumeError::Forgotten {
            topic,
            partition,
            at,
            first,
            end,
        }) => {
            assert_eq!(
                (&*topic, partition, at, first, end),
                ("forgot", 0, 10, 15, 20)
            );
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_an_error_and_is_not_made() {
    let letters = letters();
    let work = handler(&letters, |_: Message| async { Ok(()) });
    let worker = Worker::start(consumer("no-such-topic").await, work.clone());
    match worker.work.await.unwrap() {
        Err(ConsumeError::NoTopic(topic)) => assert_eq!(&*topic, "no-such-topic"),
        other => panic!("{other:?}"),
    }
    topic("half", 1).await;
    let delayed = consumer("half").await.delays([seconds(5)]);
    match Worker::start(delayed, work).work.await.unwrap() {
        Err(ConsumeError::NoTopic(topic)) => assert_eq!(&*topic, "half.workers.delay-5000ms"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn delays_that_cannot_be_are_refused_when_built() {
    let consumer = || Consumer::kafka(&ClientConfig::new(), "orders", "workers");
    assert!(consumer().try_delays([Duration::ZERO]).is_err());
    assert!(
        consumer()
            .try_delays([seconds(1), seconds(2), seconds(1)])
            .is_err()
    );
    assert!(consumer().try_delays([]).is_ok());
    assert!(consumer().try_concurrency(0).is_err());
}

/// In silence they would have gone on without it.
#[tokio::test]
async fn an_order_in_which_the_dead_hold_others_back_is_refused_before_anything_is_read() {
    // Nobody listens there, and nobody is asked.
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", "127.0.0.1:1");
    let consumer = Consumer::kafka(&config, "orders", "workers").ordered_by_key();
    let work = handler(&letters(), async |_| Ok(()));
    match consumer.run(work, std::future::pending()).await {
        Err(ConsumeError::Config(error)) => {
            assert!(error.message().contains("pass_dead"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

/// A broker that is killed and comes back: nothing is lost, whatever was on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_dies_and_comes_back_loses_nothing() {
    let kafka = Kafka::start().await;
    make_topic(&kafka, "orders", 2, &[]).await;
    let config = client(&kafka);
    let producer: FutureProducer = config.create().unwrap();
    for number in 0..100_i32 {
        let payload = number.to_string();
        let record: FutureRecord<'_, (), str> = FutureRecord::to("orders")
            .partition(number % 2)
            .payload(&payload);
        producer.send(record, seconds(60)).await.unwrap();
    }
    let options = KafkaSink::options().make_topic(1, -1);
    let sink = options.open(&config, "orders.dead").await.unwrap();
    let seen = Seen::default();
    let counting = seen.clone();
    let handler = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(move |message: Message| {
            counting.add(&message);
            async move {
                tokio::time::sleep(MS).await;
                match text(&message).ends_with('3') {
                    true => Err(BoxError::from("it cannot be read")),
                    false => Ok(()),
                }
            }
        }));
    let consumer = Consumer::kafka(&config, "orders", "workers").concurrency(2);
    let worker = Worker::start(consumer, handler);
    until(async || seen.count() > 20).await;
    kafka.kill(0);
    kafka.restart(0).await;
    until(async || seen.all().into_iter().collect::<HashSet<_>>().len() == 100).await;
    worker.end().await;
    let dead: HashSet<Bytes> = all(&sink)
        .await
        .into_iter()
        .map(|letter| letter.payload)
        .collect();
    assert_eq!(dead.len(), 10);
}
