//! What went wrong, as a response.

use std::{fmt::Write as _, time::Duration};

use bytes::Bytes;
use http::StatusCode;

use crate::error::{Error, RecordError, StoreError};

/// Failures are told as `application/problem+json` (RFC 9457); the way of [`IdempotencyLayer::http`].
///
/// [`IdempotencyLayer::http`]: crate::IdempotencyLayer::http
#[derive(Debug, Clone, Copy)]
pub struct ProblemJson;

/// Why a request was answered by this layer and not by its handler.
///
/// The answer is `application/problem+json` and its `type` leads to the variant here, or into
/// [your own documentation](crate::IdempotencyLayer::documentation); its member `retention` says for how
/// many seconds keys are known. The variant is also in the response's extensions, for layers outside to
/// count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Problem {
    /// 400: this resource needs a key, and the request has none.
    KeyMissing,
    /// 400: the key is no structured-field string of 1 to 255 printable ASCII characters.
    KeyMalformed,
    /// 400: there is more than one `Idempotency-Key` field.
    KeyRepeated,
    /// 400: the header is missing by which the key is scoped.
    ScopeMissing,
    /// 400: the request's body ended early.
    BodyIncomplete,
    /// 413: the request's body is larger than this resource takes together with a key.
    BodyTooLarge,
    /// 409: a request with this key is being handled. Come back after `Retry-After`.
    InFlight,
    /// 409: a request with this key was begun and never ended. It is not executed again.
    Abandoned,
    /// 409: the request was handled but a later attempt took over, and is not done yet.
    Superseded,
    /// 409: the request was handled, and its answer was not kept. It is not executed again.
    AnswerNotKept,
    /// 422: the key was used for another request.
    Mismatch,
    /// 500: the handler failed. What it had done is unknown, so it is not executed again.
    Panicked,
    /// 500: the record of this key cannot be read.
    Unreadable,
    /// 500: the server stopped while the request was handled.
    Stopped,
    /// 503: the handler was not ready, and nothing was done.
    NotReady,
    /// 503: keys cannot be looked up now, and nothing was done.
    StoreUnavailable,
}

