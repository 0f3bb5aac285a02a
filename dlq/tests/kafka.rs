//! Letters on Apache Kafka's own broker.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    message::{Header, Headers, Message as _, OwnedHeaders, OwnedMessage},
    producer::{FutureProducer, FutureRecord},
};
use seawall_dlq::{
    Alert, BoxError, Cursor, Envelope, Failure, Filter, KafkaOpenError, KafkaRequeue,
    KafkaRequeueError, KafkaSink, Letter, Monitor, Origin, Queue, Redrive, RedriveReason, Sink,
    SinkError, Span, Written,
};
use support::{all, client, letter, make_topic, noon};
use test_support::{Kafka, drop_at_every_poll};

/// The letters of one test on the broker of all.
async fn sink(topic: &str, partitions: i32) -> KafkaSink {
    let config = client(Kafka::shared().await);
    let options = KafkaSink::options().make_topic(partitions, -1);
    options.open(&config, topic).await.unwrap()
}

/// A second reader that knows nothing yet.
async fn another(topic: &str) -> KafkaSink {
    KafkaSink::open(&client(Kafka::shared().await), topic)
        .await
        .unwrap()
}

fn of(topic: &str, partition: u32, offset: u64) -> Envelope {
    Envelope::new(Origin::log(topic, partition, offset), vec![0, 255, 10, 13])
        .key(vec![7, 0, 200])
        .header("trace", vec![0, 159, 146, 150])
        .header("trace", "again")
        .header("empty", "")
}

fn died(envelope: Envelope) -> Letter {
    Letter::new(envelope, Failure::new("timeout", "slow"), noon())
}

