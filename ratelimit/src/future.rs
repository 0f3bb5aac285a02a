use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::decision::Decision;
use crate::error::{BoxError, RateLimitError};
use crate::limiter::Limiter;
use crate::refund::{NoRefund, Refunds};
use crate::rules::Apply;
use crate::store::Store;

/// What is kept of a decision until the response is there: nothing, unless headers tell of it.
pub(crate) trait Keep {
    fn keep(decision: Decision) -> Self;
}

impl Keep for () {
    fn keep(_: Decision) {}
}

#[cfg(feature = "http")]
impl Keep for Decision {
    fn keep(decision: Decision) -> Self {
        decision
    }
}

pin_project! {
    #[project = CallProj]
    #[project_replace = CallOwned]
    pub(crate) enum Call<S, Req, St, Rs, K, W>
    where
        S: Service<Req>,
        St: Store,
        W: Refunds<St, S::Response, S::Error>,
    {
        // The store decides; the readied service waits with the request.
        Deciding {
            #[pin]
            deciding: St::Deciding,
            limiter: Arc<Limiter<St, Rs>>,
            service: S,
            request: Req,
            refunds: W,
        },
        Calling {
            #[pin]
            future: S::Future,
            kept: K,
            refunds: W,
            // Until there is an answer.
            owed: Option<W::Owed>,
        },
        Refused {
            error: RateLimitError,
            kept: Option<K>,
        },
        Done,
    }
}

/// How a call ended.
pub(crate) enum Ended<T, E, K> {
    Answered(Result<T, E>, K),
    Refused(RateLimitError, Option<K>),
}

impl<S, Req, St, Rs, K, W> Call<S, Req, St, Rs, K, W>
where
    S: Service<Req>,
    St: Store,
    Rs: Apply<Req>,
    K: Keep,
    W: Refunds<St, S::Response, S::Error>,
{
    pub(crate) fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Ended<S::Response, S::Error, K>> {
        loop {
            let next = match self.as_mut().project() {
                // ## Deciding => (Calling | Refused)
                CallProj::Deciding {
                    deciding,
                    limiter,
                    request,
                    ..
                } => {
                    let decided = ready!(deciding.poll(cx));
                    let judged = match &decided {
                        Ok(decision) => limiter.judge(&*request, decision),
                        Err(_) => Ok(()),
                    };
                    let CallOwned::Deciding {
                        mut service,
                        request,
                        limiter,
                        refunds,
                        ..
                    } = self.as_mut().project_replace(Call::Done)
                    else {
                        unreachable!("the state was just looked at");
                    };
                    match (decided, judged) {
                        (Ok(decision), Ok(())) => Call::Calling {
                            owed: Some(refunds.owe(&limiter, &request, &decision)),
                            refunds,
                            future: service.call(request),
                            kept: K::keep(decision),
                        },
                        (Ok(decision), Err(error)) => Call::Refused {
                            error,
                            kept: Some(K::keep(decision)),
                        },
                        (Err(error), _) => Call::Refused {
                            error: RateLimitError::Store(error),
                            kept: None,
                        },
                    }
                }
                // ## Calling => Done
                CallProj::Calling {
                    future,
                    refunds,
                    owed,
                    ..
                } => {
                    let answer = ready!(future.poll(cx));
                    if let Some(owed) = owed.take() {
                        refunds.answered(owed, &answer);
                    }
                    let CallOwned::Calling { kept, .. } = self.project_replace(Call::Done) else {
                        unreachable!("the state was just looked at");
                    };
                    return Poll::Ready(Ended::Answered(answer, kept));
                }
                // ## Refused => Done
                CallProj::Refused { .. } => {
                    let CallOwned::Refused { error, kept } = self.project_replace(Call::Done)
                    else {
                        unreachable!("the state was just looked at");
                    };
                    return Poll::Ready(Ended::Refused(error, kept));
                }
                CallProj::Done => panic!("polled after it was ready"),
            };
            self.set(next);
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
        call: Call<S, Req, St, Rs, (), W>,
    }
}

impl<S, Req, St, Rs, W> ResponseFuture<S, Req, St, Rs, W>
where
    S: Service<Req>,
    St: Store,
    W: Refunds<St, S::Response, S::Error>,
{
    pub(crate) const fn new(call: Call<S, Req, St, Rs, (), W>) -> Self {
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
        Poll::Ready(match ready!(self.project().call.poll(cx)) {
            Ended::Answered(answer, ()) => answer.map_err(Into::into),
            Ended::Refused(error, _) => Err(error.into()),
        })
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
