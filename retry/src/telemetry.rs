//! Every event and counter of this crate. Without the features nothing is compiled in.
//!
//! Metrics: `seawall_retry_retries_total`, `seawall_retry_hedges_total`, and `seawall_retry_stopped_total` with the label `reason`
//! (the words of [`Stopped::as_str`](crate::Stopped::as_str), a bounded set). Each attempt runs in a span `attempt` with its
//! `number`, so that what the service itself tells says which attempt it was.

use std::time::Duration;

#[cfg(feature = "tracing")]
use crate::rarely::Rarely;
use crate::{BoxError, Stopped};

/// The span of an attempt.
#[derive(Debug)]
pub(crate) struct Span(#[cfg(feature = "tracing")] Rarely<tracing::Span>);

impl Span {
    #[inline]
    pub(crate) const fn none() -> Self {
        Self(
            #[cfg(feature = "tracing")]
            Rarely::none(),
        )
    }

    #[inline]
    pub(crate) fn attempt(number: u32) -> Self {
        #[cfg(feature = "tracing")]
        if is_heard() {
            return heard(number);
        }
        let _ = number;
        Self::none()
    }

    #[inline]
    pub(crate) fn within<T>(&self, run: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        let _entered = self.0.get().map(tracing::Span::enter);
        run()
    }
}

/// Whether anybody listens to anything as fine as a span of an attempt. The macro asks that too, but makes a span of
/// 40 bytes, that is entered twice, of what it is not to make.
#[cfg(feature = "tracing")]
#[inline]
fn is_heard() -> bool {
    use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
    LevelFilter::DEBUG <= STATIC_MAX_LEVEL && LevelFilter::DEBUG <= LevelFilter::current()
}

#[cfg(feature = "tracing")]
#[inline(never)]
fn heard(number: u32) -> Span {
    let mut span = Rarely::none();
    span.get_or_insert_with(|| tracing::debug_span!("attempt", number));
    Span(span)
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
