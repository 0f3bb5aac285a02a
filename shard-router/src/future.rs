//! The way of one request through its lane.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::PollSemaphore;
use tower_service::Service;

use crate::bulkhead::Admission;
use crate::health::Verdict;
use crate::lane::{Entry, Ticket, Waiting};
use crate::router::Core;
use crate::telemetry::{self, Outcome};
use crate::{Access, BoxError, Place, Refusal, RouteError};

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
        Readying { request: Req, service: S, place: OwnedSemaphorePermit },
        Calling { #[pin] response: F, place: OwnedSemaphorePermit },
        Refreshing { error: BoxError, refresh: Pause },
        Ended,
    }
}

/// A wait off the happy path.
type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// After a service that said that it cannot get ready, nothing is sent to it again for this long.
const BREATH: Duration = Duration::from_millis(10);

/// What it takes to route a request once more: it may be held while a primary fails over, or have
/// to wait for a newer topology.
pub(crate) struct Way<S> {
    core: Arc<Core<S>>,
    place: Place,
    access: Access,
    /// Until when it may be held, once it was.
    until: Option<Instant>,
}

impl<S> Way<S> {
    pub(crate) fn new(core: Arc<Core<S>>, place: Place, access: Access) -> Self {
        Self {
            core,
            place,
            access,
            until: None,
        }
    }

    /// Room for it to be held after this refusal, if that is asked for and makes sense.
    pub(crate) fn room(&mut self, error: &RouteError) -> Option<Admission> {
        match error {
            RouteError::Ejected { .. } | RouteError::FailFast { .. } => self.room_in_time(),
            _ => None,
        }
    }

    fn room_in_time(&mut self) -> Option<Admission> {
        let (cap, within) = self.core.hold()?;
        let now = Instant::now();
        let until = *self.until.get_or_insert_with(|| now + within);
        (now < until).then(|| cap.admit()).flatten()
    }

    /// How long until it may be held no longer.
    fn left(&self) -> Duration {
        let until = self.until.unwrap_or_else(Instant::now);
        until.saturating_duration_since(Instant::now())
    }

    fn breath(&self) -> Pause {
        self.pause(self.core.quarantine().changes(), BREATH)
    }

    /// Until something changed, for so long at most.
    fn pause(&self, mut changes: watch::Receiver<()>, at_most: Duration) -> Pause {
        let at_most = at_most.min(self.left());
        Box::pin(async move {
            let _ = timeout(at_most, changes.changed()).await;
        })
    }

    fn ticket(&self, admission: Admission) -> Result<Ticket<S>, (Admission, RouteError)> {
        let table = self.core.table.load();
        match table.pick(&self.place, self.access, self.core.preference()) {
            Ok(pick) => {
                let lane = Arc::clone(pick.lane);
                Ok(Ticket::new(lane, pick.role, pick.is_probe, admission))
            }
            Err(error) => Err((admission, error)),
        }
    }

    /// Fetches a newer topology, if that is what this error of a shard calls for.
    fn refresh(&self, error: &BoxError) -> Option<Pause> {
        let epoch = Refusal::of(error)?.epoch();
        let handle = self.core.handle();
        handle.is_behind(epoch).then(|| {
            let handle = handle.clone();
            // Who cannot be helped is told by the error of the shard.
            Box::pin(async move { drop(handle.refresh(epoch).await) }) as Pause
        })
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
    fn new() -> Self {
        Self {
            timer: None,
            since: None,
        }
    }

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
                    let ticket = ticket(this.ticket);
                    match ticket.lane().enter() {
                        Entry::Enters(place) => Next::Ready(place),
                        Entry::Waits => Next::Queue,
                        Entry::Full => {
                            let error = ticket.queue_full();
                            Next::Fail(error.into(), Outcome::QueueFull, Verdict::Unknown)
                        }
                    }
                }
                // ## Queued => (Readying | failed fast)
                StateProj::Queued { places, .. } => match places.poll_acquire(cx) {
                    Poll::Ready(place) => Next::Ready(place.expect("a lane is never closed")),
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
                    Next::Ready(place),
                    StateOwned::Sent { request } | StateOwned::Queued { request, .. },
                ) => State::Readying {
                    request,
                    service: ticket(this.ticket).lane().service(),
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
                    if let Some(ticket) = this.ticket {
                        ticket.called();
                    }
                    State::Calling {
                        response: service.call(request),
                        place,
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
        this.patience.project().timer.set(None);
        *this.way = None;
        Poll::Ready(result)
    }
}

/// A step to take, once the state is no longer borrowed.
enum Next {
    Send,
    Queue,
    Ready(OwnedSemaphorePermit),
    Call,
    Fail(BoxError, Outcome, Verdict),
    Refresh(BoxError, Pause),
}

fn ticket<S>(ticket: &Option<Ticket<S>>) -> &Ticket<S> {
    ticket.as_ref().expect("it was sent to a lane")
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
