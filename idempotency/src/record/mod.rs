//! The state machine of one record: pure, without clock and without I/O.
//!
//! ```text
//!            begin                complete
//!  (nothing) -----> Pending(n) ------------> Completed
//!                   ^   |  ^ renew: heartbeat + 1
//!     take over n+1 |   |release
//!     begin     n+1 |   v
//!                   Released(n)
//! ```
//!
//! Every arrow after the first is a [`Swap`]: it names the exact bytes that it replaces, so whoever
//! looked at a record which has changed since changes nothing. Nothing is ever deleted; a record
//! goes when its retention is over, and the attempt numbers only grow until then.

mod owner;
mod swap;
mod wire;

use std::{fmt, time::Duration};

use bytes::Bytes;

pub use self::{
    owner::Owner,
    swap::{Swap, Swapped},
};
use crate::{error::RecordError, key::Fingerprint};

/// What lies under a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// Somebody is handling the call, or was.
    Pending(Pending),
    /// An attempt ended without having done anything; the next one may run.
    Released {
        /// The attempt that was given up. The next one counts on from here.
        attempt: u64,
    },
    /// The call was handled.
    Completed(Completed),
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    ///
    /// When the bytes are not a record, are damaged, or were written by a later version.
    pub fn decode(bytes: Bytes) -> Result<Self, RecordError> {
        wire::decode(bytes)
    }

    /// The bytes to store. Equal records have equal bytes.
    pub fn encode(&self) -> Bytes {
        wire::encode(self)
    }
}

/// A claim on a key: who handles the call, and for how long that is believed without a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pending {
    /// Who claims it. Made by the client, so that its own bytes can be told from anyone else's.
    pub owner: Owner,
    /// The number of the attempt, from 1. It is the fencing token.
    pub attempt: u64,
    /// Milliseconds after the last heartbeat until the claim counts as abandoned.
    pub lease_ms: u64,
    /// Milliseconds for which the record was to be kept when it was written.
    pub retention_ms: u64,
    /// How often the claim was renewed: each renewal has bytes of its own, or a take-over that was
    /// prepared before it would still match.
    pub heartbeat: u64,
    /// What the call asks for.
    pub fingerprint: Fingerprint,
}

impl Pending {
    /// The first claim of a call on a key, to be written where there is nothing.
    pub fn first(fingerprint: Fingerprint, lease: Duration, retention: Duration) -> Self {
        Self {
            owner: Owner::fresh(),
            attempt: 1,
            lease_ms: millis(lease),
            retention_ms: millis(retention),
            heartbeat: 0,
            fingerprint,
        }
    }

    /// The same claim as the attempt that follows `attempt`.
    pub fn after(&self, attempt: u64) -> Self {
        Self {
            attempt: attempt.saturating_add(1),
            heartbeat: 0,
            ..self.clone()
        }
    }

    /// The same claim, one heartbeat on.
    pub fn beat(&self) -> Self {
        Self {
            heartbeat: self.heartbeat.wrapping_add(1),
            ..self.clone()
        }
    }

    /// The bytes to store.
    pub fn encode(&self) -> Bytes {
        wire::encode_pending(self)
    }

    /// How long a claim stands without a heartbeat.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// For how long the record was to be kept.
    pub fn retention(&self) -> Duration {
        Duration::from_millis(self.retention_ms)
    }

    /// Time since the last heartbeat, of a record which the store will keep for `remaining`.
    ///
    /// It counts from the retention *in the record*: that of the reader may be another one. Only
    /// the store's clock is in it, and a clock that stepped back makes it zero.
    pub fn age(&self, remaining: Duration) -> Duration {
        self.retention().saturating_sub(remaining)
    }

    /// Whether the claim still stands, for a reader whose connection to the store has been steady
    /// for `steady`.
    ///
    /// After an outage every running claim looks abandoned until its owner, which was cut off as
    /// well, has had the time to come back. So nothing is taken over until one lease has passed
    /// since this reader's own connection was last in trouble.
    pub fn standing(&self, remaining: Duration, steady: Duration) -> Standing {
        let lease = self.lease();
        let age = self.age(remaining);
        if age < lease {
            return Standing::Claimed { left: lease - age };
        }
        match lease.checked_sub(steady) {
            Some(left) if !left.is_zero() => Standing::Unsure { left },
            _ => Standing::Abandoned,
        }
    }
}

/// What a pending record says about its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The owner was heard of within its lease.
    Claimed {
        /// What is left of the lease.
        left: Duration,
    },
    /// The lease has run out, but the reader was cut off lately and cannot judge that yet.
    Unsure {
        /// Until it can.
        left: Duration,
    },
    /// The owner is gone.
    Abandoned,
}

/// The end of a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Completed {
    /// Who handled it: so a completion that is sent twice knows its own.
    pub owner: Owner,
    /// The attempt that handled it.
    pub attempt: u64,
    /// What the call asked for.
    pub fingerprint: Fingerprint,
    /// What it was answered.
    pub answer: Answer,
}

/// What is kept of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// All of it, as the codec wrote it.
    Whole(Bytes),
    /// All of it, [compressed](crate::IdempotencyLayer::compress) or [sealed](crate::Seal).
    Packed(Packed),
    /// Only that there was one. The call is not handled again.
    Tombstone(Why),
}

/// An answer in another form than its codec's. It is compressed first and sealed afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packed {
    /// Whether it was compressed (raw DEFLATE, RFC 1951).
    pub compressed: bool,
    /// Whether it was sealed by the layer's [`Seal`](crate::Seal).
    pub sealed: bool,
    /// What is stored.
    pub bytes: Bytes,
}

/// Why an answer was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Why {
    /// It was larger than the layer keeps.
    Oversize,
    /// It was a stream: it had no end, or none in time.
    Streaming,
    /// The inner service failed with an error, which cannot be stored.
    Failed,
    /// The handler panicked.
    Panicked,
    /// The codec chose not to keep it.
    NotKept,
    /// It could not be sealed, and is not stored in the open.
    NotSealed,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Oversize => "it was too large",
            Self::Streaming => "it was a stream",
            Self::Failed => "the inner service failed",
            Self::Panicked => "the handler panicked",
            Self::NotKept => "it was not meant to be kept",
            Self::NotSealed => "it could not be sealed",
        })
    }
}

/// What a call finds when it begins, before anybody's age is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Found {
    /// Its own claim: the reply to an earlier copy of the same command was lost. It runs.
    Mine,
    /// Another call used this key for something else.
    Mismatch,
    /// An attempt was released. The next may run after a swap.
    Free {
        /// The attempt that was released.
        attempt: u64,
    },
    /// Somebody claims the key.
    Pending(Pending),
    /// The call was handled.
    Done(Answer),
}

/// What `found` means to the call that wanted to write `mine`.
///
/// The fingerprint is compared first, in every state that has one: a call with another payload
/// neither waits for, nor takes over, nor replays what is not its own.
///
/// # Errors
///
/// When `found` is not a record that can be read.
pub fn look(mine: &Pending, found: Bytes) -> Result<Found, RecordError> {
    Ok(match Record::decode(found)? {
        Record::Pending(Pending { fingerprint, .. })
        | Record::Completed(Completed { fingerprint, .. })
            if fingerprint != mine.fingerprint =>
        {
            Found::Mismatch
        }
        Record::Pending(pending) if pending == *mine => Found::Mine,
        Record::Pending(pending) => Found::Pending(pending),
        Record::Released { attempt } => Found::Free { attempt },
        Record::Completed(completed) => Found::Done(completed.answer),
    })
}

/// Whole milliseconds, rounded up: what is kept, is kept for at least as long as was asked.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
