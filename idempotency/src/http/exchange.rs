//! Responses of HTTP.

use std::{marker::PhantomData, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, response::Parts};
use http_body::Body;

use super::{
    Undone, answer,
    body::{Read, ResponseBody, read},
    key::IdempotencyKey,
    problem::{self, Problem},
};
use crate::{
    error::{BoxError, Error},
    exchange::{Exchange, Keep},
    lease::Claim,
    record::Why,
};

pub(super) struct Web<B> {
    /// Until the handler is given it.
    key: Option<IdempotencyKey>,
    max_response: usize,
    docs: Option<Arc<str>>,
    body: PhantomData<fn() -> B>,
}

impl<B> Web<B> {
    pub(super) fn new(key: IdempotencyKey, max_response: usize, docs: Option<Arc<str>>) -> Self {
        Self {
            key: Some(key),
            max_response,
            docs,
            body: PhantomData,
        }
    }
}

/// The answer to an error of this layer.
pub(super) fn refuse<B, E>(error: &Error, docs: Option<&str>) -> Response<ResponseBody<B, E>> {
    let (problem, retry_after) = problem::of(error);
    problem.respond(docs, retry_after)
}

impl<Q, B, E> Exchange<Request<Q>, Response<B>, E> for Web<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
    E: Send + 'static,
{
    type Out = Response<ResponseBody<B>>;
    type Err = E;

    fn stamp(&mut self, request: &mut Request<Q>, claim: &Claim) {
        if let Some(key) = self.key.take() {
            request.extensions_mut().insert(key);
        }
        request.extensions_mut().insert(claim.fence());
        request.extensions_mut().insert(claim.lease().clone());
    }

    async fn capture(&self, response: Response<B>) -> (Keep, Self::Out) {
        let (parts, body) = response.into_parts();
        if parts.extensions.get::<Undone>().is_some() {
            return (
                Keep::Undone,
                Response::from_parts(parts, ResponseBody::passed(body)),
            );
        }
        if is_stream(&parts) {
            let keep = Keep::Tombstone(Why::Streaming);
            return (
                keep,
                Response::from_parts(parts, ResponseBody::passed(body)),
            );
        }
        match read(body, self.max_response).await {
            Read::Whole(data, trailers) => {
                let kept = answer::encode(&parts, &data, trailers.as_ref());
                let body = ResponseBody::whole(data, trailers);
                (Keep::Answer(kept), Response::from_parts(parts, body))
            }
            Read::Not(why, body) => (Keep::Tombstone(why), Response::from_parts(parts, body)),
        }
    }

    fn replay(&self, kept: Bytes) -> Result<Self::Out, BoxError> {
        Ok(answer::decode(kept)?)
    }

    fn failed(&self, error: E) -> E {
        error
    }

    fn refuse(&self, error: Error) -> Result<Self::Out, E> {
        Ok(refuse(&error, self.docs.as_deref()))
    }

    /// A panic says nothing about what was done before it, so it is an answer like any other: the
    /// 500 which the caller gets is what later ones get.
    fn panicked(&self, _: String) -> (Keep, Result<Self::Out, E>) {
        let docs = self.docs.as_deref();
        let response: Self::Out = Problem::Panicked.respond(docs, None);
        let (parts, body) = response.into_parts();
        let kept = answer::encode(&parts, &Problem::Panicked.json(docs), None);
        (Keep::Answer(kept), Ok(Response::from_parts(parts, body)))
    }
}

/// Whether a response says by its head that it is no answer with an end.
fn is_stream(parts: &Parts) -> bool {
    let events = || {
        let kind = parts.headers.get(header::CONTENT_TYPE)?.as_bytes();
        let kind = kind.split(|&byte| byte == b';').next()?.trim_ascii();
        Some(kind.eq_ignore_ascii_case(b"text/event-stream"))
    };
    parts.status == StatusCode::SWITCHING_PROTOCOLS || events().unwrap_or(false)
}
