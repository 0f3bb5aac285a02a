use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::Respond;
use super::body::LimitBody;
use crate::future::Call;
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
        call: Call<S, Req, St, Rs, Respond, W>,
    }
}

impl<S, Req, St, Rs, W> HttpFuture<S, Req, St, Rs, W>
where
    S: Service<Req>,
    St: Store,
    W: Refunds<St, S::Response, S::Error>,
{
    #[inline]
    pub(super) const fn new(call: Call<S, Req, St, Rs, Respond, W>) -> Self {
        Self { call }
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

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().call.poll_with(
            cx,
            |answer, told| {
                let mut response = answer?.map(LimitBody::inner);
                if let Some(told) = told {
                    told.tell(response.headers_mut());
                }
                Ok(response)
            },
            |refusal| {
                let mut response = refusal.mode.refusals.response(&refusal.error);
                if let Some(told) = refusal.kept.flatten() {
                    told.tell(response.headers_mut());
                }
                Ok(response)
            },
        )
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
