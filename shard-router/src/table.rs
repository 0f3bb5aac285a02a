//! A topology together with the lanes of its endpoints: what one request is routed by.

use std::sync::Arc;

use crate::access::{Access, Position};
use crate::health::Entrance;
use crate::lane::Lane;
use crate::pick::{Group, Pick, Preference};
use crate::{Endpoint, Place, Role, RouteError, Topology};

/// One snapshot. A request takes all its decisions by one of them.
#[derive(Debug)]
pub(crate) struct Table<S> {
    topology: Arc<Topology>,
    /// In the order of the topology's shards.
    groups: Vec<Group<S>>,
}

impl<S> Table<S> {
    /// `lane` is asked for each endpoint; `zone` is where the router itself is.
    pub(crate) fn new(
        topology: Arc<Topology>,
        zone: Option<&str>,
        mut lane: impl FnMut(&Endpoint) -> Arc<Lane<S>>,
    ) -> Self {
        let groups = topology.shards().iter();
        Self {
            groups: groups
                .map(|shard| Group::new(shard, zone, &mut lane))
                .collect(),
            topology,
        }
    }

    pub(crate) fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Arc<Lane<S>>> {
        self.groups.iter().flat_map(Group::lanes)
    }

    /// The lane that serves this endpoint or one that is served like it.
    pub(crate) fn lane_of(&self, endpoint: &Endpoint) -> Option<&Arc<Lane<S>>> {
        let mut lanes = self.group_of(endpoint)?.lanes();
        lanes.find(|lane| lane.endpoint().is_served_like(endpoint))
    }

    /// How far the primary of this endpoint's shard is.
    pub(crate) fn primary_position(&self, endpoint: &Endpoint) -> Option<Position> {
        Some(self.group_of(endpoint)?.primary().position())
    }

    fn group_of(&self, endpoint: &Endpoint) -> Option<&Group<S>> {
        let place = crate::topology::place(self.topology.shards(), endpoint.shard().as_str());
        Some(&self.groups[usize::from(place.ok()?)])
    }

    /// Where a request for this place goes. A write goes to the primary and to nobody else.
    ///
    /// # Errors
    /// When there is no such shard, or nobody of it may be sent anything at the moment.
    #[inline]
    pub(crate) fn pick(
        &self,
        place: &Place,
        access: Access,
        preference: &Preference,
    ) -> Result<Pick<'_, S>, RouteError> {
        let number = match place {
            // Until writes have moved too, only reads that need nothing new are served by a
            // slot's next owner.
            Place::Slot(slot) if access == Access::Read => self.topology.reader_of(*slot),
            Place::Slot(slot) => self.topology.place_of(*slot),
            Place::Shard(shard) => {
                let place = crate::topology::place(self.topology.shards(), shard.as_str());
                let unknown = |_| RouteError::UnknownShard {
                    shard: shard.clone(),
                };
                usize::from(place.map_err(unknown)?)
            }
        };
        let group = &self.groups[number];
        let at_least = match access {
            Access::Write => None,
            Access::Read => Some(preference.max_lag.map_or(Position(0), |lag| {
                Position(group.primary().position().0.saturating_sub(lag))
            })),
            Access::ReadYourWrites(token) => Some(token),
        };
        if let Some(pick) = at_least.and_then(|position| group.replica(position, preference)) {
            return Ok(pick);
        }
        let lane = group.primary();
        let is_probe = lane.admit(Role::Primary)? == Entrance::Probe;
        Ok(Pick {
            role: Role::Primary,
            lane,
            is_probe,
        })
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
    /// Whether it is left alone because it fails.
    pub is_ejected: bool,
}
