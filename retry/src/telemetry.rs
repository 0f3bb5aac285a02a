//! Every event and counter of this crate. Without the features nothing is compiled in.
//!
//! Metrics: `seawall_retry_retries_total`, and `seawall_retry_stopped_total` with the label `reason`
//! (the words of [`Stopped::as_str`](crate::Stopped::as_str), a bounded set).

use std::time::Duration;

use crate::RetryError;

/// A further attempt will be made after `wait`.
pub(crate) fn retrying(attempts: u32, wait: Duration) {
    #[cfg(feature = "tracing")]
    tracing::debug!(attempts, ?wait, "attempt failed, will retry");
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_retry_retries_total").increment(1);
    let _ = (attempts, wait);
}

/// The call failed for good.
pub(crate) fn stopped(error: &RetryError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        attempts = error.attempts,
        elapsed = ?error.elapsed,
        reason = error.stopped.as_str(),
        error = %error.source,
        "gave up"
    );
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_retry_stopped_total", "reason" => error.stopped.as_str())
        .increment(1);
    let _ = error;
}
