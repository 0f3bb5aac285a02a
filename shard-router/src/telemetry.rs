//! What the router tells the `metrics` and `tracing` crates. Without those features: nothing, at
//! no cost.
//!
//! Labels are names of shards, which whoever operates them chose, and fixed words; never a key.

#[cfg(feature = "metrics")]
use crate::ShardId;
use crate::{Endpoint, RouteError, Topology};

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Ok,
    Error,
    QueueFull,
    FailFast,
    Dropped,
}

/// The metrics of one endpoint. Those of a shard's replicas are one. Made with the lane, so that a
/// request finds them ready.
#[derive(Debug)]
pub(crate) struct EndpointMeter {
    #[cfg(feature = "metrics")]
    in_flight: metrics::Gauge,
    #[cfg(feature = "metrics")]
    queued: metrics::Gauge,
    #[cfg(feature = "metrics")]
    ended: [Counter; OUTCOMES.len()],
}

#[cfg(feature = "metrics")]
const OUTCOMES: [&str; 5] = ["ok", "error", "queue_full", "fail_fast", "dropped"];

#[cfg(feature = "metrics")]
struct Counter(metrics::Counter);

#[cfg(feature = "metrics")]
impl std::fmt::Debug for Counter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

#[cfg(feature = "metrics")]
impl EndpointMeter {
    pub(crate) fn new(endpoint: &Endpoint) -> Self {
        let shard = || endpoint.shard().as_str().to_owned();
        let role = if endpoint.role().is_primary() {
            "primary"
        } else {
            "replica"
        };
        Self {
            in_flight: metrics::gauge!(
                "seawall_shard_router_in_flight", "shard" => shard(), "role" => role),
            queued: metrics::gauge!(
                "seawall_shard_router_queued", "shard" => shard(), "role" => role),
            ended: OUTCOMES.map(|outcome| {
                Counter(metrics::counter!(
                    "seawall_shard_router_requests_total",
                    "shard" => shard(), "role" => role, "outcome" => outcome))
            }),
        }
    }

    pub(crate) fn started(&self) {
        self.in_flight.increment(1.0);
    }

    pub(crate) fn ended(&self, outcome: Outcome) {
        self.in_flight.decrement(1.0);
        self.ended[outcome as usize].0.increment(1);
    }

    pub(crate) fn queued(&self, by: f64) {
        self.queued.increment(by);
    }
}

#[cfg(not(feature = "metrics"))]
impl EndpointMeter {
    pub(crate) fn new(_: &Endpoint) -> Self {
        Self {}
    }

    pub(crate) fn started(&self) {}

    pub(crate) fn ended(&self, _: Outcome) {}

    pub(crate) fn queued(&self, _: f64) {}
}

/// A request that was refused or not taken.
pub(crate) fn refused(error: &RouteError) {
    #[cfg(feature = "metrics")]
    if let RouteError::Overloaded { .. } = error {
        metrics::counter!("seawall_shard_router_overloaded_total").increment(1);
    }
    #[cfg(feature = "tracing")]
    tracing::debug!(shard = error.shard().map(crate::ShardId::as_str), "{error}");
    let _ = error;
}

/// A router routes by this topology; what the one before it listed is gone.
pub(crate) fn topology(new: &Topology, old: Option<&Topology>) {
    #[cfg(feature = "metrics")]
    {
        let slots = |shard: &ShardId| metrics::gauge!("seawall_shard_router_slots", "shard" => shard.as_str().to_owned());
        metrics::gauge!("seawall_shard_router_epoch").set(new.epoch() as f64);
        for gone in old.into_iter().flat_map(Topology::shards) {
            slots(gone.id()).set(0.0);
        }
        for (shard, count) in new.slot_counts() {
            slots(shard).set(f64::from(count));
        }
    }
    let _ = (new, old);
}

/// A router has followed an update: so many services were made, were kept, and drain.
pub(crate) fn followed(topology: &Topology, made: usize, kept: usize, draining: usize) {
    #[cfg(feature = "tracing")]
    tracing::info!(
        epoch = topology.epoch(),
        shards = topology.shards().len(),
        made,
        kept,
        draining,
        "follows a new topology"
    );
    let _ = (topology, made, kept, draining);
}
