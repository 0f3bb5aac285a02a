//! What can be wrong with a topology, a plan or a setting.

use crate::{Role, ShardId, Slot};

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
    /// A replica that was found without an address.
    NoAddress {
        /// The shard.
        shard: ShardId,
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
