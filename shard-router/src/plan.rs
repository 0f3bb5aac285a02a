//! What moves between two assignments, as a value.

use std::collections::BTreeMap;
use std::fmt;

use crate::balance::NOBODY;
use crate::slot::{self, COUNT};
use crate::topology::place;
use crate::validate::checked;
use crate::{ConfigError, Shard, ShardId, Slot, SlotRange, Topology};

/// The slots that change hands between two assignments: something to read, to store, and to apply
/// to exactly the epoch it was made for.
///
/// ```
/// # use seawall_shard_router::{ConfigError, Topology};
/// let topology = Topology::slots(["a", "b", "c"])?;
/// let plan = topology.with_shard("d")?.plan_from(&topology);
/// assert_eq!(plan.slot_count(), 4_096);
/// assert_eq!(plan.to_string(), "\
/// epoch 1 to 2: 4096 of 16384 slots move
/// from  to  count  slots
/// a     d    1366  4096-5461
/// b     d    1365  9558-10922
/// c     d    1365  15019-16383
/// ");
///
/// let grown = topology.apply(&plan)?;
/// assert!(matches!(grown.apply(&plan), Err(ConfigError::PlanEpoch { plan: 1, topology: 2 })));
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Plan {
    from_epoch: u64,
    to_epoch: u64,
    /// The shards there are afterwards.
    shards: Vec<Shard>,
    moves: Vec<Move>,
}

/// The slots that move from one shard to another.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Move {
    from: ShardId,
    to: ShardId,
    slots: Vec<SlotRange>,
}

impl Move {
    /// Who gives them up.
    #[must_use]
    pub fn from(&self) -> &ShardId {
        &self.from
    }

    /// Who gets them.
    #[must_use]
    pub fn to(&self) -> &ShardId {
        &self.to
    }

    /// The slots, as the fewest ranges in ascending order.
    #[must_use]
    pub fn ranges(&self) -> &[SlotRange] {
        &self.slots
    }

    /// The slots, one by one.
    pub fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.slots.iter().flat_map(|range| range.slots())
    }

    /// How many they are.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.slots.iter().map(|range| range.len()).sum()
    }
}

impl Plan {
    pub(crate) fn between(old: &Topology, new: &Topology) -> Self {
        // Where each of the old shards stands among the new.
        let stands: Vec<Option<usize>> = old
            .shards()
            .iter()
            .map(|shard| {
                place(new.shards(), shard.id().as_str())
                    .ok()
                    .map(usize::from)
            })
            .collect();
        let mut moved: BTreeMap<(usize, usize), Vec<Slot>> = BTreeMap::new();
        for slot in Slot::all() {
            let (from, to) = (old.place_of(slot), new.place_of(slot));
            if stands[from] != Some(to) {
                moved.entry((from, to)).or_default().push(slot);
            }
        }
        let moves = moved.into_iter().map(|((from, to), slots)| Move {
            from: old.shards()[from].id().clone(),
            to: new.shards()[to].id().clone(),
            slots: slot::ranges(slots),
        });
        Self {
            from_epoch: old.epoch(),
            to_epoch: new.epoch().max(old.epoch().saturating_add(1)),
            moves: moves.collect(),
            shards: new.shards().to_vec(),
        }
    }

    /// The epoch it can be applied to.
    #[must_use]
    pub fn from_epoch(&self) -> u64 {
        self.from_epoch
    }

    /// The epoch it leads to.
    #[must_use]
    pub fn to_epoch(&self) -> u64 {
        self.to_epoch
    }

    /// The shards there are afterwards.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// What moves, in the order of the names of the shards that give and get.
    #[must_use]
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// How many slots move.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.moves.iter().map(Move::slot_count).sum()
    }

    /// Whether no slot moves. Shards or their endpoints may differ all the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }
}

impl Topology {
    /// The assignment to which a plan leads from this one.
    ///
    /// # Errors
    /// [`ConfigError::PlanEpoch`] when it was made for another epoch. The plan may come from a
    /// file, so it is not believed otherwise either: [`ConfigError::PlanOwner`] when a slot is not
    /// where the plan takes it from, [`ConfigError::UnknownShard`] when a slot would end up on a
    /// shard that the plan does not list, [`ConfigError::StaleEpoch`] when it leads back, and as
    /// for [`Topology::slots`].
    pub fn apply(&self, plan: &Plan) -> Result<Topology, ConfigError> {
        if plan.from_epoch != self.epoch() {
            let (plan, topology) = (plan.from_epoch, self.epoch());
            return Err(ConfigError::PlanEpoch { plan, topology });
        }
        if plan.to_epoch <= self.epoch() {
            let (current, given) = (self.epoch(), plan.to_epoch);
            return Err(ConfigError::StaleEpoch { current, given });
        }
        let shards = checked(plan.shards.iter().cloned())?;
        let mut owners = [NOBODY; COUNT];
        for a_move in &plan.moves {
            let to = place(&shards, a_move.to.as_str())?;
            for slot in a_move.slots() {
                let owner = match owners[slot.index()] {
                    NOBODY => self.owner(slot),
                    moved => shards[usize::from(moved)].id(),
                };
                if *owner != a_move.from {
                    let (plan, owner) = (a_move.from.clone(), owner.clone());
                    return Err(ConfigError::PlanOwner { slot, plan, owner });
                }
                owners[slot.index()] = to;
            }
        }
        // What does not move stays with its owner, which must still be there.
        let old = self.shards().iter();
        let stands: Vec<_> = old
            .map(|shard| place(&shards, shard.id().as_str()))
            .collect();
        for slot in Slot::all() {
            if owners[slot.index()] == NOBODY {
                owners[slot.index()] = stands[self.place_of(slot)].clone()?;
            }
        }
        Ok(Topology::from_parts(plan.to_epoch, shards, owners))
    }
}

/// A table: who gives, who gets, how many, and which.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            from_epoch,
            to_epoch,
            ..
        } = self;
        let (moved, all) = (self.slot_count(), crate::SLOTS);
        writeln!(
            f,
            "epoch {from_epoch} to {to_epoch}: {moved} of {all} slots move"
        )?;
        if self.is_empty() {
            return Ok(());
        }
        let width = |name: fn(&Move) -> &ShardId, head: &str| {
            let names = self.moves.iter().map(|m| name(m).as_str().chars().count());
            names.max().unwrap_or(0).max(head.len())
        };
        let (from, to) = (width(Move::from, "from"), width(Move::to, "to"));
        writeln!(f, "{:from$}  {:to$}  count  slots", "from", "to")?;
        for a_move in &self.moves {
            let (giver, getter, count) = (a_move.from(), a_move.to(), a_move.slot_count());
            write!(f, "{giver:from$}  {getter:to$}  {count:>5}  ")?;
            for (place, range) in a_move.ranges().iter().enumerate() {
                write!(f, "{}{range}", if place == 0 { "" } else { "," })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
