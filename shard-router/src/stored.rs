//! The written forms of a topology and of a shard.

use serde::{Deserialize, Serialize};

use crate::shard::Replica;
use crate::slot;
use crate::{ConfigError, Shard, ShardId, SlotRange, Topology};

/// Reading it back goes through the same checks as any other topology.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stored {
    /// Of the form, not of the assignment.
    #[serde(default = "version")]
    version: u32,
    epoch: u64,
    shards: Vec<Shard>,
    slots: Vec<Owned>,
    /// Who serves reads that need nothing new, where that is not the owner: while slots move.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reads: Vec<Owned>,
}

const VERSION: u32 = 1;

fn version() -> u32 {
    VERSION
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
        let reads = |shard: &Shard| {
            let reads = topology.reads_elsewhere();
            let here = reads.filter(|(_, reader)| *reader == shard.id());
            let slots = slot::ranges(here.map(|(slot, _)| slot));
            (!slots.is_empty()).then(|| Owned {
                shard: shard.id().clone(),
                slots,
            })
        };
        Self {
            version: VERSION,
            epoch: topology.epoch(),
            shards: topology.shards().to_vec(),
            slots: topology.shards().iter().map(owned).collect(),
            reads: topology.shards().iter().filter_map(reads).collect(),
        }
    }
}

impl TryFrom<Stored> for Topology {
    type Error = ConfigError;

    fn try_from(stored: Stored) -> Result<Self, ConfigError> {
        if stored.version > VERSION {
            return Err(ConfigError::Version {
                given: stored.version,
                newest: VERSION,
            });
        }
        let flat = |owned: Vec<Owned>| {
            owned.into_iter().flat_map(|Owned { shard, slots }| {
                slots.into_iter().map(move |range| (range, shard.clone()))
            })
        };
        let topology = Topology::assigned(stored.epoch, stored.shards, flat(stored.slots))?;
        topology.with_reads(flat(stored.reads))
    }
}

/// A replica whose zone nobody named is its address alone.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredReplica {
    Anywhere(String),
    Somewhere { address: String, zone: String },
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
    replicas: Vec<StoredReplica>,
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
            replicas: replicas.iter().map(StoredReplica::from).collect(),
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
        let shard = Shard::new(id).weight(weight).primary(primary);
        replicas
            .into_iter()
            .fold(shard, |shard, replica| match replica {
                StoredReplica::Anywhere(address) => shard.replica(address),
                StoredReplica::Somewhere { address, zone } => shard.replica_in(zone, address),
            })
    }
}

impl From<&Replica> for StoredReplica {
    fn from(replica: &Replica) -> Self {
        let address = (*replica.address).to_owned();
        match &replica.zone {
            None => Self::Anywhere(address),
            Some(zone) => Self::Somewhere {
                address,
                zone: (**zone).to_owned(),
            },
        }
    }
}
