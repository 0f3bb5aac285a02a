//! The routing of one request.

use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::access::Classify;

use crate::lane::Ticket;
use crate::locate::Locate;
use crate::way::Way;
use crate::{BoxError, ResponseFuture, RouteError, ShardRouter, telemetry};

impl<S, K, A, Req> Service<Req> for ShardRouter<S, K, A>
where
    S: Service<Req, Error: Into<BoxError>> + Clone + Send + 'static,
    K: Locate<Req>,
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
        match self.key.locate(&request) {
            Ok(place) => {
                let access = self.access.access(&request);
                self.send(&place, access, request)
            }
            Err(why) => refuse(why.into()),
        }
    }
}

impl<S, K, A> ShardRouter<S, K, A>
where
    S: Send + 'static,
{
    /// Sends a request whose place is known.
    #[inline]
    pub(crate) fn send<Req>(
        &self,
        place: &crate::Place,
        access: crate::Access,
        request: Req,
    ) -> ResponseFuture<S, Req>
    where
        S: Service<Req, Error: Into<BoxError>>,
    {
        let core = &self.core;
        let Some(room) = core.cap.admit() else {
            return refuse(RouteError::Overloaded {
                cap: core.cap.limit(),
            });
        };
        let way = core
            .needs_way()
            .then(|| Way::new(Arc::clone(core), place.clone(), access));
        let table = core.table.load();
        match table.pick(place, access, core.preference()) {
            Ok(pick) => {
                room.hand_over();
                let ticket = Ticket::new(Arc::clone(pick.lane), pick.role, pick.is_probe);
                ResponseFuture::sent(ticket, request, way)
            }
            Err(error) => match way.and_then(|mut way| Some((way.room(&error)?, way))) {
                Some((held, way)) => ResponseFuture::held(request, room.keep(), held, error, way),
                None => refuse(error),
            },
        }
    }
}

fn refuse<S, Req>(error: RouteError) -> ResponseFuture<S, Req>
where
    S: Service<Req>,
{
    telemetry::refused(&error);
    ResponseFuture::refused(error)
}
