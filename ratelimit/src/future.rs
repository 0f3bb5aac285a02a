use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::decision::Decision;
use crate::error::{BoxError, RateLimitError, StoreError};
use crate::layer::Fail;
use crate::limiter::Limiter;
use crate::refund::{NoRefund, Refunds};
use crate::rules::Apply;
use crate::store::Store;

/// What a layer makes of decisions beside passing or refusing.
pub(crate) trait Mode: Clone {
    /// What is kept of a decision until the response is there.
    type Kept;

    fn keep<St: Store, Rs>(&self, limiter: &Limiter<St, Rs>, decision: &Decision) -> Self::Kept;
}

impl Mode for Fail {
    type Kept = ();

    #[inline]
    fn keep<St: Store, Rs>(&self, _: &Limiter<St, Rs>, _: &Decision) {}
}

pin_project! {
    #[project = CallProj]
    #[project_replace = CallOwned]
    pub(crate) enum Call<S, Req, St, Rs, M, W>
    where
        S: Service<Req>,
        St: Store,
        M: Mode,
        W: Refunds<St, S::Response, S::Error>,
    {
        // The store decides; the readied service waits with the request.
        Deciding {
            #[pin]
            deciding: St::Deciding,
            limiter: Arc<Limiter<St, Rs>>,
            service: S,
            request: Req,
            mode: M,
            refunds: W,
        },
        Calling {
            #[pin]
            future: S::Future,
            kept: Option<M::Kept>,
            refunds: W,
            // Until there is an answer.
            owed: Option<W::Owed>,
        },
        // A box, so that the futures of calls that pass are no larger for it.
        Refused { refusal: Option<Box<Refusal<M>>> },
    }
}

pub(crate) struct Refusal<M: Mode> {
    pub(crate) error: RateLimitError,
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only a response tells of it")
    )]
    pub(crate) mode: M,
    /// If there was a decision.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only a response tells of it")
    )]
    pub(crate) kept: Option<M::Kept>,
}

impl<S, Req, St, Rs, M, W> Call<S, Req, St, Rs, M, W>
where
    S: Service<Req>,
    St: Store,
    M: Mode,
    W: Refunds<St, S::Response, S::Error>,
{
    /// Without having reached the service.
    #[cold]
    pub(crate) fn refused(error: RateLimitError, mode: M, kept: Option<M::Kept>) -> Self {
        let refusal = Refusal { error, mode, kept };
        Self::Refused {
            refusal: Some(Box::new(refusal)),
        }
    }
}

impl<S, Req, St, Rs, M, W> Call<S, Req, St, Rs, M, W>
where
    S: Service<Req>,
    St: Store,
    Rs: Apply<Req>,
    M: Mode,
    W: Refunds<St, S::Response, S::Error>,
{
    /// What is made of the answer, or of the refusal: it is not returned, for it is large, and each move of it would be a
    /// copy.
    #[inline]
    pub(crate) fn poll_with<T>(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        answered: impl FnOnce(Result<S::Response, S::Error>, M::Kept) -> T,
        was_refused: impl FnOnce(Refusal<M>) -> T,
    ) -> Poll<T> {
        loop {
            match self.as_mut().project() {
                // ## Calling
                CallProj::Calling {
                    future,
                    kept,
                    refunds,
                    owed,
                } => {
                    let answer = ready!(future.poll(cx));
                    if let Some(owed) = owed.take() {
                        refunds.answered(owed, &answer);
                    }
                    let kept = kept.take().expect("polled after it was ready");
                    return Poll::Ready(answered(answer, kept));
                }
                // ## Deciding => (Calling | Refused)
                CallProj::Deciding { deciding, .. } => {
                    let decided = ready!(deciding.poll(cx));
                    let next = self.as_mut().decided(decided);
                    self.set(next);
                }
                // ## Refused
                CallProj::Refused { refusal } => {
                    let refusal = refusal.take().expect("polled after it was ready");
                    return Poll::Ready(was_refused(*refusal));
                }
            }
        }
    }

    #[cold]
    fn decided(self: Pin<&mut Self>, decided: Result<Decision, StoreError>) -> Self {
        let CallOwned::Deciding {
            mut service,
            request,
            limiter,
            mode,
            refunds,
            ..
        } = self.project_replace(Self::Refused { refusal: None })
        else {
            unreachable!("the state was just looked at");
        };
        let decision = match decided {
            Ok(decision) => decision,
            Err(error) => return Self::refused(RateLimitError::Store(error), mode, None),
        };
        let kept = mode.keep(&limiter, &decision);
        match limiter.judge(&request, &decision) {
            Ok(()) => Self::Calling {
                owed: Some(refunds.owe(&limiter, &request, &decision)),
                refunds,
                future: service.call(request),
                kept: Some(kept),
            },
            Err(error) => Self::refused(error, mode, Some(kept)),
        }
    }
}

pin_project! {
    /// The answer of the service, or the refusal.
    pub struct ResponseFuture<S, Req, St, Rs, W = NoRefund>
    where
        S: Service<Req>,
        St: Store,
        W: Refunds<St, S::Response, S::Error>,
    {
        #[pin]
        call: Call<S, Req, St, Rs, Fail, W>,
    }
}

impl<S, Req, St, Rs, W> ResponseFuture<S, Req, St, Rs, W>
where
    S: Service<Req>,
    St: Store,
    W: Refunds<St, S::Response, S::Error>,
{
    pub(crate) const fn new(call: Call<S, Req, St, Rs, Fail, W>) -> Self {
        Self { call }
    }
}

impl<S, Req, St, Rs, W> Future for ResponseFuture<S, Req, St, Rs, W>
where
    S: Service<Req, Error: Into<BoxError>>,
    St: Store,
    Rs: Apply<Req>,
    W: Refunds<St, S::Response, S::Error>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().call.poll_with(
            cx,
            |answer, ()| answer.map_err(Into::into),
            |refusal| Err(refusal.error.into()),
        )
    }
}

impl<S, Req, St, Rs, W> fmt::Debug for ResponseFuture<S, Req, St, Rs, W>
where
    S: Service<Req>,
    St: Store,
    W: Refunds<St, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
