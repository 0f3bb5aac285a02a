//! Waiting for room instead of refusing, for clients who call others.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower_service::Service;

use crate::decision::{Decision, Verdict};
use crate::error::{BoxError, RateLimitError};
use crate::layer::{Fail, RateLimitLayer};
use crate::limiter::Limiter;
use crate::refund::{NoRefund, Refunds};
use crate::rules::{Apply, Rules};
use crate::service::RateLimit;
use crate::store::Store;

/// How many may wait at one time, unless set.
const WAITERS: usize = 1_024;

/// Requests without room wait for it, as long as they may. Made by [`RateLimitLayer::wait_up_to`].
#[derive(Clone, Debug)]
pub struct Waiting {
    up_to: Duration,
    most: usize,
    waiting: Arc<AtomicUsize>,
}

impl Waiting {
    fn place(&self) -> Option<Place> {
        let places = &self.waiting;
        let one_more = |waiting| (waiting < self.most).then_some(waiting + 1);
        places
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Place(Arc::clone(places)))
    }
}

/// One of those who wait; until it is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<St: Store, Rs: Rules, W> RateLimitLayer<St, Rs, Fail, W> {
    /// Lets requests without room wait for it, each for so long at most: for a client that holds itself
    /// to the limits of whom it calls.
    ///
    /// A request that cannot pass in that time is refused at once, and so is one that finds 1,024 others
    /// waiting ([`waiters`](RateLimitLayer::waiters)). Nothing is counted for a request while it waits,
    /// so that one which is dropped holds nothing. Who waits is not in a queue: when there is room
    /// again, it goes to whoever asks first.
    ///
    /// The service behind the layer is made ready after the wait, not before it, so that nothing there is held
    /// meanwhile; the layer itself is always ready.
    ///
    /// ```
    /// use seawall_ratelimit::{BoxError, MemoryStore, Quota, RateLimitLayer, Rule};
    /// use std::time::Duration;
    /// use tokio::time::Instant;
    /// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), BoxError> {
    /// let mut github = ServiceBuilder::new()
    ///     .layer(
    ///         RateLimitLayer::new(MemoryStore::with_capacity(1))
    ///             .rule(Rule::new("github", Quota::per_second(2)))
    ///             .wait_up_to(Duration::from_secs(10)),
    ///     )
    ///     .service(service_fn(async |path: &'static str| Ok::<_, BoxError>(path.len())));
    ///
    /// let start = Instant::now();
    /// for path in ["/user", "/events", "/repos"] {
    ///     github.ready().await?.call(path).await?;
    /// }
    /// assert!(start.elapsed() > Duration::from_secs(1));
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_up_to(self, limit: Duration) -> RateLimitLayer<St, Rs, Waiting, W> {
        self.with_mode(Waiting {
            up_to: limit,
            most: WAITERS,
            waiting: Arc::default(),
        })
    }
}

impl<St, Rs, W> RateLimitLayer<St, Rs, Waiting, W> {
    /// How many requests may wait at one time, over all services of the layer; 1,024 unless set.
    pub fn waiters(mut self, most: usize) -> Self {
        self.mode.most = most;
        self
    }
}

impl<S, Req, St, Rs, W> Service<Req> for RateLimit<S, St, Rs, Waiting, W>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    St: Store,
    Rs: Apply<Req>,
    W: Refunds<St, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = WaitFuture<S, Req, St, Rs, W>;

    /// Always: the inner service is made ready when the wait is over.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        WaitFuture {
            state: State::Asking,
            request: Some(request),
            service: self.inner.clone(),
            limiter: Arc::clone(&self.limiter),
            // A wait without end, should it be one, ends in some decades.
            deadline: Instant::now()
                .checked_add(self.mode.up_to)
                .unwrap_or_else(|| Instant::now() + Duration::from_secs(30 * 366 * 86_400)),
            waiting: self.mode.clone(),
            place: None,
            refunds: self.refunds.clone(),
            owed: None,
        }
    }
}

