//! Refusals as gRPC has them: a status in the headers of a response without a body.

use std::fmt::Write;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response};

use super::body::LimitBody;
use crate::error::RateLimitError;

static STATUS: HeaderName = HeaderName::from_static("grpc-status");
static MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
static PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

const PERMISSION_DENIED: u8 = 7;
const RESOURCE_EXHAUSTED: u8 = 8;
const UNAVAILABLE: u8 = 14;

/// What a client is told about trying again.
enum Again {
    In(Duration),
    Never,
    Unknown,
}

pub(super) fn response<B>(error: &RateLimitError) -> Response<LimitBody<B>> {
    let (code, again) = match error {
        RateLimitError::Refused(refused) => {
            let again = refused.retry_after().map_or(Again::Never, Again::In);
            (RESOURCE_EXHAUSTED, again)
        }
        RateLimitError::CostAboveLimit(_) => (RESOURCE_EXHAUSTED, Again::Never),
        RateLimitError::Denied { .. } => (PERMISSION_DENIED, Again::Never),
        RateLimitError::Store(_) => (UNAVAILABLE, Again::Unknown),
    };
    let message = error.to_string();
    let mut response = Response::new(LimitBody::default());
    let headers = response.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(CONTENT_TYPE, grpc);
    headers.insert(&STATUS, u16::from(code).into());
    headers.insert(&MESSAGE, text(percent_encoded(&message)));
    match again {
        Again::In(wait) => {
            headers.insert(&DETAILS, text(retry_info(code, &message, wait)));
            // Rounded up, so that nobody is early.
            let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000));
            headers.insert(&PUSHBACK, millis.unwrap_or(u64::MAX).max(1).into());
        }
        Again::Never => {
            headers.insert(&PUSHBACK, HeaderValue::from_static("-1"));
        }
        Again::Unknown => {}
    }
    response
}

fn text(value: String) -> HeaderValue {
    value.try_into().expect("it is printable ASCII")
}

/// What is not printable ASCII, and the percent sign.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("text grows as it must"),
        }
    }
    encoded
}

/// A `google.rpc.Status` with a `google.rpc.RetryInfo`, in base64.
fn retry_info(code: u8, message: &str, wait: Duration) -> String {
    let mut delay = Vec::new();
    number(&mut delay, 1, wait.as_secs());
    number(&mut delay, 2, wait.subsec_nanos().into());
    let mut info = Vec::new();
    bytes(&mut info, 1, &delay);
    let mut any = Vec::new();
    bytes(&mut any, 1, b"type.googleapis.com/google.rpc.RetryInfo");
    bytes(&mut any, 2, &info);
    let mut status = Vec::new();
    number(&mut status, 1, code.into());
    bytes(&mut status, 2, message.as_bytes());
    bytes(&mut status, 3, &any);
    BASE64_STANDARD_NO_PAD.encode(status)
}

/// A field of Protocol Buffers that holds a number.
fn number(into: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        into.push(field << 3);
        varint(into, value);
    }
}

/// A field of Protocol Buffers that holds text or another message.
fn bytes(into: &mut Vec<u8>, field: u8, value: &[u8]) {
    into.push(field << 3 | 2);
    varint(into, value.len() as u64);
    into.extend_from_slice(value);
}

fn varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(value as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}
