//! One call from its first attempt to its last.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use crate::{
    Attempt, BoxError, Class, Classify, CloneRequest, Delays, Interrupted, RetryError, Stamp,
    Stopped, Withdrawal,
    policy::{Policy, nearer},
    telemetry,
};

pin_project! {
    /// The future of a [`Retry`](crate::Retry) service.
    ///
    /// Dropped at any point it drops what it was doing, and a retry that was planned and not made
    /// goes back into the budget.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, Req, C, K, M, D>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S::Future>,
        // The one clock of the call: the end of the attempt, of the wait, or of the readying.
        #[pin]
        timer: Option<Sleep>,
        call: Call<S, Req, C, K, M, D>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Attempting { #[pin] attempt: F },
        Waiting,
        Readying,
        Done,
    }
}

/// What does not need to be pinned.
struct Call<S, Req, C, K, M, D> {
    policy: Arc<Policy<C, K, M, D>>,
    /// The service and the request of the next attempt. Taken by the last.
    repeat: Option<(S, Req)>,
    /// Calls of the inner service so far.
    attempts: u32,
    started: Option<Instant>,
    deadline: Option<Instant>,
    /// Made by the first failure: a call that succeeds at once does not pay for it.
    trouble: Option<Box<Trouble>>,
}

/// What is remembered from one attempt to the next.
struct Trouble {
    since: Instant,
    delays: Delays,
    error: Option<BoxError>,
    withdrawal: Option<Withdrawal>,
}

impl<S, Req, C, K, M, D> ResponseFuture<S, Req, C, K, M, D>
where
    S: Service<Req>,
{
    pub(crate) fn new(
        attempt: S::Future,
        repeat: Option<(S, Req)>,
        policy: Arc<Policy<C, K, M, D>>,
        started: Option<Instant>,
        deadline: Option<Instant>,
        attempt_end: Option<Instant>,
    ) -> Self {
        Self {
            state: State::Attempting { attempt },
            timer: attempt_end.map(sleep_until),
            call: Call {
                policy,
                repeat,
                attempts: 1,
                started,
                deadline,
                trouble: None,
            },
        }
    }
}

impl<S, Req, C, K, M, D> Future for ResponseFuture<S, Req, C, K, M, D>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
    K: CloneRequest<Req>,
    M: Stamp<Req>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                // ## Attempting => (Waiting | Done)
                StateProj::Attempting { attempt } => {
                    // The outcome before the clock: an answer that came in time counts.
                    let outcome = match attempt.poll(cx) {
                        Poll::Ready(outcome) => outcome.map_err(Into::into),
                        Poll::Pending => {
                            let Some(timer) = this.timer.as_mut().as_pin_mut() else {
                                return Poll::Pending;
                            };
                            ready!(timer.poll(cx));
                            match this.call.attempt_timed_out() {
                                Some(timed_out) => Err(timed_out),
                                None => {
                                    let error =
                                        this.call.cut(Stopped::Deadline, Interrupted::Deadline);
                                    this.state.set(State::Done);
                                    return Poll::Ready(Err(error));
                                }
                            }
                        }
                    };
                    match this.call.settle(outcome) {
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
                            continue;
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
                StateProj::Done => panic!("polled after it was done"),
            }
        }
    }
}

/// What follows an outcome.
enum Next<Res> {
    Answer(Result<Res, BoxError>),
    WaitUntil(Instant),
}

impl<S, Req, C, K, M, D> Call<S, Req, C, K, M, D> {
    /// Judges the outcome of an attempt, and plans the next one where there is to be one.
    fn settle<Res>(&mut self, outcome: Result<Res, BoxError>) -> Next<Res>
    where
        C: Classify<Res>,
    {
        let asked = match self.policy.classify.classify(outcome.as_ref()) {
            Class::Success => {
                if let Some(budget) = &self.policy.settings.budget {
                    budget.deposit();
                }
                return Next::Answer(outcome);
            }
            Class::Permanent => return self.give_up(Stopped::Permanent, outcome),
            Class::Transient => Duration::ZERO,
            Class::Throttled(wait) => wait,
        };
        match self.plan(asked) {
            Ok((wait, end)) => {
                telemetry::retrying(self.attempts, wait);
                if let (Some(trouble), Err(error)) = (&mut self.trouble, outcome) {
                    trouble.error = Some(error);
                }
                // A response is dropped here: it may hold a connection that the next attempt needs.
                Next::WaitUntil(end)
            }
            Err(stopped) => self.give_up(stopped, outcome),
        }
    }

