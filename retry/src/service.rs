//! The service: starts the first attempt, and leaves the rest to the future.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::Instant;
use tower_service::Service;

use crate::{
    Attempt, BoxError, Classify, CloneRequest, RequestDeadline, ResponseFuture, Stamp,
    call::Call,
    policy::{Policy, nearer},
};

/// A service whose calls are repeated: see [`RetryLayer`](crate::RetryLayer).
///
/// The first attempt is made on the instance that was readied. Further ones are made on a clone of it,
/// which is readied again before each.
///
/// # Clone
///
/// Clones share the budget and the settings.
pub struct Retry<S, C, K, M, D> {
    inner: S,
    policy: Arc<Policy<C, K, M, D>>,
}

impl<S, C, K, M, D> Retry<S, C, K, M, D> {
    pub(crate) fn new(inner: S, policy: Policy<C, K, M, D>) -> Self {
        Self {
            inner,
            policy: Arc::new(policy),
        }
    }

    /// The service that is called.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: Clone, C, K, M, D> Clone for Retry<S, C, K, M, D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            policy: Arc::clone(&self.policy),
        }
    }
}

impl<S: fmt::Debug, C, K, M, D> fmt::Debug for Retry<S, C, K, M, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("policy", &self.policy)
            .finish()
    }
}

impl<S, Req, C, K, M, D> Service<Req> for Retry<S, C, K, M, D>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
    K: CloneRequest<Req>,
    M: Stamp<Req>,
    D: RequestDeadline<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, C, K, M, D>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Req) -> Self::Future {
        let policy = &*self.policy;
        let settings = &policy.settings;
        // Without a limit of our own there is no need to know when the call began.
        let timed = settings.deadline.is_some() || settings.attempt_timeout.is_some();
        let started = timed.then(Instant::now);
        let limit = started
            .zip(settings.deadline)
            .and_then(|(now, limit)| now.checked_add(limit));
        let deadline = nearer(policy.deadline_of.deadline(&request), limit);
        let attempt_end = policy.attempt_end(deadline);

        let repeat = match settings.backoff.max_attempts() {
            1 => None,
            _ => policy
                .clone
                .clone_request(&request)
                .map(|copy| (self.inner.clone(), copy)),
        };
        policy
            .stamp
            .stamp(&mut request, Attempt::new(1, attempt_end));
        let attempt = self.inner.call(request);
        let call = Call::new(Arc::clone(&self.policy), repeat, started, deadline);
        ResponseFuture::new(attempt, attempt_end, call)
    }
}
