//! Records of one process.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::Store;
use crate::{
    error::{ConfigError, StoreError},
    key::RecordKey,
    record::{Swap, Swapped},
};

const SHARDS: usize = 16;

/// Keeps records in memory: for one process, for tests, and for keys that need not outlive it.
///
/// It holds at most the number of records it was made for, each at most as large as the layer's
/// largest answer and some 120 bytes. **When it is full it refuses**, with
/// [`StoreError::Full`]: a record that is pending or still to be kept is never dropped to make
/// room, since that would be a second execution nobody asked for. So give it room for as many calls
/// as arrive within the retention, or keep records for less long. Expired records make room by
/// themselves, as others are written; there is no thread in the background.
///
/// # Clone
///
/// Clones share the records.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    capacity: usize,
    made: Instant,
    held: AtomicUsize,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    records: HashMap<RecordKey, Entry>,
    due: BTreeMap<Span, Vec<RecordKey>>,
}

/// A record is listed once, in the span of its end or an earlier one: when that is over, it goes or is
/// listed anew. So a claim that is renewed or completed need not be looked for among millions.
struct Entry {
    record: Bytes,
    end: Instant,
    listed: Span,
}

/// A span of time from when the store was made, by its number.
type Span = u64;

const SPAN: Duration = Duration::from_millis(256);

impl MemoryStore {
    /// Room for `records` at a time.
    ///
    /// # Panics
    ///
    /// When `records` is 0.
    pub fn with_capacity(records: usize) -> Self {
        Self::try_with_capacity(records).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`with_capacity`](Self::with_capacity), for a number from a file.
    ///
    /// # Errors
    ///
    /// When `records` is 0.
    pub fn try_with_capacity(records: usize) -> Result<Self, ConfigError> {
        if records == 0 {
            return Err(ConfigError::NoCapacity);
        }
        Ok(Self {
            shared: Arc::new(Shared {
                capacity: records,
                made: Instant::now(),
                held: AtomicUsize::new(0),
                shards: std::array::from_fn(|_| Mutex::default()),
            }),
        })
    }

    /// How many records it holds, those included that have expired and not made room yet.
    pub fn len(&self) -> usize {
        self.shared.held.load(Ordering::Relaxed)
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard(&self, key: &RecordKey) -> MutexGuard<'_, Shard> {
        lock(&self.shared.shards[usize::from(key.as_bytes()[0]) % SHARDS])
    }

    fn span(&self, at: Instant) -> Span {
        let since = at.saturating_duration_since(self.shared.made);
        (since.as_millis() / SPAN.as_millis()) as Span
    }

    /// Lets go of what has expired, but for what expired in the present span if that is not `all`.
    fn expire(&self, shard: &mut Shard, now: Instant, all: bool) {
        let present = self.span(now);
        while let Some(first) = shard.due.first_entry()
            && (*first.key() < present || all && *first.key() == present)
        {
            let (span, mut keys) = first.remove_entry();
            keys.retain(|key| {
                let entry = shard.records.get_mut(key).filter(|e| e.listed == span);
                let Some(entry) = entry else {
                    return false;
                };
                if entry.end <= now {
                    shard.records.remove(key);
                    self.shared.held.fetch_sub(1, Ordering::Relaxed);
                    return false;
                }
                entry.listed = self.span(entry.end);
                if entry.listed > span {
                    shard.due.entry(entry.listed).or_default().push(*key);
                    return false;
                }
                true
            });
            if span == present {
                if !keys.is_empty() {
                    shard.due.insert(span, keys);
                }
                break;
            }
        }
    }

    /// Counts one record more, if there is room.
    fn admit(&self) -> bool {
        let capacity = self.shared.capacity;
        self.shared
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                (held < capacity).then_some(held + 1)
            })
            .is_ok()
    }

    /// Writes a record where there is none.
    fn insert(
        &self,
        key: &RecordKey,
        record: Bytes,
        keep_for: Duration,
        now: Instant,
    ) -> Result<Option<Bytes>, StoreError> {
        if !self.admit() {
            // The room may be taken by what has expired, here or in other shards.
            for shard in &self.shared.shards {
                self.expire(&mut lock(shard), now, true);
            }
            if !self.admit() {
                return Err(StoreError::Full {
                    capacity: self.shared.capacity,
                });
            }
        }
        let mut shard = self.shard(key);
        self.expire(&mut shard, now, false);
        if let Some(entry) = shard.live(key, now) {
            // Another call was faster while the shard was not locked.
            let found = entry.record.clone();
            self.shared.held.fetch_sub(1, Ordering::Relaxed);
            return Ok(Some(found));
        }
        let end = now + keep_for;
        let listed = self.span(end);
        let entry = Entry {
            record,
            end,
            listed,
        };
        if shard.records.insert(*key, entry).is_some() {
            // One that had expired: its place in a list counts no more.
            self.shared.held.fetch_sub(1, Ordering::Relaxed);
        }
        shard.due.entry(listed).or_default().push(*key);
        Ok(None)
    }

    fn claim_now(
        &self,
        key: &RecordKey,
        record: Bytes,
        keep_for: Duration,
    ) -> Result<Option<Bytes>, StoreError> {
        let now = Instant::now();
        let found = self
            .shard(key)
            .live(key, now)
            .map(|entry| entry.record.clone());
        match found {
            Some(found) => Ok(Some(found)),
            None => self.insert(key, record, keep_for, now),
        }
    }

    fn swap_now(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        let now = Instant::now();
        loop {
            let mut shard = self.shard(key);
            let Some(entry) = shard.live(key, now) else {
                drop(shard);
                let swapped = swap.judge(None);
                if swapped == Swapped::Applied
                    && self
                        .insert(key, swap.to().clone(), swap.keep_for(), now)?
                        .is_some()
                {
                    continue;
                }
                return Ok(swapped);
            };
            let swapped = swap.judge(Some(&entry.record));
            if swapped == Swapped::Applied {
                entry.record = swap.to().clone();
                entry.end = now + swap.keep_for();
                let span = self.span(entry.end);
                if span < entry.listed {
                    entry.listed = span;
                    shard.due.entry(span).or_default().push(*key);
                }
            }
            return Ok(swapped);
        }
    }
}

impl Shard {
    /// The record of this key, unless it has expired.
    fn live(&mut self, key: &RecordKey, now: Instant) -> Option<&mut Entry> {
        self.records.get_mut(key).filter(|entry| now < entry.end)
    }
}

impl Store for MemoryStore {
    async fn claim(
        &self,
        key: &RecordKey,
        record: Bytes,
        keep_for: Duration,
    ) -> Result<Option<Bytes>, StoreError> {
        self.claim_now(key, record, keep_for)
    }

    async fn remaining(&self, key: &RecordKey) -> Result<Option<Duration>, StoreError> {
        let now = Instant::now();
        Ok(self.shard(key).live(key, now).map(|entry| entry.end - now))
    }

    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        self.swap_now(key, swap)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("capacity", &self.shared.capacity)
            .field("held", &self.len())
            .finish()
    }
}

/// No code that can panic runs while a shard is locked, so a poisoned lock guards sound data.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
