//! What can go wrong, as data.

use std::{error::Error, fmt, time::Duration};

use crate::BoxError;

/// A setting that cannot work, found where it was made.
///
/// The setters of this crate panic with this message, for settings written in code; their `try_`
/// twins return it, for settings read from a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigError {
    message: &'static str,
}

impl ConfigError {
    pub(crate) const fn new(message: &'static str) -> Self {
        Self { message }
    }

    /// What is wrong with the setting, in one sentence.
    pub const fn message(&self) -> &'static str {
        self.message
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl Error for ConfigError {}

/// Unwraps a setting made in code, where a wrong one is a bug.
macro_rules! in_code {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => panic!("{}", error.message()),
        }
    };
}
pub(crate) use in_code;

/// Why no further attempt was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stopped {
    /// Every attempt that the backoff allows was made.
    Exhausted,
    /// The classifier called the outcome permanent.
    Permanent,
    /// The budget had no retry left to give.
    Budget,
    /// The deadline passed, or would have passed before the next attempt could begin.
    Deadline,
    /// The inner service did not become ready for a further attempt, or failed while it was readied.
    NotReady,
    /// The server asked for a longer wait than the cap of the backoff. Waiting less would be too
    /// early, waiting so long is not allowed.
    Throttled(Duration),
    /// The request could not be cloned, so it was sent once.
    Unrepeatable,
}

impl Stopped {
    /// One word for a log line or a metric label.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Permanent => "permanent",
            Self::Budget => "budget",
            Self::Deadline => "deadline",
            Self::NotReady => "not_ready",
            Self::Throttled(_) => "throttled",
            Self::Unrepeatable => "unrepeatable",
        }
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted => f.write_str("no attempts left"),
            Self::Permanent => f.write_str("the failure is permanent"),
            Self::Budget => f.write_str("the retry budget is spent"),
            Self::Deadline => f.write_str("the deadline leaves no time"),
            Self::NotReady => f.write_str("the service did not become ready again"),
            Self::Throttled(wait) => {
                write!(f, "the server asked for {wait:?}, longer than the cap")
            }
            Self::Unrepeatable => f.write_str("the request cannot be repeated"),
        }
    }
}

/// The final failure of a retried call.
///
/// It is the error of the [`Retry`](crate::Retry) service, inside a [`BoxError`];
/// [`RetryError::find`] gets it back. Its `source()` is the last error of the inner service, or an
/// [`Interrupted`] where the call was cut short before there was one.
#[derive(Debug)]
#[non_exhaustive]
pub struct RetryError {
    /// How many times the inner service was called.
    pub attempts: u32,
    /// How long it took, waits included: from the call where a deadline or an attempt timeout is
    /// set, else from the end of the first attempt (so that a call which succeeds at once never
    /// reads a clock).
    pub elapsed: Duration,
    /// Why there was no further attempt.
    pub stopped: Stopped,
    /// The last error.
    pub source: BoxError,
}

impl RetryError {
    /// The first `RetryError` in the chain of sources that starts with `error` itself.
    pub fn find(error: &BoxError) -> Option<&Self> {
        let mut next: Option<&(dyn Error + 'static)> = Some(&**error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

impl fmt::Display for RetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.attempts == 1 { "" } else { "s" };
        write!(
            f,
            "gave up after {} attempt{plural} in {:?}: {}",
            self.attempts, self.elapsed, self.stopped
        )
    }
}

impl Error for RetryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// A call that this layer cut short, where the inner service itself reported nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interrupted {
    /// One attempt took longer than the attempt timeout. The classifier sees it as an error like
    /// any other.
    AttemptTimeout(Duration),
    /// The deadline over all attempts passed while an attempt was running, or before the inner
    /// service was ready for the next.
    Deadline,
    /// The inner service was not ready for a further attempt within this time.
    NotReady(Duration),
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AttemptTimeout(limit) => write!(f, "the attempt took longer than {limit:?}"),
            Self::Deadline => f.write_str("the deadline over all attempts passed"),
            Self::NotReady(limit) => write!(f, "the service was not ready within {limit:?}"),
        }
    }
}

impl Error for Interrupted {}
