//! What happens to a request.

use std::{
    convert::identity,
    mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    Dialect, Http, Required,
    body::{RequestBody, ResponseBody},
    exchange::Web,
    future::HttpFuture,
    grpc::GrpcStatus,
    key,
    problem::{self, Problem, ProblemJson},
    scope,
    voice::{self, Voice},
};
use crate::{
    error::{BoxError, Error},
    key::RecordKey,
    run::Job,
    service::Idempotency,
    store::Store,
};

impl<S, St, Sc, Q, B> Service<Request<Q>> for Idempotency<S, St, Http<Sc, ProblemJson>>
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
        self.take(request, identity, Q::from, |error| {
            Ok(stopped(&Dialect::ProblemJson { docs: None }, &error))
        })
    }
}

impl<S, St, Sc, Q, B> Service<Request<Q>> for Idempotency<S, St, Http<Sc, GrpcStatus>>
where
    S: Service<Request<RequestBody<Q>>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    Q: Body<Data = Bytes> + Send + 'static,
    Q::Error: Into<BoxError> + Send,
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
        self.take(request, RequestBody::passed, RequestBody::whole, |error| {
            Ok(stopped(&Dialect::GrpcStatus, &error))
        })
    }
}

type Answer<B> = Response<ResponseBody<B>>;

impl<S, St, Sc, P> Idempotency<S, St, Http<Sc, P>>
where
    St: Store,
{
    /// `pass` makes the inner service's body of one that takes no part, `whole` of one that was read.
    fn take<Q, R, B>(
        &mut self,
        request: Request<Q>,
        pass: fn(Q) -> R,
        whole: fn(Bytes) -> R,
        stopped: fn(Error) -> Result<Answer<B>, S::Error>,
    ) -> HttpFuture<S::Future, Q, B, B::Error, S::Error>
    where
        S: Service<Request<R>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        Q: Body<Data = Bytes> + Send + 'static,
        R: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Send,
    {
        let settings = &self.adapter.settings;
        if !settings.methods.contains(request.method()) {
            return HttpFuture::pass(self.inner.call(request.map(pass)));
        }
        let voice = || Voice {
            settings: Arc::clone(settings),
            retention: self.core.rules.keep_for(),
        };
        let refuse = |problem| HttpFuture::answer(voice().reject(problem));
        let key = match key::read(&request, settings.bare_keys) {
            Ok(key) => key,
            Err(problem) => return refuse(problem),
        };
        let Some(key) = key else {
            let (parts, body) = request.into_parts();
            let required = match &settings.required {
                Required::None => false,
                Required::All => true,
                Required::Some(which) => which(&parts),
            };
            if required {
                return refuse(Problem::KeyMissing);
            }
            let request = Request::from_parts(parts, pass(body));
            return HttpFuture::pass(self.inner.call(request));
        };
        let (parts, body) = request.into_parts();
        let scope = match &settings.scope {
            None => None,
            Some(scope) => match scope.scope(&parts) {
                None => return refuse(Problem::ScopeMissing),
                scope => scope,
            },
        };
        if body.size_hint().lower() > settings.max_body as u64 {
            return refuse(Problem::BodyTooLarge);
        }

        let record = RecordKey::of(scope.as_ref(), key.0.as_bytes());
        let voice = voice();
        let exchange = Web::new(key, voice.clone());
        let fingerprint = Arc::clone(&settings.fingerprint);
        let core = Arc::clone(&self.core);
        let fresh = self.inner.clone();
        let service = mem::replace(&mut self.inner, fresh);
        HttpFuture::read(body, voice, move |body: Bytes| {
            let fingerprint = fingerprint(&parts, &body);
            let job = Job {
                core,
                service,
                request: Some(Request::from_parts(parts, whole(body))),
                key: record,
                fingerprint,
                exchange,
            };
            job.answer(stopped)
        })
    }
}

/// The answer of a layer that is gone, with its settings.
fn stopped<B, E>(dialect: &Dialect, error: &Error) -> Response<ResponseBody<B, E>> {
    let (problem, retry_after) = problem::of(error);
    let (head, body) = voice::tell(dialect, problem, retry_after, Duration::ZERO);
    Response::from_parts(head, ResponseBody::whole(body, None))
}
