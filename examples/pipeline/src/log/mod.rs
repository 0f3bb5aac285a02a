//! The log between the API and the workers: partitions of records, each durable before it is answered.

#[cfg(feature = "services")]
pub mod kafka;
mod sqlite;

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use tokio::sync::watch;

#[cfg(feature = "services")]
pub use kafka::KafkaLog;
pub use sqlite::SqliteLog;
pub(crate) use sqlite::{Files, check, create};

/// Which log this is. Watermarks name it, so that a shard can never be fed from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId(pub [u8; 16]);

/// A place in a partition: everything below it is done. It is the end of what was read, never
/// "the last offset plus one of what was found": offsets have holes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// One record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its offset: unique in the partition and growing, with holes.
    pub offset: u64,
    /// What was appended, byte for byte.
    pub payload: Bytes,
}

/// What a read found: records in order, and the position after them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// At most as many as were asked for.
    pub entries: Vec<Entry>,
    /// Where the next read goes on. Equal to the start when nothing was there.
    pub next: Position,
}

/// Why an append did not answer with an offset.
#[derive(Debug)]
#[non_exhaustive]
pub enum AppendError {
    /// Nothing was written and nothing will be: the caller may forget the operation.
    Refused(String),
    /// It may or may not be in the log.
    Unknown(String),
}

/// Why a read failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadError {
    /// It may work later.
    Unavailable(String),
    /// A record does not match its checksum. Reading on would apply what nobody sent.
    Damaged {
        /// The partition.
        partition: u16,
        /// The offset of the damaged record.
        offset: u64,
    },
    /// The position lies below what the log still holds: records between are gone.
    BelowStart {
        /// The partition.
        partition: u16,
        /// The first position that can be read.
        start: Position,
    },
    /// The position lies above the log's end: it is not the log that it was.
    BeyondEnd {
        /// The partition.
        partition: u16,
        /// The position after the last record.
        end: Position,
    },
}

/// A durable log of partitions.
///
/// An append answers after the record is synced; a reader sees a record only after that.
pub trait Log: Send + Sync + 'static {
    /// Which log this is.
    fn id(&self) -> LogId;

    /// How many partitions, numbered from zero.
    fn partitions(&self) -> u16;

    /// Appends one record and answers its offset once it is durable.
    ///
    /// Dropping the future does not take the record back.
    fn append(
        &self,
        partition: u16,
        payload: Bytes,
    ) -> impl Future<Output = Result<u64, AppendError>> + Send;

    /// Reads up to `max` records from `from`. An empty chunk means that there is nothing yet; a log that lies
    /// elsewhere may wait a moment before it says so.
    fn read(
        &self,
        partition: u16,
        from: Position,
        max: usize,
    ) -> impl Future<Output = Result<Chunk, ReadError>> + Send;

    /// Follows the end of a partition: the position after its newest durable record.
    fn end(&self, partition: u16) -> watch::Receiver<Position>;

    /// Remembers how far a partition is done. Advisory: the shard's watermark is the truth, this is
    /// for people who watch lag.
    fn commit(&self, partition: u16, position: Position);

    /// What was last committed, or the start.
    fn committed(&self, partition: u16)
    -> impl Future<Output = Result<Position, ReadError>> + Send;

    /// Follows where a partition is read. A log of one process is read here.
    fn reader(&self, _partition: u16) -> watch::Receiver<Reader> {
        watch::channel(Reader::Here).1
    }

    /// Drops what lies below a position in all partitions, where nobody else does so. Whoever calls it has to
    /// know that every shard is past the position.
    ///
    /// # Errors
    ///
    /// As for an append.
    fn prune(&self, _below: Position) -> impl Future<Output = Result<(), AppendError>> + Send {
        std::future::ready(Ok(()))
    }
}

/// Where a partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Nobody said yet.
    Unknown,
    /// By this process.
    Here,
    /// By another one.
    Elsewhere,
}

impl fmt::Display for AppendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "the log refused the record: {why}"),
            Self::Unknown(why) => write!(
                f,
                "the log did not say whether the record is written: {why}"
            ),
        }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(why) => write!(f, "the log cannot be read now: {why}"),
            Self::Damaged { partition, offset } => {
                write!(
                    f,
                    "record {offset} of partition {partition} does not match its checksum"
                )
            }
            Self::BelowStart { partition, start } => {
                write!(
                    f,
                    "partition {partition} starts at {}, records before it are gone",
                    start.0
                )
            }
            Self::BeyondEnd { partition, end } => {
                write!(
                    f,
                    "partition {partition} ends at {}, and was read further before",
                    end.0
                )
            }
        }
    }
}

impl std::error::Error for AppendError {}
impl std::error::Error for ReadError {}
