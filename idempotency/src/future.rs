//! The caller's side of a call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::{
    error::Error,
    tasks::{Tasks, Work},
};

/// The answer of a call. Nothing happens before it is polled; once the call has begun, dropping it
/// does not stop the call.
///
/// What can be done at once is done in the poll that begins the call, such as a replay from memory.
/// The rest is done in a task.
pub struct ResponseFuture<T, E> {
    begin: Option<(Tasks, Work)>,
    answer: oneshot::Receiver<Result<T, E>>,
    stopped: fn(Error) -> Result<T, E>,
}

impl<T, E> ResponseFuture<T, E> {
    /// `answer` comes from `work`. `stopped` is for work that ends without one: with its runtime.
    pub(crate) fn new(
        tasks: Tasks,
        work: Work,
        answer: oneshot::Receiver<Result<T, E>>,
        stopped: fn(Error) -> Result<T, E>,
    ) -> Self {
        Self {
            begin: Some((tasks, work)),
            answer,
            stopped,
        }
    }
}

impl<T, E> Future for ResponseFuture<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = match self.begin.take() {
            None => ready!(Pin::new(&mut self.answer).poll(cx)).ok(),
            Some((tasks, work)) => {
                tasks.begin(work, cx);
                match self.answer.try_recv() {
                    Ok(answer) => Some(answer),
                    Err(TryRecvError::Empty) => ready!(Pin::new(&mut self.answer).poll(cx)).ok(),
                    Err(TryRecvError::Closed) => None,
                }
            }
        };
        Poll::Ready(answer.unwrap_or_else(|| (self.stopped)(Error::Stopped)))
    }
}

impl<T, E> fmt::Debug for ResponseFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("begun", &self.begin.is_none())
            .finish_non_exhaustive()
    }
}
