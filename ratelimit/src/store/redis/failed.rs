//! What those are told whose batch was not answered.

use std::fmt;
use std::sync::Arc;

use crate::error::StoreError;

/// An error that many are told of.
pub(super) enum SharedError {
    Unavailable(Arc<seawall_redis::Error>),
    Unexpected(Arc<str>),
}

impl SharedError {
    pub(super) fn to_error(&self) -> StoreError {
        match self {
            Self::Unavailable(error) => {
                StoreError::Unavailable(Box::new(BatchError(Arc::clone(error))))
            }
            Self::Unexpected(reply) => StoreError::UnexpectedReply(reply.to_string()),
        }
    }
}

/// Why a batch was not answered.
#[derive(Debug)]
struct BatchError(Arc<seawall_redis::Error>);

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the batch was not answered")
    }
}

impl std::error::Error for BatchError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

/// What is told where the lane was given up.
pub(super) fn given_up() -> StoreError {
    StoreError::Unavailable("the runtime that carried the request to the store has ended".into())
}
