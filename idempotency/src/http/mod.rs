//! The adapters for HTTP and gRPC: the `Idempotency-Key` header.

mod answer;
mod body;
mod exchange;
#[cfg(feature = "axum")]
mod extract;
mod future;
mod grpc;
mod key;
mod problem;
mod scope;
mod service;
mod set_key;
mod voice;

use std::{fmt, marker::PhantomData, sync::Arc};

use bytes::Bytes;
use http::{Method, header, request::Parts, response};
use tower_layer::Layer;

pub use self::{
    body::{RequestBody, ResponseBody},
    future::HttpFuture,
    grpc::GrpcStatus,
    problem::{Problem, ProblemJson},
    scope::{HttpScope, Scoped},
    set_key::SetHeader,
};
use crate::{
    canonical::canonical_json,
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

/// The adapter of [`IdempotencyLayer::http`] and [`IdempotencyLayer::grpc`]. `Sc` says whether there is a
/// scope, and `P` how failures are told: [`ProblemJson`] or [`GrpcStatus`].
pub struct Http<Sc, P = ProblemJson> {
    /// Services are cloned for each request or connection, so it is one pointer.
    settings: Arc<Settings>,
    chosen: PhantomData<fn() -> (Sc, P)>,
}

#[derive(Clone)]
struct Settings {
    scope: Option<Arc<dyn HttpScope>>,
    methods: Arc<[Method]>,
    required: Required,
    bare_keys: bool,
    fingerprint: Arc<Print>,
    undone: Option<Arc<Undoes>>,
    max_body: usize,
    max_response: usize,
    publishes_retention: bool,
    dialect: Dialect,
}

/// Which requests of the methods that take part need a key.
#[derive(Clone)]
enum Required {
    None,
    All,
    Some(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
}

/// How a failure is told.
#[derive(Clone)]
enum Dialect {
    ProblemJson { docs: Option<Arc<str>> },
    GrpcStatus,
}

type Print = dyn Fn(&Parts, &Bytes) -> Fingerprint + Send + Sync;
type Undoes = dyn Fn(&response::Parts) -> bool + Send + Sync;

impl Settings {
    fn new(dialect: Dialect) -> Self {
        Self {
            scope: None,
            methods: Arc::new([Method::POST, Method::PATCH]),
            required: Required::None,
            bare_keys: matches!(dialect, Dialect::GrpcStatus),
            fingerprint: Arc::new(fingerprint),
            undone: None,
            max_body: 1024 * 1024,
            max_response: 1024 * 1024,
            publishes_retention: false,
            dialect,
        }
    }
}

impl<St: Store> IdempotencyLayer<St, Http<ScopeMissing>> {
    /// A layer for services of `http::Request`, such as an axum `Router` or its routes.
    ///
    /// A request takes part when its method is one of [`methods`](Self::methods) and it has a key,
    /// in an `Idempotency-Key` header or as an [`IdempotencyKey`](crate::IdempotencyKey) in its extensions. Its body is
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
        Self::with_settings(store, Settings::new(Dialect::ProblemJson { docs: None }))
    }
}

impl<St: Store> IdempotencyLayer<St, Http<ScopeMissing, GrpcStatus>> {
    /// A layer for servers and services of gRPC, such as tonic's; it needs no gRPC library itself.
    ///
    /// A call takes part when it has a key, in an `idempotency-key` entry of its metadata, quoted or not.
    /// All of its messages are read before the key is claimed, so calls that talk back and forth must not
    /// have one. An answer is kept with its trailers, which is where the status is; a stream of answers is
    /// kept if it ends within a second, and otherwise sent through and not executed again.
    ///
    /// Failures of this layer are statuses without an answer: 409 becomes `ABORTED` with
    /// `grpc-retry-pushback-ms` where the call is in flight, `FAILED_PRECONDITION` where it was abandoned,
    /// `ALREADY_EXISTS` where its answer was not kept; 422 and 400 `INVALID_ARGUMENT`, 413
    /// `RESOURCE_EXHAUSTED`, 503 `UNAVAILABLE`, 500 `INTERNAL`. The entry `idempotency-problem` names the
    /// [`Problem`].
    ///
    /// What a handler answers with `Err(Status)` is an answer, and kept. Which ones mean that nothing was
    /// done is for [`undone_if`](Self::undone_if) to say:
    ///
    /// ```
    /// use seawall_idempotency::{IdempotencyLayer, MemoryStore};
    ///
    /// let once = IdempotencyLayer::grpc(MemoryStore::with_capacity(100_000))
    ///     .scope(http::header::AUTHORIZATION)
    ///     // A status that comes without an answer is in the headers. 14 is UNAVAILABLE.
    ///     .undone_if(|head| head.headers.get("grpc-status").is_some_and(|code| code == "14"));
    /// // tonic::transport::Server::builder().layer(once)
    /// # fn check<L: tower::Layer<()>>(_: L) {}
    /// # check(once);
    /// ```
    ///
    /// # Bodies
    ///
    /// The inner service is given a [`RequestBody`], which tonic's services take as they take any body.
    pub fn grpc(store: St) -> Self {
        Self::with_settings(store, Settings::new(Dialect::GrpcStatus))
    }
}

impl<St: Store, P> IdempotencyLayer<St, Http<ScopeMissing, P>> {
    fn with_settings(store: St, settings: Settings) -> Self {
        let adapter = Http {
            settings: Arc::new(settings),
            chosen: PhantomData,
        };
        Self::with_adapter(store, adapter)
    }

    /// Keys live within a scope: what a header says, as in `.scope(AUTHORIZATION)`, or what a
    /// closure makes of the request, as in `.scope(|request: &Parts| Key::from(...))`.
    ///
    /// A good scope is something that only its owner can send, or that an outer layer has verified:
    /// then nobody is answered with what another was told. A request without the header is refused.
    pub fn scope(self, scope: impl HttpScope) -> IdempotencyLayer<St, Http<Scoped, P>> {
        self.scoped(Some(Arc::new(scope)))
    }

    /// All keys are of one scope: whoever knows a key and its request is given the answer.
    pub fn unscoped(self) -> IdempotencyLayer<St, Http<Unscoped, P>> {
        self.scoped(None)
    }

    fn scoped<Sc>(self, scope: Option<Arc<dyn HttpScope>>) -> IdempotencyLayer<St, Http<Sc, P>> {
        self.adapt(|Http { mut settings, .. }| {
            Arc::make_mut(&mut settings).scope = scope;
            Http {
                settings,
                chosen: PhantomData,
            }
        })
    }
}

impl<St: Store, Sc, P> IdempotencyLayer<St, Http<Sc, P>> {
    /// Which methods take part. The others are idempotent by themselves, or not worth a record.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.set(|settings| settings.methods = methods.into_iter().collect())
    }

    /// A request of these methods without a key is refused with 400, instead of passing through.
    /// Whether a resource needs a key is its own decision; where it does, its documentation has to
    /// say so.
    pub fn require_key(self) -> Self {
        self.set(|settings| settings.required = Required::All)
    }

    /// As [`require_key`](Self::require_key), for those requests of which `which` says so: by their path,
    /// for one, where a layer stands in front of many resources.
    pub fn require_key_where(self, which: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.required = Required::Some(Arc::new(which)))
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

    /// As the default, with a JSON body compared by what it says and not by how it is written: the order of
    /// members, spaces, escapes in strings and forms of numbers (`1`, `1.0`, `10e-1`) make no difference.
    /// See [`canonical_json`](crate::canonical_json). A body whose `Content-Type` is not JSON, or that is
    /// none, is compared byte by byte.
    pub fn json_fingerprint(self) -> Self {
        self.fingerprint(json_fingerprint)
    }

    /// Which answers say by their head that nothing was done: they are sent and not kept, as those with
    /// [`Undone`] in their extensions are, and the next request with the key executes.
    pub fn undone_if(
        self,
        undone: impl Fn(&response::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.undone = Some(Arc::new(undone)))
    }

    /// Tells callers for how long their key is known: answers that are kept, and replays, get the field
    /// `Idempotency-Retention` with the seconds from the end of the call. Problems have it as their member
    /// `retention` in any case. [`retention`](Self::retention) is the value for the documentation.
    pub fn publish_retention(self) -> Self {
        self.set(|settings| settings.publishes_retention = true)
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

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.adapter.settings));
        self
    }
}

