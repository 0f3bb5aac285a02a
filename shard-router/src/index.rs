//! From a slot to its owner, laid out for the one look that each request takes.

use std::sync::Arc;

use crate::slot::COUNT;
use crate::{Shard, ShardId, Slot};

/// For each slot its owner: the place among the shards, and the name.
///
/// It is derived from the assignment and holds nothing else. As many names are kept as a place can tell apart,
/// so that no look is checked against their number; and places are as narrow as the number of shards allows, as
/// what is looked at once for each key competes for the cache with the keys themselves. In one allocation, so
/// that nothing is loaded to find the table.
#[derive(Clone)]
pub(crate) enum Index {
    /// Up to 256 shards.
    Few(Arc<Few>),
    /// Up to 1,024 shards.
    More(Arc<More>),
    /// Any number.
    Many(Arc<Many>),
}

pub(crate) struct Few {
    places: [u8; COUNT],
    names: [ShardId; FEW],
}

pub(crate) struct More {
    places: [u16; COUNT],
    names: [ShardId; MORE],
}

pub(crate) struct Many {
    places: [u16; COUNT],
    names: Box<[ShardId]>,
}

const FEW: usize = 256;
const MORE: usize = 1_024;

impl Index {
    /// Of at least one shard; `owners` are places among them.
    pub(crate) fn new(shards: &[Shard], owners: &[u16; COUNT]) -> Self {
        // Beyond the shards there are, the names are never looked at.
        let name = |place: usize| shards[place.min(shards.len() - 1)].id().clone();
        match shards.len() {
            ..=FEW => Self::Few(Arc::new(Few {
                places: owners.map(|owner| owner as u8),
                names: std::array::from_fn(name),
            })),
            n if n <= MORE => Self::More(Arc::new(More {
                places: *owners,
                names: std::array::from_fn(name),
            })),
            _ => Self::Many(Arc::new(Many {
                places: *owners,
                names: shards.iter().map(|shard| shard.id().clone()).collect(),
            })),
        }
    }

    /// The owner's name.
    #[inline]
    pub(crate) fn name(&self, slot: Slot) -> &ShardId {
        match self {
            Self::Few(index) => &index.names[usize::from(index.places[slot.index()])],
            Self::More(index) => &index.names[usize::from(index.places[slot.index()]) % MORE],
            Self::Many(index) => &index.names[usize::from(index.places[slot.index()])],
        }
    }

    /// Where the owner stands among the shards.
    #[inline]
    pub(crate) fn place(&self, slot: Slot) -> usize {
        match self {
            Self::Few(index) => usize::from(index.places[slot.index()]),
            Self::More(index) => usize::from(index.places[slot.index()]),
            Self::Many(index) => usize::from(index.places[slot.index()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Topology;

    /// At and around each number of shards at which the layout changes.
    #[test]
    fn every_layout_says_what_the_assignment_says() {
        for count in [1, 2, 256, 257, 1_024, 1_025] {
            let topology =
                Topology::slots((0..count).map(|n| format!("s{n:05}"))).expect("names differ");
            for (shard, slots) in topology
                .shards()
                .iter()
                .map(|shard| (shard.id(), topology.slots_of(shard.id().as_str())))
                .step_by(1 + count / 8)
            {
                assert!(!slots.is_empty());
                for slot in slots {
                    assert_eq!(topology.owner(slot), shard, "{count} shards");
                    let place = topology.place_of(slot);
                    assert_eq!(topology.shards()[place].id(), shard, "{count} shards");
                }
            }
        }
    }
}
