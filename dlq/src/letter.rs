//! The letter: what died, where it came from, and why.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use crate::{BoxError, Fingerprint, LetterId, Origin, Panicked};

/// The header in which a redriven copy carries its generation, as a decimal number.
pub const GENERATION_HEADER: &str = "seawall-generation";

/// The header in which a redriven copy carries the origin of the first, as JSON: at its second place it
/// has another offset and is still the same request.
pub const ORIGIN_HEADER: &str = "seawall-origin";

/// Longer messages are cut in a letter: some errors quote the whole payload.
const LONGEST_MESSAGE: usize = 16 * 1024;
/// Chains of more errors than this are cut.
const LONGEST_CHAIN: usize = 32;

/// What has to be kept of a request before it is handed to the service, which consumes it. Cheap where
/// the request holds [`Bytes`] and [`Arc<str>`]: nothing is copied then.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Envelope {
    /// Where the request came from.
    pub origin: Origin,
    /// Where this copy lies, if it is not the first: see [`headers`](Self::headers).
    pub copy_at: Option<Origin>,
    /// How often it has been redriven. 0 for a request that comes from its source for the first time.
    pub generation: u32,
    /// The key, where there is one.
    pub key: Option<Bytes>,
    /// The headers, in order, repeated ones included.
    pub headers: Vec<(Arc<str>, Bytes)>,
    /// The payload, byte for byte.
    pub payload: Bytes,
}

impl Envelope {
    /// A request of generation 0 without key or headers.
    pub fn new(origin: Origin, payload: impl Into<Bytes>) -> Self {
        Self {
            origin,
            copy_at: None,
            generation: 0,
            key: None,
            headers: Vec::new(),
            payload: payload.into(),
        }
    }

    /// Sets the key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Sets the redrive generation.
    #[must_use]
    pub fn generation(mut self, generation: u32) -> Self {
        self.generation = generation;
        self
    }

    /// Adds a header as it is.
    #[must_use]
    pub fn header(mut self, name: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds headers of a message that may be a redriven copy: [`GENERATION_HEADER`] and
    /// [`ORIGIN_HEADER`] become its generation and origin, all others are added as they are. The origin
    /// it had before is the place of the copy, [`copy_at`](Self::copy_at).
    ///
    /// Whoever can write these two headers can claim to be another message. A sink that finds the
    /// same id with other bytes refuses it, so nothing is lost; where strangers write to the
    /// source, remove the two on the way in.
    #[must_use]
    pub fn headers<N, V>(mut self, headers: impl IntoIterator<Item = (N, V)>) -> Self
    where
        N: Into<Arc<str>>,
        V: Into<Bytes>,
    {
        for (name, value) in headers {
            let (name, value) = (name.into(), value.into());
            let ours = match &*name {
                GENERATION_HEADER => std::str::from_utf8(&value)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .map(|generation| self.generation = generation),
                ORIGIN_HEADER => serde_json::from_slice(&value).ok().map(|origin| {
                    let place = std::mem::replace(&mut self.origin, origin);
                    // Of several, the first took the place from where it really was.
                    self.copy_at.get_or_insert(place);
                }),
                _ => None,
            };
            // One that cannot be read is not ours: it stays a header like any other.
            if ours.is_none() {
                self.headers.push((name, value));
            }
        }
        self
    }

    /// The id that a letter of this request will have.
    pub fn id(&self) -> LetterId {
        LetterId::of(&self.origin, self.generation)
    }
}

/// Why a request died.
///
/// Made from an error, with what is known about it beyond its message:
///
/// ```
/// use std::{io, time::Duration};
/// use seawall_dlq::{BoxError, Failure};
///
/// let error: BoxError = io::Error::other("shard 3 is down").into();
/// let failure = Failure::of(&error).class("exhausted").attempts(5).lasted(Duration::from_secs(15));
/// assert_eq!((failure.class.as_str(), failure.attempts), ("exhausted", 5));
/// assert_eq!(failure.message, "shard 3 is down");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// The kind of failure, one word of a small set: `error` and `panic`, unless named otherwise.
    pub class: String,
    /// What the error said.
    pub message: String,
    /// What the errors beneath it said, outermost first.
    pub chain: Vec<String>,
    /// How often the request was handled.
    pub attempts: u32,
    /// The time from the first failure to the last.
    pub lasted: Duration,
}

