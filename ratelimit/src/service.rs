use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::decision::Decision;
use crate::error::BoxError;
use crate::future::{Call, Mode, ResponseFuture};
use crate::layer::Fail;
use crate::limiter::Limiter;
use crate::refund::{NoRefund, Refunds};
use crate::rules::Apply;
use crate::store::Store;

/// A service whose requests are held to quotas. Made by [`RateLimitLayer`](crate::RateLimitLayer).
///
/// # Readiness
///
/// It is ready when the inner service is, and `call` uses the instance that was readied: in place if
/// the store decides at once. If the decision is awaited, the instance moves into the future and a
/// clone takes its place; after a refusal it is dropped there, which gives back what it had reserved.
pub struct RateLimit<S, St: Store, Rs, M = Fail, W = NoRefund> {
    pub(crate) inner: S,
    pub(crate) limiter: Arc<Limiter<St, Rs>>,
    pub(crate) mode: M,
    pub(crate) refunds: W,
}

impl<S, St: Store, Rs, M, W> RateLimit<S, St, Rs, M, W> {
    /// Decides, and calls the inner service at once if that is possible.
    // The call is written where the future is returned; inlined, it would be made elsewhere and copied there.
    #[inline(never)]
    pub(crate) fn start<Req>(&mut self, request: Req) -> Call<S, Req, St, Rs, M, W>
    where
        S: Service<Req> + Clone,
        Rs: Apply<Req>,
        M: Mode,
        W: Refunds<St, S::Response, S::Error>,
    {
        let mut decision = Decision::empty();
        match self.limiter.decide_into(&request, &mut decision) {
            Ok(None) => {}
            Ok(Some(deciding)) => return self.wait_for(deciding, request),
            Err(error) => return Call::refused(error, self.mode.clone(), None),
        }
        let kept = self.mode.keep(&self.limiter, &decision);
        match self.limiter.judge(&request, &decision) {
            Ok(()) => Call::Calling {
                owed: Some(self.refunds.owe(&self.limiter, &request, &decision)),
                refunds: self.refunds.clone(),
                future: self.inner.call(request),
                kept: Some(kept),
            },
            Err(error) => Call::refused(error, self.mode.clone(), Some(kept)),
        }
    }

    #[cold]
    fn wait_for<Req>(&mut self, deciding: St::Deciding, request: Req) -> Call<S, Req, St, Rs, M, W>
    where
        S: Service<Req> + Clone,
        M: Mode,
        W: Refunds<St, S::Response, S::Error>,
    {
        let next = self.inner.clone();
        Call::Deciding {
            deciding,
            limiter: Arc::clone(&self.limiter),
            service: mem::replace(&mut self.inner, next),
            request,
            mode: self.mode.clone(),
            refunds: self.refunds.clone(),
        }
    }
}

impl<S, Req, St, Rs, W> Service<Req> for RateLimit<S, St, Rs, Fail, W>
where
    S: Service<Req, Error: Into<BoxError>> + Clone,
    St: Store,
    Rs: Apply<Req>,
    W: Refunds<St, S::Response, S::Error>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req, St, Rs, W>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture::new(self.start(request))
    }
}

impl<S: Clone, St: Store, Rs, M: Clone, W: Clone> Clone for RateLimit<S, St, Rs, M, W> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            limiter: Arc::clone(&self.limiter),
            mode: self.mode.clone(),
            refunds: self.refunds.clone(),
        }
    }
}

impl<S: fmt::Debug, St: Store, Rs, M, W> fmt::Debug for RateLimit<S, St, Rs, M, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("inner", &self.inner)
            .field("rules", &self.limiter)
            .finish()
    }
}
