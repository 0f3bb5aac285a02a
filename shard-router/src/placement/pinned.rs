//! Pins: some keys lie where somebody put them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::Placement;
use crate::{ConfigError, ShardId, Unplaced};

/// A directory of keys and the shards they are pinned to.
///
/// # Specification, version 1
/// A key is pinned when the directory holds exactly its canonical bytes.
#[derive(Clone, Default, Debug)]
pub struct Pins {
    pins: HashMap<Box<[u8]>, ShardId>,
}

impl Pins {
    /// Of these keys and shards.
    ///
    /// # Errors
    /// [`ConfigError::EmptyId`] for a shard without a name, [`ConfigError::DuplicatePin`] for a key
    /// that is pinned to two shards, and [`ConfigError::UnknownShard`] for one that is not among
    /// `shards`.
    pub fn new<K: AsRef<[u8]>>(
        shards: &[crate::Shard],
        pins: impl IntoIterator<Item = (K, ShardId)>,
    ) -> Result<Self, ConfigError> {
        let mut directory = HashMap::new();
        for (position, (key, shard)) in pins.into_iter().enumerate() {
            if shard.as_str().is_empty() {
                return Err(ConfigError::EmptyId { position });
            }
            if !shards.iter().any(|known| *known.id() == shard) {
                return Err(ConfigError::UnknownShard { shard });
            }
            match directory.entry(key.as_ref().into()) {
                Entry::Vacant(free) => {
                    free.insert(shard);
                }
                Entry::Occupied(pin) if *pin.get() == shard => {}
                Entry::Occupied(pin) => {
                    return Err(ConfigError::DuplicatePin {
                        position,
                        owner: pin.get().clone(),
                        other: shard,
                    });
                }
            }
        }
        Ok(Self { pins: directory })
    }

    /// The shard to which a key is pinned.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&ShardId> {
        self.pins.get(key)
    }

    /// For a directory that has to know every key.
    ///
    /// # Errors
    /// [`Unplaced::NoPin`] for one that it does not.
    pub fn place(&self, key: &[u8]) -> Result<ShardId, Unplaced> {
        self.get(key).cloned().ok_or(Unplaced::NoPin)
    }

    /// These keys where they are pinned, all others by `rest`.
    #[must_use]
    pub fn or<P: Placement>(self, rest: P) -> Pinned<P> {
        Pinned { pins: self, rest }
    }
}

/// Keys that are pinned, and a placement for all others.
///
/// ```
/// # use seawall_shard_router::{Topology, placement::{Pins, Placement}};
/// let topology = Topology::slots(["s0", "s1", "whale"])?;
/// let pins = Pins::new(topology.shards(), [("tenant-1", "whale".into())])?;
/// let placement = pins.or(topology);
/// assert_eq!(*placement.shard_of(b"tenant-1"), "whale");
/// # Ok::<(), seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Pinned<P> {
    pins: Pins,
    rest: P,
}

impl<P: Placement> Placement for Pinned<P> {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        match self.pins.get(key) {
            Some(shard) => shard,
            None => self.rest.shard_of(key),
        }
    }
}
