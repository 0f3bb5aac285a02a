//! The inside half of the accounting: what the shards and the log hold.

use std::sync::Arc;

use anyhow::{Context, bail};

use crate::log::{Log, LogId, Position, ReadError};
use crate::order::{OpId, Record};
use crate::shard::{ShardDb, Tally};

/// Records read at once.
const CHUNK: usize = 5_000;

/// What the shards and the log hold.
#[derive(Clone, Debug)]
pub struct Books {
    /// Which log it is.
    pub log: LogId,
    /// Its partitions, in order.
    pub partitions: Vec<Partition>,
    /// The shards.
    pub shards: Vec<Tally>,
}

/// What the log still holds of one partition.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    /// The first position that can still be read.
    pub start: Position,
    /// The position after the newest record.
    pub end: Position,
    /// The records between, by growing offset.
    pub records: Vec<Logged>,
}

/// A record of the log.
#[derive(Clone, Debug)]
pub struct Logged {
    /// Its offset.
    pub offset: u64,
    /// The order, where it can be read.
    pub order: Option<LoggedOrder>,
}

/// What a record of the log asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedOrder {
    /// The operation.
    pub op: OpId,
    /// The payload's fingerprint.
    pub fingerprint: [u8; 16],
    /// The account.
    pub account: String,
    /// Units.
    pub quantity: u32,
}

impl Books {
    /// Reads them all: the log from its start to its end, then the shards.
    ///
    /// # Errors
    ///
    /// When a shard or the log cannot be read, or a record of the log is damaged.
    pub async fn read<L: Log, D: ShardDb>(log: &L, shards: &[Arc<D>]) -> anyhow::Result<Self> {
        let mut partitions = Vec::new();
        for partition in 0..log.partitions() {
            partitions.push(Partition::read(log, partition).await?);
        }
        let mut tallies = Vec::new();
        for shard in shards {
            tallies.push(shard.tally().await.context("a shard cannot be read")?);
        }
        Ok(Self {
            log: log.id(),
            partitions,
            shards: tallies,
        })
    }
}

impl Partition {
    async fn read<L: Log>(log: &L, partition: u16) -> anyhow::Result<Self> {
        let end = *log.end(partition).borrow();
        let partitions = log.partitions();
        let mut found = Self {
            end,
            ..Self::default()
        };
        let mut at = Position(0);
        while at < end {
            let chunk = match log.read(partition, at, CHUNK).await {
                // What every shard has applied may be gone.
                Err(ReadError::BelowStart { start, .. }) if found.records.is_empty() => {
                    (found.start, at) = (start, start);
                    continue;
                }
                read => read?,
            };
            if chunk.next == at {
                bail!(
                    "partition {partition} of the log ends at {}, and should at {}",
                    at.0,
                    end.0
                );
            }
            at = chunk.next;
            let records = chunk.entries.iter().map(|entry| Logged {
                offset: entry.offset,
                order: LoggedOrder::read(&entry.payload, partition, partitions),
            });
            found.records.extend(records);
        }
        Ok(found)
    }
}

impl LoggedOrder {
    /// Nothing where it is no order, or one that does not belong to this partition.
    fn read(payload: &[u8], partition: u16, partitions: u16) -> Option<Self> {
        let record: Record = serde_json::from_slice(payload).ok()?;
        (record.order_id().is_some() && record.slot % partitions == partition).then(|| Self {
            op: record.op(),
            fingerprint: record.fingerprint,
            account: record.account,
            quantity: record.quantity,
        })
    }
}
