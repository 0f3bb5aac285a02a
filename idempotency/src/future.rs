//! The caller's side of a call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::sync::oneshot;

use crate::error::Error;

type Answer<T, E> = oneshot::Receiver<Result<T, E>>;

/// The answer of a call. Nothing happens before it is polled; once the call has begun, dropping it
/// does not stop the call.
pub struct ResponseFuture<T, E> {
    state: State<T, E>,
    stopped: fn(Error) -> Result<T, E>,
}

enum State<T, E> {
    Start(Option<Box<dyn FnOnce() -> Answer<T, E> + Send>>),
    Wait(Answer<T, E>),
}

impl<T, E> ResponseFuture<T, E> {
    pub(crate) fn new(
        start: impl FnOnce() -> Answer<T, E> + Send + 'static,
        stopped: fn(Error) -> Result<T, E>,
    ) -> Self {
        Self {
            state: State::Start(Some(Box::new(start))),
            stopped,
        }
    }
}

impl<T, E> Future for ResponseFuture<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.state {
                State::Start(start) => {
                    let start = start
                        .take()
                        .expect("it was taken on the way to the next state");
                    self.state = State::Wait(start());
                }
                State::Wait(answer) => {
                    let answer = ready!(Pin::new(answer).poll(cx));
                    // The task ends without an answer only with its runtime.
                    return Poll::Ready(answer.unwrap_or_else(|_| (self.stopped)(Error::Stopped)));
                }
            }
        }
    }
}

impl<T, E> fmt::Debug for ResponseFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
