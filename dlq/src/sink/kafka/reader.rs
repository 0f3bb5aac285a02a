//! Reading the topic of letters: to its end, and single records. It blocks, and one reads at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Message},
};

use super::{
    index::{Index, Place},
    record,
};
use crate::{Letter, SinkError, kafka::DEADLINE};

/// Records that are passed over rather than asked for anew.
const PASSED_OVER: i64 = 200;
/// How long it waits for a record before it counts the time.
const TURN: Duration = Duration::from_millis(100);

pub(super) struct Reader {
    consumer: Arc<BaseConsumer>,
    topic: Arc<str>,
    pub(super) index: Index,
}

/// A letter that was asked for, or why there is none.
pub(super) type Found = Result<Letter, crate::BoxError>;

impl Reader {
    pub(super) fn new(consumer: Arc<BaseConsumer>, topic: Arc<str>) -> Self {
        Self {
            consumer,
            topic,
            index: Index::default(),
        }
    }

    /// Brings the index up to what the topic holds now.
    pub(super) fn catch_up(&mut self) -> Result<(), SinkError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), DEADLINE);
        let metadata = metadata.map_err(SinkError::other)?;
        let topic = metadata.topics().first();
        if let Some(error) = topic.and_then(|topic| topic.error()) {
            return Err(SinkError::other(KafkaError::MetadataFetch(error.into())));
        }
        let partitions: Vec<i32> = topic
            .map(|topic| topic.partitions().iter().map(|of| of.id()).collect())
            .unwrap_or_default();
        let mut ends = BTreeMap::new();
        let mut from = TopicPartitionList::new();
        for partition in partitions {
            let marks = self
                .consumer
                .fetch_watermarks(&self.topic, partition, DEADLINE);
            let (low, high) = marks.map_err(SinkError::other)?;
            let next = self.index.next(partition, low);
            if next < high {
                ends.insert(partition, high);
                let at = Offset::Offset(next);
                from.add_partition_offset(&self.topic, partition, at)
                    .map_err(SinkError::other)?;
            }
        }
        if ends.is_empty() {
            return Ok(());
        }
        let Self {
            consumer, index, ..
        } = self;
        read(consumer, &from, |partition, record| {
            let end = ends.get(&partition).copied();
            match record {
                Some(record) => {
                    let millis = record.timestamp().to_millis().unwrap_or_default();
                    index.take(partition, record.offset(), millis, record::said(record));
                    if end.is_some_and(|end| record.offset() + 1 >= end) {
                        ends.remove(&partition);
                    }
                }
                // Where a transaction ended there is an offset and no record.
                None => {
                    if let Some(end) = end {
                        index.passed(partition, end);
                        ends.remove(&partition);
                    }
                }
            }
            match ends.is_empty() {
                true => Step::Enough,
                false => Step::More,
            }
        })
    }

    /// The letters at these places.
    pub(super) fn letters(&mut self, places: &[Place]) -> Result<Vec<(Place, Found)>, SinkError> {
        let mut wanted = BTreeMap::<i32, BTreeSet<i64>>::new();
        for place in places {
            wanted
                .entry(place.partition)
                .or_default()
                .insert(place.offset);
        }
        let mut found = BTreeMap::new();
        while !wanted.is_empty() {
            let mut from = TopicPartitionList::new();
            for (partition, offsets) in &wanted {
                let Some(first) = offsets.first() else {
                    continue;
                };
                from.add_partition_offset(&self.topic, *partition, Offset::Offset(*first))
                    .map_err(SinkError::other)?;
            }
            let mut far = BTreeSet::new();
            read(&self.consumer, &from, |partition, record| {
                if let Some(offsets) = wanted.get_mut(&partition) {
                    let at = record.map_or(i64::MAX, |record| record.offset());
                    if let Some(record) = record
                        && offsets.contains(&at)
                    {
                        found.insert((partition, at), record::letter(record));
                    }
                    // What was passed is gone.
                    *offsets = offsets.split_off(&at.saturating_add(1));
                    match offsets.first() {
                        None => drop(wanted.remove(&partition)),
                        Some(next) if next - at > PASSED_OVER => drop(far.insert(partition)),
                        Some(_) => drop(far.remove(&partition)),
                    }
                }
                match wanted.keys().all(|partition| far.contains(partition)) {
                    true => Step::Enough,
                    false => Step::More,
                }
            })?;
        }
        let letters = places.iter().filter_map(|place| {
            let letter = found.remove(&(place.partition, place.offset))?;
            Some((*place, letter))
        });
        Ok(letters.collect())
    }
}

enum Step {
    More,
    Enough,
}

/// Reads these partitions until it is enough; at the end of one there is no record.
fn read(
    consumer: &BaseConsumer,
    from: &TopicPartitionList,
    mut each: impl FnMut(i32, Option<&BorrowedMessage<'_>>) -> Step,
) -> Result<(), SinkError> {
    consumer.assign(from).map_err(SinkError::other)?;
    let outcome = poll(consumer, &mut each);
    // It would fetch on and on.
    let unassigned = consumer.unassign().map_err(SinkError::other);
    outcome.and(unassigned)
}

fn poll(
    consumer: &BaseConsumer,
    each: &mut impl FnMut(i32, Option<&BorrowedMessage<'_>>) -> Step,
) -> Result<(), SinkError> {
    let mut silent = Duration::ZERO;
    loop {
        let step = match consumer.poll(TURN) {
            Some(Ok(record)) => each(record.partition(), Some(&record)),
            Some(Err(KafkaError::PartitionEOF(partition))) => each(partition, None),
            Some(Err(error)) if is_passing(&error) => Step::More,
            Some(Err(error)) => return Err(SinkError::other(error)),
            None if silent >= DEADLINE => return Err(SinkError::TimedOut(DEADLINE)),
            None => {
                silent += TURN;
                continue;
            }
        };
        silent = Duration::ZERO;
        if matches!(step, Step::Enough) {
            return Ok(());
        }
    }
}

/// What the client itself tries again.
fn is_passing(error: &KafkaError) -> bool {
    use rdkafka::error::RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::Resolve
                | Code::OperationTimedOut
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
        )
    )
}
