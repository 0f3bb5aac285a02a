//! The adapter for HTTP: the `Idempotency-Key` header.

mod answer;
mod body;
mod exchange;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod key;
mod problem;
mod scope;
mod service;
mod structured;

use std::{fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use http::{Method, request::Parts};
use tower_layer::Layer;

pub use self::{
    body::ResponseBody,
    future::HttpFuture,
    key::IdempotencyKey,
    problem::Problem,
    scope::{HttpScope, Scoped},
};
use crate::{
    key::Fingerprint,
    layer::IdempotencyLayer,
    scope::{ScopeMissing, Unscoped},
    service::Idempotency,
    store::Store,
};

/// Marks a response whose handler did nothing: put it into the response's extensions. The response
/// is sent, the claim is released, and the next request with the key executes.
///
/// ```
/// use http::{Response, StatusCode};
/// use seawall_idempotency::Undone;
///
/// let mut response = Response::new(());
/// *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
/// response.extensions_mut().insert(Undone);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undone;

/// The adapter of [`IdempotencyLayer::http`]. `Sc` says whether there is a scope.
pub struct Http<Sc> {
    /// Services are cloned for each request or connection, so it is one pointer.
    settings: Arc<Settings>,
    sc: PhantomData<fn() -> Sc>,
}

#[derive(Clone)]
struct Settings {
    scope: Option<Arc<dyn HttpScope>>,
    methods: Arc<[Method]>,
    key_required: bool,
    bare_keys: bool,
    fingerprint: Arc<Print>,
    max_body: usize,
    max_response: usize,
    docs: Option<Arc<str>>,
}

type Print = dyn Fn(&Parts, &Bytes) -> Fingerprint + Send + Sync;

impl<St: Store> IdempotencyLayer<St, Http<ScopeMissing>> {
    /// A layer for services of `http::Request`, such as an axum `Router` or its routes.
    ///
    /// A request takes part when its method is one of [`methods`](Self::methods) and it has a key,
    /// in an `Idempotency-Key` header or as an [`IdempotencyKey`] in its extensions. Its body is
    /// read before the key is claimed. All others pass through untouched.
    ///
    /// # Bodies
    ///
    /// A request's body is any `Body<Data = Bytes> + From<Bytes>`, such as axum's or
    /// `Full<Bytes>`, and the inner service is given the same type. Trailers of a request are not
    /// handed on. A response's body is any `Body<Data = Bytes>`, and becomes a [`ResponseBody`].
    ///
    /// # Default
    ///
    /// `POST` and `PATCH`; a key is optional, and must be a structured-field string; bodies of up
    /// to 1 MiB in, and answers of up to 1 MiB kept; a fingerprint over method, path, query and body.
    pub fn http(store: St) -> Self {
        let settings = Settings {
            scope: None,
            methods: Arc::new([Method::POST, Method::PATCH]),
            key_required: false,
            bare_keys: false,
            fingerprint: Arc::new(fingerprint),
            max_body: 1024 * 1024,
            max_response: 1024 * 1024,
            docs: None,
        };
        Self::with_adapter(
            store,
            Http {
                settings: Arc::new(settings),
                sc: PhantomData,
            },
        )
    }

    /// Keys live within a scope: what a header says, as in `.scope(AUTHORIZATION)`, or what a
    /// closure makes of the request, as in `.scope(|request: &Parts| Key::from(...))`.
    ///
    /// A good scope is something that only its owner can send, or that an outer layer has verified:
    /// then nobody is answered with what another was told. A request without the header is refused.
    pub fn scope(self, scope: impl HttpScope) -> IdempotencyLayer<St, Http<Scoped>> {
        self.scoped(Some(Arc::new(scope)))
    }

    /// All keys are of one scope: whoever knows a key and its request is given the answer.
    pub fn unscoped(self) -> IdempotencyLayer<St, Http<Unscoped>> {
        self.scoped(None)
    }

    fn scoped<Sc>(self, scope: Option<Arc<dyn HttpScope>>) -> IdempotencyLayer<St, Http<Sc>> {
        self.adapt(|Http { mut settings, .. }| {
            Arc::make_mut(&mut settings).scope = scope;
            Http {
                settings,
                sc: PhantomData,
            }
        })
    }
}

impl<St: Store, Sc> IdempotencyLayer<St, Http<Sc>> {
    /// Which methods take part. The others are idempotent by themselves, or not worth a record.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.set(|settings| settings.methods = methods.into_iter().collect())
    }

    /// A request of these methods without a key is refused with 400, instead of passing through.
    /// Whether a resource needs a key is its own decision; where it does, its documentation has to
    /// say so.
    pub fn require_key(self) -> Self {
        self.set(|settings| settings.key_required = true)
    }

    /// Takes a key without quotes too: `Idempotency-Key: 8e03...` is the same key as
    /// `Idempotency-Key: "8e03..."`.
    pub fn bare_keys(self) -> Self {
        self.set(|settings| settings.bare_keys = true)
    }

    /// What a request asks for. One with the same key and another fingerprint is refused with 422.
    pub fn fingerprint(
        self,
        fingerprint: impl Fn(&Parts, &Bytes) -> Fingerprint + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.fingerprint = Arc::new(fingerprint))
    }

    /// The largest body of a request with a key, in bytes. A larger one is refused with 413, before
    /// anything is claimed.
    pub fn max_body(self, bytes: usize) -> Self {
        self.set(|settings| settings.max_body = bytes)
    }

    /// The largest body of an answer that is kept, in bytes. A larger one is sent to the caller and
    /// remembered without its content: the request is not executed again, and its repetition gets
    /// a 409 that says so.
    pub fn max_response(self, bytes: usize) -> Self {
        self.set(|settings| settings.max_response = bytes)
    }

    /// Where the failures of this layer are documented for its callers. The `type` of each problem
    /// becomes this address, `#`, and the name of the problem, as in `#in-flight`.
    pub fn documentation(self, address: &str) -> Self {
        self.set(|settings| settings.docs = Some(Arc::from(address)))
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.adapter.settings));
        self
    }
}

impl<S, St, Sc> Layer<S> for IdempotencyLayer<St, Http<Sc>>
where
    St: Store,
    Sc: scope::Chosen,
{
    type Service = Idempotency<S, St, Http<Sc>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.service(inner, self.adapter.clone())
    }
}

/// Method, path, query and body: what a resource usually looks at.
fn fingerprint(parts: &Parts, body: &Bytes) -> Fingerprint {
    Fingerprint::of([
        parts.method.as_str().as_bytes(),
        parts.uri.path().as_bytes(),
        parts.uri.query().unwrap_or_default().as_bytes(),
        body,
    ])
}

impl<Sc> Clone for Http<Sc> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            sc: PhantomData,
        }
    }
}

impl<Sc> fmt::Debug for Http<Sc> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            scope,
            methods,
            key_required,
            bare_keys,
            max_body,
            max_response,
            ..
        } = &*self.settings;
        f.debug_struct("Http")
            .field("scoped", &scope.is_some())
            .field("methods", methods)
            .field("key_required", key_required)
            .field("bare_keys", bare_keys)
            .field("max_body", max_body)
            .field("max_response", max_response)
            .finish_non_exhaustive()
    }
}
