//! The responses to requests that do not reach the service.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use super::body::LimitBody;
use super::fields::whole_seconds;
use crate::error::RateLimitError;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

type Custom = dyn Fn(&RateLimitError) -> Response<Bytes> + Send + Sync;

/// What refused requests are answered.
#[derive(Clone)]
pub(super) enum Refusals {
    /// A problem document.
    Problem,
    /// What a closure makes of it.
    Custom(Arc<Custom>),
    /// A gRPC status.
    #[cfg(feature = "grpc")]
    Grpc,
}

impl Refusals {
    pub(super) fn response<B>(&self, error: &RateLimitError) -> Response<LimitBody<B>> {
        let mut response = match self {
            Self::Problem => problem(error),
            Self::Custom(custom) => custom(error),
            #[cfg(feature = "grpc")]
            Self::Grpc => return super::grpc::response(error),
        };
        let length = HeaderValue::from(response.body().len());
        let headers = response.headers_mut();
        headers.entry(CONTENT_LENGTH).or_insert(length);
        if let RateLimitError::Refused(refused) = error
            && let Some(wait) = refused.retry_after()
        {
            // By the count of the store, whoever makes the rest of the response.
            headers.insert(RETRY_AFTER, whole_seconds(wait).max(1).into());
        }
        response.map(LimitBody::problem)
    }
}

fn problem(error: &RateLimitError) -> Response<Bytes> {
    let (status, document) = match error {
        RateLimitError::Refused(refused) => {
            let rules = refused.violations().iter().map(|violation| &violation.rule);
            let document = quota_exceeded(rules, error);
            (StatusCode::TOO_MANY_REQUESTS, document)
        }
        RateLimitError::CostAboveLimit(cost) => {
            let document = quota_exceeded(std::iter::once(&cost.rule), error);
            (StatusCode::TOO_MANY_REQUESTS, document)
        }
        RateLimitError::Denied { .. } => (StatusCode::FORBIDDEN, blank("Forbidden", 403, error)),
        RateLimitError::Store(_) => {
            let document = blank("Service Unavailable", 503, error);
            (StatusCode::SERVICE_UNAVAILABLE, document)
        }
    };
    let mut response = Response::new(Bytes::from(document));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response
}

/// A problem that the status says all about. Neither the names of rules nor our own sentences hold what
/// JSON would have to escape.
fn blank(title: &str, status: u16, error: &RateLimitError) -> String {
    format!(
        "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"detail\":\"{error}\"}}"
    )
}

fn quota_exceeded<'a>(
    rules: impl Iterator<Item = &'a Cow<'static, str>>,
    error: &RateLimitError,
) -> String {
    let mut document = format!(
        "{{\"type\":\"{QUOTA_EXCEEDED}\",\"title\":\"Too Many Requests\",\"status\":429,\
         \"detail\":\"{error}\",\"violated-policies\":["
    );
    for (n, rule) in rules.enumerate() {
        let comma = if n == 0 { "" } else { "," };
        write!(document, "{comma}\"{rule}\"").expect("text grows as it must");
    }
    document.push_str("]}");
    document
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Problem => "Problem",
            Self::Custom(_) => "Custom",
            #[cfg(feature = "grpc")]
            Self::Grpc => "Grpc",
        })
    }
}
