//! A shard: the place that decides. Whether an order counts is settled in one transaction of its shard, and
//! nowhere else; caches, group offsets and idempotency records only save it work.

mod catalogue;
#[cfg(feature = "services")]
pub mod postgres;
mod sqlite;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use seawall_shard_router::{Refusal, Role, Slot, slot_of};
use serde::{Deserialize, Serialize};

use crate::log::{LogId, Position};
use crate::order::{OpId, OrderId, Record};

pub use catalogue::{PRODUCTS, Product, product};
#[cfg(feature = "services")]
pub use postgres::PostgresShard;
pub use sqlite::SqliteShard;
pub(crate) use sqlite::{Identity, check, create};

/// How far a shard has applied a partition, of which log, under which assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// The log that was applied.
    pub log: LogId,
    /// The assignment's epoch. A batch routed under another is refused whole.
    pub epoch: u64,
    /// Everything below is done.
    pub position: Position,
}

/// Part of a partition, for one shard, as one transaction.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The partition.
    pub partition: u16,
    /// The log it was read from.
    pub log: LogId,
    /// The epoch of the assignment it was routed under.
    pub epoch: u64,
    /// The position it continues from: the shard must already be there, or further.
    pub from: Position,
    /// The position after it, whether or not the last rows were for this shard.
    pub next: Position,
    /// Its rows, by growing offset.
    pub rows: Vec<Row>,
}

impl Batch {
    /// Whether its rows grow and lie in its range.
    fn is_in_order(&self) -> bool {
        let range = self.from.0..self.next.0;
        self.from <= self.next
            && self.rows.iter().all(|row| range.contains(&row.offset))
            && self.rows.is_sorted_by(|one, next| one.offset < next.offset)
    }

    /// The operations that it may decide.
    fn ops(&self) -> impl Iterator<Item = OpId> {
        self.rows.iter().filter_map(|row| match &row.fate {
            Fate::Apply(record) => Some(record.op()),
            Fate::Dead(dead) => dead.record.as_ref().map(Record::op),
        })
    }
}

/// One record of a batch.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its offset in the partition.
    pub offset: u64,
    /// What is to become of it.
    pub fate: Fate,
}

/// What is to become of a record.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Apply the order.
    Apply(Record),
    /// Write it off, with its letter, in the same transaction.
    Dead(DeadRow),
}

/// A record that cannot be applied, with the letter that says so.
#[derive(Clone, Debug)]
pub struct DeadRow {
    /// The order, where the record could be read at all.
    pub record: Option<Record>,
    /// The letter's id: a second write of the same letter changes nothing.
    pub letter: String,
    /// Why, as a short class for counting: `unknown-item`, `undecodable`, `key-reuse` ...
    pub class: String,
    /// The whole letter, for people and for redrive.
    pub body: Bytes,
}

/// What a transaction did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Orders that now count and did not before: operation, offset, account.
    pub orders: Vec<(OpId, u64, String)>,
    /// Letters written now.
    pub dead: u64,
    /// Rows skipped because their operation was decided earlier, or lay below the watermark.
    pub repeats: u64,
    /// The watermark after the transaction.
    pub position: Position,
}

/// Whether an order counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It does.
    Applied,
    /// It was written off.
    Dead,
}

/// What a client may ask of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// One order, by its whole id: a slot that somebody made up must not answer for the true one.
    Order(OrderId),
    /// What an account has ordered.
    Account(String),
    /// A product of the catalogue.
    Product(String),
}

impl Query {
    /// The slot that decides who answers. Every shard has all products.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Self::Order(id) => Some(id.slot),
            Self::Account(account) => Some(slot_of(account.as_bytes())),
            Self::Product(_) => None,
        }
    }
}

/// What a shard answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One order.
    Order {
        /// Whether it counts.
        state: State,
        /// Why not, where it does not.
        class: Option<String>,
        /// Its payload's fingerprint.
        fingerprint: [u8; 16],
        /// The product.
        item: String,
        /// Units.
        quantity: u32,
    },
    /// Sums over an account's applied orders.
    Account {
        /// Orders.
        orders: u64,
        /// Units.
        units: u64,
    },
    /// A product.
    Product {
        /// Its name.
        name: String,
        /// Its price, in cents.
        price_cents: u64,
    },
}

/// A document with the version it was read at: the offset of the last record that changed it, plus one.
/// What is not there has a version too, the lowest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// A cache entry of a higher version wins over this one.
    pub version: u64,
    /// What was found.
    pub document: Option<Document>,
}

impl Versioned {
    /// There is no such document.
    pub(crate) const ABSENT: Self = Self {
        version: 0,
        document: None,
    };
}

