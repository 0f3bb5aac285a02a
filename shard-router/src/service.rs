//! The routing of one request.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::access::Classify;
use crate::bulkhead::Ticket;
use crate::{BoxError, Key, ResponseFuture, RouteError, ShardRouter, telemetry};

impl<S, K, A, Req> Service<Req> for ShardRouter<S, K, A>
where
    S: Service<Req, Error: Into<BoxError>> + Clone + Send + 'static,
    K: for<'a> Fn(&'a Req) -> Key<'a>,
    A: Classify<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, Req>;

    /// Always ready: what has to wait, waits at its shard.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let Some(admission) = self.core.cap.admit() else {
            let error = RouteError::Overloaded {
                cap: self.core.cap.limit(),
            };
            telemetry::refused(&error);
            return ResponseFuture::refused(error);
        };
        let table = self.core.table.load();
        let slot = (self.key)(&request).slot();
        let access = self.access.access(&request);
        let (role, lane) = table.pick(slot, access, self.core.max_lag());
        ResponseFuture::sent(Ticket::new(Arc::clone(lane), role, admission), request)
    }
}
