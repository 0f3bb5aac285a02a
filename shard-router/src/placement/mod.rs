//! Other ways to say where a key lies, each a pure function of its members and the key.
//!
//! Slots with a planner are the default, because the assignment is data: it can be read, stored
//! and changed slot by slot, weights are met within one slot, and nothing moves that need not. Take
//! another placement where something outside decides how keys are placed, or where they may lie.
//!
//! | placement | take it when | balance | adding one of N | cost of a lookup |
//! | --- | --- | --- | --- | --- |
//! | slots ([`Topology`]) | nothing says otherwise | within one slot | 1/(N+1), chosen | a hash, one look |
//! | [`KeyedSlots`] | keys come from people you do not trust | the same | the same | a SipHash, one look |
//! | [`RedisSlots`] | the shards are a Redis Cluster | as assigned there | as assigned there | a CRC16, one look |
//! | [`Rendezvous`] | members differ in weight and no state is to be kept | ±1% or so | 1/(N+1) | one mix for each member |
//! | [`Jump`] | members are numbered and only ever appended | ±1% or so | 1/(N+1) | about ln N steps |
//! | [`Ring::ketama`] | memcached clients place the same keys | ±10% or so | about 1/(N+1) | a binary search |
//! | [`Ring::envoy`] | Envoy's ring hash places the same keys | by its size | about 1/(N+1) | a binary search |
//! | [`Maglev`] | Envoy's Maglev places the same keys | within 1% at 65,537 | a little more | one look |
//! | [`Ranges`] | keys that are near are read together | as the ranges are | as you split | a binary search |
//! | [`Regions`] | data has to stay in a region | inside the region | inside the region | that of the region's |
//! | [`Pinned`] | some tenants have a shard of their own | | | a look into a map, first |
//!
//! [`Pinned`], [`Regions`] and any [`Placement`] compose: a pin first, then the region, then the
//! hash within it. What a placement says goes to the router by
//! [`ShardRouter::placed_by`](crate::ShardRouter::placed_by); those that know slots go by
//! [`ShardRouter::key`](crate::ShardRouter::key).
//!
//! # Versions
//! Each module states its function as a specification with a version, and the tests pin vectors of
//! it. A specification never changes. If one has to, the new one gets another name.

mod jump;
mod keyed;
mod maglev;
mod members;
mod pinned;
mod ranges;
mod redis_slots;
mod regions;
mod rendezvous;
mod ring;

pub use jump::{Jump, jump};
pub use keyed::KeyedSlots;
pub use maglev::Maglev;
pub use pinned::{Pinned, Pins};
pub use ranges::{KeyRange, Ranges};
pub use redis_slots::RedisSlots;
pub use regions::{Regions, Residence};
pub use rendezvous::Rendezvous;
pub use ring::Ring;

use crate::{Key, ShardId, Topology};

/// Says on which shard a key lies: always the same for the same bytes.
pub trait Placement {
    /// The shard of the canonical bytes of a key.
    fn shard_of(&self, key: &[u8]) -> &ShardId;
}

impl<P: Placement + ?Sized> Placement for &P {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        P::shard_of(self, key)
    }
}

impl<P: Placement + ?Sized> Placement for Box<P> {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        P::shard_of(self, key)
    }
}

/// As a part of a composition: without one, [`ShardRouter::key`](crate::ShardRouter::key) does it.
impl Placement for Topology {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        Topology::shard_of(self, Key::from(key))
    }
}
