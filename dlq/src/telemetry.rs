//! Every event and counter of this crate. Without the features nothing is compiled in.
//!
//! Metrics: `seawall_dlq_letters_total` with the label `written` (`new`, `repeat`, `failed`),
//! `seawall_dlq_redriven_total`, and the gauge `seawall_dlq_depth`.

use crate::{LetterId, SinkError, Written};

/// A letter was written, or not.
pub(crate) fn written(id: LetterId, class: &str, result: &Result<Written, SinkError>) {
    #[cfg(feature = "tracing")]
    match result {
        Ok(written) => tracing::warn!(%id, class, ?written, "dead-lettered"),
        Err(error) => tracing::error!(%id, class, %error, "dead letter not written"),
    }
    #[cfg(feature = "metrics")]
    {
        let written = match result {
            Ok(Written::New) => "new",
            Ok(Written::Repeat) => "repeat",
            Err(_) => "failed",
        };
        metrics::counter!("seawall_dlq_letters_total", "written" => written).increment(1);
    }
    let _ = (id, class, result);
}

/// A letter was sent again and removed.
pub(crate) fn redriven(id: LetterId) {
    #[cfg(feature = "tracing")]
    tracing::info!(%id, "redriven");
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_dlq_redriven_total").increment(1);
    let _ = id;
}

/// A sink holds so many letters now.
pub(crate) fn depth(letters: usize) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("seawall_dlq_depth").set(letters as f64);
    let _ = letters;
}

/// A file could not be rewritten without its removed letters. It goes on as it is.
#[cfg(all(feature = "file", unix))]
pub(crate) fn not_rewritten(error: &std::io::Error) {
    #[cfg(feature = "tracing")]
    tracing::warn!(%error, "file of letters not rewritten");
    let _ = error;
}
