//! What a call remembers from one attempt to the next, and what it decides.

use std::{
    mem,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower_service::Service;

use crate::{
    Attempt, BoxError, Budget, Class, CloneRequest, Interrupted, RetryError, Stamp, Stopped,
    Withdrawal,
    held::Held,
    policy::{Policy, nearer},
    rarely::Rarely,
    telemetry,
    waits::Waits,
};

/// The part of the future that need not be pinned.
pub(crate) struct Call<S, Req, C, K, M> {
    pub(crate) settings: Held,
    pub(crate) policy: Policy<C, K, M>,
    /// That of this request, where it has one of its own.
    pub(crate) budget: Option<Budget>,
    /// The service and the request of the next attempt. Taken by the last.
    pub(crate) repeat: Option<(S, Req)>,
    /// Calls of the inner service so far.
    pub(crate) attempts: u32,
    /// Whether the timer knows of the attempt's end. Of the first one's it is told only once there is
    /// something to wait for.
    pub(crate) armed: bool,
    /// When the call began, where anything depends on it.
    pub(crate) started: Option<Instant>,
    pub(crate) deadline: Option<Instant>,
    /// That of the running attempt.
    pub(crate) span: telemetry::Span,
    /// Made by the first failure: a call that succeeds at once does not pay for it.
    pub(crate) trouble: Rarely<Trouble>,
}

/// What is remembered from one attempt to the next.
pub(crate) struct Trouble {
    since: Instant,
    waits: Waits,
    error: Option<BoxError>,
    withdrawal: Option<Withdrawal>,
}

/// What follows an outcome that is no success.
pub(crate) enum Next<Res> {
    Answer(Result<Res, BoxError>),
    WaitUntil(Instant),
}

impl<S, Req, C, K, M> Call<S, Req, C, K, M> {
    #[inline]
    pub(crate) fn budget(&self) -> Option<&Budget> {
        self.budget.as_ref().or(self.settings.budget.as_ref())
    }

    /// Plans the next attempt after an outcome that is no success, where there is to be one.
    #[cold]
    pub(crate) fn failed<Res>(&mut self, class: Class, outcome: Result<Res, BoxError>) -> Next<Res>
    where
        K: CloneRequest<Req>,
    {
        self.span = telemetry::Span::none();
        let asked = match class {
            Class::Success => return Next::Answer(outcome),
            Class::Permanent => return self.give_up(Stopped::Permanent, outcome),
            Class::Transient => Duration::ZERO,
            Class::Throttled(wait) => wait,
        };
        match self.plan(asked) {
            Ok((wait, end)) => {
                telemetry::retrying(self.attempts, wait);
                if let (Some(trouble), Err(error)) = (self.trouble.get_mut(), outcome) {
                    trouble.error = Some(error);
                }
                // A response is dropped here: it may hold a connection that the next attempt needs.
                Next::WaitUntil(end)
            }
            Err(stopped) => self.give_up(stopped, outcome),
        }
    }

    /// How long to wait, and until when, or why there is no next attempt.
    fn plan(&mut self, asked: Duration) -> Result<(Duration, Instant), Stopped>
    where
        K: CloneRequest<Req>,
    {
        let now = Instant::now();
        let Some(own) = self.trouble(now).waits.next() else {
            return Err(Stopped::Exhausted);
        };
        match &self.repeat {
            Some((_, request)) if self.policy.clone.can_send(request) => {}
            _ => return Err(Stopped::Unrepeatable),
        }
        if asked > self.settings.backoff.longest() {
            return Err(Stopped::Throttled(asked));
        }
        let wait = own.max(asked);
        let end = now.checked_add(wait).ok_or(Stopped::Deadline)?;
        if self.deadline.is_some_and(|deadline| deadline <= end) {
            return Err(Stopped::Deadline);
        }
        // Last, so that no retry is taken that something else forbids.
        if let Some(budget) = self.budget() {
            let withdrawal = budget.withdraw().ok_or(Stopped::Budget)?;
            self.trouble(now).withdrawal = Some(withdrawal);
        }
        Ok((wait, end))
    }

    /// The end of a call with an outcome in hand: a response is returned, an error is explained.
    fn give_up<Res>(&mut self, stopped: Stopped, outcome: Result<Res, BoxError>) -> Next<Res> {
        Next::Answer(match outcome {
            Ok(response) => {
                telemetry::stopped(self.attempts, stopped, None);
                Ok(response)
            }
            Err(error) => Err(self.stop(stopped, error)),
        })
    }

    /// The end of a call without an outcome of its own: the last error of an earlier attempt explains
    /// it best, where there was one.
    pub(crate) fn cut(&mut self, stopped: Stopped, interrupted: Interrupted) -> BoxError {
        let last = self
            .trouble
            .get_mut()
            .and_then(|trouble| trouble.error.take());
        self.stop(stopped, last.unwrap_or_else(|| interrupted.into()))
    }

    pub(crate) fn stop(&self, stopped: Stopped, source: BoxError) -> BoxError {
        telemetry::stopped(self.attempts, stopped, Some(&source));
        let now = Instant::now();
        let failed = self.trouble.get().map(|trouble| trouble.since);
        let elapsed = now.saturating_duration_since(self.started.or(failed).unwrap_or(now));
        let error = RetryError {
            attempts: self.attempts,
            elapsed,
            stopped,
            source,
        };
        error.into()
    }

    /// What the timer has to be set to while the first attempt runs, once.
    pub(crate) fn first_end(&mut self) -> Option<Instant> {
        if mem::replace(&mut self.armed, true) {
            return None;
        }
        self.settings.attempt_end(self.started, self.deadline)
    }

    /// The timer of a running attempt has fired. `None` if that was the deadline over all attempts.
    pub(crate) fn attempt_timed_out(&self) -> Option<BoxError> {
        if self.deadline_passed() {
            return None;
        }
        self.settings
            .attempt_timeout
            .map(|limit| Interrupted::AttemptTimeout(limit).into())
    }

    /// The timer of the readying has fired.
    pub(crate) fn not_ready(&mut self) -> BoxError {
        if self.deadline_passed() {
            return self.cut(Stopped::Deadline, Interrupted::Deadline);
        }
        let limit = self.settings.ready_within;
        self.cut(Stopped::NotReady, Interrupted::NotReady(limit))
    }

    pub(crate) fn deadline_passed(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline <= Instant::now())
    }

    pub(crate) fn ready_end(&self) -> Option<Instant> {
        nearer(
            Instant::now().checked_add(self.settings.ready_within),
            self.deadline,
        )
    }

    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>>
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
    {
        let (service, _) = self.repeat.as_mut().expect(PLANNED);
        service.poll_ready(cx).map_err(Into::into)
    }

    /// Sends the next attempt to the service that was readied, and keeps a copy of the request if
    /// there may be another. Also says when the attempt has to be over.
    pub(crate) fn next_attempt(&mut self) -> (S::Future, Option<Instant>)
    where
        S: Service<Req>,
        K: CloneRequest<Req>,
        M: Stamp<Req>,
    {
        let (mut service, mut request) = self.repeat.take().expect(PLANNED);
        let policy = &self.policy;
        self.attempts += 1;
        self.armed = true;
        let copy = match self.attempts < self.settings.backoff.max_attempts() {
            true => policy.clone.clone_request(&request),
            false => None,
        };
        let now = self.settings.attempt_timeout.map(|_| Instant::now());
        let end = self.settings.attempt_end(now, self.deadline);
        policy
            .stamp
            .stamp(&mut request, Attempt::new(self.attempts, end));
        if let Some(retry) = self
            .trouble
            .get_mut()
            .and_then(|trouble| trouble.withdrawal.take())
        {
            retry.spend();
        }
        self.span = telemetry::Span::attempt(self.attempts);
        let attempt = self.span.within(|| service.call(request));
        self.repeat = copy.map(|copy| (service, copy));
        (attempt, end)
    }

    fn trouble(&mut self, now: Instant) -> &mut Trouble {
        self.trouble.get_or_insert_with(|| Trouble {
            since: now,
            waits: Waits::new(&self.settings, self.policy.waits.as_ref()),
            error: None,
            withdrawal: None,
        })
    }
}

const PLANNED: &str = "a wait is planned only for a request that can be sent again";
