//! What the operating system says about a connection.

use std::{
    error::Error,
    io::{self, ErrorKind},
};

use crate::{BoxError, Class, Classify, Interrupted};

/// Classifies errors by the first [`io::Error`] in their chain of sources, however deep a client has
/// buried it. Responses are successes, and an error with no `io::Error` in it is permanent: nothing
/// says that it will pass.
///
/// # Example
///
/// ```
/// use std::io;
/// use seawall_retry::{BoxError, Class, Classify, IoErrors};
///
/// let reset: BoxError = io::Error::from(io::ErrorKind::ConnectionReset).into();
/// let refused: BoxError = io::Error::from(io::ErrorKind::ConnectionRefused).into();
/// let class = |by: IoErrors, error| Classify::<()>::classify(&by, Err(error));
/// assert_eq!(class(IoErrors::passing(), &reset), Class::Transient);
/// // The server may have got the request before the connection broke.
/// assert_eq!(class(IoErrors::connecting(), &reset), Class::Permanent);
/// assert_eq!(class(IoErrors::connecting(), &refused), Class::Transient);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoErrors {
    only_connecting: bool,
}

impl IoErrors {
    /// Errors that may pass are transient: refused, reset, aborted or broken connections, unreachable
    /// hosts and networks, ends in the middle, timeouts (an attempt timeout as well), interruptions. The
    /// server may have done its work: for requests that may be sent twice.
    pub const fn passing() -> Self {
        Self {
            only_connecting: false,
        }
    }

    /// Only errors from before anything was sent are transient: refused connections, unreachable hosts
    /// and networks, no local address left. So the server got nothing, and any request may be sent again.
    pub const fn connecting() -> Self {
        Self {
            only_connecting: true,
        }
    }

    fn is_transient(self, kind: ErrorKind) -> bool {
        match kind {
            ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable => true,
            ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::NotConnected
            | ErrorKind::BrokenPipe
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::WouldBlock
            | ErrorKind::ResourceBusy
            | ErrorKind::UnexpectedEof => !self.only_connecting,
            _ => false,
        }
    }
}

impl<Res> Classify<Res> for IoErrors {
    fn classify(&self, outcome: Result<&Res, &BoxError>) -> Class {
        let Err(error) = outcome else {
            return Class::Success;
        };
        // What an inner retry layer gave up on stays given up.
        let Class::Transient = Class::of(outcome) else {
            return Class::Permanent;
        };
        let transient = match io_error(&**error) {
            Some(error) => self.is_transient(error.kind()),
            None => !self.only_connecting && error.is::<Interrupted>(),
        };
        if transient {
            Class::Transient
        } else {
            Class::Permanent
        }
    }
}

/// The first `io::Error` of the operating system in the chain, or else the first of any kind: an
/// `io::Error` may be the wrapping of another.
fn io_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        next = error.source();
        let Some(io) = error.downcast_ref::<io::Error>() else {
            continue;
        };
        found = found.or(Some(io));
        if io.kind() != ErrorKind::Other {
            return Some(io);
        }
        // `source()` of an `io::Error` leaves out the error that it holds itself.
        if let Some(inner) = io.get_ref() {
            next = Some(inner);
        }
    }
    found
}
