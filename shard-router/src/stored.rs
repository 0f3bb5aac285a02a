//! The written forms of a topology and of a shard.

use serde::{Deserialize, Serialize};

use crate::slot;
use crate::{ConfigError, Shard, ShardId, SlotRange, Topology};

/// Reading it back goes through the same checks as any other topology.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    epoch: u64,
    shards: Vec<Shard>,
    slots: Vec<Owned>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Owned {
    shard: ShardId,
    slots: Vec<SlotRange>,
}

impl From<Topology> for Stored {
    fn from(topology: Topology) -> Self {
        let owned = |shard: &Shard| Owned {
            shard: shard.id().clone(),
            slots: slot::ranges(topology.slots_of(shard.id().as_str())),
        };
        Self {
            epoch: topology.epoch(),
            shards: topology.shards().to_vec(),
            slots: topology.shards().iter().map(owned).collect(),
        }
    }
}

impl TryFrom<Stored> for Topology {
    type Error = ConfigError;

    fn try_from(stored: Stored) -> Result<Self, ConfigError> {
        let ranges = stored.slots.into_iter().flat_map(|Owned { shard, slots }| {
            slots.into_iter().map(move |range| (range, shard.clone()))
        });
        Topology::assigned(stored.epoch, stored.shards, ranges)
    }
}

/// Without a primary it can be read, and makes no topology: that error says which shard it is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredShard {
    id: ShardId,
    #[serde(default = "one")]
    weight: f64,
    #[serde(default)]
    primary: String,
    #[serde(default)]
    replicas: Vec<String>,
}

fn one() -> f64 {
    1.0
}

impl From<Shard> for StoredShard {
    fn from(shard: Shard) -> Self {
        let (primary, replicas) = shard.addresses();
        Self {
            id: shard.id().clone(),
            weight: shard.given_weight(),
            primary: primary.to_owned(),
            replicas: replicas
                .iter()
                .map(|address| (**address).to_owned())
                .collect(),
        }
    }
}

impl From<StoredShard> for Shard {
    fn from(stored: StoredShard) -> Self {
        let StoredShard {
            id,
            weight,
            primary,
            replicas,
        } = stored;
        Shard::new(id)
            .weight(weight)
            .primary(primary)
            .replicas(replicas)
    }
}
