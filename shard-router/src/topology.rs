//! Which shard owns which slot, at one epoch.

use std::fmt;
use std::sync::Arc;

use crate::balance::{self, NOBODY, Shares};
use crate::index::Index;
use crate::plan::Plan;
use crate::slot::COUNT;
use crate::validate::checked;
use crate::{ConfigError, Endpoint, Key, Shard, ShardId, Slot, SlotRange};

/// Which shard owns which slot, at one epoch. A value: it never changes, and is cheap to clone.
///
/// Shards are held in the order of their names, so the order in which they are listed never
/// matters. A topology that is derived from another has the next epoch.
///
/// ```
/// # use seawall_shard_router::Topology;
/// let topology = Topology::slots(["s00", "s01", "s02"])?;
/// let grown = topology.with_shard("s03")?;
/// assert_eq!(grown.epoch(), topology.epoch() + 1);
///
/// // Keys move to the new shard or stay where they are.
/// let (before, after) = (topology.shard_of("tenant-7"), grown.shard_of("tenant-7"));
/// assert!(after == before || *after == "s03");
/// # Ok::<(), seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "crate::stored::Stored"))]
#[cfg_attr(feature = "serde", serde(try_from = "crate::stored::Stored"))]
pub struct Topology {
    epoch: u64,
    /// In the order of their names.
    shards: Arc<[Shard]>,
    /// For each slot, the place of its owner in `shards`.
    owners: Arc<[u16; COUNT]>,
    /// The same, for requests.
    index: Index,
    /// Who serves reads that need nothing new, where that is not the owner: while slots move.
    pub(crate) readers: Option<Arc<[u16; COUNT]>>,
}

impl Topology {
    /// A first assignment, in which each shard owns one run of slots, at epoch 1.
    ///
    /// Every share is met within one slot, so no shard of equal weight holds more than
    /// `16,384 / N`, rounded up.
    ///
    /// # Errors
    /// Says which shard is wrong and how: none at all, two of one name, an empty name, a weight
    /// that is not finite and above zero, no primary, one address twice.
    pub fn slots<I: IntoIterator<Item: Into<Shard>>>(shards: I) -> Result<Self, ConfigError> {
        let shards = checked(shards)?;
        let shares = shares(&shards);
        let mut owners = [NOBODY; COUNT];
        balance::settle(
            &mut owners,
            &balance::targets(&shares, &vec![0; shards.len()]),
        );
        Ok(Self::from_parts(1, shards, owners))
    }

    /// A first assignment that deals slots like cards, in the order of the shards' names: with N
    /// shards, slot `s` goes to the one at `s % N`. At epoch 1.
    ///
    /// For a log whose partitions divide evenly among the shards: if the partition of a key is its
    /// slot modulo a multiple of N, each partition lies on one shard.
    ///
    /// ```
    /// # use seawall_shard_router::{Slot, Topology};
    /// let topology = Topology::round_robin((0..50).map(|n| format!("s{n:02}")))?;
    /// let shard_of = |n: u16| topology.owner(Slot::new(n).expect("a slot"));
    /// // Of 100 partitions, number 7 lies on shard 7, and so does number 57.
    /// assert!((7..16_384).step_by(50).all(|slot| *shard_of(slot) == "s07"));
    /// # Ok::<(), seawall_shard_router::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Topology::slots`]; and [`ConfigError::UnequalWeights`], as nobody is dealt two
    /// cards at once.
    pub fn round_robin<I: IntoIterator<Item: Into<Shard>>>(shards: I) -> Result<Self, ConfigError> {
        let shards = checked(shards)?;
        let weight = shards[0].given_weight();
        if let Some(other) = shards.iter().find(|shard| shard.given_weight() != weight) {
            return Err(ConfigError::UnequalWeights {
                shard: other.id().clone(),
            });
        }
        let mut owners = [NOBODY; COUNT];
        for (owner, dealt) in owners.iter_mut().zip((0..shards.len() as u16).cycle()) {
            *owner = dealt;
        }
        Ok(Self::from_parts(1, shards, owners))
    }

