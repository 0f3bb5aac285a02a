//! Everything for `tracing` and `metrics`. Keys appear as their hash only, and never as a label.

use std::future::Future;

use crate::{
    error::{Error, StoreError},
    key::RecordKey,
};

pub(crate) const EXECUTED: &str = "executed";
pub(crate) const REPLAYED: &str = "replayed";
pub(crate) const UNDONE: &str = "undone";
pub(crate) const SUPERSEDED: &str = "superseded";

/// Runs a call's task in a span of its own, below the caller's.
#[cfg(feature = "tracing")]
pub(crate) fn within<F: Future>(
    key: &RecordKey,
    task: F,
) -> impl Future<Output = F::Output> + use<F> {
    tracing::Instrument::instrument(task, tracing::debug_span!("idempotency", %key))
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn within<F: Future>(_: &RecordKey, task: F) -> F {
    task
}

/// How a call ended: `seawall_idempotency_calls_total{outcome}`.
pub(crate) fn outcome(outcome: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_idempotency_calls_total", "outcome" => outcome).increment(1);
    #[cfg(feature = "tracing")]
    tracing::debug!(outcome);
    #[cfg(not(any(feature = "metrics", feature = "tracing")))]
    let _ = outcome;
}

/// A call was answered without an execution or a replay.
pub(crate) fn refused(key: &RecordKey, error: &Error) {
    outcome(match error {
        Error::InFlight { .. } => "in_flight",
        Error::Abandoned { .. } => "abandoned",
        Error::Mismatch => "mismatch",
        Error::AnswerNotKept { .. } => "answer_not_kept",
        Error::Superseded { .. } => "superseded",
        Error::Panicked { .. } => "panicked",
        Error::NotReady { .. } => "not_ready",
        Error::Record(_) | Error::Answer(_) => "unreadable",
        Error::Store(_) => "store_failed",
        Error::Stopped => "stopped",
    });
    match error {
        Error::Store(error) => store_failed(key, "begin", error),
        Error::Record(error) => unreadable(key, error),
        _ => {}
    }
}

/// A request was refused before its key was claimed. Nothing of it is told but what was wrong with it.
#[cfg(feature = "http")]
pub(crate) fn rejected(problem: &'static str) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_idempotency_rejected_total", "problem" => problem).increment(1);
    #[cfg(feature = "tracing")]
    tracing::info!(problem, "a request was refused");
    let _ = problem;
}

/// A later attempt begins.
pub(crate) fn taken(key: &RecordKey, attempt: u64) {
    #[cfg(feature = "tracing")]
    tracing::info!(%key, attempt, "begins another attempt");
    #[cfg(not(feature = "tracing"))]
    let _ = (key, attempt);
}

/// A claim whose fate was unknown does not stand.
pub(crate) fn settled(key: &RecordKey) {
    #[cfg(feature = "tracing")]
    tracing::debug!(%key, "a claim whose reply was lost is released");
    #[cfg(not(feature = "tracing"))]
    let _ = key;
}

/// A running attempt was taken over.
pub(crate) fn lost(key: &RecordKey, attempt: u64) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_idempotency_claims_lost_total").increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(%key, attempt, "a later attempt took the key while this one ran");
    let _ = (key, attempt);
}

/// A handler panicked.
pub(crate) fn panicked(key: &RecordKey, attempt: u64) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_idempotency_panics_total").increment(1);
    #[cfg(feature = "tracing")]
    tracing::error!(%key, attempt, "the handler panicked");
    let _ = (key, attempt);
}

/// The store failed during `what`: `seawall_idempotency_store_failures_total{during}`.
pub(crate) fn store_failed(key: &RecordKey, what: &'static str, error: &StoreError) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_idempotency_store_failures_total", "during" => what).increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(
        %key, during = what, %error,
        cause = std::error::Error::source(error).map(tracing::field::display),
        "the store failed"
    );
    let _ = (key, what, error);
}

/// An answer is remembered without its content.
pub(crate) fn not_sealed(key: &RecordKey, error: &crate::error::BoxError) {
    #[cfg(feature = "tracing")]
    tracing::error!(%key, %error, "an answer cannot be sealed and is not kept");
    let _ = (key, error);
}

/// Somebody changed a record by hand: `seawall_idempotency_by_hand_total{what}`.
pub(crate) fn by_hand(key: &RecordKey, what: &'static str, attempt: u64) {
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_idempotency_by_hand_total", "what" => what).increment(1);
    #[cfg(feature = "tracing")]
    tracing::warn!(%key, attempt, what, "a record was changed by hand");
    let _ = (key, what, attempt);
}

/// A value that is left as it is.
fn unreadable(key: &RecordKey, error: &crate::error::RecordError) {
    #[cfg(feature = "tracing")]
    tracing::error!(%key, %error, "what lies under the key is left as it is");
    let _ = (key, error);
}