impl Failure {
    /// A failure of this class with this message, after one attempt.
    pub fn new(class: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            message: shortened(message.into()),
            chain: Vec::new(),
            attempts: 1,
            lasted: Duration::ZERO,
        }
    }

    /// What an error and its sources say. The class is `error`, or `panic` for [`Panicked`].
    ///
    /// Messages are cut at 16 KiB and chains at 32 errors.
    pub fn of(error: &BoxError) -> Self {
        let class = if error.is::<Panicked>() {
            "panic"
        } else {
            "error"
        };
        let mut failure = Self::new(class, error.to_string());
        let mut next: Option<&(dyn Error + 'static)> = error.source();
        while let Some(error) = next {
            if failure.chain.len() == LONGEST_CHAIN {
                break;
            }
            failure.chain.push(shortened(error.to_string()));
            next = error.source();
        }
        failure
    }

    /// Names the kind of failure.
    #[must_use]
    pub fn class(mut self, class: impl Into<String>) -> Self {
        self.class = class.into();
        self
    }

    /// Sets how often the request was handled.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Sets the time from the first failure to the last.
    #[must_use]
    pub fn lasted(mut self, lasted: Duration) -> Self {
        self.lasted = lasted;
        self
    }

    /// What it has in common with other failures of the same cause.
    pub fn fingerprint(&self) -> Fingerprint {
        let messages = std::iter::once(&self.message).chain(&self.chain);
        Fingerprint::of(&self.class, messages.map(String::as_str))
    }
}

/// A request that failed for good, with everything needed to understand it and to send it again.
///
/// Its JSON form is [`to_json`](Self::to_json).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Letter {
    /// Where the request came from.
    pub origin: Origin,
    /// Where the copy lay that died, if it was not the first.
    pub copy_at: Option<Origin>,
    /// How often it has been redriven.
    pub generation: u32,
    /// The key, where there is one.
    pub key: Option<Bytes>,
    /// The headers, in order, repeated ones included.
    pub headers: Vec<(Arc<str>, Bytes)>,
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// Why it died.
    pub failure: Failure,
    /// Which failures are like this one. Kept as it was when the letter was written.
    pub fingerprint: Fingerprint,
    /// When it failed first, to the millisecond.
    pub first_failure: SystemTime,
    /// When it failed last, to the millisecond.
    pub last_failure: SystemTime,
}

impl Letter {
    /// The letter of a request that failed for good at this time.
    pub fn new(envelope: Envelope, mut failure: Failure, at: SystemTime) -> Self {
        let Envelope {
            origin,
            copy_at,
            generation,
            key,
            headers,
            payload,
        } = envelope;
        let last = to_millis(at);
        let lasted = i64::try_from(failure.lasted.as_millis()).unwrap_or(i64::MAX);
        let first = last.saturating_sub(lasted);
        // What the JSON form cannot hold is left out here: a letter read back equals the one written.
        let last_failure = from_millis(last).unwrap_or(UNIX_EPOCH);
        let first_failure = from_millis(first).unwrap_or(last_failure);
        failure.lasted = last_failure
            .duration_since(first_failure)
            .unwrap_or_default();
        Self {
            fingerprint: failure.fingerprint(),
            origin,
            copy_at,
            generation,
            key,
            headers,
            payload,
            failure,
            first_failure,
            last_failure,
        }
    }

    /// The identity of the letter: see [`LetterId`].
    pub fn id(&self) -> LetterId {
        LetterId::of(&self.origin, self.generation)
    }

    /// The copy of the next generation, which a redrive sends.
    #[must_use]
    pub fn redriven(mut self) -> Self {
        self.generation = self.generation.saturating_add(1);
        self.copy_at = None;
        self
    }

    /// The headers to send with a redriven copy: its own, and the two by which
    /// [`Envelope::headers`] knows it again.
    pub fn headers_to_send(&self) -> Vec<(Arc<str>, Bytes)> {
        let origin = serde_json::to_vec(&self.origin).expect("an origin is plain text and numbers");
        let mut headers = self.headers.clone();
        headers.push((GENERATION_HEADER.into(), self.generation.to_string().into()));
        headers.push((ORIGIN_HEADER.into(), origin.into()));
        headers
    }

    /// Is this the same request, and not another that claims its origin?
    pub(crate) fn same_request(&self, other: &Self) -> bool {
        self.key == other.key && self.payload == other.payload
    }
}

/// Milliseconds since 1970, negative before.
pub(crate) fn to_millis(time: SystemTime) -> i64 {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => millis(after),
        Err(before) => -millis(before.duration()),
    }
}

/// The inverse of [`to_millis`], `None` for what the system's clock cannot show.
pub(crate) fn from_millis(millis: i64) -> Option<SystemTime> {
    let span = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 {
        UNIX_EPOCH.checked_sub(span)
    } else {
        UNIX_EPOCH.checked_add(span)
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        let mut end = LONGEST_MESSAGE;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str(" [cut]");
    }
    message
}
