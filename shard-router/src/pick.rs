//! Which replica serves a read.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::access::Position;
use crate::health::Entrance;
use crate::lane::Lane;
use crate::{Endpoint, Role, Shard};

/// What replicas are picked by.
#[derive(Clone, Default, Debug)]
pub(crate) struct Preference {
    pub(crate) max_lag: Option<u64>,
    pub(crate) peak_ewma: Option<Duration>,
    pub(crate) zone: Option<Arc<str>>,
}

/// Where a request goes.
#[derive(Debug)]
pub(crate) struct Pick<'a, S> {
    pub(crate) role: Role,
    pub(crate) lane: &'a Arc<Lane<S>>,
    /// By this request it is seen whether the endpoint is back.
    pub(crate) is_probe: bool,
}

/// The endpoints of one shard.
#[derive(Debug)]
pub(crate) struct Group<S> {
    primary: Arc<Lane<S>>,
    replicas: Vec<Replica<S>>,
}

#[derive(Debug)]
struct Replica<S> {
    lane: Arc<Lane<S>>,
    /// In the zone of the router.
    is_near: bool,
}

impl<S> Group<S> {
    pub(crate) fn new(
        shard: &Shard,
        zone: Option<&str>,
        mut lane: impl FnMut(&Endpoint) -> Arc<Lane<S>>,
    ) -> Self {
        let mut endpoints = shard.endpoints();
        let primary = endpoints
            .next()
            .expect("a shard's first endpoint is its primary");
        let primary = lane(&primary);
        let replica = |endpoint: Endpoint| Replica {
            lane: lane(&endpoint),
            is_near: zone.is_some() && endpoint.zone() == zone,
        };
        Self {
            primary,
            replicas: endpoints.map(replica).collect(),
        }
    }

    pub(crate) fn primary(&self) -> &Arc<Lane<S>> {
        &self.primary
    }

    pub(crate) fn lanes(&self) -> impl Iterator<Item = &Arc<Lane<S>>> {
        let replicas = self.replicas.iter().map(|replica| &replica.lane);
        std::iter::once(&self.primary).chain(replicas)
    }

    /// A replica that has applied this position and may be sent a read, if there is one.
    ///
    /// One that was ejected and whose time is over gets this read as its probe. Otherwise it is
    /// the better of two picked at random: first among those in the router's zone, and among all
    /// when there is none, or when that one would have to wait.
    pub(crate) fn replica(
        &self,
        at_least: Position,
        preference: &Preference,
    ) -> Option<Pick<'_, S>> {
        if let Some(probe) = self.probe(at_least) {
            return Some(probe);
        }
        let near = preference
            .zone
            .as_ref()
            .and_then(|_| self.better_of_two(at_least, preference, true));
        match near {
            Some(near) if !near.lane.is_busy() => Some(near),
            near => self.better_of_two(at_least, preference, false).or(near),
        }
    }

    fn probe(&self, at_least: Position) -> Option<Pick<'_, S>> {
        let ejected = self.numbered().filter(|(_, replica)| {
            replica.lane.health().is_ejected() && replica.lane.position() >= at_least
        });
        for (number, replica) in ejected {
            if replica.lane.health().enter() == Entrance::Probe {
                return Some(Pick {
                    role: Role::Replica(number),
                    lane: &replica.lane,
                    is_probe: true,
                });
            }
        }
        None
    }

    fn better_of_two(
        &self,
        at_least: Position,
        preference: &Preference,
        near_only: bool,
    ) -> Option<Pick<'_, S>> {
        let fit = || {
            self.numbered().filter(|(_, replica)| {
                replica.lane.position() >= at_least
                    && !replica.lane.health().is_ejected()
                    && (replica.is_near || !near_only)
            })
        };
        // What fits may change between the passes: then there is one less to find.
        let (number, replica) = match fit().count() {
            0 => None,
            1 => fit().next(),
            several => {
                let one = fastrand::usize(..several);
                let other = (one + fastrand::usize(1..several)) % several;
                let now = preference.peak_ewma.map(|_| Instant::now());
                let cost = |&(_, replica): &(u16, &Replica<S>)| replica.lane.cost(now);
                let two = fit().nth(one).into_iter().chain(fit().nth(other));
                two.min_by(|one, other| cost(one).total_cmp(&cost(other)))
            }
        }?;
        Some(Pick {
            role: Role::Replica(number),
            lane: &replica.lane,
            is_probe: false,
        })
    }

    fn numbered(&self) -> impl Iterator<Item = (u16, &Replica<S>)> {
        (0..).zip(&self.replicas)
    }
}