/// Why a shard did not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum ShardError {
    /// It may work later: busy, out of disk, restarting. Whether the transaction happened may be unknown; it
    /// is safe to send again.
    Unavailable(String),
    /// The shard is behind the batch's start. Applying it would lose what lies between: read again from there.
    Gap {
        /// Where the shard is.
        watermark: Position,
    },
    /// The batch was routed under another assignment.
    StaleEpoch {
        /// The shard's epoch.
        current: u64,
    },
    /// By its own account the shard does not serve one of the slots, or not now.
    Refused(Refusal),
    /// The partition was never given to this shard.
    NotAssigned {
        /// The partition.
        partition: u16,
    },
    /// The watermark belongs to another log.
    ForeignLog,
    /// The batch contradicts itself: a fault of who made it. Nothing of it was applied.
    BadBatch(&'static str),
    /// A record that can never be applied. The whole batch was rolled back.
    Poison {
        /// The record's offset.
        offset: u64,
        /// Why, as a short class.
        class: &'static str,
        /// Why, for people.
        reason: String,
    },
    /// A replica was asked to write.
    ReadOnly,
}

impl ShardError {
    /// Whether sending the same again can help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// An operation that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The operation.
    pub op: OpId,
    /// Its payload's fingerprint.
    pub fingerprint: [u8; 16],
    /// The account it counts for, or would have.
    pub account: String,
    /// Its units.
    pub quantity: u32,
    /// The partition it came by.
    pub partition: u16,
    /// Its place there.
    pub offset: u64,
}

/// A letter, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lettered {
    /// The operation, where the record could be read.
    pub op: Option<OpId>,
    /// Where the record stands in the log.
    pub partition: u16,
    /// Its offset there.
    pub offset: u64,
    /// Why, as a short class.
    pub class: String,
}

/// An account's sums, as the shard keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums {
    /// The account.
    pub account: String,
    /// Its orders.
    pub orders: u64,
    /// Their units.
    pub units: u64,
}

/// A dead letter as a shard keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    /// Its id.
    pub id: String,
    /// The operation, where the record could be read.
    pub op: Option<OpId>,
    /// Where the record stands in the log.
    pub partition: u16,
    /// Its offset there.
    pub offset: u64,
    /// Why, as a short class.
    pub class: String,
    /// The whole letter.
    pub body: Bytes,
}

/// What a shard holds: the accounting's other side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations that count.
    pub applied: Vec<Decided>,
    /// Operations that were written off.
    pub dead: Vec<Decided>,
    /// Letters.
    pub letters: Vec<Lettered>,
    /// The accounts' sums.
    pub accounts: Vec<Sums>,
    /// How far it has applied which partition.
    pub watermarks: Vec<(u16, Watermark)>,
}

impl Tally {
    /// Orders and units, summed over all accounts.
    pub fn sums(&self) -> (u64, u64) {
        self.accounts
            .iter()
            .fold((0, 0), |(orders, units), account| {
                (orders + account.orders, units + account.units)
            })
    }
}

/// One shard: a primary and what it replicates to.
pub trait ShardDb: Send + Sync + 'static {
    /// Takes a partition: writes a watermark at the log's start if there is none, moves its epoch up if it is
    /// older, and answers where to go on. An epoch going back is refused.
    fn adopt(
        &self,
        partition: u16,
        log: LogId,
        epoch: u64,
    ) -> impl Future<Output = Result<Watermark, ShardError>> + Send;

    /// Applies a batch, whole or not at all, and answers after it is durable.
    ///
    /// Dropping the future does not take the transaction back.
    fn apply(&self, batch: Arc<Batch>) -> impl Future<Output = Result<Applied, ShardError>> + Send;

    /// Reads one document from the primary or a replica.
    fn read(
        &self,
        from: Role,
        query: Query,
    ) -> impl Future<Output = Result<Versioned, ShardError>> + Send;

    /// How far the primary or a replica has applied what the shard wrote, in a unit that grows with every write.
    /// Nothing where a replica cannot lag.
    fn position(&self, _of: Role) -> impl Future<Output = Result<Option<u64>, ShardError>> + Send {
        std::future::ready(Ok(None))
    }

    /// Everything, for the accounting.
    fn tally(&self) -> impl Future<Output = Result<Tally, ShardError>> + Send;

    /// Letters held now.
    fn letters(&self) -> impl Future<Output = Result<u64, ShardError>> + Send;

    /// Letters by growing id, from after `after`, where `""` begins.
    fn letters_page(
        &self,
        after: String,
        max: usize,
    ) -> impl Future<Output = Result<Vec<StoredLetter>, ShardError>> + Send;
}

impl fmt::Display for ShardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the shard cannot answer now: {why}"),
            Self::Gap { watermark } => {
                write!(
                    f,
                    "the batch starts beyond the shard's watermark {}",
                    watermark.0
                )
            }
            Self::StaleEpoch { current } => {
                write!(f, "the batch was routed under another epoch than {current}")
            }
            Self::Refused(_) => f.write_str("the shard does not take it"),
            Self::NotAssigned { partition } => {
                write!(f, "partition {partition} is not assigned to this shard")
            }
            Self::ForeignLog => f.write_str("the shard's watermark belongs to another log"),
            Self::BadBatch(why) => write!(f, "the batch contradicts itself: {why}"),
            Self::Poison { offset, reason, .. } => {
                write!(f, "record {offset} can never apply: {reason}")
            }
            Self::ReadOnly => f.write_str("a replica does not write"),
        }
    }
}

impl std::error::Error for ShardError {
    /// The refusal, by which a router learns that it is behind.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}
