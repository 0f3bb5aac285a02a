//! What can go wrong: while a topology is made, and while a request is routed.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::{Role, ShardId, Slot};

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
            Self::Overloaded { .. } => None,
            Self::QueueFull { shard, .. } | Self::FailFast { shard, .. } => Some(shard),
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
        }
    }
}

impl Error for RouteError {}

/// What is wrong with a topology, a plan or a setting.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum ConfigError {
    /// A topology without a shard.
    NoShards,
    /// More shards than there are slots.
    TooManyShards {
        /// How many were given.
        given: usize,
    },
    /// A shard whose name is empty.
    EmptyId {
        /// Where it stands in the list, from 0.
        position: usize,
    },
    /// Two shards of one name.
    DuplicateShard {
        /// The name.
        shard: ShardId,
    },
    /// A weight that is zero, below zero, infinite or not a number.
    Weight {
        /// The shard.
        shard: ShardId,
        /// Its weight.
        weight: f64,
    },
    /// Weights whose sum is no finite number.
    WeightOverflow {
        /// The shard at which the sum overflows, in the order of names.
        shard: ShardId,
    },
    /// Shards of unequal weight where slots are dealt round robin.
    UnequalWeights {
        /// The first shard whose weight differs from those before it.
        shard: ShardId,
    },
    /// A shard that names no primary.
    NoPrimary {
        /// The shard.
        shard: ShardId,
    },
    /// A replica whose address is empty.
    EmptyAddress {
        /// The shard.
        shard: ShardId,
        /// The replica.
        role: Role,
    },
    /// One address twice in one shard.
    DuplicateAddress {
        /// The shard.
        shard: ShardId,
        /// The address.
        address: String,
    },
    /// More replicas in one shard than can be numbered.
    TooManyReplicas {
        /// The shard.
        shard: ShardId,
        /// How many were given.
        given: usize,
    },
    /// A shard that the topology does not have.
    UnknownShard {
        /// Its name.
        shard: ShardId,
    },
    /// A number that names no slot.
    NoSuchSlot {
        /// The number.
        number: u16,
    },
    /// A range that ends before it begins.
    InvertedRange {
        /// Where it begins.
        first: Slot,
        /// Where it ends.
        last: Slot,
    },
    /// A text that is no range of slots.
    UnreadableRange {
        /// The text.
        text: String,
    },
    /// A slot that no shard owns.
    Gap {
        /// The first such slot.
        slot: Slot,
    },
    /// A slot that was given to two shards.
    Overlap {
        /// The first such slot.
        slot: Slot,
        /// Who owns it already.
        owner: ShardId,
        /// Who was to get it.
        other: ShardId,
    },
    /// A topology that is not newer than the one in force.
    StaleEpoch {
        /// The epoch in force.
        current: u64,
        /// The epoch that was given.
        given: u64,
    },
    /// No epoch comes after this one.
    LastEpoch,
    /// A plan made for another epoch than that of the topology it was applied to.
    PlanEpoch {
        /// The epoch it was made for.
        plan: u64,
        /// The epoch of the topology.
        topology: u64,
    },
    /// A plan that moves a slot from a shard which does not own it.
    PlanOwner {
        /// The slot.
        slot: Slot,
        /// Who owns it by the plan.
        plan: ShardId,
        /// Who owns it by the topology.
        owner: ShardId,
    },
    /// A concurrency of zero, or above what a semaphore can count.
    Concurrency {
        /// What was given.
        given: usize,
    },
    /// A cap of zero.
    Cap,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoShards => f.write_str("a topology needs one shard at least"),
            Self::TooManyShards { given } => {
                write!(f, "{given} shards for {} slots", crate::SLOTS)
            }
            Self::EmptyId { position } => write!(f, "the shard at position {position} has no name"),
            Self::DuplicateShard { shard } => write!(f, "there are two shards {shard:?}"),
            Self::Weight { shard, weight } => {
                write!(
                    f,
                    "shard {shard:?}: its weight must be finite and above zero, not {weight}"
                )
            }
            Self::WeightOverflow { shard } => {
                write!(
                    f,
                    "the sum of the weights up to shard {shard:?} is not finite"
                )
            }
            Self::UnequalWeights { shard } => {
                write!(
                    f,
                    "slots are dealt evenly, but shard {shard:?} has a weight of its own"
                )
            }
            Self::NoPrimary { shard } => write!(f, "shard {shard:?} has no primary"),
            Self::EmptyAddress { shard, role } => {
                write!(f, "shard {shard:?}: {role} has no address")
            }
            Self::DuplicateAddress { shard, address } => {
                write!(f, "shard {shard:?} has the address {address:?} twice")
            }
            Self::TooManyReplicas { shard, given } => {
                write!(
                    f,
                    "shard {shard:?}: {given} replicas are more than can be numbered"
                )
            }
            Self::UnknownShard { shard } => write!(f, "there is no shard {shard:?}"),
            Self::NoSuchSlot { number } => {
                write!(f, "{number} is no slot: the last is {}", crate::SLOTS - 1)
            }
            Self::InvertedRange { first, last } => {
                write!(f, "the range {first}-{last} ends before it begins")
            }
            Self::UnreadableRange { text } => {
                write!(f, "{text:?} is no range of slots, such as 17 or 17-42")
            }
            Self::Gap { slot } => write!(f, "slot {slot} belongs to no shard"),
            Self::Overlap { slot, owner, other } => {
                write!(
                    f,
                    "slot {slot} was given to shard {other:?} and is {owner:?}'s already"
                )
            }
            Self::StaleEpoch { current, given } => {
                write!(
                    f,
                    "epoch {given} is not newer than {current}, which is in force"
                )
            }
            Self::LastEpoch => f.write_str("there is no epoch after this one"),
            Self::PlanEpoch { plan, topology } => {
                write!(
                    f,
                    "the plan is for epoch {plan}, and the topology is at {topology}"
                )
            }
            Self::PlanOwner { slot, plan, owner } => {
                write!(
                    f,
                    "the plan moves slot {slot} from shard {plan:?}, but it is {owner:?}'s"
                )
            }
            Self::Concurrency { given } => {
                write!(
                    f,
                    "a concurrency must be between 1 and {}, not {given}",
                    crate::bulkhead::MOST
                )
            }
            Self::Cap => f.write_str("a cap of zero would refuse every request"),
        }
    }
}

impl Error for ConfigError {}
