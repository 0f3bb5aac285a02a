//! How a layer speaks to the callers of its service.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header, response::Parts};

use super::{
    Dialect, Settings,
    body::ResponseBody,
    grpc,
    problem::{self, Problem},
};
use crate::{error::Error, telemetry};

/// For how many seconds a key is known after its call.
static RETENTION: HeaderName = HeaderName::from_static("idempotency-retention");

/// The settings of a layer, with what its answers say of its rules.
#[derive(Clone)]
pub(super) struct Voice {
    pub(super) settings: Arc<Settings>,
    pub(super) retention: Duration,
}

impl Voice {
    /// Tells what went wrong.
    fn respond<B, E>(
        &self,
        problem: Problem,
        retry_after: Option<Duration>,
    ) -> Response<ResponseBody<B, E>> {
        let (head, body) = self.tell(problem, retry_after);
        Response::from_parts(head, ResponseBody::whole(body, None))
    }

    /// Refuses a request before its key is claimed.
    pub(super) fn reject<B, E>(&self, problem: Problem) -> Response<ResponseBody<B, E>> {
        telemetry::rejected(problem.name());
        self.respond(problem, None)
    }

    pub(super) fn refuse<B, E>(&self, error: &Error) -> Response<ResponseBody<B, E>> {
        let (problem, retry_after) = problem::of(error);
        self.respond(problem, retry_after)
    }

    pub(super) fn tell(&self, problem: Problem, retry_after: Option<Duration>) -> (Parts, Bytes) {
        tell(&self.settings.dialect, problem, retry_after, self.retention)
    }

    /// Says in an answer for how long it is kept, if that is asked for.
    pub(super) fn publish(&self, headers: &mut HeaderMap) {
        if self.settings.publishes_retention {
            let seconds = HeaderValue::from(self.retention.as_secs());
            headers.insert(RETENTION.clone(), seconds);
        }
    }
}

pub(super) fn tell(
    dialect: &Dialect,
    problem: Problem,
    retry_after: Option<Duration>,
    retention: Duration,
) -> (Parts, Bytes) {
    let (mut head, ()) = Response::new(()).into_parts();
    head.extensions.insert(problem);
    match dialect {
        Dialect::GrpcStatus => {
            grpc::write(problem, retry_after, &mut head);
            (head, Bytes::new())
        }
        Dialect::ProblemJson { docs } => {
            head.status = problem.status();
            let json = HeaderValue::from_static("application/problem+json");
            head.headers.insert(header::CONTENT_TYPE, json);
            if let Some(wait) = retry_after {
                let seconds = HeaderValue::from(problem::seconds(wait));
                head.headers.insert(header::RETRY_AFTER, seconds);
            }
            (head, problem.json(docs.as_deref(), retention))
        }
    }
}
