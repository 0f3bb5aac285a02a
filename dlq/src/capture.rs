//! What the user tells the layer: what to keep of a request, and what to do with a failure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Envelope;

/// Keeps what a letter would need of a request, before the service consumes it. Any closure
/// `|request: &Req|` that gives an [`Envelope`] or an `Option<Envelope>` can.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not capture an envelope from `{Req}`",
    note = "say what a letter keeps of a request: `.capture(|request: &Req| Envelope::new(..))`"
)]
pub trait Capture<Req> {
    /// The envelope, or `None` for a request that must not become a letter: its failures pass through.
    fn capture(&self, request: &Req) -> Option<Envelope>;
}

impl<Req, E, F> Capture<Req> for F
where
    F: Fn(&Req) -> E,
    E: Into<Option<Envelope>>,
{
    fn capture(&self, request: &Req) -> Option<Envelope> {
        self(request).into()
    }
}

/// Stands where [`capture`](crate::DeadLetterLayer::capture) has not been called yet. No requests can
/// be sent through such a layer: it does not compile.
///
/// ```compile_fail,E0277
/// use seawall_dlq::{DeadLetterLayer, MemorySink};
/// use tower::{Layer, Service, service_fn};
///
/// let layer = DeadLetterLayer::new(MemorySink::with_capacity(100));
/// let handler = service_fn(|_: String| std::future::ready(Ok::<(), std::io::Error>(())));
/// layer.layer(handler).call(String::new());
/// ```
#[derive(Debug, Clone, Copy)]
pub struct NoCapture(pub(crate) ());

/// What is to become of a request that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Disposition {
    /// It is dead: write a letter.
    DeadLetter,
    /// It is not dead: give the error to the caller, who does not acknowledge the request.
    Propagate,
    /// It is not dead and should come again after this time: the caller gets a
    /// [`Parked`](crate::Parked), and does not acknowledge the request.
    Park(Duration),
}

/// How a request ended that may be acknowledged.
///
/// It is a value for `serde`, so that a layer further out, such as one for idempotency keys, can keep
/// it: `{"done": ...}` or `{"dead_lettered": "<id>"}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[must_use]
pub enum Outcome<R> {
    /// The service answered.
    Done(R),
    /// The request failed for good, and its letter is written.
    DeadLettered(crate::LetterId),
}

impl<R> Outcome<R> {
    /// The answer of the service, if it gave one.
    pub fn done(self) -> Option<R> {
        match self {
            Self::Done(answer) => Some(answer),
            Self::DeadLettered(_) => None,
        }
    }

    /// The id of the letter, if one was written.
    pub fn dead_lettered(&self) -> Option<crate::LetterId> {
        match self {
            Self::Done(_) => None,
            Self::DeadLettered(id) => Some(*id),
        }
    }
}
