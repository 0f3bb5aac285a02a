//! What can go wrong: while a topology is made, and while a request is routed.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::{Role, ShardId, Unplaced};

mod config;
mod told;

pub use config::ConfigError;

/// A boxed error, as `tower` uses it.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a request was not handed to a shard.
///
/// Each of these is decided before the inner service is called, so **the shard never saw the
/// request**: sending it again cannot apply it twice. An error of the inner service itself comes
/// through as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RouteError {
    /// The whole router already holds as many requests as it may.
    Overloaded {
        /// How many it may hold.
        cap: usize,
    },
    /// As many requests wait for this endpoint as may.
    QueueFull {
        /// The shard the key lies on.
        shard: ShardId,
        /// The endpoint of it that was chosen.
        role: Role,
        /// How many may wait there.
        queue: usize,
    },
    /// The endpoint did not take the request in time: no place came free among those it works on,
    /// or its service was not ready.
    FailFast {
        /// The shard the key lies on.
        shard: ShardId,
        /// The endpoint of it that was chosen.
        role: Role,
        /// How long the request waited.
        waited: Duration,
    },
    /// The endpoint has failed too often, and is left alone for a while.
    Ejected {
        /// The shard the key lies on.
        shard: ShardId,
        /// The endpoint of it that would have served the request.
        role: Role,
        /// When the next request is let through to it, at the earliest.
        retry_in: Duration,
    },
    /// The placement knows no shard for the request.
    Unplaced(Unplaced),
    /// The placement named a shard that the topology in force does not have.
    UnknownShard {
        /// Its name.
        shard: ShardId,
    },
}

impl RouteError {
    /// The routing error in an error, or in the chain of its sources.
    ///
    /// ```
    /// # use seawall_shard_router::{BoxError, RouteError};
    /// let error: BoxError = RouteError::Overloaded { cap: 10 }.into();
    /// assert!(RouteError::find(&*error).is_some());
    /// ```
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

    /// The shard that was meant, unless the router refused before it looked.
    #[must_use]
    pub fn shard(&self) -> Option<&ShardId> {
        match self {
            Self::Overloaded { .. } | Self::Unplaced(_) => None,
            Self::QueueFull { shard, .. }
            | Self::FailFast { shard, .. }
            | Self::Ejected { shard, .. }
            | Self::UnknownShard { shard } => Some(shard),
        }
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overloaded { cap } => {
                write!(f, "the router holds {cap} requests and takes no more")
            }
            Self::QueueFull { shard, role, queue } => {
                write!(f, "shard {shard} ({role}): {queue} requests wait already")
            }
            Self::FailFast {
                shard,
                role,
                waited,
            } => {
                write!(
                    f,
                    "shard {shard} ({role}): took no request within {waited:?}"
                )
            }
            Self::Ejected {
                shard,
                role,
                retry_in,
            } => {
                write!(
                    f,
                    "shard {shard} ({role}): ejected, to be tried again in {retry_in:?}"
                )
            }
            Self::Unplaced(why) => why.fmt(f),
            Self::UnknownShard { shard } => {
                write!(f, "placed on shard {shard:?}, which there is not")
            }
        }
    }
}

impl Error for RouteError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unplaced(why) => Some(why),
            _ => None,
        }
    }
}

impl From<Unplaced> for RouteError {
    fn from(why: Unplaced) -> Self {
        Self::Unplaced(why)
    }
}
