//! What the layer adds to a request that does not die, and how fast letters are written.

use std::fs::File;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use seawall_dlq::{
    DeadLetterLayer, Envelope, Failure, FileSink, KafkaSink, Letter, MemorySink, Origin, RedisSink,
    Sink, Written,
};
use seawall_redis::Client;
use test_support::{Kafka, Redis};
use tower::{Layer, Service};
use xxhash_rust::xxh3::xxh3_64;

use super::Entry;
use crate::drive::{allocations, call, in_turn, runtime, tasks, tasks_that_wait};
use crate::measure::{Contest, Row, Unit};

struct Message {
    topic: Arc<str>,
    partition: u32,
    offset: u64,
    key: Bytes,
    payload: Bytes,
}

impl Message {
    fn to_letter(&self) -> Envelope {
        let origin = Origin::log(Arc::clone(&self.topic), self.partition, self.offset);
        Envelope::new(origin, self.payload.clone()).key(self.key.clone())
    }
}

/// Handles every message at once. Not inlined, as no real service would be.
#[derive(Clone, Copy)]
struct Handles;

impl Service<Message> for Handles {
    type Response = u64;
    type Error = io::Error;
    type Future = Ready<Result<u64, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, message: Message) -> Self::Future {
        ready(Ok(message.offset))
    }
}

/// The messages of one topic, of 200 bytes each.
fn messages() -> impl Fn(u64) -> Message + Clone + Send + Sync + 'static {
    let topic: Arc<str> = "orders".into();
    let (key, payload) = (Bytes::from(vec![b'k'; 16]), Bytes::from(vec![b'p'; 200]));
    move |number| Message {
        topic: Arc::clone(&topic),
        partition: 3,
        offset: number,
        key: key.clone(),
        payload: payload.clone(),
    }
}

/// A message that is handled.
pub(super) fn layer(entry: &Entry) -> Vec<Row> {
    let message = messages();
    let ours = DeadLetterLayer::new(MemorySink::with_capacity(1_000))
        .capture(Message::to_letter)
        .layer(Handles);
    let ours = || {
        let (mut ours, message) = (ours.clone(), message.clone());
        move |number| {
            let outcome = call(&mut ours, message(number));
            black_box(outcome.done().expect("nothing fails"));
        }
    };
    let bare = || {
        let message = message.clone();
        move |number| {
            black_box(call(&mut Handles, message(number)));
        }
    };
    Contest::new(entry, Unit::Nanos, in_turn(ours()))
        .bare(in_turn(bare()))
        .allocs(allocations(ours(), bare()))
        .run()
}

/// What people write themselves: length, checksum and letter, and a sync before the next one.
struct Appender {
    file: Mutex<File>,
}

impl Appender {
    fn append(&self, letter: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(letter.len() + 12);
        frame.extend_from_slice(&(letter.len() as u32).to_le_bytes());
        frame.extend_from_slice(&xxh3_64(letter).to_le_bytes());
        frame.extend_from_slice(letter);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&frame)?;
        file.sync_data()
    }
}

/// Letters a second, each on disk before its writer goes on.
pub(super) fn file_write(entry: &Entry) -> Vec<Row> {
    let runtime = runtime();
    // Beside the program and not among temporary files, which may be kept in memory.
    let program = std::env::current_exe().expect("the system knows what it runs");
    let beside = program.parent().expect("a program is in a directory");
    let directory = tempfile::tempdir_in(beside).expect("who built it can write there");
    let message = messages();
    let letter = move |number| {
        let failure = Failure::new("exhausted", "shard 3 is down").attempts(5);
        Letter::new(message(number).to_letter(), failure, SystemTime::now())
    };

    let sink = FileSink::open(directory.path().join("letters"));
    let sink = Arc::new(runtime.block_on(sink).expect("the directory is new"));
    let ours = {
        let letter = letter.clone();
        move |number| {
            let (sink, letter) = (Arc::clone(&sink), letter(number));
            async move {
                let written = sink.write(letter).await.expect("the disk has room");
                assert_eq!(written, Written::New);
            }
        }
    };
    let file = File::create(directory.path().join("records")).expect("the directory is new");
    let appender = Arc::new(Appender {
        file: Mutex::new(file),
    });
    let theirs = move |number| {
        let (appender, letter) = (Arc::clone(&appender), letter(number));
        async move {
            tokio::task::spawn_blocking(move || appender.append(&letter.to_json()))
                .await
                .expect("nothing panics while it writes")
                .expect("the disk has room");
        }
    };
    Contest::new(entry, Unit::PerSecond, tasks(&runtime, ours))
        .peer("append-fsync-each", tasks(&runtime, theirs))
        .run()
}

