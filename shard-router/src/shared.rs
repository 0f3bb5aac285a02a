//! What all clones of a router share, and how it follows its topology.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::bulkhead::Cap;
use crate::handle::Follow;
use crate::health::Quarantine;
use crate::lane::{Lane, Rules};
use crate::pick::Preference;
use crate::table::Table;
use crate::{Bulkhead, Ejection, Endpoint, Topology, TopologyHandle, telemetry};

pub(crate) type Factory<S> = Arc<Mutex<dyn FnMut(&Endpoint) -> S + Send>>;

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) bulkhead: Bulkhead,
    pub(crate) cap: usize,
    pub(crate) preference: Preference,
    pub(crate) ejection: Option<Ejection>,
    /// How many requests may be held while a primary fails over, and for how long.
    pub(crate) hold: Option<(usize, Duration)>,
}

/// What all clones share.
pub(crate) struct Core<S> {
    pub(crate) table: ArcSwap<Table<S>>,
    pub(crate) cap: Arc<Cap>,
    hold: Option<(Arc<Cap>, Duration)>,
    rules: Rules,
    pub(crate) settings: Settings,
    pub(crate) factory: Factory<S>,
    pub(crate) handle: TopologyHandle,
}

impl<S: Send + 'static> Core<S> {
    /// `existing` is asked for a service before one is made.
    pub(crate) fn new(
        handle: TopologyHandle,
        settings: Settings,
        factory: Factory<S>,
        existing: impl Fn(&Endpoint) -> Option<S>,
    ) -> Arc<Self> {
        handle.clone().attach(|topology| {
            let cap = Arc::new(Cap::new(settings.cap));
            let rules = Rules {
                cap: Arc::clone(&cap),
                bulkhead: settings.bulkhead,
                quarantine: Arc::new(Quarantine::new(settings.ejection.clone())),
                peak_ewma: settings.preference.peak_ewma,
            };
            let zone = settings.preference.zone.as_deref();
            let table = Table::new(topology, zone, |endpoint| {
                let service = existing(endpoint).unwrap_or_else(|| make(&factory, endpoint));
                Arc::new(Lane::new(endpoint.clone(), service, &rules))
            });
            telemetry::topology(table.topology(), None);
            rules.quarantine.over(table.lanes().count());
            Self {
                table: ArcSwap::from_pointee(table),
                cap,
                hold: settings
                    .hold
                    .map(|(most, within)| (Arc::new(Cap::new(most)), within)),
                rules,
                settings,
                factory,
                handle,
            }
        })
    }
}

impl<S> Core<S> {
    pub(crate) fn preference(&self) -> &Preference {
        &self.settings.preference
    }

    pub(crate) fn quarantine(&self) -> &Quarantine {
        &self.rules.quarantine
    }

    pub(crate) fn hold(&self) -> Option<(&Arc<Cap>, Duration)> {
        let (cap, within) = self.hold.as_ref()?;
        Some((cap, *within))
    }

    pub(crate) fn handle(&self) -> &TopologyHandle {
        &self.handle
    }

    /// Whether a request may have to be routed more than once.
    #[inline]
    pub(crate) fn needs_way(&self) -> bool {
        self.hold.is_some() || self.handle.refreshes()
    }
}

fn make<S>(factory: &Factory<S>, endpoint: &Endpoint) -> S {
    (factory.lock().unwrap_or_else(PoisonError::into_inner))(endpoint)
}

impl<S: Send + 'static> Follow for Core<S> {
    fn follow(&self, topology: &Arc<Topology>) {
        let old = self.table.load_full();
        let (mut made, mut kept) = (0, 0);
        let zone = self.settings.preference.zone.as_deref();
        let table = Table::new(Arc::clone(topology), zone, |endpoint| {
            match old.lane_of(endpoint) {
                Some(lane) => {
                    kept += 1;
                    Arc::clone(lane)
                }
                None => {
                    made += 1;
                    let service = make(&self.factory, endpoint);
                    Arc::new(Lane::new(endpoint.clone(), service, &self.rules))
                }
            }
        });
        telemetry::topology(topology, Some(old.topology()));
        telemetry::followed(topology, made, kept, old.lanes().count() - kept);
        let gone = old.lanes().filter(|lane| {
            let same = table.lane_of(lane.endpoint());
            same.is_none_or(|same| !Arc::ptr_eq(same, lane))
        });
        gone.for_each(|lane| lane.retire());
        let endpoints = table.lanes().count();
        self.table.store(Arc::new(table));
        self.rules.quarantine.over(endpoints);
    }
}
