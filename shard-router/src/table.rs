//! A topology together with the lanes of its endpoints: what one request is routed by.

use std::sync::Arc;

use crate::access::{Access, Position};
use crate::bulkhead::Lane;
use crate::{Endpoint, Role, Slot, Topology};

/// One snapshot. A request takes all its decisions by one of them.
#[derive(Debug)]
pub(crate) struct Table<S> {
    topology: Arc<Topology>,
    /// In the order of the topology's shards.
    groups: Vec<Group<S>>,
}

#[derive(Debug)]
struct Group<S> {
    primary: Arc<Lane<S>>,
    replicas: Vec<Arc<Lane<S>>>,
}

impl<S> Table<S> {
    /// `lane` is asked for each endpoint.
    pub(crate) fn new(
        topology: Arc<Topology>,
        mut lane: impl FnMut(&Endpoint) -> Arc<Lane<S>>,
    ) -> Self {
        let group = |shard: &crate::Shard| {
            let mut endpoints = shard.endpoints();
            let primary = endpoints
                .next()
                .expect("a shard's first endpoint is its primary");
            let primary = lane(&primary);
            Group {
                primary,
                replicas: endpoints.map(|replica| lane(&replica)).collect(),
            }
        };
        Self {
            groups: topology.shards().iter().map(group).collect(),
            topology,
        }
    }

    pub(crate) fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Arc<Lane<S>>> {
        self.groups
            .iter()
            .flat_map(|group| std::iter::once(&group.primary).chain(&group.replicas))
    }

    /// The lane that serves this endpoint or one that is served like it.
    pub(crate) fn lane_of(&self, endpoint: &Endpoint) -> Option<&Arc<Lane<S>>> {
        let place = crate::topology::place(self.topology.shards(), endpoint.shard().as_str());
        let group = &self.groups[usize::from(place.ok()?)];
        std::iter::once(&group.primary)
            .chain(&group.replicas)
            .find(|lane| lane.endpoint().is_served_like(endpoint))
    }

    /// Where a request for this slot goes. A write goes to the primary, whatever its state.
    pub(crate) fn pick(
        &self,
        slot: Slot,
        access: Access,
        lag: Option<u64>,
    ) -> (Role, &Arc<Lane<S>>) {
        let group = &self.groups[self.topology.place_of(slot)];
        let at_least = match access {
            Access::Write => return (Role::Primary, &group.primary),
            Access::Read => lag.map_or(Position(0), |lag| {
                Position(group.primary.position().0.saturating_sub(lag))
            }),
            Access::ReadYourWrites(token) => token,
        };
        group
            .replica(at_least)
            .unwrap_or((Role::Primary, &group.primary))
    }
}

impl<S> Group<S> {
    /// Of two replicas picked at random among those that are far enough, the one with less to do.
    fn replica(&self, at_least: Position) -> Option<(Role, &Arc<Lane<S>>)> {
        let fit = || {
            (0..)
                .zip(&self.replicas)
                .filter(|(_, lane)| lane.position() >= at_least)
        };
        // A position may fall between the two passes: then there is one less to find.
        let (number, lane) = match fit().count() {
            0 => None,
            1 => fit().next(),
            several => {
                let one = fastrand::usize(..several);
                let other = (one + fastrand::usize(1..several)) % several;
                let (one, other) = (fit().nth(one), fit().nth(other));
                one.into_iter()
                    .chain(other)
                    .min_by_key(|(_, lane)| lane.load())
            }
        }?;
        Some((Role::Replica(number), lane))
    }
}

/// What an endpoint is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EndpointLoad {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Requests that are at work or being readied there.
    pub in_flight: usize,
    /// Requests that wait for one of those to end.
    pub queued: usize,
    /// How far it has applied the writes of its shard, as it was last reported.
    pub position: Position,
}
