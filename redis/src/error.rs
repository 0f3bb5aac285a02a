use std::error;
use std::fmt;
use std::io;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

/// Why a call on a [`Client`](crate::Client) gave no reply.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There was no reply within the client's deadline, which is given.
    Deadline(Duration),
    /// The breaker is open and nothing was sent.
    Open {
        /// How long until a call may be tried again.
        retry_in: Duration,
    },
    /// The server answered with an error, or the connection failed.
    Redis(RedisError),
}

impl Error {
    /// Whether the command may have been carried out although this call failed.
    ///
    /// False where it is known that it was not: the breaker was open, the connection was refused, or
    /// the server answered with an error. A script that failed half way is such an answer too; what
    /// it wrote before stays written.
    #[must_use]
    pub fn is_indeterminate(&self) -> bool {
        match self {
            Self::Deadline(_) => true,
            Self::Open { .. } => false,
            Self::Redis(error) => match error.kind() {
                ErrorKind::Io => !error.is_connection_refusal(),
                // A reply that makes no sense tells nothing about what happened before it.
                ErrorKind::Parse => true,
                _ => false,
            },
        }
    }

    /// Whether this says that Redis cannot be used now, rather than that it refused this command:
    /// what the breaker counts as a failure. An open breaker is an outage as well.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Deadline(_) | Self::Open { .. } => true,
            Self::Redis(error) => is_outage(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline(deadline) => write!(f, "no reply from Redis within {deadline:?}"),
            Self::Open { retry_in } => write!(
                f,
                "Redis failed lately and is not asked again for {} ms",
                retry_in.as_millis()
            ),
            Self::Redis(_) => f.write_str("Redis failed"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Deadline(_) | Self::Open { .. } => None,
            Self::Redis(error) => Some(error),
        }
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

/// Whether the error is the server's or the connection's state, and not an answer to the command.
fn is_outage(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io
        | ErrorKind::Parse
        | ErrorKind::AuthenticationFailed
        | ErrorKind::ClusterConnectionNotFound
        | ErrorKind::MasterNameNotFoundBySentinel
        | ErrorKind::NoValidReplicasFoundBySentinel => true,
        // Why a transaction was discarded is told by the commands that could not be queued.
        ErrorKind::Server(ServerErrorKind::ExecAbort) => error
            .clone()
            .into_server_errors()
            .is_some_and(|errors| errors.iter().any(|(_, error)| is_outage_code(error.code()))),
        _ => error.code().is_some_and(is_outage_code),
    }
}

/// Whether one reply of a pipeline says that the server cannot serve now.
pub(crate) fn is_outage_reply(reply: &Value) -> bool {
    match reply {
        Value::ServerError(error) => is_outage_code(error.code()),
        _ => false,
    }
}

/// The answers of a server that is there but cannot serve now.
fn is_outage_code(code: &str) -> bool {
    matches!(
        code,
        "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "BUSY"
    )
}

/// A pool that gave no connection in time, as an error of the `redis` crate: like a connection that was
/// refused, for nothing was sent.
pub(crate) fn pool_timed_out() -> RedisError {
    io::Error::new(
        io::ErrorKind::ConnectionRefused,
        "the pool gave no connection in time",
    )
    .into()
}

/// A setting that cannot work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A deadline of zero: every call would fail.
    NoDeadline,
    /// A breaker that opens after zero failures: it would never be closed.
    NoFailures,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoDeadline => "the deadline is zero, so every call would fail",
            Self::NoFailures => {
                "the breaker opens after zero failures, so it would never be closed"
            }
        })
    }
}

impl error::Error for ConfigError {}
