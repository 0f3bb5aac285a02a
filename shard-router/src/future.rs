//! The way of one request through its lane.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::PollSemaphore;
use tower_service::Service;

use crate::bulkhead::{Entry, Ticket, Waiting};
use crate::telemetry::{self, Outcome};
use crate::{BoxError, RouteError};

pin_project! {
    /// The response of a [`ShardRouter`](crate::ShardRouter).
    ///
    /// Where it was sent is decided when it is called. It takes its place at the endpoint when it
    /// is first polled, and gives back whatever it holds as soon as it is ready or dropped.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req, S::Future>,
        #[pin]
        patience: Patience,
        ticket: Option<Ticket<S>>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwned]
    enum State<S, Req, F> {
        Refused { error: RouteError },
        Sent { request: Req },
        Queued { request: Req, places: PollSemaphore, waiting: Waiting<S> },
        Readying { request: Req, service: S, place: OwnedSemaphorePermit },
        Calling { #[pin] response: F, place: OwnedSemaphorePermit },
        Ended,
    }
}

pin_project! {
    /// How long a request waits to be handed over. Nothing looks at the clock before it has to.
    struct Patience {
        #[pin]
        timer: Option<Sleep>,
        since: Option<Instant>,
    }
}

impl Patience {
    /// Ready when the wait has lasted too long, with how long that was.
    fn poll_lost(self: Pin<&mut Self>, cx: &mut Context<'_>, after: Duration) -> Poll<Duration> {
        let mut this = self.project();
        let since = *this.since.get_or_insert_with(Instant::now);
        if this.timer.is_none() {
            this.timer.set(Some(sleep(after)));
        }
        if let Some(timer) = this.timer.as_pin_mut() {
            ready!(timer.poll(cx));
        }
        Poll::Ready(since.elapsed())
    }
}

impl<S, Req> ResponseFuture<S, Req>
where
    S: Service<Req>,
{
    pub(crate) fn refused(error: RouteError) -> Self {
        Self::new(State::Refused { error }, None)
    }

    pub(crate) fn sent(ticket: Ticket<S>, request: Req) -> Self {
        Self::new(State::Sent { request }, Some(ticket))
    }

    fn new(state: State<S, Req, S::Future>, ticket: Option<Ticket<S>>) -> Self {
        Self {
            state,
            patience: Patience {
                timer: None,
                since: None,
            },
            ticket,
        }
    }
}

impl<S, Req> Future for ResponseFuture<S, Req>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let (result, outcome) = loop {
            let Some(ticket) = this.ticket.as_ref() else {
                // Only what was refused has no ticket and is not over.
                match this.state.project_replace(State::Ended) {
                    StateOwned::Refused { error } => return Poll::Ready(Err(error.into())),
                    _ => panic!("polled after it was ready"),
                }
            };
            let lane = ticket.lane();
            let next = match this.state.as_mut().project() {
                // ## Sent => (Readying | Queued | refused)
                StateProj::Sent { .. } => match lane.enter() {
                    Entry::Enters(place) => Next::Ready(place),
                    Entry::Waits => Next::Queue,
                    Entry::Full => {
                        let error = ticket.queue_full();
                        telemetry::refused(&error);
                        break (Err(error.into()), Outcome::QueueFull);
                    }
                },
                // ## Queued => (Readying | failed fast)
                StateProj::Queued { places, .. } => match places.poll_acquire(cx) {
                    Poll::Ready(place) => Next::Ready(place.expect("a lane is never closed")),
                    Poll::Pending => {
                        let patience = this.patience.as_mut();
                        let waited = ready!(patience.poll_lost(cx, lane.patience()));
                        let error = ticket.fail_fast(waited);
                        telemetry::refused(&error);
                        break (Err(error.into()), Outcome::FailFast);
                    }
                },
                // ## Readying => (Calling | failed | failed fast)
                StateProj::Readying { service, .. } => match service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => Next::Call,
                    Poll::Ready(Err(error)) => break (Err(error.into()), Outcome::Error),
                    Poll::Pending => {
                        let patience = this.patience.as_mut();
                        let waited = ready!(patience.poll_lost(cx, lane.patience()));
                        let error = ticket.fail_fast(waited);
                        telemetry::refused(&error);
                        break (Err(error.into()), Outcome::FailFast);
                    }
                },
                // ## Calling => (done | failed)
                StateProj::Calling { response, .. } => match ready!(response.poll(cx)) {
                    Ok(response) => break (Ok(response), Outcome::Ok),
                    Err(error) => break (Err(error.into()), Outcome::Error),
                },
                StateProj::Refused { .. } | StateProj::Ended => panic!("polled after it panicked"),
            };
            let state = this.state.as_mut().project_replace(State::Ended);
            let state = match (next, state) {
                (Next::Queue, StateOwned::Sent { request }) => {
                    let places = PollSemaphore::new(lane.places().clone());
                    State::Queued {
                        request,
                        places,
                        waiting: Waiting(lane.clone()),
                    }
                }
                (
                    Next::Ready(place),
                    StateOwned::Sent { request } | StateOwned::Queued { request, .. },
                ) => State::Readying {
                    request,
                    service: lane.service(),
                    place,
                },
                (
                    Next::Call,
                    StateOwned::Readying {
                        request,
                        mut service,
                        place,
                    },
                ) => {
                    this.patience.as_mut().project().timer.set(None);
                    State::Calling {
                        response: service.call(request),
                        place,
                    }
                }
                _ => unreachable!("each step starts from its own state"),
            };
            this.state.set(state);
        };
        // What it holds is given back before anyone sees the answer.
        this.state.set(State::Ended);
        this.patience.project().timer.set(None);
        if let Some(ticket) = this.ticket.take() {
            ticket.end(outcome);
        }
        Poll::Ready(result)
    }
}

/// A step to take, once the state is no longer borrowed.
enum Next {
    Queue,
    Ready(OwnedSemaphorePermit),
    Call,
}

impl<S, Req> fmt::Debug for ResponseFuture<S, Req>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Refused { .. } => "refused",
            State::Sent { .. } => "sent",
            State::Queued { .. } => "queued",
            State::Readying { .. } => "readying",
            State::Calling { .. } => "calling",
            State::Ended => "ended",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
