//! What is told to `tracing` and `metrics`; nothing at all without these features.

use crate::breaker::BreakerState;
use crate::error::Error;

/// A breaker went from one state to another.
pub(crate) fn breaker_changed(from: BreakerState, to: BreakerState) {
    #[cfg(feature = "tracing")]
    match to {
        BreakerState::Open { retry_in } => tracing::warn!(
            from = from.name(),
            to = to.name(),
            retry_in_ms = u64::try_from(retry_in.as_millis()).unwrap_or(u64::MAX),
            "redis breaker opened"
        ),
        BreakerState::HalfOpen => {
            tracing::debug!(from = from.name(), to = to.name(), "redis breaker probes");
        }
        BreakerState::Closed => {
            tracing::info!(from = from.name(), to = to.name(), "redis breaker closed");
        }
    }
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_redis_breaker_changes_total", "to" => to.name()).increment(1);
    let _ = (from, to);
}

/// A call failed.
pub(crate) fn call_failed(error: &Error) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_redis_failures_total", "reason" => match error {
        Error::Deadline(_) => "deadline",
        Error::Open { .. } => "open",
        Error::Redis(_) if error.is_outage() => "outage",
        Error::Redis(_) => "refused",
    })
    .increment(1);
    let _ = error;
}