const STREAM: &str = "{orders}";
const GROUP: &str = "workers";

/// Letters a second, each on the server's disk and its message acknowledged before its writer goes on.
pub(super) fn redis_write(entry: &Entry) -> Vec<Row> {
    let runtime = runtime();
    let durable = ["--appendonly", "yes", "--appendfsync", "always"];
    let server = runtime.block_on(Redis::with_args(&durable));
    let group = ["XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM"];
    runtime.block_on(server.ask(&group));
    let client = redis::Client::open(server.url()).expect("it is the server's own address");
    let connect = || {
        let connection = client.get_multiplexed_async_connection();
        runtime.block_on(connection).expect("the server is there")
    };
    let message = messages();
    let letter = move |number: u64| {
        let Message { key, payload, .. } = message(number);
        let origin = Origin::stream(STREAM, format!("{number}-1"));
        let envelope = Envelope::new(origin, payload).key(key);
        let failure = Failure::new("exhausted", "shard 3 is down").attempts(5);
        Letter::new(envelope, failure, SystemTime::now())
    };

    // A longer deadline than that of production: a busy machine must not end the measurement.
    let client = Client::shared(connect()).deadline(Duration::from_secs(10));
    let sink = RedisSink::try_over(client, "{orders}.dead").expect("it is a good name");
    let sink = Arc::new(sink.acknowledging(STREAM, GROUP));
    let ours = {
        let letter = letter.clone();
        move |number| {
            let (sink, letter) = (Arc::clone(&sink), letter(number));
            async move {
                let written = sink.write(letter).await.expect("the server has room");
                assert_eq!(written, Written::New);
            }
        }
    };
    // What people write themselves: one command after the other, and a repeat is a second letter.
    let connection = connect();
    let theirs = move |number| {
        let (mut connection, letter) = (connection.clone(), letter(number));
        async move {
            let mut add = redis::cmd("XADD");
            add.arg("{orders}.raw").arg("*");
            add.arg("letter").arg(letter.to_json());
            let added: redis::RedisResult<String> = add.query_async(&mut connection).await;
            added.expect("the server has room");
            let mut acknowledge = redis::cmd("XACK");
            acknowledge
                .arg(STREAM)
                .arg(GROUP)
                .arg(format!("{number}-1"));
            let done: redis::RedisResult<u64> = acknowledge.query_async(&mut connection).await;
            black_box(done.expect("the group is there"));
        }
    };
    Contest::new(entry, Unit::PerSecond, tasks(&runtime, ours))
        .peer("xadd-then-xack", tasks(&runtime, theirs))
        .run()
}

/// Letters a second, each on three brokers, two of which have to say so, before its writer goes on.
pub(super) fn kafka_write(entry: &Entry) -> Vec<Row> {
    let runtime = runtime();
    let kafka = runtime.block_on(Kafka::cluster());
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.bootstrap())
        // A busy machine must not end the measurement.
        .set("message.timeout.ms", "60000");
    let open = |topic| {
        let options = KafkaSink::options().make_topic(3, -1);
        let sink = runtime.block_on(options.open(&config, topic));
        sink.expect("the brokers are there")
    };
    let message = messages();
    let letter = move |number| {
        let failure = Failure::new("exhausted", "shard 3 is down").attempts(5);
        Letter::new(message(number).to_letter(), failure, SystemTime::now())
    };

    let sink = open("orders.dead");
    let ours = {
        let letter = letter.clone();
        move |number| {
            let (sink, letter) = (sink.clone(), letter(number));
            async move {
                let written = sink.write(letter).await.expect("the brokers have room");
                assert_eq!(written, Written::New);
            }
        }
    };
    // What people write themselves: the letter as JSON, to be understood by nobody else.
    drop(open("orders.raw"));
    config.set("enable.idempotence", "true").set("acks", "all");
    let producer: FutureProducer = config.create().expect("the settings are good");
    let theirs = move |number| {
        let (producer, letter) = (producer.clone(), letter(number));
        async move {
            let (key, json) = (letter.key.clone().unwrap_or_default(), letter.to_json());
            let record = FutureRecord::to("orders.raw").key(&key[..]).payload(&json);
            let sent = producer.send(record, Duration::from_secs(60)).await;
            black_box(sent.expect("the brokers have room"));
        }
    };
    Contest::new(entry, Unit::PerSecond, tasks_that_wait(&runtime, ours))
        .peer("produce-json", tasks_that_wait(&runtime, theirs))
        .run()
}
