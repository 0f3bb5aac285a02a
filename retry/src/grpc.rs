//! What gRPC says about an outcome: the status code, and pushback.

use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};

use crate::{
    BoxError, Class, Classify,
    error::{ConfigError, in_code},
};

/// Classifies by gRPC status code, as numbers: it needs no gRPC library and fits any.
///
/// [`UNAVAILABLE`](Self::UNAVAILABLE) is transient, as are the codes of [`retry_on`](Self::retry_on);
/// any other but 0 is permanent. The server's `grpc-retry-pushback-ms` counts for codes that are
/// retried: so many milliseconds are waited at least, and a negative number, or anything else that
/// is no number, forbids to retry. (gRFC A6.)
///
/// As a classifier of [`http::Response`] it reads the headers, where a server puts the status of a
/// call that fails before its first message. A response without a status there that came with 200 is a
/// success: its messages are on their way, and what they brought cannot be taken back. One that came with
/// another HTTP status never reached a gRPC server; 429, 502, 503 and 504 count as unavailable.
///
/// A client whose errors carry the code, as those of generated clients do, asks
/// [`class_of`](Self::class_of):
///
/// ```
/// use std::time::Duration;
/// use seawall_retry::{BoxError, Class, GrpcStatus};
/// # #[derive(Debug)]
/// # struct Status { code: i32, pushback: Option<String> }
/// # impl std::fmt::Display for Status {
/// #     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{}", self.code) }
/// # }
/// # impl std::error::Error for Status {}
///
/// let grpc = GrpcStatus::new();
/// let classify = move |outcome: Result<&u32, &BoxError>| match outcome {
///     Ok(_) => Class::Success,
///     Err(error) => match error.downcast_ref::<Status>() {
///         Some(status) => grpc.class_of(status.code, status.pushback.as_deref()),
///         None => Class::Permanent,
///     },
/// };
/// let failed = |code, pushback: Option<&str>| -> BoxError {
///     Status { code, pushback: pushback.map(str::to_owned) }.into()
/// };
/// assert_eq!(classify(Err(&failed(14, None))), Class::Transient);
/// assert_eq!(classify(Err(&failed(14, Some("250")))), Class::Throttled(Duration::from_millis(250)));
/// assert_eq!(classify(Err(&failed(14, Some("-1")))), Class::Permanent);
/// assert_eq!(classify(Err(&failed(3, None))), Class::Permanent);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcStatus {
    /// A bit for each code that is retried.
    retried: u32,
}

const STATUS: &str = "grpc-status";
const PUSHBACK: &str = "grpc-retry-pushback-ms";
const LAST_CODE: i32 = 16;

impl GrpcStatus {
    /// The server had no room for the call. Retry on it where the server says when to come back.
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    /// The call lost against another one, such as a concurrent transaction.
    pub const ABORTED: i32 = 10;
    /// The service is out for the moment.
    pub const UNAVAILABLE: i32 = 14;

    /// Retries on [`UNAVAILABLE`](Self::UNAVAILABLE) alone.
    pub const fn new() -> Self {
        Self {
            retried: 1 << Self::UNAVAILABLE,
        }
    }

    /// Retries on this code as well.
    ///
    /// # Panics
    ///
    /// If it is not from 1 to 16: no failure has another code.
    #[must_use]
    pub const fn retry_on(self, code: i32) -> Self {
        in_code!(self.try_retry_on(code))
    }

    /// [`retry_on`](Self::retry_on) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is not from 1 to 16.
    pub const fn try_retry_on(self, code: i32) -> Result<Self, ConfigError> {
        if code < 1 || code > LAST_CODE {
            return Err(ConfigError::new(
                "the gRPC code of a failure is a number from 1 to 16",
            ));
        }
        Ok(Self {
            retried: self.retried | 1 << code,
        })
    }

    /// The class of a call that ended with this code and this `grpc-retry-pushback-ms`.
    pub fn class_of(&self, code: i32, pushback: Option<&str>) -> Class {
        match code {
            0 => Class::Success,
            1..=LAST_CODE if self.retried & (1 << code) != 0 => match pushback {
                None => Class::Transient,
                Some(value) => milliseconds(value).map_or(Class::Permanent, Class::Throttled),
            },
            _ => Class::Permanent,
        }
    }
}

impl Default for GrpcStatus {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> Classify<Response<B>> for GrpcStatus {
    fn classify(&self, outcome: Result<&Response<B>, &BoxError>) -> Class {
        let response = match outcome {
            Ok(response) => response,
            Err(error) => return Class::of::<()>(Err(error)),
        };
        let headers = response.headers();
        let code = match headers.get(STATUS) {
            // What is no number counts as the code for what is unknown.
            Some(code) => code.to_str().ok().and_then(|code| code.parse().ok()),
            None => match response.status() {
                StatusCode::OK => Some(0),
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT => Some(Self::UNAVAILABLE),
                _ => None,
            },
        };
        code.map_or(Class::Permanent, |code| {
            self.class_of(code, pushback(headers))
        })
    }
}

/// More than one is as good as none that can be read.
fn pushback(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(PUSHBACK).iter();
    let first = values.next()?;
    match values.next() {
        None => Some(first.to_str().unwrap_or_default()),
        Some(_) => Some(""),
    }
}

fn milliseconds(value: &str) -> Option<Duration> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than a u64 holds is longer than anyone waits, not a mistake.
    digits.then(|| Duration::from_millis(value.parse().unwrap_or(u64::MAX)))
}
