//! What can go wrong: while a topology is made, and while a request is routed.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::{Role, ShardId, Slot, Unplaced};

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
    /// An ejection after no failure at all.
    Failures,
    /// A share of endpoints that may be ejected, outside of what is above 0 and at most 1.
    EjectedShare {
        /// What was given.
        given: f64,
    },
    /// A written topology of a form that this version does not know.
    Version {
        /// The version it says it has.
        given: u32,
        /// The newest that can be read.
        newest: u32,
    },
    /// A table whose size is no prime, or not above the number of its members.
    TableSize {
        /// The size.
        size: usize,
    },
    /// Bounds of the sizes of a ring that no ring can meet.
    RingSize {
        /// The smallest that was asked for.
        smallest: u64,
        /// The largest.
        largest: u64,
    },
    /// Members of which so many are needed: more than the placement can hold.
    TooManyMembers {
        /// How many were given.
        given: usize,
    },
    /// A range of keys that ends before it begins, or holds none.
    KeyRange {
        /// Where it begins.
        from: Vec<u8>,
        /// Where it ends: it does not hold this key.
        to: Vec<u8>,
    },
    /// Keys that no range holds.
    KeyGap {
        /// The first such key.
        from: Vec<u8>,
        /// The first key after it that is held again; none when there is none.
        to: Option<Vec<u8>>,
    },
    /// Keys that two ranges hold.
    KeyOverlap {
        /// The first such key.
        from: Vec<u8>,
        /// Whose range begins first.
        owner: ShardId,
        /// Whose range holds them too.
        other: ShardId,
    },
    /// A region that is listed twice.
    DuplicateRegion {
        /// The region.
        region: String,
    },
    /// A region without a shard.
    EmptyRegion {
        /// The region.
        region: String,
    },
    /// A key that is pinned to two shards.
    DuplicatePin {
        /// Where the second pin stands in the list, from 0.
        position: usize,
        /// Where the first one leads.
        owner: ShardId,
        /// Where the second one leads.
        other: ShardId,
    },
    /// A share of the traffic that is not above 0 and below 1, or so small that watching it would
    /// take more memory than allowed.
    HotShare {
        /// What was given.
        given: f64,
    },
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
            Self::Failures => f.write_str("an ejection takes one failure at least"),
            Self::EjectedShare { given } => {
                write!(f, "a share must be above 0 and at most 1, not {given}")
            }
            Self::Version { given, newest } => {
                write!(
                    f,
                    "written in version {given}, and {newest} is the newest known"
                )
            }
            Self::TableSize { size } => {
                write!(
                    f,
                    "a table of {size} entries: it must be a prime above the number of members"
                )
            }
            Self::RingSize { smallest, largest } => {
                write!(f, "no ring has between {smallest} and {largest} points")
            }
            Self::TooManyMembers { given } => write!(f, "{given} members are too many"),
            Self::KeyRange { from, to } => {
                write!(
                    f,
                    "the range of keys from {} to {} is empty",
                    Bytes(from),
                    Bytes(to)
                )
            }
            Self::KeyGap { from, to: Some(to) } => {
                write!(
                    f,
                    "no range holds the keys from {} to {}",
                    Bytes(from),
                    Bytes(to)
                )
            }
            Self::KeyGap { from, to: None } => {
                write!(f, "no range holds the keys from {} on", Bytes(from))
            }
            Self::KeyOverlap { from, owner, other } => {
                write!(
                    f,
                    "keys from {} on were given to shard {other:?} and are {owner:?}'s already",
                    Bytes(from)
                )
            }
            Self::DuplicateRegion { region } => write!(f, "there are two regions {region:?}"),
            Self::EmptyRegion { region } => write!(f, "region {region:?} has no shard"),
            Self::DuplicatePin {
                position,
                owner,
                other,
            } => {
                write!(
                    f,
                    "the pin at position {position} leads to shard {other:?}, and its key is {owner:?}'s already"
                )
            }
            Self::HotShare { given } => {
                write!(
                    f,
                    "a share from 1/1024 to below 1 can be watched, not {given}"
                )
            }
        }
    }
}

impl Error for ConfigError {}

/// A bound of a range of keys, readable whatever its bytes are.
struct Bytes<'a>(&'a [u8]);

impl fmt::Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}
