//! What an adapter tells the core about its requests and responses.

use std::future::Future;

use bytes::Bytes;

use crate::{
    error::{BoxError, Error},
    lease::Claim,
    record::Why,
};

/// What is to be kept of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// These bytes: the answer of every later call with this key.
    Answer(Bytes),
    /// Only that the call was handled. Later calls fail with
    /// [`Error::AnswerNotKept`](crate::Error::AnswerNotKept) and are not executed.
    Tombstone(Why),
    /// Nothing: nothing was done, and the next call with this key executes.
    Undone,
}

/// An adapter. `Res` and `E` are the inner service's, `Out` and `Err` the layer's.
pub(crate) trait Exchange<Req, Res, E>: Send + Sync + 'static {
    type Out: Send + 'static;
    type Err: Send + 'static;

    /// Tells the request what attempt it is.
    fn stamp(&mut self, request: &mut Req, claim: &Claim);

    /// Reads what is to be kept off the response.
    fn capture(&self, response: Res) -> impl Future<Output = (Keep, Self::Out)> + Send;

    /// Makes a response of what was kept.
    fn replay(&self, answer: Bytes) -> Result<Self::Out, BoxError>;

    /// Passes on the inner service's error.
    fn failed(&self, error: E) -> Self::Err;

    /// Answers with a failure of this layer.
    fn refuse(&self, error: Error) -> Result<Self::Out, Self::Err>;

    /// What is kept of, and answered for, a handler that panicked.
    fn panicked(&self, message: String) -> (Keep, Result<Self::Out, Self::Err>);
}
