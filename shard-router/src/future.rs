//! The way of one request through its lane.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio_util::sync::PollSemaphore;
use tower_service::Service;

use crate::bulkhead::Admission;
use crate::health::Verdict;
use crate::lane::{Entry, Ticket, Waiting};
use crate::telemetry::{self, Outcome};
use crate::way::{Patience, Pause, Way};
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
        way: Option<Way<S>>,
    }
}

pin_project! {
    #[project = StateProj]
    #[project_replace = StateOwned]
    enum State<S, Req, F> {
        Refused { error: RouteError },
        Held { request: Req, admission: Admission, room: Admission, last: BoxError, pause: Option<Pause> },
        Sent { request: Req },
        Queued { request: Req, places: PollSemaphore, waiting: Waiting<S> },
        Readying { request: Req, service: S },
        Calling { #[pin] response: F },
        Refreshing { error: BoxError, refresh: Pause },
        Ended,
    }
}

impl<S, Req> ResponseFuture<S, Req>
where
    S: Service<Req>,
{
    pub(crate) fn refused(error: RouteError) -> Self {
        Self::new(State::Refused { error }, None, None)
    }

    pub(crate) fn held(
        request: Req,
        admission: Admission,
        room: Admission,
        last: RouteError,
        way: Way<S>,
    ) -> Self {
        let state = State::Held {
            request,
            admission,
            room,
            last: last.into(),
            pause: None,
        };
        Self::new(state, None, Some(way))
    }

    pub(crate) fn sent(ticket: Ticket<S>, request: Req, way: Option<Way<S>>) -> Self {
        Self::new(State::Sent { request }, Some(ticket), way)
    }

    fn new(
        state: State<S, Req, S::Future>,
        ticket: Option<Ticket<S>>,
        way: Option<Way<S>>,
    ) -> Self {
        Self {
            state,
            patience: Patience::new(),
            ticket,
            way,
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
        let result = loop {
            let next = match this.state.as_mut().project() {
                // ## Held => (Sent | refused)
                StateProj::Held { pause, .. } => {
                    if let Some(pausing) = pause {
                        ready!(pausing.as_mut().poll(cx));
                        *pause = None;
                    }
                    Next::Send
                }
                // ## Sent => (Readying | Queued | refused)
                StateProj::Sent { .. } => {
                    let ticket = this.ticket.as_mut().expect(SENT);
                    match ticket.enter() {
                        Entry::Enters => Next::Ready,
                        Entry::Waits => Next::Queue,
                        Entry::Full => {
                            let error = ticket.queue_full();
                            Next::Fail(error.into(), Outcome::QueueFull, Verdict::Unknown)
                        }
                    }
                }
                // ## Queued => (Readying | failed fast)
                StateProj::Queued { places, .. } => match places.poll_acquire(cx) {
                    Poll::Ready(place) => {
                        let ticket = this.ticket.as_mut().expect(SENT);
                        ticket.place(place.expect("a lane is never closed"));
                        Next::Ready
                    }
                    Poll::Pending => {
                        let ticket = ticket(this.ticket);
                        let patience = this.patience.as_mut();
                        let waited = ready!(patience.poll_lost(cx, ticket.lane().patience()));
                        let error = ticket.fail_fast(waited);
                        Next::Fail(error.into(), Outcome::FailFast, Verdict::Failed)
                    }
                },
                // ## Readying => (Calling | failed | failed fast)
                StateProj::Readying { service, .. } => match service.poll_ready(cx) {
                    Poll::Ready(Ok(())) => Next::Call,
                    Poll::Ready(Err(error)) => {
                        Next::Fail(error.into(), Outcome::Error, Verdict::Failed)
                    }
                    Poll::Pending => {
                        let ticket = ticket(this.ticket);
                        let patience = this.patience.as_mut();
                        let waited = ready!(patience.poll_lost(cx, ticket.lane().patience()));
                        let error = ticket.fail_fast(waited);
                        Next::Fail(error.into(), Outcome::FailFast, Verdict::Failed)
                    }
                },
                // ## Calling => (done | Refreshing | failed)
                StateProj::Calling { response, .. } => match ready!(response.poll(cx)) {
                    Ok(response) => {
                        this.state.set(State::Ended);
                        end(this.ticket, Outcome::Ok, Verdict::Alive);
                        break Ok(response);
                    }
                    Err(error) => {
                        let error = error.into();
                        let verdict = ticket(this.ticket).verdict(&error);
                        this.state.set(State::Ended);
                        end(this.ticket, Outcome::Error, verdict);
                        match this.way.as_ref().and_then(|way| way.refresh(&error)) {
                            Some(refresh) => Next::Refresh(error, refresh),
                            None => break Err(error),
                        }
                    }
                },
                // ## Refreshing => failed
                StateProj::Refreshing { refresh, .. } => {
                    ready!(refresh.as_mut().poll(cx));
                    match this.state.as_mut().project_replace(State::Ended) {
                        StateOwned::Refreshing { error, .. } => break Err(error),
                        _ => unreachable!("it was refreshing"),
                    }
                }
                StateProj::Refused { .. } => {
                    match this.state.as_mut().project_replace(State::Ended) {
                        StateOwned::Refused { error } => break Err(error.into()),
                        _ => unreachable!("it was refused"),
                    }
                }
                StateProj::Ended => panic!("polled after it was ready, or had panicked"),
            };
            let state = this.state.as_mut().project_replace(State::Ended);
            let state = match (next, state) {
                (
                    Next::Send,
                    StateOwned::Held {
                        request,
                        admission,
                        room,
                        last,
                        ..
                    },
                ) => {
                    let way = this.way.as_ref().expect("what is held can be sent on");
                    // Whatever changes from here on is not missed.
                    let changes = way.core.quarantine().changes();
                    match way.ticket(admission) {
                        Ok(ticket) => {
                            *this.ticket = Some(ticket);
                            this.patience.set(Patience::new());
                            State::Sent { request }
                        }
                        Err((admission, error)) => match error {
                            RouteError::Ejected { retry_in, .. } if !way.left().is_zero() => {
                                let pause = way.pause(changes, retry_in);
                                State::Held {
                                    request,
                                    admission,
                                    room,
                                    last,
                                    pause: Some(pause),
                                }
                            }
                            // What failed last says more than that it is ejected for it.
                            RouteError::Ejected { .. } => break Err(refused(last)),
                            other => break Err(refused(other.into())),
                        },
                    }
                }
                (Next::Queue, StateOwned::Sent { request }) => {
                    let lane = ticket(this.ticket).lane();
                    let places = PollSemaphore::new(lane.places().clone());
                    State::Queued {
                        request,
                        places,
                        waiting: Waiting(lane.clone()),
                    }
                }
                (
                    Next::Ready,
                    StateOwned::Sent { request } | StateOwned::Queued { request, .. },
                ) => State::Readying {
                    request,
                    service: ticket(this.ticket).lane().service(),
                },
                (
                    Next::Call,
                    StateOwned::Readying {
                        request,
                        mut service,
                    },
                ) => {
                    this.patience.as_mut().end();
                    if let Some(ticket) = this.ticket {
                        ticket.called();
                    }
                    State::Calling {
                        response: service.call(request),
                    }
                }
                // The shard never saw it: it may be held, and go to the next primary.
                (
                    Next::Fail(error, outcome, verdict),
                    StateOwned::Sent { request }
                    | StateOwned::Queued { request, .. }
                    | StateOwned::Readying { request, .. },
                ) => {
                    let is_held = verdict == Verdict::Failed && ticket(this.ticket).is_primary();
                    let way = this.way.as_mut().filter(|_| is_held);
                    let room = way.and_then(|way| Some((way.room_in_time()?, way.breath())));
                    let ticket = this.ticket.take().expect("it had one");
                    let admission = ticket.leave(outcome, verdict);
                    match (room, admission) {
                        (Some((room, pause)), Some(admission)) => State::Held {
                            request,
                            admission,
                            room,
                            last: error,
                            pause: Some(pause),
                        },
                        _ => break Err(refused(error)),
                    }
                }
                (Next::Refresh(error, refresh), _) => State::Refreshing { error, refresh },
                _ => unreachable!("each step starts from its own state"),
            };
            this.state.set(state);
        };
        // What it holds is given back before anyone sees the answer.
        this.state.set(State::Ended);
        this.patience.end();
        *this.way = None;
        Poll::Ready(result)
    }
}

/// A step to take, once the state is no longer borrowed.
enum Next {
    Send,
    Queue,
    Ready,
    Call,
    Fail(BoxError, Outcome, Verdict),
    Refresh(BoxError, Pause),
}

const SENT: &str = "it was sent to a lane";

fn ticket<S>(ticket: &Option<Ticket<S>>) -> &Ticket<S> {
    ticket.as_ref().expect(SENT)
}

fn end<S>(ticket: &mut Option<Ticket<S>>, outcome: Outcome, verdict: Verdict) {
    if let Some(ticket) = ticket.take() {
        ticket.end(outcome, verdict);
    }
}

fn refused(error: BoxError) -> BoxError {
    if let Some(error) = RouteError::find(&*error) {
        telemetry::refused(error);
    }
    error
}

impl<S, Req> fmt::Debug for ResponseFuture<S, Req>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Refused { .. } => "refused",
            State::Held { .. } => "held",
            State::Sent { .. } => "sent",
            State::Queued { .. } => "queued",
            State::Readying { .. } => "readying",
            State::Calling { .. } => "calling",
            State::Refreshing { .. } => "refreshing",
            State::Ended => "ended",
        };
        f.debug_struct("ResponseFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
