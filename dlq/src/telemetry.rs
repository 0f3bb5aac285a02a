//! Every event and counter of this crate. Without the features nothing is compiled in.
//!
//! Metrics: `seawall_dlq_letters_total` with the label `written` (`new`, `repeat`, `failed`),
//! `seawall_dlq_redriven_total`, `seawall_dlq_not_redriven_total`, the gauges `seawall_dlq_depth`, `seawall_dlq_oldest_seconds` and
//! `seawall_dlq_alert` (1 while raised), and of the consumer `seawall_dlq_messages_total` with the label
//! `ended` (`done`, `dead`, `parked`, `failed`), `seawall_dlq_suspects_total`,
//! `seawall_dlq_condemned_total`, `seawall_dlq_set_aside_total` and `seawall_dlq_delayed_back_total`; of batches the histogram
//! `seawall_dlq_batch_messages` and `seawall_dlq_batch_split_total`; of a flood guard `seawall_dlq_flooded_total`. No label is made of a key, an id, a stream or an error.
//!
//! Spans: each message is handled in `message`, with its stream, its id and how often it was parked; keys and payloads are in none.

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

/// A letter could not be sent again. It is where it was.
pub(crate) fn not_redriven(id: LetterId, error: &crate::BoxError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(%id, %error, "not redriven");
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_dlq_not_redriven_total").increment(1);
    let _ = (id, error);
}

/// What lies in a queue cannot be read. It is where it was.
pub(crate) fn unreadable(error: &SinkError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(%error, "letter cannot be read");
    let _ = error;
}

/// A flood guard refused a letter.
pub(crate) fn flooded(retry_in: std::time::Duration) {
    #[cfg(feature = "tracing")]
    tracing::warn!(?retry_in, "a flood of dead letters: one was refused");
    #[cfg(feature = "metrics")]
    metrics::counter!("seawall_dlq_flooded_total").increment(1);
    let _ = retry_in;
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

/// A monitor has looked at a queue.
pub(crate) fn watched(depth: &crate::Depth, oldest_age: std::time::Duration) {
    #[cfg(feature = "metrics")]
    {
        metrics::gauge!("seawall_dlq_depth").set(depth.letters as f64);
        metrics::gauge!("seawall_dlq_oldest_seconds").set(oldest_age.as_secs_f64());
    }
    let _ = (depth, oldest_age);
}

/// A monitor could not look.
pub(crate) fn not_watched(error: &SinkError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(%error, "dead letters cannot be counted");
    let _ = error;
}

/// An alert was raised or cleared.
pub(crate) fn alert(alert: &crate::Alert) {
    let raised = matches!(alert, crate::Alert::Raised(_));
    #[cfg(feature = "tracing")]
    match alert {
        crate::Alert::Raised(depth) => {
            tracing::error!(letters = depth.letters, "too many dead letters");
        }
        crate::Alert::Cleared(depth) => {
            tracing::info!(letters = depth.letters, "few dead letters again");
        }
    }
    #[cfg(feature = "metrics")]
    metrics::gauge!("seawall_dlq_alert").set(f64::from(u8::from(raised)));
    let _ = raised;
}

#[cfg(any(feature = "redis", feature = "kafka"))]
pub(crate) use consumer::*;

#[cfg(any(feature = "redis", feature = "kafka"))]
mod consumer {
    use crate::{BoxError, Message};

    /// The span of a message.
    #[derive(Debug)]
    pub(crate) struct Span(#[cfg(feature = "tracing")] tracing::Span);

    impl Span {
        pub(crate) fn of(message: &Message) -> Self {
            let (stream, id, parked) = (&*message.stream, &*message.id, message.parked);
            let _ = (stream, id, parked);
            Self(
                #[cfg(feature = "tracing")]
                tracing::info_span!("message", stream, id, parked),
            )
        }

        /// The work in this span, each time it is polled.
        pub(crate) fn around<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
            #[cfg(feature = "tracing")]
            let work = tracing::Instrument::instrument(work, self.0);
            work
        }
    }

    /// A message was handled: `done`, `dead`, `parked` or `failed`.
    pub(crate) fn ended(id: &str, how: &'static str, error: Option<&BoxError>) {
        #[cfg(feature = "tracing")]
        if let Some(error) = error {
            tracing::warn!(id, how, %error, "message not acknowledged");
        }
        #[cfg(feature = "metrics")]
        metrics::counter!("seawall_dlq_messages_total", "ended" => how).increment(1);
        let _ = (id, how, error);
    }

    /// Messages of a worker that is gone were taken over.
    pub(crate) fn suspects(ids: &[std::sync::Arc<str>]) {
        #[cfg(feature = "tracing")]
        tracing::warn!(
            messages = ids.len(),
            "taken over from a worker that is gone"
        );
        #[cfg(feature = "metrics")]
        metrics::counter!("seawall_dlq_suspects_total").increment(ids.len() as u64);
        let _ = ids;
    }

    /// A message has ended its worker as often as it may.
    pub(crate) fn condemned(id: &str, starts: u32) {
        #[cfg(feature = "tracing")]
        tracing::error!(id, starts, "message kills its worker");
        #[cfg(feature = "metrics")]
        metrics::counter!("seawall_dlq_condemned_total").increment(1);
        let _ = (id, starts);
    }

    /// Delayed messages are due, and back.
    pub(crate) fn back(messages: u64) {
        #[cfg(feature = "metrics")]
        metrics::counter!("seawall_dlq_delayed_back_total").increment(messages);
        let _ = messages;
    }

    /// Messages were set aside behind one of their key.
    #[cfg(feature = "redis")]
    pub(crate) fn set_aside(messages: usize) {
        #[cfg(feature = "metrics")]
        metrics::counter!("seawall_dlq_set_aside_total").increment(messages as u64);
        let _ = messages;
    }

    /// So many messages are handled together.
    pub(crate) fn batch(messages: usize) {
        #[cfg(feature = "metrics")]
        metrics::histogram!("seawall_dlq_batch_messages").record(messages as f64);
        let _ = messages;
    }

    /// A batch failed as a whole, with a panic if there is no error: its messages are handled again one by one.
    pub(crate) fn batch_split(messages: usize, error: Option<&BoxError>) {
        #[cfg(feature = "tracing")]
        match error {
            Some(error) => tracing::warn!(messages, %error, "batch failed as a whole"),
            None => tracing::warn!(messages, "batch panicked"),
        }
        #[cfg(feature = "metrics")]
        metrics::counter!("seawall_dlq_batch_split_total").increment(messages as u64);
        let _ = (messages, error);
    }

    /// The server failed. It is asked again.
    pub(crate) fn unreachable(what: &'static str, error: &dyn std::fmt::Display) {
        #[cfg(feature = "tracing")]
        tracing::warn!(what, %error, "the source of messages failed");
        let _ = (what, error);
    }
}
