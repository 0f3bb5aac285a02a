//! Messages and letters in topics of Kafka.

use std::time::Duration;

use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::{FutureProducer, FutureRecord},
};
use seawall_dlq::{Consumer, KafkaRequeue, KafkaSink, KafkaSource, Origin};
use test_support::Kafka;
use tokio::time::sleep;

use super::GROUP;
use crate::support::{make_topic, seconds};

const TOPIC: &str = "orders";
const DEAD: &str = "orders.dead";
const PARTITIONS: i32 = 4;

fn config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("message.timeout.ms", "60000")
        // A child that is killed is gone for the group soon.
        .set("session.timeout.ms", "2000")
        .set("heartbeat.interval.ms", "300");
    config
}

pub(super) async fn start() -> Kafka {
    let kafka = Kafka::start().await;
    make_topic(&kafka, TOPIC, PARTITIONS, &[("retention.ms", "-1")]).await;
    make_topic(&kafka, DEAD, PARTITIONS, &[("retention.ms", "-1")]).await;
    kafka
}

pub(super) async fn letters(brokers: &str) -> KafkaSink {
    KafkaSink::open(&config(brokers), DEAD).await.unwrap()
}

pub(super) fn back(brokers: &str) -> KafkaRequeue {
    KafkaRequeue::new(&config(brokers)).unwrap()
}

pub(super) fn consumer(brokers: &str) -> Consumer<KafkaSource> {
    Consumer::kafka(&config(brokers), TOPIC, GROUP)
}

pub(super) async fn add(brokers: &str, payloads: &[String]) {
    let mut config = config(brokers);
    config.set("enable.idempotence", "true");
    let producer: FutureProducer = config.create().unwrap();
    for some in payloads.chunks(10_000) {
        let mut sent = Vec::new();
        for (number, payload) in (0_i32..).zip(some) {
            let record: FutureRecord<'_, (), str> = FutureRecord::to(TOPIC)
                .partition(number % PARTITIONS)
                .payload(payload);
            // What `send` answers does nothing before it is awaited: one after another they took ten minutes.
            sent.push(producer.send_result(record).unwrap());
        }
        for sent in sent {
            sent.await.unwrap().unwrap();
        }
    }
}

/// Where the group stands and where each partition ends. It blocks.
fn progress(asker: &BaseConsumer) -> Vec<(i64, i64)> {
    let mut wanted = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        wanted.add_partition(TOPIC, partition);
    }
    let committed = asker.committed_offsets(wanted, seconds(60)).unwrap();
    let of = |partition: i32| {
        let found = committed.find_partition(TOPIC, partition).unwrap();
        let at = match found.offset() {
            Offset::Offset(at) => at,
            _ => 0,
        };
        let end = asker.fetch_watermarks(TOPIC, partition, seconds(60));
        (at, end.unwrap().1)
    };
    (0..PARTITIONS).map(of).collect()
}

async fn until(brokers: &str, holds: impl Fn(&[(i64, i64)]) -> bool + Send + 'static) {
    let mut config = config(brokers);
    config.set("group.id", GROUP);
    let mut asker: BaseConsumer = config.create().unwrap();
    loop {
        let (same, found) = tokio::task::spawn_blocking(move || {
            let found = progress(&asker);
            (asker, found)
        })
        .await
        .unwrap();
        if holds(&found) {
            return;
        }
        asker = same;
        sleep(Duration::from_millis(10)).await;
    }
}

/// Completes when everything in the topic is done.
pub(super) async fn drained(brokers: &str) {
    until(brokers, |found| found.iter().all(|(at, end)| at == end)).await;
}

/// Completes when the record at this place is done.
pub(super) async fn acknowledged(brokers: &str, place: &Origin) {
    let Origin::Log {
        partition, offset, ..
    } = place
    else {
        unreachable!()
    };
    let (partition, offset) = (*partition as usize, i64::try_from(*offset).unwrap());
    until(brokers, move |found| found[partition].0 > offset).await;
}
