use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::LimitBody;
use super::{Fields, Respond, fields};
use crate::decision::Decision;
use crate::future::{Call, Ended};
use crate::limiter::Limiter;
use crate::refund::{NoRefund, Refunds};
use crate::rules::Apply;
use crate::store::Store;

pin_project! {
    /// The response of the service with what it has to say of the limits, or the refusal.
    pub struct HttpFuture<S, Req, St, Rs, W = NoRefund>
    where
        S: Service<Req>,
        St: Store,
        W: Refunds<St, S::Response, S::Error>,
    {
        #[pin]
        call: Call<S, Req, St, Rs, Decision, W>,
        limiter: Arc<Limiter<St, Rs>>,
        respond: Respond,
    }
}

impl<S, Req, St, Rs, W> HttpFuture<S, Req, St, Rs, W>
where
    S: Service<Req>,
    St: Store,
    W: Refunds<St, S::Response, S::Error>,
{
    pub(super) fn new(
        call: Call<S, Req, St, Rs, Decision, W>,
        limiter: &Arc<Limiter<St, Rs>>,
        respond: Respond,
    ) -> Self {
        Self {
            call,
            limiter: Arc::clone(limiter),
            respond,
        }
    }
}

impl<S, Req, B, St, Rs, W> Future for HttpFuture<S, Req, St, Rs, W>
where
    S: Service<Req, Response = Response<B>>,
    St: Store,
    Rs: Apply<Req>,
    W: Refunds<St, S::Response, S::Error>,
{
    type Output = Result<Response<LimitBody<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut response, decision, told) = match ready!(this.call.poll(cx)) {
            Ended::Answered(answer, decision) => {
                let told = this.respond.fields == Fields::Always;
                (answer?.map(LimitBody::inner), Some(decision), told)
            }
            Ended::Refused(error, decision) => {
                let told = this.respond.fields != Fields::Never;
                (this.respond.refusals.response(&error), decision, told)
            }
        };
        if let (Some(decision), true) = (decision, told) {
            let limiter = &**this.limiter;
            let policy = limiter.policy_field();
            fields::tell(
                response.headers_mut(),
                policy,
                limiter.policies(),
                &decision,
            );
            if this.respond.legacy {
                fields::tell_legacy(response.headers_mut(), &decision);
            }
        }
        Poll::Ready(Ok(response))
    }
}

impl<S, Req, St, Rs, W> fmt::Debug for HttpFuture<S, Req, St, Rs, W>
where
    S: Service<Req>,
    St: Store,
    W: Refunds<St, S::Response, S::Error>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpFuture").finish_non_exhaustive()
    }
}
