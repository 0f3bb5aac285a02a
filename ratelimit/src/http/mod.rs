//! Refusals as responses, and keys from HTTP requests.

mod body;
mod client_ip;
mod fields;
mod forwarded;
mod future;
#[cfg(feature = "grpc")]
mod grpc;
mod keys;
mod networks;
mod refusal;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use tower_service::Service;

pub use self::body::LimitBody;
pub use self::client_ip::{ClientIp, FromExtensions, Peer};
pub(crate) use self::fields::PolicyField;
use self::fields::Told;
pub use self::future::HttpFuture;
pub use self::keys::{InExtension, UriPath};
pub use self::networks::Networks;
use self::refusal::Refusals;
use crate::decision::Decision;
use crate::error::RateLimitError;
use crate::future::Mode;
use crate::layer::RateLimitLayer;
use crate::limiter::Limiter;
use crate::refund::Refunds;
use crate::rules::{Apply, Rules};
use crate::service::RateLimit;
use crate::store::Store;

/// Refusals are responses, and responses say what is left. Made by
/// [`RateLimitLayer::http`].
#[derive(Clone, Debug)]
pub struct Respond {
    fields: Fields,
    legacy: bool,
    refusals: Refusals,
}

impl Respond {
    const fn new(refusals: Refusals) -> Self {
        Self {
            fields: Fields::Always,
            legacy: false,
            refusals,
        }
    }
}

impl Mode for Respond {
    /// The fields, written when the decision is made: they are all that a response has to tell of it.
    type Kept = Option<Told>;

    #[inline]
    fn keep<St: Store, Rs>(&self, limiter: &Limiter<St, Rs>, decision: &Decision) -> Option<Told> {
        let told = match self.fields {
            Fields::Always => true,
            Fields::OnRefusal => !decision.passes(),
            Fields::Never => false,
        };
        told.then(|| Told::of(limiter, decision, self.legacy))?
    }
}

/// Which responses carry the fields `RateLimit-Policy` and `RateLimit`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fields {
    /// All of them. It costs one allocation and two field lines a response.
    #[default]
    Always,
    /// Those of refused requests.
    OnRefusal,
    /// None. `Retry-After` is still there.
    Never,
}

impl<St: Store, Rs: Rules, M, W> RateLimitLayer<St, Rs, M, W> {
    /// Answers refused requests instead of failing, so that the error stays that of the inner service
    /// (for axum, `Infallible`).
    ///
    /// - Over a limit: 429 with `Retry-After` in whole seconds, rounded up. A cost above the limit: 429
    ///   without it, for no waiting helps.
    /// - A [plan](crate::Plan) that denies: 403.
    /// - A store that cannot decide and is not told to let pass: 503.
    /// - The body is `application/problem+json`; for 429 of the type `quota-exceeded`, with the rules in
    ///   `violated-policies`.
    /// - All responses get `RateLimit-Policy` (the rules' quotas `q` and windows `w` in seconds) and
    ///   `RateLimit` (units left, `r`, and seconds until the whole quota is back, `t`), unless
    ///   [`fields`](RateLimitLayer::fields) says otherwise.
    ///
    /// ```
    /// use axum::http::{HeaderName, Request};
    /// use axum::{Router, body::Body, routing::post};
    /// use seawall_ratelimit::{ClientIp, MemoryStore, Quota, RateLimitLayer, Rule};
    /// use tower::{Service, ServiceBuilder};
    ///
    /// const USER_ID: HeaderName = HeaderName::from_static("x-user-id");
    /// const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # async fn create() {}
    ///
    /// let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000_000))
    ///     .rule(Rule::new("user", Quota::per_minute(1_000)).by(USER_ID))
    ///     .rule(Rule::new("ip", Quota::per_minute(10_000)).by(ClientIp::behind_proxies(1)))
    ///     .rule(Rule::new("api-key", Quota::per_minute(100_000)).by(API_KEY))
    ///     .http();
    /// let mut app = Router::new()
    ///     .route("/orders", post(create))
    ///     .layer(ServiceBuilder::new().layer(limits));
    ///
    /// let order = Request::post("/orders").header(USER_ID, "ada").body(Body::empty())?;
    /// let response = app.call(order).await?;
    /// assert_eq!(response.status(), 200);
    /// assert_eq!(response.headers()["ratelimit"], r#""user";r=999;t=64, "ip";r=9999;t=64"#);
    /// # Ok(())
    /// # }
    /// ```
    pub fn http(self) -> RateLimitLayer<St, Rs, Respond, W> {
        self.with_mode(Respond::new(Refusals::Problem))
    }

