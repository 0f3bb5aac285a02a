//! What HTTP says about an outcome: the status, and `Retry-After`.

use std::time::{Duration, SystemTime};

use http::{HeaderValue, Request, Response, StatusCode, header::RETRY_AFTER};

use crate::{BoxError, Class, Classify, CloneRequest, RetryError, Stopped};

/// The wall clock, which a `Retry-After` with a date is compared to. Any `Fn() -> SystemTime` is one.
pub trait WallClock {
    /// The time of day.
    fn now(&self) -> SystemTime;
}

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl<F> WallClock for F
where
    F: Fn() -> SystemTime,
{
    fn now(&self) -> SystemTime {
        self()
    }
}

/// Classifies responses by their status.
///
/// | status | class |
/// | --- | --- |
/// | 408, 425, 429, 500, 502, 503, 504 | transient; throttled where `Retry-After` says how long |
/// | any other from 400 on | permanent: the same request gets the same answer |
/// | below 400 | success |
///
/// `Retry-After` is read in both of its forms; of several the longest wait counts, and one that is
/// neither a number of seconds nor a date is ignored. Errors are classified by [`Class::of`].
///
/// A status says nothing about whether the request may be sent twice: see
/// [`IdempotentMethods`] for that.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use http::Response;
/// use seawall_retry::{Class, Classify, HttpStatus};
///
/// let busy = Response::builder().status(429).header("retry-after", "7").body(()).unwrap();
/// let class = HttpStatus::new().classify(Ok(&busy));
/// assert_eq!(class, Class::Throttled(Duration::from_secs(7)));
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpStatus<W = SystemClock> {
    clock: W,
}

impl HttpStatus {
    /// Reads dates by the clock of the system.
    pub const fn new() -> Self {
        Self { clock: SystemClock }
    }
}

impl<W> HttpStatus<W> {
    /// Reads dates by this clock.
    pub const fn with_clock(clock: W) -> Self {
        Self { clock }
    }
}

impl<B, W: WallClock> Classify<Response<B>> for HttpStatus<W> {
    fn classify(&self, outcome: Result<&Response<B>, &BoxError>) -> Class {
        let response = match outcome {
            Ok(response) => response,
            Err(error) => return Class::of::<()>(Err(error)),
        };
        match response.status().as_u16() {
            408 | 425 | 429 | 500 | 502 | 503 | 504 => response
                .headers()
                .get_all(RETRY_AFTER)
                .iter()
                .filter_map(|value| retry_after(value, &self.clock))
                .max()
                .map_or(Class::Transient, Class::Throttled),
            400.. => Class::Permanent,
            _ => Class::Success,
        }
    }
}

/// The wait that a `Retry-After` asks for (RFC 9110, section 10.2.3).
fn retry_after(value: &HeaderValue, clock: &impl WallClock) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 holds is longer than anyone waits, not a mistake to ignore.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(clock.now()).unwrap_or(Duration::ZERO))
}

/// Repeats only requests whose method is idempotent (RFC 9110, section 9.2.2: GET, HEAD, OPTIONS,
/// TRACE, PUT, DELETE) or which carry an `Idempotency-Key`. All others are sent once.
#[derive(Debug, Clone, Copy, Default)]
pub struct IdempotentMethods;

impl<B: Clone> CloneRequest<Request<B>> for IdempotentMethods {
    fn clone_request(&self, request: &Request<B>) -> Option<Request<B>> {
        let repeatable =
            request.method().is_idempotent() || request.headers().contains_key("idempotency-key");
        repeatable.then(|| request.clone())
    }
}

impl RetryError {
    /// The status that tells a client of ours what happened: 504 where time ran out, 503 where the
    /// service may recover, 502 where it failed for good.
    pub fn status(&self) -> StatusCode {
        match self.stopped {
            Stopped::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Stopped::Permanent => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Turns the error of a [`Retry`](crate::Retry) service into an answer, with the status of the
/// [`RetryError`] in it (500 where there is none) and, where the server asked for a wait, the same
/// `Retry-After`. For axum's `HandleErrorLayer`, which a fallible layer needs around it.
pub fn error_response<B: Default>(error: &BoxError) -> Response<B> {
    let mut response = Response::new(B::default());
    let found = RetryError::find(error);
    *response.status_mut() = found.map_or(StatusCode::INTERNAL_SERVER_ERROR, RetryError::status);
    if let Some(Stopped::Throttled(wait)) = found.map(|found| found.stopped) {
        let seconds = wait
            .as_secs()
            .saturating_add(u64::from(wait.subsec_nanos() > 0));
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}
