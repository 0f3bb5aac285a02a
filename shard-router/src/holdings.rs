//! What a shard holds by its own account: the rules by which no two ever take writes for a slot.

use std::collections::BTreeMap;

use crate::{Refusal, Slot};

/// What a slot is to a shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Holding {
    /// It takes the slot's writes.
    Owned,
    /// It took them, and takes none while they move.
    Frozen,
    /// Another shard takes them.
    Away,
}

/// What each slot is to one shard, and since which epoch.
///
/// Routers are told of a new topology one after the other, so two of them may send the writes of a
/// slot to different shards for a moment. **The shard decides**: it keeps this table durably, with
/// its data, and
/// - looks at it **inside the transaction** of each write, under a lock that changing it takes too;
/// - as the target of a move opens a slot only after the source has **durably** frozen it;
/// - after a promotion or a restart takes no write until what it holds is [confirmed] at the current
///   epoch, by whoever keeps the assignment: as a replica it may have missed that a slot left;
/// - takes no change of an older epoch than the slot's own, so that a message which arrives late
///   opens nothing. Going back is therefore a new epoch.
///
/// [confirmed]: Holdings::confirm
///
/// ```
/// # use seawall_shard_router::{Holding, Holdings, Refusal, Slot};
/// let slot = Slot::new(7).expect("there are 16,384");
/// let (mut source, mut target) = (Holdings::new(1, [slot]), Holdings::new(1, []));
/// source.write(slot)?;
///
/// source.change(slot, Holding::Frozen, 2)?;
/// assert_eq!(source.write(slot), Err(Refusal::Frozen { slot, epoch: 2 }));
/// target.change(slot, Holding::Owned, 2)?;
/// target.write(slot)?;
/// source.change(slot, Holding::Away, 2)?;
/// assert_eq!(source.write(slot), Err(Refusal::Moved { slot, epoch: 2 }));
/// # Ok::<(), Refusal>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Holdings {
    /// The greatest epoch it has heard of.
    epoch: u64,
    is_confirmed: bool,
    /// Slots of which it knows more than that they were away at the first epoch.
    slots: BTreeMap<Slot, (Holding, u64)>,
    first: u64,
}

impl Holdings {
    /// Of a new shard that owns these slots at this epoch.
    #[must_use]
    pub fn new(epoch: u64, owned: impl IntoIterator<Item = Slot>) -> Self {
        let owned = owned
            .into_iter()
            .map(|slot| (slot, (Holding::Owned, epoch)));
        Self {
            epoch,
            is_confirmed: true,
            slots: owned.collect(),
            first: epoch,
        }
    }

    /// What a slot is to this shard, and since which epoch.
    #[must_use]
    pub fn get(&self, slot: Slot) -> (Holding, u64) {
        let known = self.slots.get(&slot);
        known.copied().unwrap_or((Holding::Away, self.first))
    }

    /// The greatest epoch it has heard of.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// May a write of this slot be applied? To be asked inside the write's transaction.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn write(&self, slot: Slot) -> Result<(), Refusal> {
        let (holding, epoch) = self.get(slot);
        match holding {
            _ if !self.is_confirmed => Err(Refusal::Unconfirmed {
                slot,
                epoch: self.epoch,
            }),
            Holding::Owned => Ok(()),
            Holding::Frozen => Err(Refusal::Frozen { slot, epoch }),
            Holding::Away => Err(Refusal::Moved { slot, epoch }),
        }
    }

    /// Makes a slot something else to this shard, by an assignment of this epoch. The same change
    /// once more changes nothing.
    ///
    /// Of one epoch a slot may be frozen and then let go of, or be away and then owned; but what is
    /// frozen is not owned again without a later one. To be made durable before it is acknowledged.
    ///
    /// # Errors
    /// [`Refusal::StaleEpoch`] when the epoch is too old for that.
    pub fn change(&mut self, slot: Slot, to: Holding, epoch: u64) -> Result<(), Refusal> {
        let (is, since) = self.get(slot);
        // At one epoch a slot has one owner, and only that one is ever told to open it.
        let follows =
            to == is || to == Holding::Away || (is, to) == (Holding::Away, Holding::Owned);
        if epoch < since || (epoch == since && !follows) {
            return Err(Refusal::StaleEpoch {
                given: epoch,
                epoch: since,
            });
        }
        self.epoch = self.epoch.max(epoch);
        self.slots.insert(slot, (to, epoch));
        Ok(())
    }

    /// This copy of the shard was promoted, or started again: it takes no write until it is
    /// [confirmed](Holdings::confirm).
    pub fn promoted(&mut self) {
        self.is_confirmed = false;
    }

    /// What it holds at the current epoch, as whoever keeps the assignment and the state of each
    /// move says. From then on it takes writes.
    ///
    /// While a slot moves to this shard or back to it, **what was copied is copied again before
    /// this**, from the other side, which has it until it lets go: the first copy may have been made
    /// on the server that is gone.
    ///
    /// # Errors
    /// [`Refusal::StaleEpoch`] when it has heard of a greater epoch already: ask again.
    pub fn confirm(
        &mut self,
        epoch: u64,
        holds: impl IntoIterator<Item = (Slot, Holding)>,
    ) -> Result<(), Refusal> {
        if epoch < self.epoch {
            return Err(Refusal::StaleEpoch {
                given: epoch,
                epoch: self.epoch,
            });
        }
        let holds = holds.into_iter();
        *self = Self {
            epoch,
            is_confirmed: true,
            slots: holds.map(|(slot, is)| (slot, (is, epoch))).collect(),
            first: epoch,
        };
        Ok(())
    }
}
