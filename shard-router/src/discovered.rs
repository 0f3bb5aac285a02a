//! Replicas that come and go while a topology stays.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{ConfigError, Shard, ShardId, Topology};

/// A replica that was found at run time, instead of being listed in a topology: see
/// [`TopologyHandle::set_replicas`](crate::TopologyHandle::set_replicas).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Discovered {
    shard: ShardId,
    address: Arc<str>,
    zone: Option<Arc<str>>,
}

impl Discovered {
    /// A replica of this shard at this address.
    ///
    /// # Errors
    /// [`ConfigError::NoAddress`] when the address is empty.
    pub fn new(
        shard: impl Into<ShardId>,
        address: impl Into<Arc<str>>,
    ) -> Result<Self, ConfigError> {
        let (shard, address) = (shard.into(), address.into());
        if address.is_empty() {
            return Err(ConfigError::NoAddress { shard });
        }
        Ok(Self {
            shard,
            address,
            zone: None,
        })
    }

    /// In this zone, by which a router may prefer it.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }
}

/// All that were found, in the order in which their shards list them.
#[derive(Debug)]
pub(crate) struct Found(BTreeMap<ShardId, BTreeMap<Arc<str>, Option<Arc<str>>>>);

impl Found {
    /// Of one address that was found twice in a shard the last counts.
    ///
    /// # Errors
    /// When a shard has more than can be numbered.
    pub(crate) fn new(replicas: impl IntoIterator<Item = Discovered>) -> Result<Self, ConfigError> {
        let mut found = BTreeMap::<ShardId, BTreeMap<_, _>>::new();
        for replica in replicas {
            let of = found.entry(replica.shard).or_default();
            of.insert(replica.address, replica.zone);
        }
        let many = found
            .iter()
            .find(|(_, of)| of.len() > usize::from(u16::MAX));
        match many {
            Some((shard, of)) => Err(ConfigError::TooManyReplicas {
                shard: shard.clone(),
                given: of.len(),
            }),
            None => Ok(Self(found)),
        }
    }

    /// The topology with these replicas instead of those that it lists. One at the address of a
    /// primary was promoted, or is about to be told that it no longer is one: it serves no reads
    /// beside the writes.
    pub(crate) fn in_place(&self, topology: &Topology) -> Topology {
        let listed = |shard: &Shard| {
            let (primary, _) = shard.addresses();
            let found = self.0.get(shard.id()).into_iter().flatten();
            let found = found.filter(|(address, _)| ***address != *primary);
            found.fold(shard.alone(), |shard, (address, zone)| match zone {
                Some(zone) => shard.replica_in(Arc::clone(zone), Arc::clone(address)),
                None => shard.replica(Arc::clone(address)),
            })
        };
        topology.relisted(topology.shards().iter().map(listed).collect())
    }
}
