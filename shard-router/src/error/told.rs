//! How it is told.

use std::error::Error;
use std::fmt;

use super::ConfigError;

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
            Self::NoAddress { shard } => {
                write!(
                    f,
                    "a replica of shard {shard:?} was found without an address"
                )
            }
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
