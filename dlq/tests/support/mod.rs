//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test uses its part

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use seawall_dlq::{
    BoxError, Envelope, Failure, Filter, Letter, MemorySink, Origin, Queue, Sink, SinkError, Span,
    Written,
};
use tower::{Service, ServiceExt};

/// The error of a service that cannot handle a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl Error for Broken {}

/// A message of a log.
#[derive(Debug, Clone)]
pub struct Message {
    pub offset: u64,
    pub payload: Bytes,
}

impl Message {
    pub fn new(offset: u64, payload: &'static str) -> Self {
        Self {
            offset,
            payload: Bytes::from_static(payload.as_bytes()),
        }
    }

    pub fn to_letter(&self) -> Envelope {
        Envelope::new(Origin::log("orders", 3, self.offset), self.payload.clone())
    }
}

pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The time at which letters die here.
pub fn noon() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_123)
}

pub fn letter(offset: u64) -> Letter {
    let envelope = Envelope::new(
        Origin::log("orders", 3, offset),
        format!("payload {offset}"),
    )
    .key(format!("key {offset}"))
    .header("trace", vec![0, 159, 146, 150])
    .header("trace", "again");
    Letter::new(
        envelope,
        Failure::new("timeout", format!("shard {offset} is slow")),
        noon(),
    )
}

pub async fn all(queue: &impl Queue) -> Vec<Letter> {
    let mut letters = Vec::new();
    let mut span = Span::all();
    loop {
        let page = queue.list(&Filter::all(), &span, 7).await.unwrap();
        letters.extend(page.letters);
        match page.next {
            Some(next) => span.after = Some(next),
            None => return letters,
        }
    }
}

/// Makes the first letter of a file one of a later version: intact, and not to be understood.
#[cfg(feature = "file")]
pub fn make_unreadable(path: &std::path::Path) {
    use xxhash_rust::xxh3::xxh3_64_with_seed as hash;
    const FRAME: usize = 4096;
    let mut bytes = std::fs::read(path).unwrap();
    let length = u32::from_le_bytes(bytes[FRAME..FRAME + 4].try_into().unwrap()) as usize;
    let kind: [u8; 4] = bytes[FRAME + 4..FRAME + 8].try_into().unwrap();
    let body = &mut bytes[FRAME + 16..FRAME + 16 + length];
    let schema = b"\"schema\":1";
    let at = body.windows(schema.len()).position(|part| part == schema);
    body[at.unwrap() + schema.len() - 1] = b'9';
    let check = hash(body, hash(&kind, FRAME as u64));
    bytes[FRAME + 8..FRAME + 16].copy_from_slice(&check.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

/// Readies a service and calls it.
pub async fn call<S, Req>(service: &mut S, request: Req) -> Result<S::Response, BoxError>
where
    S: Service<Req, Error = BoxError>,
{
    service.ready().await?.call(request).await
}

/// A sink that takes a few polls to write, and can be down.
#[derive(Debug, Clone)]
pub struct SlowSink {
    pub letters: MemorySink,
    pub down: Arc<AtomicBool>,
}

impl SlowSink {
    pub fn new() -> Self {
        Self {
            letters: MemorySink::with_capacity(1000),
            down: Arc::default(),
        }
    }
}

impl Sink for SlowSink {
    async fn write(&self, letter: Letter) -> Result<Written, SinkError> {
        tokio::task::yield_now().await;
        if self.down.load(SeqCst) {
            return Err(SinkError::other("the sink is down"));
        }
        let written = self.letters.write(letter).await;
        tokio::task::yield_now().await;
        written
    }
}

/// A connection on which a busy machine does not look like a server that is out.
#[cfg(feature = "redis")]
pub async fn connect(port: u16) -> redis::aio::ConnectionManager {
    let config = redis::aio::ConnectionManagerConfig::new()
        .set_response_timeout(Some(seconds(60)))
        .set_connection_timeout(Some(seconds(60)));
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let connection = client.get_connection_manager_with_config(config).await;
    connection.unwrap()
}

/// The settings of a client of these brokers.
#[cfg(feature = "kafka")]
pub fn client(kafka: &test_support::Kafka) -> rdkafka::ClientConfig {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", kafka.bootstrap());
    // A busy machine does not look like a broker that is out.
    config.set("message.timeout.ms", "60000");
    config
}

/// Makes a topic of so many partitions, kept on as many brokers as there are up to three.
#[cfg(feature = "kafka")]
pub async fn make_topic(
    kafka: &test_support::Kafka,
    name: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let admin: AdminClient<rdkafka::client::DefaultClientContext> = client(kafka).create().unwrap();
    let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let made = admin
        .create_topics([&topic], &AdminOptions::new())
        .await
        .unwrap();
    assert_eq!(made, [Ok(name.to_owned())]);
}
