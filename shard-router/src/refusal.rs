//! What a shard answers when it does not own what it was asked for.

use std::error::Error;
use std::fmt;

use crate::{BoxError, Slot};

/// Why a shard refused a request: by its own account it does not serve the slot, or not now.
///
/// The service of an endpoint answers with this error, or with one whose
/// [`source`](Error::source) it is. The router then fetches the topology anew, once for all who
/// were refused, and gives the error to the caller when that is done: whoever tries again is routed
/// by the newest topology. The shard **has applied nothing**.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The shard does not own this slot, by an assignment of this epoch.
    Moved {
        /// The slot.
        slot: Slot,
        /// The epoch that the shard knows.
        epoch: u64,
    },
    /// The slot is about to move: nobody takes writes for it at the moment.
    Frozen {
        /// The slot.
        slot: Slot,
        /// The epoch at which it was frozen.
        epoch: u64,
    },
    /// The request was routed by another epoch than the one the shard knows.
    StaleEpoch {
        /// The epoch that the request was routed by.
        given: u64,
        /// The epoch that the shard knows.
        epoch: u64,
    },
    /// The shard was promoted or started again and has not confirmed yet what it owns.
    Unconfirmed {
        /// The slot.
        slot: Slot,
        /// The epoch that the shard knew.
        epoch: u64,
    },
}

impl Refusal {
    /// The refusal in an error, or in the chain of its sources.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// The epoch that the shard knows. Who routes by an older one is behind.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        match self {
            Self::Moved { epoch, .. }
            | Self::Frozen { epoch, .. }
            | Self::StaleEpoch { epoch, .. }
            | Self::Unconfirmed { epoch, .. } => *epoch,
        }
    }

    pub(crate) fn of(error: &BoxError) -> Option<&Self> {
        Self::find(&**error)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Moved { slot, epoch } => {
                write!(f, "slot {slot} is not here, as of epoch {epoch}")
            }
            Self::Frozen { slot, epoch } => {
                write!(f, "slot {slot} is frozen to be moved, as of epoch {epoch}")
            }
            Self::StaleEpoch { given, epoch } => {
                write!(f, "routed by epoch {given}, and this shard is at {epoch}")
            }
            Self::Unconfirmed { slot, epoch } => {
                write!(
                    f,
                    "who owns slot {slot} is not confirmed yet, as of epoch {epoch}"
                )
            }
        }
    }
}

impl Error for Refusal {}
