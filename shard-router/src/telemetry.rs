//! What the router tells the `metrics` and `tracing` crates. Without those features: nothing, at
//! no cost.
//!
//! Labels are names of shards, which whoever operates them chose, and fixed words; never a key.

use std::time::Duration;

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
    #[cfg(feature = "metrics")]
    seconds: Histogram,
    #[cfg(feature = "metrics")]
    ejections: Counter,
    #[cfg(feature = "metrics")]
    ejected: metrics::Gauge,
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
struct Histogram(metrics::Histogram);

#[cfg(feature = "metrics")]
impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Histogram")
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
            seconds: Histogram(metrics::histogram!(
                "seawall_shard_router_call_seconds", "shard" => shard(), "role" => role)),
            ejections: Counter(metrics::counter!(
                "seawall_shard_router_ejections_total", "shard" => shard(), "role" => role)),
            ejected: metrics::gauge!(
                "seawall_shard_router_ejected", "shard" => shard(), "role" => role),
        }
    }

    /// Whether it wants to know how long calls take.
    pub(crate) fn measures(&self) -> bool {
        true
    }

    pub(crate) fn started(&self) {
        self.in_flight.increment(1.0);
    }

    pub(crate) fn ended(&self, outcome: Outcome, took: Option<Duration>) {
        self.in_flight.decrement(1.0);
        self.ended[outcome as usize].0.increment(1);
        if let Some(took) = took {
            self.seconds.0.record(took.as_secs_f64());
        }
    }

    /// The endpoint was ejected, or is back.
    pub(crate) fn ejected(&self, is_out: bool) {
        if is_out {
            self.ejections.0.increment(1);
        }
        self.ejected.increment(if is_out { 1.0 } else { -1.0 });
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

    pub(crate) fn measures(&self) -> bool {
        false
    }

    pub(crate) fn ended(&self, _: Outcome, _: Option<Duration>) {}

    pub(crate) fn ejected(&self, _: bool) {}

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

/// An endpoint was ejected, or is back.
pub(crate) fn ejected(endpoint: &Endpoint, is_out: bool) {
    #[cfg(feature = "tracing")]
    if is_out {
        tracing::warn!(%endpoint, "ejected: it fails");
    } else {
        tracing::info!(%endpoint, "is back");
    }
    let _ = (endpoint, is_out);
}

/// A replica is so far behind its primary, as they were last reported.
pub(crate) fn lag(endpoint: &Endpoint, behind: u64) {
    #[cfg(feature = "metrics")]
    if let crate::Role::Replica(number) = endpoint.role() {
        metrics::gauge!(
            "seawall_shard_router_lag",
            "shard" => endpoint.shard().as_str().to_owned(), "replica" => number.to_string())
        .set(behind as f64);
    }
    let _ = (endpoint, behind);
}

/// A shard spoke of a newer topology, which could not be had.
pub(crate) fn not_refreshed(error: &crate::RefreshError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(error = error as &dyn std::error::Error, "no newer topology");
    let _ = error;
}

/// A key has become hot. Its hash is in no label: there are as many as keys.
#[cold]
pub(crate) fn kindled(hash: u64) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_shard_router_hot_keys_total").increment(1);
    #[cfg(feature = "tracing")]
    tracing::info!(hash, "a key has become hot");
    let _ = hash;
}

/// A step of a move of slots has ended.
pub(crate) fn moved(stage: crate::Stage, step: &crate::Step<'_>, outcome: crate::Outcome) {
    #[cfg(feature = "tracing")]
    tracing::info!(?stage, ?outcome, "{step}");
    let _ = (stage, step, outcome);
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