pin_project! {
    /// The answer of the service once there was room, or the refusal.
    pub struct WaitFuture<S, Req, St, Rs, W = NoRefund>
    where
        S: Service<Req>,
        St: Store,
        W: Refunds<St, S::Response, S::Error>,
    {
        #[pin]
        state: State<St::Deciding, S::Future>,
        // Until the service has it.
        request: Option<Req>,
        service: S,
        limiter: Arc<Limiter<St, Rs>>,
        deadline: Instant,
        waiting: Waiting,
        place: Option<Place>,
        refunds: W,
        // From the decision to the answer.
        owed: Option<W::Owed>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<D, F> {
        Asking,
        Deciding { #[pin] deciding: D },
        Waiting { #[pin] sleep: Sleep },
        Readying,
        Calling { #[pin] future: F },
    }
}

impl<S, Req, St, Rs, W> Future for WaitFuture<S, Req, St, Rs, W>
where
    S: Service<Req, Error: Into<BoxError>>,
    St: Store,
    Rs: Apply<Req>,
    W: Refunds<St, S::Response, S::Error>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let next = match this.state.as_mut().project() {
                // ## Asking => (Deciding | Waiting | Readying)
                StateProj::Asking => {
                    let request = this.request.as_ref().expect("it is not ready yet");
                    match this.limiter.decide(request)? {
                        Verdict::Later(deciding) => State::Deciding { deciding },
                        Verdict::Now(decision) => {
                            let (limiter, deadline) = (&**this.limiter, *this.deadline);
                            let next = after(
                                request,
                                &decision,
                                limiter,
                                deadline,
                                this.waiting,
                                this.place,
                            )?;
                            if let State::Readying = next {
                                *this.owed = Some(this.refunds.owe(limiter, request, &decision));
                            }
                            next
                        }
                    }
                }
                // ## Deciding => (Waiting | Readying)
                StateProj::Deciding { deciding } => {
                    let decision = ready!(deciding.poll(cx)).map_err(RateLimitError::Store)?;
                    let (limiter, deadline) = (&**this.limiter, *this.deadline);
                    let request = this.request.as_ref().expect("it is not ready yet");
                    let next = after(
                        request,
                        &decision,
                        limiter,
                        deadline,
                        this.waiting,
                        this.place,
                    )?;
                    if let State::Readying = next {
                        *this.owed = Some(this.refunds.owe(limiter, request, &decision));
                    }
                    next
                }
                // ## Waiting => Asking
                StateProj::Waiting { sleep } => {
                    ready!(sleep.poll(cx));
                    State::Asking
                }
                // ## Readying => Calling
                StateProj::Readying => {
                    ready!(this.service.poll_ready(cx)).map_err(Into::into)?;
                    let request = this.request.take().expect("it is not ready yet");
                    State::Calling {
                        future: this.service.call(request),
                    }
                }
                StateProj::Calling { future } => {
                    let answer = ready!(future.poll(cx));
                    if let Some(owed) = this.owed.take() {
                        this.refunds.answered(owed, &answer);
                    }
                    return Poll::Ready(answer.map_err(Into::into));
                }
            };
            this.state.set(next);
        }
    }
}

/// What follows from a decision: the call, or a wait that ends in time, or the refusal.
fn after<D, F, Req, St: Store, Rs: Apply<Req>>(
    request: &Req,
    decision: &Decision,
    limiter: &Limiter<St, Rs>,
    deadline: Instant,
    waiting: &Waiting,
    place: &mut Option<Place>,
) -> Result<State<D, F>, RateLimitError> {
    let mut wait = || {
        let wait = limiter.refused(decision)?.retry_after()?;
        let until = Instant::now().checked_add(wait)?;
        if until > deadline {
            return None;
        }
        if place.is_none() {
            *place = Some(waiting.place()?);
            limiter.delayed(decision);
        }
        Some(until)
    };
    if let Some(until) = wait() {
        return Ok(State::Waiting {
            sleep: sleep_until(until),
        });
    }
    *place = None;
    limiter.judge(request, decision)?;
    Ok(State::Readying)
}

impl<S, Req, St, Rs, W> fmt::Debug for WaitFuture<S, Req, St, Rs, W>
where
    S: Service<Req>,
    St: Store,
    W: Refunds<St, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitFuture").finish_non_exhaustive()
    }
}
