//! The fields of the IETF draft on rate limits, and the problem document.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::body::LimitBody;
use crate::decision::Decision;
use crate::error::RateLimitError;
use crate::rule::Policy;

static RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
static RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
/// Enough for an item of a usual rule, so that a field is written in one allocation.
const ITEM: usize = 48;

/// What `RateLimit-Policy` says of these rules: the same in all responses of a layer.
pub(crate) fn policy_field(policies: &[Policy]) -> HeaderValue {
    field(policies.iter(), |text, policy| {
        let quota = policy.quota();
        let window = whole_seconds(quota.window());
        write!(text, "\"{}\";q={};w={window}", policy.name(), quota.limit())
    })
}

fn ratelimit_field(policies: &[Policy], decision: &Decision) -> HeaderValue {
    field(decision.iter(), |text, (rule, outcome)| {
        let reset = whole_seconds(outcome.reset());
        write!(
            text,
            "\"{}\";r={};t={reset}",
            policies[rule].name(),
            outcome.remaining()
        )
    })
}

/// A list of structured fields, one item for each.
fn field<T>(
    items: impl Iterator<Item = T>,
    mut write_item: impl FnMut(&mut BytesMut, T) -> std::fmt::Result,
) -> HeaderValue {
    let mut text = BytesMut::with_capacity(items.size_hint().1.unwrap_or(1) * ITEM);
    for item in items {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        write_item(&mut text, item).expect("a buffer grows as it must");
    }
    HeaderValue::from_maybe_shared(text.freeze()).expect("names of rules are printable ASCII")
}

/// Adds what is left under each rule. Appended, as a layer further in may have told of its own rules.
pub(super) fn tell(
    headers: &mut HeaderMap,
    policy: &HeaderValue,
    policies: &[Policy],
    decision: &Decision,
) {
    if decision.iter().next().is_none() {
        return;
    }
    headers.append(&RATELIMIT_POLICY, policy.clone());
    headers.append(&RATELIMIT, ratelimit_field(policies, decision));
}

/// The response to a request that does not reach the service.
pub(super) fn refusal<B>(error: &RateLimitError) -> Response<LimitBody<B>> {
    let (status, retry_after, document) = match error {
        RateLimitError::Refused(refused) => {
            let rules = refused.violations().iter().map(|violation| &violation.rule);
            let wait = refused.retry_after();
            (
                StatusCode::TOO_MANY_REQUESTS,
                wait,
                quota_exceeded(rules, error),
            )
        }
        RateLimitError::CostAboveLimit(cost) => {
            let rules = std::iter::once(&cost.rule);
            (
                StatusCode::TOO_MANY_REQUESTS,
                None,
                quota_exceeded(rules, error),
            )
        }
        RateLimitError::Store(_) => {
            let document = format!(
                "{{\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\
                 \"detail\":\"{error}\"}}"
            );
            (StatusCode::SERVICE_UNAVAILABLE, None, document)
        }
    };
    let document = Bytes::from(document);
    let length = HeaderValue::from(document.len());
    let mut response = Response::new(LimitBody::problem(document));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    headers.insert(CONTENT_LENGTH, length);
    if let Some(wait) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait).max(1)));
    }
    response
}

/// Neither the names of rules nor our own sentences hold what JSON would have to escape.
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

/// Rounded up: who comes back after so many seconds is never early.
const fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + (duration.subsec_nanos() > 0) as u64
}
