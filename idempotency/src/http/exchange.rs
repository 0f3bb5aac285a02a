//! Responses of HTTP.

use std::marker::PhantomData;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, response::Parts};
use http_body::Body;

use super::{
    Undone, answer,
    body::{Read, ResponseBody, read},
    problem::Problem,
    voice::Voice,
};
use crate::{
    error::{BoxError, Error},
    exchange::{Exchange, Keep},
    idempotency_key::IdempotencyKey,
    lease::Claim,
    record::Why,
};

pub(super) struct Web<B> {
    /// Until the handler is given it.
    key: Option<IdempotencyKey>,
    voice: Voice,
    body: PhantomData<fn() -> B>,
}

impl<B> Web<B> {
    pub(super) fn new(key: IdempotencyKey, voice: Voice) -> Self {
        Self {
            key: Some(key),
            voice,
            body: PhantomData,
        }
    }

    fn is_undone(&self, parts: &Parts) -> bool {
        parts.extensions.get::<Undone>().is_some()
            || self
                .voice
                .settings
                .undone
                .as_deref()
                .is_some_and(|undone| undone(parts))
    }
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
        let (mut parts, body) = response.into_parts();
        if self.is_undone(&parts) {
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
        match read(body, self.voice.settings.max_response).await {
            Read::Whole(data, trailers) => {
                let kept = answer::encode(&parts, &data, trailers.as_ref());
                self.voice.publish(&mut parts.headers);
                let body = ResponseBody::whole(data, trailers);
                (Keep::Answer(kept), Response::from_parts(parts, body))
            }
            Read::Not(why, body) => (Keep::Tombstone(why), Response::from_parts(parts, body)),
        }
    }

    fn replay(&self, kept: Bytes) -> Result<Self::Out, BoxError> {
        let mut response = answer::decode(kept)?;
        self.voice.publish(response.headers_mut());
        Ok(response)
    }

    fn failed(&self, error: E) -> E {
        error
    }

    fn refuse(&self, error: Error) -> Result<Self::Out, E> {
        Ok(self.voice.refuse(&error))
    }

    /// A panic says nothing about what was done before it, so it is an answer like any other: the
    /// 500 which the caller gets is what later ones get.
    fn panicked(&self, _: String) -> (Keep, Result<Self::Out, E>) {
        let (mut head, body) = self.voice.tell(Problem::Panicked, None);
        let kept = answer::encode(&head, &body, None);
        self.voice.publish(&mut head.headers);
        let response = Response::from_parts(head, ResponseBody::whole(body, None));
        (Keep::Answer(kept), Ok(response))
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