    /// An assignment that was made earlier and kept.
    ///
    /// # Errors
    /// As for [`Topology::slots`]; and a slot that nobody owns, that two own, or whose owner is
    /// not among the shards.
    pub fn assigned<I, R>(epoch: u64, shards: I, ranges: R) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item: Into<Shard>>,
        R: IntoIterator<Item = (SlotRange, ShardId)>,
    {
        let shards = checked(shards)?;
        let mut owners = [NOBODY; COUNT];
        for (range, id) in ranges {
            let place = place(&shards, id.as_str())?;
            for slot in range.slots() {
                let owner = &mut owners[slot.index()];
                if *owner != NOBODY {
                    let owner = shards[usize::from(*owner)].id().clone();
                    return Err(ConfigError::Overlap {
                        slot,
                        owner,
                        other: id,
                    });
                }
                *owner = place;
            }
        }
        match owners.iter().position(|&owner| owner == NOBODY) {
            Some(gap) => Err(ConfigError::Gap {
                slot: Slot::from_index(gap),
            }),
            None => Ok(Self::from_parts(epoch, shards, owners)),
        }
    }

    /// Of shards that were checked, and an owner among them for each slot.
    pub(crate) fn from_parts(epoch: u64, shards: Arc<[Shard]>, owners: [u16; COUNT]) -> Self {
        Self {
            epoch,
            index: Index::new(&shards, &owners),
            shards,
            owners: Arc::new(owners),
            readers: None,
        }
    }

    /// The same assignment at a later epoch.
    ///
    /// # Errors
    /// [`ConfigError::StaleEpoch`] unless it is later.
    pub fn at_epoch(mut self, epoch: u64) -> Result<Self, ConfigError> {
        if epoch <= self.epoch {
            return Err(ConfigError::StaleEpoch {
                current: self.epoch,
                given: epoch,
            });
        }
        self.epoch = epoch;
        Ok(self)
    }

    /// The same assignment, whatever its epoch was.
    pub(crate) fn numbered(mut self, epoch: u64) -> Self {
        self.epoch = epoch;
        self
    }

    /// The same assignment, of the same shards with other replicas.
    pub(crate) fn relisted(&self, shards: Arc<[Shard]>) -> Self {
        Self {
            shards,
            ..self.clone()
        }
    }

    /// With one shard more. Slots move to it, from those furthest above their share, and between
    /// no others: from 50 shards of equal weight to 51 it is 321.
    ///
    /// # Errors
    /// As for [`Topology::slots`], of the shards there are then.
    pub fn with_shard(&self, shard: impl Into<Shard>) -> Result<Self, ConfigError> {
        let shard = shard.into();
        let id = shard.id().clone();
        let shards = checked(self.shards.iter().cloned().chain([shard]))?;
        let new = place(&shards, id.as_str())?;
        let mut owners = *self.owners;
        for owner in owners.iter_mut().filter(|owner| **owner >= new) {
            *owner += 1;
        }
        self.resettled(shards, owners, |shares, held| {
            balance::targets_around(shares, held, usize::from(new))
        })
    }

    /// Without this shard. Its slots go to those furthest below their share; no other slot moves.
    ///
    /// # Errors
    /// [`ConfigError::UnknownShard`], or [`ConfigError::NoShards`] when it is the last.
    pub fn without_shard(&self, id: impl AsRef<str>) -> Result<Self, ConfigError> {
        let gone = place(&self.shards, id.as_ref())?;
        let rest = self
            .shards
            .iter()
            .filter(|shard| *shard.id() != *id.as_ref());
        let shards = checked(rest.cloned())?;
        let mut owners = *self.owners;
        for owner in &mut owners {
            *owner = match *owner {
                stays if stays < gone => stays,
                after if after > gone => after - 1,
                _ => NOBODY,
            };
        }
        self.resettled(shards, owners, balance::targets_without)
    }

    /// With the shard of the same name described anew: another weight, another primary after a
    /// failover, other replicas. Slots move only if the weight changed, to it or from it.
    ///
    /// # Errors
    /// [`ConfigError::UnknownShard`], and as for [`Topology::slots`].
    pub fn with_shard_replaced(&self, shard: Shard) -> Result<Self, ConfigError> {
        let changed = usize::from(place(&self.shards, shard.id().as_str())?);
        let reweighted = self.shards[changed].given_weight() != shard.given_weight();
        let mut shards = self.shards.to_vec();
        shards[changed] = shard;
        self.resettled(checked(shards)?, *self.owners, |shares, held| {
            if reweighted {
                balance::targets_around(shares, held, changed)
            } else {
                held.to_vec()
            }
        })
    }

