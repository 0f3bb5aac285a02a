//! The service: starts the first attempt, and leaves the rest to the future.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower_service::Service;

use crate::{
    Attempt, BoxError, Classify, CloneRequest, PickBudget, RequestDeadline, ResponseFuture, Stamp,
    call::Call,
    future::State,
    held::Held,
    policy::{Policy, Settings, Times},
    rarely::Rarely,
    telemetry::Span,
};

/// A service whose calls are repeated: see [`RetryLayer`](crate::RetryLayer).
///
/// The first attempt is made on the instance that was readied. Further ones are made on a clone of it,
/// which is readied again before each.
///
/// # Clone
///
/// Clones share the budget and have the same settings.
#[derive(Clone)]
pub struct Retry<S, C, K, M, D, B> {
    pub(crate) inner: S,
    pub(crate) settings: Arc<Settings>,
    pub(crate) policy: Policy<C, K, M>,
    pub(crate) deadline_of: D,
    pub(crate) budget_by: B,
}

impl<S, C, K, M, D, B> Retry<S, C, K, M, D, B> {
    /// The service that is called.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: fmt::Debug, C, K, M, D, B> fmt::Debug for Retry<S, C, K, M, D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<S, Req, C, K, M, D, B> Service<Req> for Retry<S, C, K, M, D, B>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response> + Clone,
    K: CloneRequest<Req> + Clone,
    M: Stamp<Req> + Clone,
    D: RequestDeadline<Req>,
    B: PickBudget<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, C, K, M>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, mut request: Req) -> Self::Future {
        let settings = Held::new(&self.settings);
        let asked = self.deadline_of.deadline(&request);
        // Without a limit of our own there is no need to know when the call began.
        let times = if settings.is_timed() {
            settings.times(Instant::now(), asked)
        } else {
            Times {
                started: None,
                deadline: asked,
                attempt_end: asked,
            }
        };
        let budget = self.budget_by.pick(&request);

        let policy = self.policy.clone();
        let repeat = match settings.backoff.max_attempts() {
            1 => None,
            _ => policy
                .clone
                .clone_request(&request)
                .map(|copy| (self.inner.clone(), copy)),
        };
        policy
            .stamp
            .stamp(&mut request, Attempt::new(1, times.attempt_end));
        let span = Span::attempt(1);
        ResponseFuture {
            state: State::Attempting {
                attempt: span.within(|| self.inner.call(request)),
            },
            timer: None,
            call: Call {
                settings,
                policy,
                budget,
                repeat,
                attempts: 1,
                armed: false,
                started: times.started,
                deadline: times.deadline,
                span,
                trouble: Rarely::none(),
            },
        }
    }
}