impl<St: Store, Sc> IdempotencyLayer<St, Http<Sc>> {
    /// Where the failures of this layer are documented for its callers. The `type` of each problem
    /// becomes this address, `#`, and the name of the problem, as in `#in-flight`.
    pub fn documentation(self, address: &str) -> Self {
        self.set(|settings| {
            settings.dialect = Dialect::ProblemJson {
                docs: Some(Arc::from(address)),
            };
        })
    }
}

impl<S, St, Sc, P> Layer<S> for IdempotencyLayer<St, Http<Sc, P>>
where
    St: Store,
    Sc: scope::Chosen,
{
    type Service = Idempotency<S, St, Http<Sc, P>>;

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

/// As [`fingerprint`], of what a JSON body says.
fn json_fingerprint(parts: &Parts, body: &Bytes) -> Fingerprint {
    let is_json = || {
        let kind = parts.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let kind = kind.split(';').next()?.trim().to_ascii_lowercase();
        Some(kind == "application/json" || kind.ends_with("+json"))
    };
    match is_json().unwrap_or(false).then(|| canonical_json(body)) {
        // One part more than for bytes, so that no body of bytes is taken for what this one says.
        Some(Some(says)) => Fingerprint::of([
            parts.method.as_str().as_bytes(),
            parts.uri.path().as_bytes(),
            parts.uri.query().unwrap_or_default().as_bytes(),
            b"json",
            says.as_bytes(),
        ]),
        _ => fingerprint(parts, body),
    }
}

impl<Sc, P> Clone for Http<Sc, P> {
    fn clone(&self) -> Self {
        Self {
            settings: Arc::clone(&self.settings),
            chosen: PhantomData,
        }
    }
}

impl<Sc, P> fmt::Debug for Http<Sc, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            scope,
            methods,
            required,
            bare_keys,
            max_body,
            max_response,
            ..
        } = &*self.settings;
        f.debug_struct("Http")
            .field("scoped", &scope.is_some())
            .field("methods", methods)
            .field("key_required", &!matches!(required, Required::None))
            .field("bare_keys", bare_keys)
            .field("max_body", max_body)
            .field("max_response", max_response)
            .finish_non_exhaustive()
    }
}
