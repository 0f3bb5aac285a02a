//! Refusals as responses, and keys from HTTP requests.

mod body;
mod client_ip;
mod fields;
mod forwarded;
mod future;
mod keys;
mod networks;

use std::task::{Context, Poll};

use http::Response;
use tower_service::Service;

pub use self::body::LimitBody;
pub use self::client_ip::{ClientIp, FromExtensions, Peer};
pub(crate) use self::fields::PolicyField;
pub use self::future::HttpFuture;
pub use self::keys::{InExtension, UriPath};
pub use self::networks::Networks;
use crate::layer::RateLimitLayer;
use crate::rules::{Apply, Rules};
use crate::service::RateLimit;
use crate::store::Store;

/// Refusals are responses, and responses say what is left. Made by
/// [`RateLimitLayer::http`].
#[derive(Clone, Copy, Debug)]
pub struct Respond {
    fields: Fields,
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

impl<St: Store, Rs: Rules, M> RateLimitLayer<St, Rs, M> {
    /// Answers refused requests instead of failing, so that the error stays that of the inner service
    /// (for axum, `Infallible`).
    ///
    /// - Over a limit: 429 with `Retry-After` in whole seconds, rounded up. A cost above the limit: 429
    ///   without it, for no waiting helps.
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
    pub fn http(self) -> RateLimitLayer<St, Rs, Respond> {
        self.with_mode(Respond {
            fields: Fields::default(),
        })
    }
}

impl<St, Rs> RateLimitLayer<St, Rs, Respond> {
    /// Which responses tell of the limits; all by default.
    pub fn fields(mut self, fields: Fields) -> Self {
        self.mode.fields = fields;
        self
    }
}

impl<S, Req, B, St, Rs> Service<Req> for RateLimit<S, St, Rs, Respond>
where
    S: Service<Req, Response = Response<B>> + Clone,
    St: Store,
    Rs: Apply<Req>,
{
    type Response = Response<LimitBody<B>>;
    type Error = S::Error;
    type Future = HttpFuture<S, Req, St, Rs>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        HttpFuture::new(self.start(request), &self.limiter, self.mode.fields)
    }
}