/// Everything in a topic, by partition and offset.
async fn records(topic: &str) -> Vec<OwnedMessage> {
    let mut config = client(Kafka::shared().await);
    config
        .set("group.id", "reads")
        .set("enable.partition.eof", "true");
    let topic = topic.to_owned();
    let read = move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&topic), Duration::from_secs(60));
        let partitions = metadata.unwrap().topics()[0].partitions().len();
        let mut from = TopicPartitionList::new();
        for partition in 0..i32::try_from(partitions).unwrap() {
            let at = Offset::Beginning;
            from.add_partition_offset(&topic, partition, at).unwrap();
        }
        consumer.assign(&from).unwrap();
        let (mut records, mut ended) = (Vec::new(), 0);
        while ended < partitions {
            match consumer.poll(Duration::from_secs(60)).unwrap() {
                Ok(record) => records.push(record.detach()),
                Err(rdkafka::error::KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => panic!("{error}"),
            }
        }
        records.sort_by_key(|record| (record.partition(), record.offset()));
        records
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

async fn produce(topic: &str, headers: OwnedHeaders, payload: Option<&[u8]>) {
    let producer: FutureProducer = client(Kafka::shared().await).create().unwrap();
    let mut record: FutureRecord<'_, [u8], [u8]> =
        FutureRecord::to(topic).partition(0).headers(headers);
    record.payload = payload;
    producer
        .send(record, Duration::from_secs(60))
        .await
        .unwrap();
}

#[tokio::test]
async fn letters_are_listed_counted_found_and_removed() {
    let sink = sink("listed.dead", 3).await;
    assert_eq!(sink.depth().await.unwrap().letters, 0);
    assert_eq!(all(&sink).await, []);
    for offset in 0..200 {
        assert_eq!(sink.write(letter(offset)).await.unwrap(), Written::New);
    }
    let depth = sink.depth().await.unwrap();
    assert_eq!((depth.letters, depth.oldest), (200, Some(noon())));
    let mut listed = all(&sink).await;
    listed.sort_by_key(|letter| letter.origin.to_string());
    let mut expected: Vec<_> = (0..200).map(letter).collect();
    expected.sort_by_key(|letter| letter.origin.to_string());
    assert_eq!(listed, expected);
    let one = Filter::all().source("no such topic");
    let page = sink.list(&one, &Span::all(), 1000).await.unwrap();
    assert_eq!(page.letters, []);

    let id = letter(7).id();
    for sink in [&sink, &another("listed.dead").await] {
        assert_eq!(sink.get(id).await.unwrap(), Some(letter(7)));
    }
    assert!(sink.remove(id).await.unwrap());
    assert!(!sink.remove(id).await.unwrap());
    for sink in [&sink, &another("listed.dead").await] {
        assert_eq!(sink.get(id).await.unwrap(), None);
        assert_eq!(sink.depth().await.unwrap().letters, 199);
    }
}

#[tokio::test]
async fn letters_of_one_key_are_listed_in_their_order_page_by_page() {
    let sink = sink("ordered.dead", 4).await;
    for offset in 0..60 {
        let key = format!("key {}", offset % 7);
        let envelope = Envelope::new(Origin::log("orders", 0, offset), "x").key(key);
        sink.write(died(envelope)).await.unwrap();
    }
    let (mut span, mut listed) = (Span::all(), Vec::new());
    loop {
        let page = sink.list(&Filter::all(), &span, 9).await.unwrap();
        listed.extend(page.letters);
        let Some(next) = page.next else { break };
        span.after = Some(next);
    }
    assert_eq!(listed.len(), 60);
    for key in 0..7 {
        let key = Bytes::from(format!("key {key}"));
        let of_key: Vec<_> = { listed.iter() }
            .filter(|letter| letter.key.as_ref() == Some(&key))
            .map(|letter| match letter.origin {
                Origin::Log { offset, .. } => offset,
                _ => unreachable!(),
            })
            .collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
}

#[tokio::test]
async fn a_letter_that_is_written_twice_is_seen_once() {
    let sink = sink("twice.dead", 3).await;
    assert_eq!(sink.write(letter(1)).await.unwrap(), Written::New);
    assert_eq!(all(&sink).await, [letter(1)]);
    assert_eq!(sink.write(letter(1)).await.unwrap(), Written::Repeat);
    for sink in [&sink, &another("twice.dead").await] {
        assert_eq!(all(sink).await, [letter(1)]);
    }
    assert!(sink.remove(letter(1).id()).await.unwrap());
    assert_eq!(all(&sink).await, []);
    assert_eq!(sink.write(letter(1)).await.unwrap(), Written::New);
}

#[tokio::test]
async fn another_request_that_claims_the_origin_is_another_letter() {
    let sink = sink("claimed.dead", 2).await;
    sink.write(letter(1)).await.unwrap();
    let mut other = letter(1);
    other.payload = "another".into();
    sink.write(other.clone()).await.unwrap();
    let mut seen = all(&sink).await;
    seen.sort_by_key(|letter| letter.payload.clone());
    assert_eq!(seen.len(), 2);
    assert!(sink.remove(letter(1).id()).await.unwrap());
    assert_eq!(sink.depth().await.unwrap().letters, 1, "one at a time");
    assert!(sink.remove(letter(1).id()).await.unwrap());
    assert_eq!(sink.depth().await.unwrap().letters, 0);
}

#[tokio::test]
async fn removing_takes_exactly_one_generation() {
    let sink = sink("generations.dead", 2).await;
    sink.write(letter(1)).await.unwrap();
    sink.write(letter(1).redriven()).await.unwrap();
    assert!(sink.remove(letter(1).id()).await.unwrap());
    assert_eq!(all(&sink).await, [letter(1).redriven()]);
}

#[tokio::test]
async fn what_lies_before_all_letters_is_deleted() {
    let sink = sink("tidied.dead", 1).await;
    for offset in 0..10 {
        sink.write(letter(offset)).await.unwrap();
    }
    for offset in 0..10 {
        assert!(sink.remove(letter(offset).id()).await.unwrap());
    }
    assert_eq!(records("tidied.dead").await.len(), 0);
    sink.write(letter(11)).await.unwrap();
    for sink in [&sink, &another("tidied.dead").await] {
        assert_eq!(all(sink).await, [letter(11)]);
    }
}

/// The names and forms that consumers made for Spring and for Connect look for.
#[tokio::test]
async fn the_record_is_the_message_and_says_where_it_died_in_the_words_of_others() {
    let sink = sink("headers.dead", 1).await;
    let letter = died(of("orders", 3, 17));
    sink.write(letter.clone()).await.unwrap();
    let records = records("headers.dead").await;
    let [record] = &records[..] else { panic!() };
    assert_eq!(record.key(), letter.key.as_deref());
    assert_eq!(record.payload(), Some(&letter.payload[..]));
    let headers: Vec<_> = { record.headers().unwrap().iter() }
        .map(|header| (header.key.to_owned(), header.value.unwrap().to_vec()))
        .collect();
    let own = letter.headers.iter();
    let own: Vec<_> = own
        .map(|(name, value)| (name.to_string(), value.to_vec()))
        .collect();
    assert_eq!(headers[..own.len()], own[..]);
    let header = |name: &str| {
        let found = headers.iter().find(|(known, _)| known == name);
        found.unwrap_or_else(|| panic!("{name}")).1.clone()
    };
    assert_eq!(header("kafka_dlt-original-topic"), b"orders");
    assert_eq!(header("kafka_dlt-original-partition"), 3_i32.to_be_bytes());
    assert_eq!(header("kafka_dlt-original-offset"), 17_i64.to_be_bytes());
    assert_eq!(header("kafka_dlt-exception-fqcn"), b"timeout");
    assert_eq!(header("kafka_dlt-exception-message"), b"slow");
    assert_eq!(header("__connect.errors.topic"), b"orders");
    assert_eq!(header("__connect.errors.partition"), b"3");
    assert_eq!(header("__connect.errors.offset"), b"17");
    assert_eq!(header("__connect.errors.exception.class.name"), b"timeout");
    assert_eq!(header("__connect.errors.exception.message"), b"slow");
}

#[tokio::test]
async fn what_is_not_a_letter_is_named_and_left_where_it_is() {
    let sink = sink("foreign.dead", 1).await;
    sink.write(letter(1)).await.unwrap();
    let foreign = OwnedHeaders::new().insert(Header {
        key: "seawall-letter",
        value: Some("{}"),
    });
    produce("foreign.dead", foreign, Some(b"x")).await;
    sink.write(letter(2)).await.unwrap();
    let page = sink.list(&Filter::all(), &Span::all(), 100).await.unwrap();
    assert_eq!(page.letters, [letter(1), letter(2)]);
    match &page.unreadable[..] {
        [SinkError::NotALetter { stream, entry, .. }] => {
            assert_eq!((&**stream, &**entry), ("foreign.dead", "0@1"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(sink.get(letter(1).id()).await.unwrap(), Some(letter(1)));
    assert_eq!(sink.depth().await.unwrap().letters, 3);
    assert_eq!(records("foreign.dead").await.len(), 3);
}

#[tokio::test]
async fn a_topic_that_loses_letters_is_not_opened() {
    let kafka = Kafka::shared().await;
    let config = client(kafka);
    match KafkaSink::open(&config, "nowhere.dead").await {
        Err(KafkaOpenError::NoTopic(topic)) => assert_eq!(&*topic, "nowhere.dead"),
        other => panic!("{other:?}"),
    }
    make_topic(kafka, "compacted.dead", 1, &[("cleanup.policy", "compact")]).await;
    match KafkaSink::open(&config, "compacted.dead").await {
        Err(KafkaOpenError::Compacted(topic)) => assert_eq!(&*topic, "compacted.dead"),
        other => panic!("{other:?}"),
    }
    make_topic(kafka, "forgetful.dead", 1, &[]).await;
    match KafkaSink::open(&config, "forgetful.dead").await {
        Err(KafkaOpenError::Forgets { setting, .. }) => assert_eq!(setting, "retention.ms"),
        other => panic!("{other:?}"),
    }
    let options = KafkaSink::options().may_forget();
    options.open(&config, "forgetful.dead").await.unwrap();
}

#[tokio::test]
async fn a_letter_over_the_brokers_limit_is_refused_by_name_and_the_others_are_not() {
    let kafka = Kafka::shared().await;
    let settings = [("max.message.bytes", "20000"), ("retention.ms", "-1")];
    make_topic(kafka, "small.dead", 1, &settings).await;
    let sink = KafkaSink::open(&client(kafka), "small.dead").await.unwrap();
    let mut large = letter(1);
    // It does not shrink on the way.
    large.payload = (0..30_000).map(|_| fastrand::u8(..)).collect();
    let (small, refused) = tokio::join!(sink.write(letter(2)), sink.write(large));
    assert_eq!(small.unwrap(), Written::New);
    match refused.unwrap_err() {
        SinkError::TooLarge { id, size, limit } => {
            assert_eq!((id, limit), (letter(1).id(), 20_000));
            assert!(size > 30_000, "{size}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(all(&sink).await, [letter(2)]);
}

#[tokio::test]
async fn a_header_that_kafka_cannot_carry_is_an_error_and_no_panic() {
    let sink = sink("nul.dead", 1).await;
    let letter = died(of("orders", 0, 0).header("a\0b", "x"));
    let refused = sink.write(letter).await.unwrap_err();
    assert!(refused.to_string().contains("a\\0b"), "{refused}");
}

#[tokio::test]
async fn a_write_that_is_dropped_at_any_poll_leaves_at_most_one_letter() {
    let sink = sink("dropped.dead", 1).await;
    let written = drop_at_every_poll(
        || sink.write(letter(1)),
        async |_| {
            assert!(all(&sink).await.len() <= 1);
        },
    )
    .await;
    assert!(written.is_ok());
    assert_eq!(all(&sink).await, [letter(1)]);
}

#[tokio::test]
async fn a_cursor_from_elsewhere_fails_and_passes_over_nothing() {
    let sink = sink("cursor.dead", 1).await;
    sink.write(letter(1)).await.unwrap();
    let span = Span {
        after: Some(Cursor::new("not a place")),
        until: None,
    };
    assert!(sink.list(&Filter::all(), &span, 10).await.is_err());
}

#[tokio::test]
async fn a_monitor_raises_its_alert_for_a_topic() {
    let sink = sink("watched.dead", 2).await;
    for offset in 0..3 {
        sink.write(letter(offset)).await.unwrap();
    }
    let (told, alert) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let monitor = Monitor::new(sink).over(2).on_alert(move |alert| {
        if let Some(told) = told.take() {
            told.send(alert.clone()).unwrap();
        }
    });
    let alert = within(monitor.watch(), alert).await.unwrap();
    assert!(matches!(alert, Alert::Raised(depth) if depth.letters == 3));
}

async fn within<T>(work: impl Future, done: impl Future<Output = T>) -> T {
    tokio::select! {
        _ = work => unreachable!("it never ends"),
        done = done => done,
    }
}

#[tokio::test]
async fn a_redrive_brings_key_headers_payload_and_partition_back_byte_for_byte() {
    let kafka = Kafka::shared().await;
    make_topic(kafka, "back", 4, &[]).await;
    let sink = sink("back.dead", 2).await;
    let letter = died(of("back", 3, 17));
    sink.write(letter.clone()).await.unwrap();
    let back = KafkaRequeue::new(&client(kafka)).unwrap();
    let summary = Redrive::new(sink.clone()).through(back).await.unwrap();
    assert_eq!(summary.redriven, 1);
    assert_eq!(sink.depth().await.unwrap().letters, 0);
    let records = records("back").await;
    let [record] = &records[..] else { panic!() };
    assert_eq!(record.partition(), 3);
    assert_eq!(record.key(), letter.key.as_deref());
    assert_eq!(record.payload(), Some(&letter.payload[..]));
    let headers: Vec<(Arc<str>, Bytes)> = { record.headers().unwrap().iter() }
        .map(|header| {
            let value = Bytes::copy_from_slice(header.value.unwrap());
            (header.key.into(), value)
        })
        .collect();
    assert_eq!(headers, letter.redriven().headers_to_send());
}

#[tokio::test]
async fn a_redrive_to_nowhere_names_the_letter_and_keeps_it() {
    let kafka = Kafka::shared().await;
    make_topic(kafka, "narrow", 1, &[]).await;
    let sink = sink("nowhere-to.dead", 1).await;
    let refused = async |letter: &Letter| -> KafkaRequeueError {
        sink.write(letter.clone()).await.unwrap();
        let back = KafkaRequeue::new(&client(kafka)).unwrap();
        let redrive = Redrive::new(sink.clone()).give_up_after(1);
        let stopped = redrive.through(back).await.unwrap_err();
        let RedriveReason::NotSent { id, error, .. } = stopped.reason else {
            panic!()
        };
        assert_eq!(id, letter.id());
        assert_eq!(all(&sink).await, std::slice::from_ref(letter));
        assert!(sink.remove(id).await.unwrap());
        *error.downcast().unwrap()
    };
    let error = refused(&died(of("no such topic", 0, 0))).await;
    assert!(matches!(error, KafkaRequeueError::NoTopic(topic) if topic == "no such topic"));
    let error = refused(&died(of("narrow", 5, 0))).await;
    assert!(matches!(
        error,
        KafkaRequeueError::NoPartition { partition: 5, .. }
    ));
    let envelope = Envelope::new(Origin::stream("{orders}", "1-1"), "x");
    let error = refused(&died(envelope)).await;
    let error: BoxError = error.into();
    assert!(
        error.to_string().contains("is no record of a Kafka topic"),
        "{error}"
    );
}

#[tokio::test]
async fn settings_that_are_none_are_an_error() {
    let mut config = ClientConfig::new();
    config.set("no.such.setting", "x");
    assert!(matches!(
        KafkaSink::open(&config, "x.dead").await,
        Err(KafkaOpenError::Kafka(_))
    ));
    assert!(KafkaRequeue::new(&config).is_err());
}
