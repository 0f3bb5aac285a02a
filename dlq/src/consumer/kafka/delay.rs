//! Putting messages off into topics of delays, each of which holds every record for the same time.
//!
//! A wait is made of the delays that fit into it, the longest first, so that the first record of a partition is always
//! the first that is due. No clock is compared with another: how long a record has lain is known by the
//! brokers' clock alone, or by this process's since it was read.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    ClientConfig, Offset,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    error::{KafkaError, KafkaResult},
};
use tokio::time::Instant;

use super::poll::{self, Key};
use crate::{
    Message, ORIGIN_HEADER,
    kafka::{
        DEADLINE, headers,
        produce::{Outgoing, Producer, written_at},
    },
};

/// The header of what is left to wait after a record has been here, in milliseconds.
pub(super) const WAIT_HEADER: &str = "seawall-wait-ms";
/// The header of a record that is there only to tell the time.
pub(super) const TICK_HEADER: &str = "seawall-tick";
/// As the largest that a broker can be told to take.
const LARGEST: usize = 1_000_000_000;

/// The topics of delays, if there are any. Clones share them.
#[derive(Clone)]
pub(super) struct Delays {
    shared: Arc<Shared>,
}

struct Shared {
    /// The longest first.
    tiers: Vec<(Duration, Arc<str>)>,
    producer: Option<Producer>,
    admin: Option<AdminClient<DefaultClientContext>>,
    clock: Clock,
}

/// The name of the topic for this delay.
pub(super) fn topic(of: &str, group: &str, delay: Duration) -> Arc<str> {
    format!("{of}.{group}.delay-{}ms", delay.as_millis()).into()
}

impl Delays {
    pub(super) fn new(
        config: &ClientConfig,
        mut tiers: Vec<(Duration, Arc<str>)>,
    ) -> KafkaResult<Self> {
        tiers.sort_by_key(|(delay, _)| std::cmp::Reverse(*delay));
        let producer = (!tiers.is_empty()).then(|| Producer::new(config, LARGEST));
        let admin = (!tiers.is_empty()).then(|| config.create());
        Ok(Self {
            shared: Arc::new(Shared {
                tiers,
                producer: producer.transpose()?,
                admin: admin.transpose()?,
                clock: Clock::default(),
            }),
        })
    }

    /// How long this topic holds a record, if it is one of delays.
    pub(super) fn of(&self, topic: &str) -> Option<Duration> {
        let mut tiers = self.shared.tiers.iter();
        tiers
            .find(|(_, name)| **name == *topic)
            .map(|(delay, _)| *delay)
    }

    /// Whether so long a wait is made of delays, at least in part.
    pub(super) fn fits(&self, wait: Duration) -> bool {
        let shortest = self.shared.tiers.last();
        shortest.is_some_and(|(delay, _)| *delay <= wait)
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// Writes a message into the longest delay that fits. It stays the message that it is.
    pub(super) async fn put_off(
        &self,
        message: &Message,
        wait: Duration,
        again: bool,
    ) -> KafkaResult<()> {
        let mut tiers = self.shared.tiers.iter();
        let (Some((delay, topic)), Some(producer)) = (
            tiers.find(|(delay, _)| *delay <= wait),
            &self.shared.producer,
        ) else {
            return Err(KafkaError::Canceled);
        };
        let mut pairs = message.headers.clone();
        if !pairs.iter().any(|(name, _)| **name == *ORIGIN_HEADER) {
            pairs.push(message.origin_header());
        }
        pairs.push(match again {
            // On its way through the delays it was put off once.
            true => (
                crate::PARKED_HEADER.into(),
                message.parked.to_string().into(),
            ),
            false => message.parked_header(),
        });
        // Rounded up: never early.
        let left = (wait - *delay).as_nanos().div_ceil(1_000_000);
        pairs.push((WAIT_HEADER.into(), Bytes::from(left.to_string())));
        let (headers, is_null) = headers::to_send(&pairs).map_err(|_| KafkaError::Canceled)?;
        let record = Outgoing {
            topic,
            partition: -1,
            key: message.key.as_deref(),
            payload: (!is_null).then_some(&message.payload[..]),
            headers,
        };
        producer.send(record).await.map(drop)
    }

    /// Lets the brokers delete what this group has done. If they do not, it lies there.
    pub(super) async fn delete(&self, key: &Key, before: i64) {
        let Some(admin) = &self.shared.admin else {
            return;
        };
        let mut offsets = poll::one(key);
        let at = Offset::Offset(before);
        if offsets.set_partition_offset(&key.0, key.1, at).is_ok() {
            let options = AdminOptions::new().request_timeout(Some(DEADLINE));
            drop(admin.delete_records(&offsets, &options).await);
        }
    }

    /// Finds out the time by the clock that stamps this partition, with a record that says nothing else.
    pub(super) async fn tick(&self, key: &Key) -> KafkaResult<()> {
        let Some(producer) = &self.shared.producer else {
            return Ok(());
        };
        let pairs = [(Arc::from(TICK_HEADER), Bytes::new())];
        let (headers, _) = headers::to_send(&pairs).map_err(|_| KafkaError::Canceled)?;
        let record = Outgoing {
            topic: &key.0,
            partition: key.1,
            key: None,
            payload: None,
            headers,
        };
        let delivery = producer.send(record).await?;
        if let Some(millis) = written_at(&delivery) {
            self.clock().saw(key, millis, Instant::now());
        }
        Ok(())
    }
}

/// A record that is held until it is due.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) read: Instant,
    /// When the broker wrote it, by its clock.
    pub(super) written: Option<i64>,
    pub(super) delay: Duration,
}

