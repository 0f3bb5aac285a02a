//! What can go wrong, as data.

use std::{error::Error as StdError, fmt, time::Duration};

use crate::record::Why;

/// The error of a layered service: the inner service's own, or one of this crate's to downcast to.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a call was not answered with the result of an execution.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Another call with this key is being handled. Come back after `retry_after`.
    InFlight {
        /// A hint: when asking again is worth while.
        retry_after: Duration,
    },
    /// The call that held this key stopped without an end, and the layer was told not to execute
    /// again ([`Abandoned::Reject`](crate::Abandoned::Reject)).
    Abandoned {
        /// The attempt that was abandoned.
        attempt: u64,
    },
    /// This key was used before, for something else.
    Mismatch,
    /// The call was handled, and its answer was not kept. It will not be handled again.
    AnswerNotKept {
        /// Why there is no answer.
        why: Why,
    },
    /// This call was handled, but a later attempt took its key over meanwhile and is not done yet.
    /// What the later attempt answers is what counts.
    Superseded {
        /// The attempt that lost its claim.
        attempt: u64,
    },
    /// The handler panicked. What it had done by then is unknown, so it is not executed again.
    Panicked {
        /// The panic's message, if it was text.
        message: String,
    },
    /// The inner service was not ready in time. It was not called, and the key is free again.
    NotReady {
        /// How long it was waited for.
        waited: Duration,
    },
    /// The stored record cannot be read. It is left as it is.
    Record(RecordError),
    /// The stored answer cannot be turned into a response.
    Answer(BoxError),
    /// The store failed before anything ran.
    Store(StoreError),
    /// The runtime is going down; whether the call was handled is unknown.
    Stopped,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight { .. } => f.write_str("a call with this idempotency key is in flight"),
            Self::Abandoned { attempt } => {
                write!(
                    f,
                    "attempt {attempt} with this idempotency key was abandoned"
                )
            }
            Self::Mismatch => f.write_str("this idempotency key was used for another request"),
            Self::AnswerNotKept { why } => {
                write!(
                    f,
                    "this call was handled and its answer was not kept: {why}"
                )
            }
            Self::Superseded { attempt } => {
                write!(
                    f,
                    "attempt {attempt} was taken over by a later one which is not done yet"
                )
            }
            Self::Panicked { message } => write!(f, "the handler panicked: {message}"),
            Self::NotReady { waited } => {
                write!(f, "the inner service was not ready within {waited:?}")
            }
            Self::Record(_) => f.write_str("the stored idempotency record cannot be read"),
            Self::Answer(_) => f.write_str("the stored answer cannot be decoded"),
            Self::Store(_) => f.write_str("the idempotency store failed"),
            Self::Stopped => f.write_str("the runtime stopped while the call was handled"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Record(source) => Some(source),
            Self::Answer(source) => Some(source.as_ref()),
            Self::Store(source) => Some(source),
            _ => None,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RecordError> for Error {
    fn from(error: RecordError) -> Self {
        Self::Record(error)
    }
}

/// A store did not do what it was asked.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// The store holds as many live records as it may. None of them is dropped for a new one: a
    /// forgotten record is a second execution.
    Full {
        /// How many records it holds.
        capacity: usize,
    },
    /// The store could not be reached, or answered with a failure.
    Unavailable {
        /// Whether the command may have been carried out all the same.
        indeterminate: bool,
        /// What the connection said.
        source: BoxError,
    },
    /// Something that is not a record lies under the key. It is left as it is.
    Foreign {
        /// What was found.
        found: &'static str,
    },
}

impl StoreError {
    /// Whether the command may have been carried out although it failed.
    pub fn is_indeterminate(&self) -> bool {
        matches!(
            self,
            Self::Unavailable {
                indeterminate: true,
                ..
            }
        )
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full { capacity } => {
                write!(
                    f,
                    "the store is full: {capacity} records are still to be kept"
                )
            }
            Self::Unavailable {
                indeterminate: true,
                ..
            } => f.write_str("the store did not answer; the command may have been carried out"),
            Self::Unavailable { .. } => f.write_str("the store is not available"),
            Self::Foreign { found } => write!(f, "the store holds {found} where a record belongs"),
        }
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unavailable { source, .. } => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// Stored bytes are not a record that this version can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordError {
    /// Not written by this crate.
    Foreign,
    /// Written by a later version.
    Newer {
        /// The version byte that was found.
        version: u8,
    },
    /// A record that ends too early, goes on too long, or contradicts itself.
    Torn,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("the value is not an idempotency record"),
            Self::Newer { version } => {
                write!(
                    f,
                    "the record has version {version}, which is newer than this program"
                )
            }
            Self::Torn => f.write_str("the record is damaged"),
        }
    }
}

impl StdError for RecordError {}

/// A setting that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A lease is counted in milliseconds and needs at least [`Self::SHORTEST_LEASE`].
    LeaseTooShort(Duration),
    /// A record must outlive the lease of the call that writes it.
    LeaseBeyondRetention {
        /// The lease that was set.
        lease: Duration,
        /// For how long records are kept.
        keep_for: Duration,
    },
    /// Records are kept for at most [`Self::LONGEST_RETENTION`].
    RetentionTooLong(Duration),
    /// A store without room refuses everything.
    NoCapacity,
}

impl ConfigError {
    /// The shortest lease: shorter ones cannot be renewed in time over a network.
    pub const SHORTEST_LEASE: Duration = Duration::from_millis(3);
    /// The longest retention: ten years.
    pub const LONGEST_RETENTION: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeaseTooShort(lease) => write!(
                f,
                "a lease of {lease:?} cannot be renewed in time; use at least {:?}",
                Self::SHORTEST_LEASE
            ),
            Self::LeaseBeyondRetention { lease, keep_for } => write!(
                f,
                "a lease of {lease:?} outlives the record, which is kept for {keep_for:?}; \
                 shorten the lease or keep records longer"
            ),
            Self::RetentionTooLong(keep_for) => write!(
                f,
                "records cannot be kept for {keep_for:?}; use at most {:?}",
                Self::LONGEST_RETENTION
            ),
            Self::NoCapacity => {
                f.write_str("a store with a capacity of zero records refuses every call")
            }
        }
    }
}

impl StdError for ConfigError {}