    /// How long to wait, and until when, or why there is no next attempt.
    fn plan(&mut self, asked: Duration) -> Result<(Duration, Instant), Stopped> {
        let now = Instant::now();
        let Some(own) = self.trouble(now).delays.next() else {
            return Err(Stopped::Exhausted);
        };
        if self.repeat.is_none() {
            return Err(Stopped::Unrepeatable);
        }
        if asked > self.policy.settings.backoff.longest() {
            return Err(Stopped::Throttled(asked));
        }
        let wait = own.max(asked);
        let end = now.checked_add(wait).ok_or(Stopped::Deadline)?;
        if self.deadline.is_some_and(|deadline| deadline <= end) {
            return Err(Stopped::Deadline);
        }
        // Last, so that no retry is taken that something else forbids.
        if let Some(budget) = &self.policy.settings.budget {
            let withdrawal = budget.withdraw().ok_or(Stopped::Budget)?;
            self.trouble(now).withdrawal = Some(withdrawal);
        }
        Ok((wait, end))
    }

    /// The end of a call with an outcome in hand: a response is returned, an error is explained.
    fn give_up<Res>(&mut self, stopped: Stopped, outcome: Result<Res, BoxError>) -> Next<Res> {
        Next::Answer(outcome.map_err(|error| self.stop(stopped, error)))
    }

    /// The end of a call without an outcome of its own: the last error of an earlier attempt explains
    /// it best, where there was one.
    fn cut(&mut self, stopped: Stopped, interrupted: Interrupted) -> BoxError {
        let last = self
            .trouble
            .as_mut()
            .and_then(|trouble| trouble.error.take());
        self.stop(stopped, last.unwrap_or_else(|| interrupted.into()))
    }

    fn stop(&self, stopped: Stopped, source: BoxError) -> BoxError {
        let now = Instant::now();
        let failed = self.trouble.as_ref().map(|trouble| trouble.since);
        let elapsed = now.saturating_duration_since(self.started.or(failed).unwrap_or(now));
        let error = RetryError {
            attempts: self.attempts,
            elapsed,
            stopped,
            source,
        };
        telemetry::stopped(&error);
        error.into()
    }

    /// The timer of a running attempt has fired. `None` if that was the deadline over all attempts.
    fn attempt_timed_out(&self) -> Option<BoxError> {
        if self.deadline_passed() {
            return None;
        }
        self.policy
            .settings
            .attempt_timeout
            .map(|limit| Interrupted::AttemptTimeout(limit).into())
    }

    /// The timer of the readying has fired.
    fn not_ready(&mut self) -> BoxError {
        if self.deadline_passed() {
            return self.cut(Stopped::Deadline, Interrupted::Deadline);
        }
        let limit = self.policy.settings.ready_within;
        self.cut(Stopped::NotReady, Interrupted::NotReady(limit))
    }

    fn deadline_passed(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    fn ready_end(&self) -> Option<Instant> {
        nearer(
            Instant::now().checked_add(self.policy.settings.ready_within),
            self.deadline,
        )
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
    {
        let (service, _) = self.repeat.as_mut().expect(PLANNED);
        service.poll_ready(cx).map_err(Into::into)
    }

    /// Sends the next attempt to the service that was readied, and keeps a copy of the request if
    /// there may be another. Also says when the attempt has to be over.
    fn next_attempt(&mut self) -> (S::Future, Option<Instant>)
    where
        S: Service<Req>,
        K: CloneRequest<Req>,
        M: Stamp<Req>,
    {
        let (mut service, mut request) = self.repeat.take().expect(PLANNED);
        let policy = &*self.policy;
        self.attempts += 1;
        let copy = match self.attempts < policy.settings.backoff.max_attempts() {
            true => policy.clone.clone_request(&request),
            false => None,
        };
        let end = policy.attempt_end(self.deadline);
        policy
            .stamp
            .stamp(&mut request, Attempt::new(self.attempts, end));
        if let Some(retry) = self
            .trouble
            .as_mut()
            .and_then(|trouble| trouble.withdrawal.take())
        {
            retry.spend();
        }
        let attempt = service.call(request);
        self.repeat = copy.map(|copy| (service, copy));
        (attempt, end)
    }

    fn trouble(&mut self, now: Instant) -> &mut Trouble {
        let policy = &self.policy;
        self.trouble.get_or_insert_with(|| {
            let session = policy.settings.sessions.fetch_add(1, Relaxed);
            Box::new(Trouble {
                since: now,
                delays: policy.settings.backoff.session(session),
                error: None,
                withdrawal: None,
            })
        })
    }
}

const PLANNED: &str = "a wait is planned only for a request that can be sent again";

/// Sets the timer to `end`, or takes it away.
fn arm(mut timer: Pin<&mut Option<Sleep>>, end: Option<Instant>) {
    match (timer.as_mut().as_pin_mut(), end) {
        (Some(timer), Some(end)) => timer.reset(end),
        (None, Some(end)) => timer.set(Some(sleep_until(end))),
        (_, None) => timer.set(None),
    }
}

impl<S, Req, C, K, M, D> fmt::Debug for ResponseFuture<S, Req, C, K, M, D>
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
