//! What can go wrong, as data.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use crate::{BoxError, LetterId, Summary};

/// A setting that cannot work, found where it was made.
///
/// Settings written in code panic with this message; their `try_` twins return it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigError {
    message: &'static str,
}

impl ConfigError {
    pub(crate) const fn new(message: &'static str) -> Self {
        Self { message }
    }

    /// What is wrong with the setting, in one sentence.
    pub const fn message(&self) -> &'static str {
        self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl Error for ConfigError {}

/// Unwraps a setting made in code, where a wrong one is a bug.
macro_rules! in_code {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => panic!("{}", error.message()),
        }
    };
}
pub(crate) use in_code;

/// Why a sink did not do what it was asked to. Nothing was half done: a letter that is not reported as
/// written may be written again.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum SinkError {
    /// The sink holds as many letters as it may. It drops none to make room.
    Full {
        /// How many letters that is.
        capacity: usize,
    },
    /// The letter is larger than the sink takes.
    TooLarge {
        /// The letter.
        id: LetterId,
        /// Its size in bytes, as it would be stored.
        size: usize,
        /// The largest size that is taken.
        limit: usize,
    },
    /// Another letter with this id, but with another key or payload, is in the sink. One of the two
    /// claims an origin that is not its own.
    Conflict(LetterId),
    /// The sink did not answer in time. The letter may have been written all the same.
    TimedOut(Duration),
    /// The sink is closed, or stopped after an error that leaves it unsure of what is on disk.
    Closed,
    /// A stored letter can no longer be read as it was written.
    Damaged {
        /// Where it lies in the file, in bytes.
        offset: u64,
    },
    /// What lies in a stream, a topic or a file is not a letter, or cannot be read by this version. It is left where it is.
    NotALetter {
        /// The stream or topic, or the path of the file.
        stream: String,
        /// The id of the entry, `partition@offset` of the record, or `at byte` and the place in the file.
        entry: String,
        /// Why it cannot be read.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// More letters came in a short time than the sink is to take: something is wrong with more than the
    /// messages. See [`FloodGuard`](crate::FloodGuard).
    Flooded {
        /// How long until it takes the next.
        retry_in: Duration,
    },
    /// Reading or writing failed.
    Io(Arc<io::Error>),
    /// Anything else, from a sink made elsewhere.
    Other(Arc<dyn Error + Send + Sync>),
}

impl SinkError {
    /// An error of a sink made elsewhere.
    pub fn other(error: impl Into<BoxError>) -> Self {
        Self::Other(Arc::from(error.into()))
    }
}

impl From<io::Error> for SinkError {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { capacity } => write!(f, "the sink is full with {capacity} letters"),
            Self::TooLarge { id, size, limit } => {
                write!(
                    f,
                    "letter {id} takes {size} bytes, the sink takes {limit} at most"
                )
            }
            Self::Conflict(id) => {
                write!(f, "another letter with the id {id} is already in the sink")
            }
            Self::TimedOut(limit) => write!(f, "the sink did not answer within {limit:?}"),
            Self::Closed => f.write_str("the sink is closed"),
            Self::Damaged { offset } => write!(f, "the letter at byte {offset} is damaged"),
            Self::NotALetter { stream, entry, .. } => {
                write!(f, "entry {entry} of {stream} is not a letter")
            }
            Self::Flooded { retry_in } => write!(
                f,
                "a flood of letters: the next is taken in {} ms",
                retry_in.as_millis()
            ),
            Self::Io(_) => f.write_str("reading or writing letters failed"),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl Error for SinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(error) => Some(&**error),
            Self::NotALetter { source, .. } => Some(&**source),
            Self::Other(error) => error.source(),
            _ => None,
        }
    }
}

/// The request failed for good, and its letter could not be written either. **Do not acknowledge the
/// request: the copy at its source is the only one.**
///
/// It is an error of the [`DeadLetter`](crate::DeadLetter) service, inside a [`BoxError`];
/// [`NotWritten::find`] gets it back. Its `source()` is the error of the sink.
#[derive(Debug)]
#[non_exhaustive]
pub struct NotWritten {
    /// The letter that was to be written.
    pub id: LetterId,
    /// Why the request failed: the error of the service, or a [`Panicked`].
    pub failure: BoxError,
    /// Why the letter could not be written.
    pub source: SinkError,
}

impl NotWritten {
    /// The first `NotWritten` in the chain of sources that starts with `error` itself.
    pub fn find(error: &BoxError) -> Option<&Self> {
        find(error)
    }
}

impl fmt::Display for NotWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "dead letter {} was not written, after: {}",
            self.id, self.failure
        )
    }
}

impl Error for NotWritten {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

/// The request failed, is not dead, and should come again after a while: what
/// [`Disposition::Park`](crate::Disposition::Park) makes of an error. **Do not acknowledge it.**
///
/// It comes inside a [`BoxError`]; [`Parked::find`] gets it back. Its `source()` is the service's error.
#[derive(Debug)]
#[non_exhaustive]
pub struct Parked {
    /// How long to wait before the request is handled again.
    pub wait: Duration,
    /// Why the request failed.
    pub source: BoxError,
}

impl Parked {
    /// A request that should come again after `wait`.
    pub fn new(wait: Duration, source: impl Into<BoxError>) -> Self {
        Self {
            wait,
            source: source.into(),
        }
    }

    /// The first `Parked` in the chain of sources that starts with `error` itself.
    pub fn find(error: &BoxError) -> Option<&Self> {
        find(error)
    }
}

impl fmt::Display for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to be handled again in {:?}", self.wait)
    }
}

impl Error for Parked {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// The service panicked while it handled the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked {
    message: String,
}

impl Panicked {
    pub(crate) fn new(payload: &(dyn std::any::Any + Send)) -> Self {
        let message = payload
            .downcast_ref::<&'static str>()
            .map(|message| (*message).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        Self { message }
    }

    /// What the panic said.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the service panicked: {}", self.message)
    }
}

impl Error for Panicked {}

/// A redrive stopped before its end. Every letter is in the queue, or sent and removed, or both sent
/// and in the queue.
#[derive(Debug)]
#[non_exhaustive]
pub struct RedriveError {
    /// What it had done by then.
    pub summary: Summary,
    /// Why it stopped.
    pub reason: RedriveReason,
}

/// Why a redrive stopped, or left a letter where it is.
#[derive(Debug)]
#[non_exhaustive]
pub enum RedriveReason {
    /// The queue could not be read, or a letter could not be removed from it.
    Queue(SinkError),
    /// A letter could not be sent; where that stopped the run, the last of too many in a row.
    NotSent {
        /// The letter, still in the queue.
        id: LetterId,
        /// Why it could not be sent.
        error: BoxError,
    },
}

impl From<SinkError> for RedriveReason {
    fn from(error: SinkError) -> Self {
        Self::Queue(error)
    }
}

impl fmt::Display for RedriveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sent = self.summary.redriven;
        match &self.reason {
            RedriveReason::Queue(_) => write!(f, "the queue failed after {sent} letters"),
            RedriveReason::NotSent { id, .. } => {
                write!(f, "letter {id} could not be sent, after {sent} that were")
            }
        }
    }
}

impl Error for RedriveError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            RedriveReason::Queue(error) => Some(error),
            RedriveReason::NotSent { error, .. } => Some(&**error),
        }
    }
}

pub(crate) fn find<E: Error + 'static>(error: &BoxError) -> Option<&E> {
    let mut next: Option<&(dyn Error + 'static)> = Some(&**error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
