//! What went wrong, as a status of gRPC.

use std::time::Duration;

use http::{HeaderName, HeaderValue, header, response::Parts};

use super::problem::Problem;

/// Failures are told as statuses of gRPC; the way of [`IdempotencyLayer::grpc`].
///
/// [`IdempotencyLayer::grpc`]: crate::IdempotencyLayer::grpc
#[derive(Debug, Clone, Copy)]
pub struct GrpcStatus;

static STATUS: HeaderName = HeaderName::from_static("grpc-status");
static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
static PROBLEM: HeaderName = HeaderName::from_static("idempotency-problem");

/// A status that comes without an answer: all of it is in the head, with HTTP's 200.
pub(super) fn write(problem: Problem, retry_after: Option<Duration>, head: &mut Parts) {
    let headers = &mut head.headers;
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    headers.insert(STATUS.clone(), HeaderValue::from(code(problem)));
    // Printable ASCII without a percent sign is its own percent-encoding.
    let message = HeaderValue::try_from(format!("{}. {}", problem.title(), problem.detail()));
    headers.insert(MESSAGE.clone(), message.expect("titles are ASCII"));
    let name = HeaderValue::from_static(problem.name());
    headers.insert(PROBLEM.clone(), name);
    if let Some(wait) = retry_after {
        // Not earlier than asked for, and not "at once".
        let millis = wait.as_nanos().div_ceil(1_000_000).max(1);
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        headers.insert(PUSHBACK.clone(), HeaderValue::from(millis));
    }
}

/// By the meanings that gRPC gives its codes (doc/statuscodes.md): whoever may send the call again as it is
/// gets UNAVAILABLE or ABORTED, whoever has to look first FAILED_PRECONDITION.
fn code(problem: Problem) -> u16 {
    const INVALID_ARGUMENT: u16 = 3;
    const ALREADY_EXISTS: u16 = 6;
    const RESOURCE_EXHAUSTED: u16 = 8;
    const FAILED_PRECONDITION: u16 = 9;
    const ABORTED: u16 = 10;
    const INTERNAL: u16 = 13;
    const UNAVAILABLE: u16 = 14;
    match problem {
        Problem::KeyMissing
        | Problem::KeyMalformed
        | Problem::KeyRepeated
        | Problem::ScopeMissing
        | Problem::BodyIncomplete
        | Problem::Mismatch => INVALID_ARGUMENT,
        Problem::BodyTooLarge => RESOURCE_EXHAUSTED,
        Problem::InFlight | Problem::Superseded => ABORTED,
        Problem::Abandoned => FAILED_PRECONDITION,
        Problem::AnswerNotKept => ALREADY_EXISTS,
        Problem::Panicked | Problem::Unreadable | Problem::Stopped => INTERNAL,
        Problem::NotReady | Problem::StoreUnavailable => UNAVAILABLE,
    }
}