    /// [`http`](RateLimitLayer::http) for gRPC, as of tonic: refused requests are answered by a status.
    ///
    /// - Over a limit: `RESOURCE_EXHAUSTED`, with the wait as a `RetryInfo` among its details and in
    ///   `grpc-retry-pushback-ms`, rounded up, which clients with a retry policy go by.
    /// - A cost above the limit: `RESOURCE_EXHAUSTED` with a pushback of -1: do not try again. A plan that
    ///   denies: `PERMISSION_DENIED`, likewise.
    /// - A store that cannot decide and is not told to let pass: `UNAVAILABLE`.
    ///
    /// The fields of the IETF draft become metadata.
    #[cfg(feature = "grpc")]
    pub fn grpc(self) -> RateLimitLayer<St, Rs, Respond, W> {
        self.with_mode(Respond::new(Refusals::Grpc))
    }
}

impl<St, Rs, W> RateLimitLayer<St, Rs, Respond, W> {
    /// Which responses tell of the limits; all by default.
    pub fn fields(mut self, fields: Fields) -> Self {
        self.mode.fields = fields;
        self
    }

    /// Adds `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset` (seconds until the whole
    /// quota is back) to the same responses, for clients that know no others. There is room for one rule in
    /// them: it is the one that has the least left.
    pub fn legacy_fields(mut self) -> Self {
        self.mode.legacy = true;
        self
    }

    /// Answers refused requests with a response of your own making. `Retry-After` and the fields are put into it;
    /// `Content-Length` too, unless it has one.
    ///
    /// ```
    /// use axum::http::{Request, Response, StatusCode};
    /// use axum::{Router, body::Body, body::Bytes, routing::get};
    /// use seawall_ratelimit::{MemoryStore, Quota, RateLimitError, RateLimitLayer, Rule};
    /// use tower::Service;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limits = RateLimitLayer::new(MemoryStore::with_capacity(10))
    ///     .rule(Rule::new("all", Quota::per_second(1)))
    ///     .http()
    ///     .refusal(|error| {
    ///         let mut page = Response::new(Bytes::from("<h1>Slow down</h1>"));
    ///         *page.status_mut() = match error {
    ///             RateLimitError::Refused(_) => StatusCode::SERVICE_UNAVAILABLE,
    ///             _ => StatusCode::FORBIDDEN,
    ///         };
    ///         page
    ///     });
    /// let mut app = Router::new().route("/", get(async || "hello")).layer(limits);
    ///
    /// let request = || Request::get("/").body(Body::empty());
    /// assert_eq!(app.call(request()?).await?.status(), 200);
    /// let page = app.call(request()?).await?;
    /// assert_eq!(page.status(), 503);
    /// assert_eq!(page.headers()["retry-after"], "2");
    /// # Ok(())
    /// # }
    /// ```
    pub fn refusal<F>(mut self, refusal: F) -> Self
    where
        F: Fn(&RateLimitError) -> Response<Bytes> + Send + Sync + 'static,
    {
        self.mode.refusals = Refusals::Custom(Arc::new(refusal));
        self
    }
}

impl<S, Req, B, St, Rs, W> Service<Req> for RateLimit<S, St, Rs, Respond, W>
where
    S: Service<Req, Response = Response<B>> + Clone,
    St: Store,
    Rs: Apply<Req>,
    W: Refunds<St, S::Response, S::Error>,
{
    type Response = Response<LimitBody<B>>;
    type Error = S::Error;
    type Future = HttpFuture<S, Req, St, Rs, W>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        HttpFuture::new(self.start(request))
    }
}