    /// With every share met within one slot again, by the fewest moves.
    ///
    /// A step that adds or removes a shard touches the slots of no other two. With unequal
    /// weights, many such steps can leave a shard a little more than one slot off.
    ///
    /// # Errors
    /// [`ConfigError::LastEpoch`].
    pub fn rebalanced(&self) -> Result<Self, ConfigError> {
        self.resettled(Arc::clone(&self.shards), *self.owners, balance::targets)
    }

    fn resettled(
        &self,
        shards: Arc<[Shard]>,
        mut owners: [u16; COUNT],
        targets: impl FnOnce(&Shares, &[u32]) -> Vec<u32>,
    ) -> Result<Self, ConfigError> {
        let epoch = self.epoch.checked_add(1).ok_or(ConfigError::LastEpoch)?;
        let targets = targets(&shares(&shards), &balance::held(&owners, shards.len()));
        balance::settle(&mut owners, &targets);
        Ok(Self::from_parts(epoch, shards, owners))
    }

    /// The moves that lead from `old` to this assignment: exactly the slots whose owner differs.
    ///
    /// The plan leads to this topology's epoch, or to the one after `old` where this one is not
    /// newer: going back to an earlier assignment is a new epoch too.
    #[must_use]
    pub fn plan_from(&self, old: &Topology) -> Plan {
        Plan::between(old, self)
    }

    /// Its epoch. Of two topologies of one cluster the one with the greater epoch is in force.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Its shards, in the order of their names.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// The shard of this name.
    #[must_use]
    pub fn shard(&self, id: &str) -> Option<&Shard> {
        place(&self.shards, id)
            .ok()
            .map(|place| &self.shards[usize::from(place)])
    }

    /// All endpoints of all shards.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        self.shards.iter().flat_map(Shard::endpoints)
    }

    /// The shard that owns a slot.
    #[inline]
    #[must_use]
    pub fn owner(&self, slot: Slot) -> &ShardId {
        self.index.name(slot)
    }

    /// The shard on which a key lies.
    #[inline]
    #[must_use]
    pub fn shard_of<'k>(&self, key: impl Into<Key<'k>>) -> &ShardId {
        self.owner(key.into().slot())
    }

    /// The slots that a shard owns, in order; none where there is no such shard.
    #[must_use]
    pub fn slots_of(&self, id: &str) -> Vec<Slot> {
        let Ok(place) = place(&self.shards, id) else {
            return Vec::new();
        };
        Slot::all()
            .filter(|slot| self.owners[slot.index()] == place)
            .collect()
    }

    /// How many slots each shard owns, in the order of their names.
    pub fn slot_counts(&self) -> impl Iterator<Item = (&ShardId, u32)> {
        let held = balance::held(&self.owners, self.shards.len());
        self.shards.iter().map(Shard::id).zip(held)
    }

    /// Where the owner of a slot stands among the shards.
    #[inline]
    pub(crate) fn place_of(&self, slot: Slot) -> usize {
        self.index.place(slot)
    }

    /// Where the shard stands that serves reads of a slot which need nothing new.
    #[inline]
    pub(crate) fn reader_of(&self, slot: Slot) -> usize {
        match &self.readers {
            None => self.place_of(slot),
            Some(readers) => usize::from(readers[slot.index()]),
        }
    }
}

impl PartialEq for Topology {
    fn eq(&self, other: &Self) -> bool {
        // The index follows from the rest.
        (self.epoch, &self.shards, &self.owners, &self.readers)
            == (other.epoch, &other.shards, &other.owners, &other.readers)
    }
}

impl fmt::Debug for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots: Vec<_> = self.slot_counts().collect();
        f.debug_struct("Topology")
            .field("epoch", &self.epoch)
            .field("slots", &slots)
            .finish()
    }
}

fn shares(shards: &[Shard]) -> Shares {
    Shares::new(shards.iter().map(Shard::given_weight))
}

/// Where a shard stands among those in the order of their names.
pub(crate) fn place(shards: &[Shard], id: &str) -> Result<u16, ConfigError> {
    shards
        .binary_search_by(|shard| shard.id().as_str().cmp(id))
        .map(|place| place as u16)
        .map_err(|_| ConfigError::UnknownShard { shard: id.into() })
}
