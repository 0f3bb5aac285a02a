//! What happens to a request.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    Http,
    body::ResponseBody,
    exchange::{Web, refuse},
    future::HttpFuture,
    key,
    problem::Problem,
    scope,
};
use crate::{error::BoxError, key::RecordKey, run::Job, service::Idempotency, store::Store};

impl<S, St, Sc, Q, B> Service<Request<Q>> for Idempotency<S, St, Http<Sc>>
where
    S: Service<Request<Q>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body<Data = Bytes> + From<Bytes> + Send + 'static,
    Q::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Send,
    St: Store,
    Sc: scope::Chosen,
{
    type Response = Response<ResponseBody<B>>;
    type Error = S::Error;
    type Future = HttpFuture<S::Future, Q, B, B::Error, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let settings = &self.adapter.settings;
        let docs = settings.docs.as_deref();
        if !settings.methods.contains(request.method()) {
            return HttpFuture::pass(self.inner.call(request));
        }
        let key = match key::read(&request, settings.bare_keys) {
            Ok(Some(key)) => key,
            Ok(None) if settings.key_required => {
                return HttpFuture::answer(Problem::KeyMissing.respond(docs, None));
            }
            Ok(None) => return HttpFuture::pass(self.inner.call(request)),
            Err(problem) => return HttpFuture::answer(problem.respond(docs, None)),
        };
        let (parts, body) = request.into_parts();
        let scope = match &settings.scope {
            None => None,
            Some(scope) => match scope.scope(&parts) {
                None => return HttpFuture::answer(Problem::ScopeMissing.respond(docs, None)),
                scope => scope,
            },
        };
        if body.size_hint().lower() > settings.max_body as u64 {
            return HttpFuture::answer(Problem::BodyTooLarge.respond(docs, None));
        }

        let record = RecordKey::of(scope.as_ref(), key.0.as_bytes());
        let exchange = Web::new(key, settings.max_response, settings.docs.clone());
        let fingerprint = Arc::clone(&settings.fingerprint);
        let core = Arc::clone(&self.core);
        let fresh = self.inner.clone();
        let service = mem::replace(&mut self.inner, fresh);
        let start = move |body: Bytes| {
            let fingerprint = fingerprint(&parts, &body);
            let request = Request::from_parts(parts, Q::from(body));
            let job = Job {
                core,
                service,
                request,
                key: record,
                fingerprint,
                exchange,
            };
            job.answer(|error| Ok(refuse(&error, None)))
        };
        let settings = &self.adapter.settings;
        HttpFuture::read(body, settings.max_body, settings.docs.clone(), start)
    }
}