impl Problem {
    /// The status of the response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::KeyMissing
            | Self::KeyMalformed
            | Self::KeyRepeated
            | Self::ScopeMissing
            | Self::BodyIncomplete => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::InFlight | Self::Abandoned | Self::Superseded | Self::AnswerNotKept => {
                StatusCode::CONFLICT
            }
            Self::Mismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Panicked | Self::Unreadable | Self::Stopped => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotReady | Self::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The name, as it stands in an address: `in-flight`.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeyMissing => "key-missing",
            Self::KeyMalformed => "key-malformed",
            Self::KeyRepeated => "key-repeated",
            Self::ScopeMissing => "scope-missing",
            Self::BodyIncomplete => "body-incomplete",
            Self::BodyTooLarge => "body-too-large",
            Self::InFlight => "in-flight",
            Self::Abandoned => "abandoned",
            Self::Superseded => "superseded",
            Self::AnswerNotKept => "answer-not-kept",
            Self::Mismatch => "mismatch",
            Self::Panicked => "panicked",
            Self::Unreadable => "unreadable",
            Self::Stopped => "stopped",
            Self::NotReady => "not-ready",
            Self::StoreUnavailable => "store-unavailable",
        }
    }

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::KeyMissing => "An Idempotency-Key is required",
            Self::KeyMalformed => "The Idempotency-Key is malformed",
            Self::KeyRepeated => "There is more than one Idempotency-Key",
            Self::ScopeMissing => "The Idempotency-Key has no owner",
            Self::BodyIncomplete => "The request's body is incomplete",
            Self::BodyTooLarge => "The request's body is too large",
            Self::InFlight => "A request with this Idempotency-Key is being handled",
            Self::Abandoned => "A request with this Idempotency-Key was abandoned",
            Self::Superseded => "Another attempt at this request took over",
            Self::AnswerNotKept => "This request was handled before",
            Self::Mismatch => "This Idempotency-Key was used for another request",
            Self::Panicked => "The request failed",
            Self::Unreadable => "The record of this Idempotency-Key cannot be read",
            Self::Stopped => "The server stopped",
            Self::NotReady => "The service is not ready",
            Self::StoreUnavailable => "Idempotency keys cannot be checked now",
        }
    }

    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::KeyMissing => {
                "Send a key of your own making, unlike any other, as a quoted string."
            }
            Self::KeyMalformed => "Send 1 to 255 printable ASCII characters as a quoted string.",
            Self::KeyRepeated => "Send the field once.",
            Self::ScopeMissing => "Send the header that says who you are.",
            Self::BodyIncomplete => "Nothing was done. Send the request again.",
            Self::BodyTooLarge => "Nothing was done. Send a smaller body.",
            Self::InFlight => "Send the same request again later, to be given its answer.",
            Self::Abandoned => "How much of it was done is unknown. Look before you use a new key.",
            Self::Superseded => "Send the same request again later, to be given its answer.",
            Self::AnswerNotKept => {
                "Its answer was sent then and not kept. It will not be executed again."
            }
            Self::Mismatch => "Use a new key for a new request.",
            Self::Panicked => "How much of it was done is unknown. It will not be executed again.",
            Self::Unreadable => "Nothing was done, and nothing was changed.",
            Self::Stopped => "Whether the request was handled is unknown. Send it again.",
            Self::NotReady | Self::StoreUnavailable => {
                "Nothing was done. Send the same request again later."
            }
        }
    }

    /// The document, without what keeps it apart from gRPC.
    pub(super) fn json(self, docs: Option<&str>, retention: Duration) -> Bytes {
        let mut json = String::from(r#"{"type":""#);
        match docs {
            Some(docs) => {
                escape(docs, &mut json);
                json.push('#');
                json.push_str(self.name());
            }
            None => {
                let _ = write!(
                    json,
                    "https://docs.rs/seawall-idempotency/latest/seawall_idempotency/\
                     enum.Problem.html#variant.{self:?}"
                );
            }
        }
        let (title, status, detail) = (self.title(), self.status().as_u16(), self.detail());
        let retention = retention.as_secs();
        let _ = write!(
            json,
            r#"","title":"{title}","status":{status},"detail":"{detail}","retention":{retention}}}"#
        );
        json.into()
    }
}

/// The problem that an error is, and when to come back.
pub(super) fn of(error: &Error) -> (Problem, Option<Duration>) {
    const SOON: Option<Duration> = Some(Duration::from_secs(1));
    match error {
        Error::InFlight { retry_after } => (Problem::InFlight, Some(*retry_after)),
        Error::Abandoned { .. } => (Problem::Abandoned, None),
        Error::Superseded { .. } => (Problem::Superseded, SOON),
        Error::AnswerNotKept { .. } => (Problem::AnswerNotKept, None),
        Error::Mismatch => (Problem::Mismatch, None),
        Error::Panicked { .. } => (Problem::Panicked, None),
        Error::NotReady { .. } => (Problem::NotReady, SOON),
        // A newer program wrote it; while versions are mixed, another server can read it.
        Error::Record(RecordError::Newer { .. }) => (Problem::StoreUnavailable, SOON),
        Error::Record(_) | Error::Answer(_) | Error::Store(StoreError::Foreign { .. }) => {
            (Problem::Unreadable, None)
        }
        Error::Store(_) => (Problem::StoreUnavailable, SOON),
        Error::Stopped => (Problem::Stopped, None),
    }
}

/// Whole seconds, never fewer than were asked for, and at least one.
pub(super) fn seconds(wait: Duration) -> u64 {
    wait.as_secs()
        .saturating_add(u64::from(wait.subsec_nanos() > 0))
        .max(1)
}

fn escape(text: &str, json: &mut String) {
    for c in text.chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
}
