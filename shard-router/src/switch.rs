//! The assignments between two: reads have moved, writes have not.

use std::sync::Arc;

use crate::topology::place;
use crate::{ConfigError, Plan, Shard, ShardId, Slot, SlotRange, Topology};

/// While slots move.
impl Topology {
    /// The next epoch, in which the slots of a plan are read where they go and still written where
    /// they are: for when the copies have caught up. Reads by token stay with the writer.
    ///
    /// ```
    /// # use seawall_shard_router::{ConfigError, Topology};
    /// let topology = Topology::slots(["a", "b"])?;
    /// let plan = topology.with_shard("c")?.plan_from(&topology);
    /// let moving = topology.reading_ahead(&plan)?;
    /// let slot = plan.moves()[0].slots().next().expect("something moves");
    /// assert_eq!((moving.owner(slot).as_str(), moving.reader(slot).as_str()), ("a", "c"));
    /// assert_eq!(moving.epoch(), topology.epoch() + 1);
    /// # Ok::<(), ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Topology::apply`], and [`ConfigError::LastEpoch`].
    pub fn reading_ahead(&self, plan: &Plan) -> Result<Self, ConfigError> {
        let after = self.apply(plan)?;
        let mut shards: Vec<Shard> = after.shards().to_vec();
        let leaving = self.shards().iter();
        let leaving = leaving.filter(|shard| after.shard(shard.id().as_str()).is_none());
        shards.extend(leaving.cloned());
        let epoch = self.epoch().checked_add(1).ok_or(ConfigError::LastEpoch)?;
        let owned = Slot::all().map(|slot| (SlotRange::from(slot), self.owner(slot).clone()));
        let between = Self::assigned(epoch, shards, owned)?;
        between.with_reads(
            Slot::all()
                .filter(|slot| self.owner(*slot) != after.owner(*slot))
                .map(|slot| (SlotRange::from(slot), after.owner(slot).clone())),
        )
    }

    /// With plain reads of these slots served by these shards.
    pub(crate) fn with_reads(
        mut self,
        reads: impl IntoIterator<Item = (SlotRange, ShardId)>,
    ) -> Result<Self, ConfigError> {
        let mut readers: Option<Box<[u16]>> = None;
        for (range, shard) in reads {
            let reader = place(self.shards(), shard.as_str())?;
            let readers = readers.get_or_insert_with(|| {
                let owners = Slot::all().map(|slot| self.place_of(slot) as u16);
                owners.collect()
            });
            readers[range.first().index()..=range.last().index()].fill(reader);
        }
        let readers = readers.map(|readers| {
            <Arc<[u16; crate::slot::COUNT]>>::try_from(Arc::<[u16]>::from(readers))
                .expect("there is one for each slot")
        });
        self.readers = readers;
        Ok(self)
    }

    /// The shard whose replicas serve plain reads of a slot: its owner, unless it is moving.
    #[must_use]
    pub fn reader(&self, slot: Slot) -> &ShardId {
        self.shards()[self.reader_of(slot)].id()
    }

    /// The slots whose plain reads are served by another shard than their owner.
    pub fn reads_elsewhere(&self) -> impl Iterator<Item = (Slot, &ShardId)> {
        let moving = self.readers.is_some();
        Slot::all()
            .filter(move |slot| moving && self.reader_of(*slot) != self.place_of(*slot))
            .map(|slot| (slot, self.reader(slot)))
    }
}