/// What is known of the brokers' clocks.
#[derive(Debug, Default)]
pub(super) struct Clock {
    seen: Mutex<HashMap<Key, Seen>>,
}

/// Of one partition.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// A time, and when it was seen: it is later than that now.
    latest: (i64, Instant),
    /// The time of the record that was read last.
    read: Option<i64>,
}

impl Clock {
    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record with this time is there.
    fn saw(&self, key: &Key, millis: i64, now: Instant) {
        let mut seen = self.seen();
        let of = seen.entry(key.clone()).or_insert(Seen {
            latest: (millis, now),
            read: None,
        });
        let (known, at) = of.latest;
        if at + span(millis, known) > now {
            of.latest = (millis, now);
        }
    }

    /// The next record of a partition has this time. Answers whether it can be reckoned with: where a clock was set
    /// back between two records, what was seen of it before says nothing.
    pub(super) fn read(&self, key: &Key, millis: i64, now: Instant) -> bool {
        self.saw(key, millis, now);
        let mut seen = self.seen();
        let Some(of) = seen.get_mut(key) else {
            return false;
        };
        let went_back = of.read.is_some_and(|before| millis < before);
        of.read = Some(millis);
        if went_back {
            of.latest = (millis, now);
        }
        !went_back
    }

    /// When this record has lain for its delay, at the latest.
    pub(super) fn due_at(&self, key: &Key, due: &Due) -> Instant {
        let since_read = due.read + due.delay;
        match (self.seen().get(key), due.written) {
            (Some(seen), Some(written)) => {
                let (millis, at) = seen.latest;
                let delay = i64::try_from(due.delay.as_millis()).unwrap_or(i64::MAX / 4);
                // A time is cut to milliseconds: it was up to one later.
                let until = written.saturating_add(delay).saturating_add(1);
                since_read.min(at + span(until, millis))
            }
            _ => since_read,
        }
    }
}

/// From one time to a later one.
fn span(to: i64, from: i64) -> Duration {
    Duration::from_millis(u64::try_from(to.saturating_sub(from)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_millis(1000);

    fn key() -> Key {
        ("orders.delay".into(), 0)
    }

    fn due(read: Instant, written: i64) -> Due {
        Due {
            read,
            written: Some(written),
            delay: DELAY,
        }
    }

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_record_that_lay_for_a_while_is_due_by_the_brokers_clock() {
        let (clock, now) = (Clock::default(), Instant::now());
        assert!(clock.read(&key(), 5_000, now));
        assert_eq!(clock.due_at(&key(), &due(now, 5_000)), now + DELAY);
        // A record that was written 700 ms later is there by now.
        clock.saw(&key(), 5_700, now);
        assert_eq!(clock.due_at(&key(), &due(now, 5_000)), now + ms(301));
        clock.saw(&key(), 9_000, now + ms(1));
        assert!(clock.due_at(&key(), &due(now, 5_000)) <= now + ms(1));
    }

    #[test]
    fn an_older_time_that_is_seen_later_changes_nothing() {
        let (clock, now) = (Clock::default(), Instant::now());
        clock.saw(&key(), 5_700, now);
        clock.saw(&key(), 5_750, now + ms(100));
        assert_eq!(clock.due_at(&key(), &due(now, 5_000)), now + ms(301));
    }

    /// With what was seen before the step alone, the record was due 400 ms early.
    #[test]
    fn a_clock_that_is_set_back_makes_nothing_due_early() {
        let (clock, now) = (Clock::default(), Instant::now());
        assert!(clock.read(&key(), 5_000, now));
        let read = now + ms(10);
        assert!(!clock.read(&key(), 4_600, read), "it went back");
        let unsure = Due {
            written: None,
            ..due(read, 0)
        };
        assert_eq!(clock.due_at(&key(), &unsure), read + DELAY);
        let read = now + ms(20);
        assert!(clock.read(&key(), 4_610, read));
        assert_eq!(clock.due_at(&key(), &due(read, 4_610)), read + DELAY);
    }
}
