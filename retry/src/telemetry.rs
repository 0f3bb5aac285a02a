//! Every event and counter of this crate. Without the features nothing is compiled in.
//!
//! Metrics: `seawall_retry_retries_total`, `seawall_retry_hedges_total`, and `seawall_retry_stopped_total` with the label `reason`
//! (the words of [`Stopped::as_str`](crate::Stopped::as_str), a bounded set). Each attempt runs in a span `attempt` with its
//! `number`, so that what the service itself tells says which attempt it was.

use std::time::Duration;

use crate::{BoxError, Stopped};

/// The span of an attempt.
#[derive(Debug, Default)]
pub(crate) struct Span(#[cfg(feature = "tracing")] Option<tracing::Span>);

impl Span {
    #[inline]
    pub(crate) fn attempt(number: u32) -> Self {
        let _ = number;
        Self(
            #[cfg(feature = "tracing")]
            Some(tracing::debug_span!("attempt", number)),
        )
    }

    #[inline]
    pub(crate) fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        let _entered = self.0.as_ref().map(tracing::Span::enter);
        run()
    }
}

/// A further attempt will be made after `wait`.
pub(crate) fn retrying(attempts: u32, wait: Duration) {
    #[cfg(feature = "tracing")]
    tracing::debug!(attempts, ?wait, "attempt failed, will retry");
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_retry_retries_total").increment(1);
    let _ = (attempts, wait);
}

/// No further attempt is made, and the outcome of the last was no success: an error, or a response.
pub(crate) fn stopped(attempts: u32, stopped: Stopped, error: Option<&BoxError>) {
    #[cfg(feature = "tracing")]
    match error {
        Some(error) => tracing::warn!(attempts, reason = stopped.as_str(), %error, "gave up"),
        None => tracing::debug!(
            attempts,
            reason = stopped.as_str(),
            "the last response is final"
        ),
    }
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_retry_stopped_total", "reason" => stopped.as_str()).increment(1);
    let _ = (attempts, stopped, error);
}

/// A request is sent a second time while the first attempt runs.
pub(crate) fn hedging() {
    #[cfg(feature = "tracing")]
    tracing::debug!("no answer yet, sends the request once more");
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_retry_hedges_total").increment(1);
}
