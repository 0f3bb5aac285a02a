//! The log on Kafka.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pipeline::log::kafka::{KafkaLog, Reading, Settings};
use pipeline::log::{AppendError, Chunk, Log, Position, ReadError, Reader};
use test_support::Kafka;
use tokio::task::JoinSet;

const PARTITIONS: u16 = 4;

fn settings(kafka: &Kafka, topic: &str) -> Settings {
    Settings {
        brokers: kafka.bootstrap(),
        topic: topic.to_owned(),
        partitions: PARTITIONS,
        replication: 1,
        group: format!("{topic}-workers"),
        linger: std::time::Duration::from_millis(2),
    }
}

async fn open(kafka: &Kafka, topic: &str, reading: Reading) -> KafkaLog {
    KafkaLog::connect(&settings(kafka, topic), reading)
        .await
        .unwrap()
}

/// Reads on until so many records are there.
async fn read(log: &KafkaLog, partition: u16, from: u64, records: usize) -> Chunk {
    let mut found = Chunk {
        entries: Vec::new(),
        next: Position(from),
    };
    while found.entries.len() < records {
        let max = records - found.entries.len();
        let chunk = log.read(partition, found.next, max).await.unwrap();
        found.entries.extend(chunk.entries);
        found.next = chunk.next;
    }
    found
}

async fn here(log: &KafkaLog) -> BTreeSet<u16> {
    let mut here = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let mut reader = log.reader(partition);
        let known = reader.wait_for(|reader| *reader != Reader::Unknown);
        if *known.await.unwrap() == Reader::Here {
            here.insert(partition);
        }
    }
    here
}

#[tokio::test]
async fn what_is_appended_is_read_in_order_and_again_from_anywhere() {
    let kafka = Kafka::shared().await;
    let log = Arc::new(open(kafka, "read_in_order", Reading::Share).await);
    here(&log).await;
    let mut appends = JoinSet::new();
    for n in 0..400_u64 {
        let log = Arc::clone(&log);
        appends.spawn(async move {
            let payload = Bytes::copy_from_slice(&n.to_be_bytes());
            let partition = n as u16 % PARTITIONS;
            (partition, log.append(partition, payload).await.unwrap(), n)
        });
    }
    let given: BTreeSet<_> = appends.join_all().await.into_iter().collect();
    assert_eq!(given.len(), 400);
    let mut found = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let all = read(&log, partition, 0, 100).await;
        assert!(all.entries.is_sorted_by(|a, b| a.offset < b.offset));
        assert_eq!(*log.end(partition).borrow(), all.next);
        for entry in &all.entries {
            let n = u64::from_be_bytes(entry.payload[..].try_into().unwrap());
            found.insert((partition, entry.offset, n));
        }
        // Back, and on from the middle of it.
        for from in [60, 0, 99, 30] {
            let again = read(&log, partition, from, 1).await;
            assert_eq!(again.entries[0], all.entries[from as usize], "{from}");
        }
        let end = log.read(partition, all.next, 10).await.unwrap();
        assert_eq!((end.entries.len(), end.next), (0, all.next));
    }
    assert_eq!(found, given);
    log.close().await;
    let why = log.append(0, Bytes::new()).await.unwrap_err();
    assert!(matches!(why, AppendError::Refused(_)), "{why}");
}

#[tokio::test]
async fn a_queue_that_is_full_pauses_its_partition_alone_and_goes_on_when_it_is_read() {
    let kafka = Kafka::shared().await;
    let log = Arc::new(open(kafka, "bounded", Reading::All).await);
    let mut appends = JoinSet::new();
    for n in 0..9_000_u64 {
        let log = Arc::clone(&log);
        appends.spawn(async move {
            let partition = u16::from(n >= 8_990);
            log.append(partition, Bytes::from_static(&[b'x'; 100]))
                .await
                .unwrap();
        });
    }
    appends.join_all().await;
    // The first is fetched ahead as far as it may be; the other is not held up by that.
    read(&log, 0, 0, 1).await;
    assert_eq!(read(&log, 1, 0, 10).await.entries.len(), 10);
    let all = read(&log, 0, 1, 8_989).await;
    assert_eq!(all.next, Position(8_990));
    assert!(
        all.entries
            .iter()
            .zip(1..)
            .all(|(entry, at)| entry.offset == at)
    );
    log.close().await;
}

#[tokio::test]
async fn positions_that_are_not_there_are_named_and_a_partition_that_does_not_exist_is_refused() {
    let kafka = Kafka::shared().await;
    let log = open(kafka, "bounds", Reading::All).await;
    for _ in 0..5 {
        log.append(1, Bytes::from_static(b"x")).await.unwrap();
    }
    // As after the topic was made anew: the shard has applied more than there is.
    let why = log.read(1, Position(6), 10).await.unwrap_err();
    assert!(
        matches!(
            why,
            ReadError::BeyondEnd {
                partition: 1,
                end: Position(5)
            }
        ),
        "{why}"
    );
    log.drop_below(1, Position(3)).await.unwrap();
    let why = log.read(1, Position(2), 10).await.unwrap_err();
    assert!(
        matches!(
            why,
            ReadError::BelowStart {
                partition: 1,
                start: Position(3)
            }
        ),
        "{why}"
    );
    assert_eq!(read(&log, 1, 3, 2).await.entries.len(), 2);
    let why = log.append(PARTITIONS, Bytes::new()).await.unwrap_err();
    assert!(matches!(why, AppendError::Refused(_)), "{why}");
    // Larger than the broker takes: nothing of it is there.
    let huge = Bytes::from(vec![b'x'; 2_000_000]);
    let why = log.append(1, huge).await.unwrap_err();
    assert!(matches!(why, AppendError::Refused(_)), "{why}");
    log.close().await;

    let other = Settings {
        partitions: PARTITIONS + 1,
        ..settings(kafka, "bounds")
    };
    let why = KafkaLog::connect(&other, Reading::Nothing)
        .await
        .unwrap_err();
    assert!(why.contains("4 partitions, and not 5"), "{why}");
}

#[tokio::test]
async fn members_share_the_partitions_keep_most_of_them_and_find_what_was_committed() {
    let kafka = Kafka::shared().await;
    let one = open(kafka, "shared", Reading::Share).await;
    assert_eq!(here(&one).await.len(), usize::from(PARTITIONS));
    for partition in 0..PARTITIONS {
        for _ in 0..3 {
            one.append(partition, Bytes::from_static(b"x"))
                .await
                .unwrap();
        }
        read(&one, partition, 0, 3).await;
        one.commit(partition, Position(2));
    }
    let two = open(kafka, "shared", Reading::Share).await;
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, async {
        while here(&two).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the second gets its share");
    let (first, second) = (here(&one).await, here(&two).await);
    assert!(first.is_disjoint(&second), "{first:?} {second:?}");
    assert_eq!(first.len() + second.len(), usize::from(PARTITIONS));
    // It reads from where its shard says, whatever the group has.
    let taken = *second.first().unwrap();
    assert_eq!(read(&two, taken, 0, 3).await.entries.len(), 3);
    assert_eq!(two.committed(taken).await.unwrap(), Position(2));
    let why = one.read(taken, Position(1), 1).await.unwrap_err();
    assert!(matches!(why, ReadError::Unavailable(_)), "{why}");

    one.close().await;
    tokio::time::timeout(patience, async {
        while here(&two).await.len() < usize::from(PARTITIONS) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the second gets all");
    two.close().await;
}
