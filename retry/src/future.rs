//! One call from its first attempt to its last.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use crate::{
    BoxError, Class, Classify, CloneRequest, Interrupted, Stamp, Stopped,
    call::{Call, Next},
};

pin_project! {
    /// The future of a [`Retry`](crate::Retry) service.
    ///
    /// Dropped at any point it drops what it was doing, and a retry that was planned and not made
    /// goes back into the budget.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, K, M>
    where
        S: Service<Req>,
    {
        #[pin]
        pub(crate) state: State<S::Future>,
        // The one clock of the call: the end of the attempt, of the wait, or of the readying.
        #[pin]
        pub(crate) timer: Option<Sleep>,
        pub(crate) call: Call<S, Req, C, K, M>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(crate) enum State<F> {
        Attempting { #[pin] attempt: F },
        Waiting,
        Readying,
        Done,
    }
}

impl<S, Req, C, K, M> Future for ResponseFuture<S, Req, C, K, M>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
    K: CloneRequest<Req>,
    M: Stamp<Req>,
{
    type Output = Result<S::Response, BoxError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            // ## Attempting => (Waiting | Done)
            let outcome = match this.state.as_mut().project() {
                // The outcome before the clock: an answer that came in time counts.
                StateProj::Attempting { attempt } => {
                    match this.call.span.within(|| attempt.poll(cx)) {
                        Poll::Ready(outcome) => outcome.map_err(Into::into),
                        Poll::Pending => Err(ready!(self.as_mut().poll_attempt_end(cx))?),
                    }
                }
                _ => {
                    ready!(self.as_mut().poll_next_attempt(cx))?;
                    continue;
                }
            };
            let mut this = self.as_mut().project();
            let class = this.call.policy.classify.classify(outcome.as_ref());
            if let Class::Success = class {
                if let Some(budget) = this.call.budget() {
                    budget.deposit();
                }
                this.state.set(State::Done);
                return Poll::Ready(outcome);
            }
            match this.call.failed(class, outcome) {
                Next::Answer(answer) => {
                    this.state.set(State::Done);
                    return Poll::Ready(answer);
                }
                Next::WaitUntil(end) => {
                    this.state.set(State::Waiting);
                    arm(this.timer.as_mut(), Some(end));
                }
            }
        }
    }
}

impl<S, Req, C, K, M> ResponseFuture<S, Req, C, K, M>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    K: CloneRequest<Req>,
    M: Stamp<Req>,
{
    /// Waits for the end of the attempt's time: the attempt's error, or that of the call.
    fn poll_attempt_end(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BoxError, BoxError>> {
        let mut this = self.project();
        if let Some(end) = this.call.first_end() {
            arm(this.timer.as_mut(), Some(end));
        }
        let Some(timer) = this.timer.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        ready!(timer.poll(cx));
        Poll::Ready(this.call.attempt_timed_out().ok_or_else(|| {
            this.state.set(State::Done);
            this.call.cut(Stopped::Deadline, Interrupted::Deadline)
        }))
    }

    /// Waits, readies the service, and makes the next attempt.
    fn poll_next_attempt(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                // ## Waiting => Readying
                StateProj::Waiting => {
                    if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                        ready!(timer.poll(cx));
                    }
                    this.state.set(State::Readying);
                    arm(this.timer.as_mut(), this.call.ready_end());
                }
                // ## Readying => (Attempting | Done)
                StateProj::Readying => {
                    let error = match this.call.poll_ready(cx) {
                        // The wait may have ended late: nothing is sent that nobody waits for.
                        Poll::Ready(Ok(())) if this.call.deadline_passed() => {
                            this.call.cut(Stopped::Deadline, Interrupted::Deadline)
                        }
                        Poll::Ready(Ok(())) => {
                            let (attempt, end) = this.call.next_attempt();
                            this.state.set(State::Attempting { attempt });
                            arm(this.timer.as_mut(), end);
                            return Poll::Ready(Ok(()));
                        }
                        Poll::Ready(Err(error)) => this.call.stop(Stopped::NotReady, error),
                        Poll::Pending => {
                            let Some(timer) = this.timer.as_mut().as_pin_mut() else {
                                return Poll::Pending;
                            };
                            ready!(timer.poll(cx));
                            this.call.not_ready()
                        }
                    };
                    this.state.set(State::Done);
                    return Poll::Ready(Err(error));
                }
                StateProj::Attempting { .. } => return Poll::Ready(Ok(())),
                StateProj::Done => panic!("polled after it was done"),
            }
        }
    }
}

/// Sets the timer to `end`, or takes it away.
fn arm(mut timer: Pin<&mut Option<Sleep>>, end: Option<Instant>) {
    match (timer.as_mut().as_pin_mut(), end) {
        (Some(timer), Some(end)) => timer.reset(end),
        (None, Some(end)) => timer.set(Some(sleep_until(end))),
        (_, None) => timer.set(None),
    }
}

impl<S, Req, C, K, M> fmt::Debug for ResponseFuture<S, Req, C, K, M>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Attempting { .. } => "attempting",
            State::Waiting => "waiting",
            State::Readying => "readying",
            State::Done => "done",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .field("attempts", &self.call.attempts)
            .finish_non_exhaustive()
    }
}
