//! The HTTP API: limits, idempotency, then the log; reads from the cache, then a replica.

mod admit;
mod body;
mod health;
mod place;
mod problem;
mod reads;
mod seen;
mod server;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use metrics_exporter_prometheus::PrometheusHandle;

use seawall_idempotency::{
    Abandoned, Fingerprint, Http, IdempotencyLayer, InFlight, Key, Scoped, Store as Records,
};
use seawall_ratelimit::{ClientIp, Quota, RateLimitLayer, Rule, Store as Windows};
use seawall_shard_router::TopologyHandle;
use tokio::time::Instant;
use tower::ServiceBuilder;

use crate::cache::ReadCache;
use crate::chaos::sabotage::{self, Sabotage};
use crate::log::Log;
use crate::order::{Order, Principal};
use crate::shards::Shards;
use body::{API_KEY, USER_ID};
use problem::Problem;

pub use server::serve;

/// Requests a minute, and whom the API believes about where they come from.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For each user.
    pub user: u32,
    /// For each client address.
    pub ip: u32,
    /// For each API key.
    pub api_key: u32,
    /// Proxies in front of the API that add to `X-Forwarded-For`.
    pub proxies: usize,
    /// Keys of limits remembered at once, over all rules.
    pub capacity: usize,
    /// Requests that are worked on at once; more wait a moment and are refused then.
    pub at_once: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            user: 1_000,
            ip: 10_000,
            api_key: 100_000,
            proxies: 0,
            capacity: 300_000,
            at_once: 256,
        }
    }
}

/// What the handlers need.
pub struct Api<L> {
    /// Where accepted orders go.
    pub log: Arc<L>,
    /// Which shard owns which slot.
    pub topology: TopologyHandle,
    /// The shards, for reads.
    pub shards: Shards,
    /// Answers to reads.
    pub cache: ReadCache,
    /// Whether the server wants requests.
    pub ready: AtomicBool,
    /// The figures at `/metrics`.
    pub metrics: PrometheusHandle,
}

impl<L> fmt::Debug for Api<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api")
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

/// The layer for idempotency keys. Clones share its records, and what drains them.
pub type Keys<R> = IdempotencyLayer<R, Http<Scoped>>;

/// Keys in the scope of who asks, from a header or the body.
pub fn keys<R: Records>(records: R, keep_for: Duration) -> Keys<R> {
    IdempotencyLayer::http(records)
        .scope(
            |request: &Parts| match request.extensions.get::<Principal>() {
                _ if sabotage::on(Sabotage::ForgetKeys) => Key::from(fastrand::u64(..)),
                Some(principal) => Key::from(principal.account()),
                None => Key::from("nobody"),
            },
        )
        .fingerprint(
            |request: &Parts, body: &Bytes| match request.extensions.get::<Order>() {
                // The order, not its spelling: a client may send its JSON with other spaces.
                Some(order) => Fingerprint::of([order.fingerprint()]),
                None => Fingerprint::of([body]),
            },
        )
        .require_key()
        .bare_keys()
        .keep_for(keep_for)
        // A repeat is the same operation, which counts once however often it is in the log.
        .abandoned(Abandoned::Reexecute)
        .in_flight(InFlight::Wait(Duration::from_secs(5)))
}

/// The API as a router.
pub fn router<L, R, W>(api: &Arc<Api<L>>, limits: Limits, keys: Keys<R>, windows: W) -> Router
where
    L: Log,
    R: Records,
    W: Windows<Scope: Send + Sync, Deciding: Send> + Send + Sync + 'static,
{
    let rate = RateLimitLayer::new(windows)
        .rule(Rule::new("user", Quota::per_minute(limits.user)).by(USER_ID))
        .rule(
            Rule::new("ip", Quota::per_minute(limits.ip))
                .by(ClientIp::behind_proxies(limits.proxies)),
        )
        .rule(Rule::new("api-key", Quota::per_minute(limits.api_key)).by(API_KEY))
        .http();
    let place = post(place::place::<L>).layer(
        ServiceBuilder::new()
            .layer(from_fn(body::read_order))
            .layer(keys),
    );
    let limited = Router::new()
        .route("/api/orders", place)
        .route("/api/orders/{id}", get(reads::order::<L>))
        .route("/api/users/{id}", get(reads::user::<L>))
        .route("/api/products/{id}", get(reads::product::<L>))
        .route_layer(rate)
        // Outermost: whom there is no place for costs nothing but the refusal.
        .route_layer(from_fn_with_state(
            admit::places(limits.at_once),
            admit::admit,
        ));
    figures(Router::new().merge(limited)).with_state(Arc::clone(api))
}

/// Nothing but what operators ask, for a process that takes no orders.
pub fn figures_only<L: Log>(api: &Arc<Api<L>>) -> Router {
    figures(Router::new()).with_state(Arc::clone(api))
}

fn figures<L: Log>(router: Router<Arc<Api<L>>>) -> Router<Arc<Api<L>>> {
    router
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(health::ready::<L>))
        .route("/metrics", get(health::metrics::<L>))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn(observe))
}

/// Counts and times each request by route and status.
async fn observe(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let start = Instant::now();
    let response = next.run(request).await;
    metrics::counter!("http_requests_total", "route" => route.clone(), "status" => response.status().as_str().to_owned())
        .increment(1);
    metrics::histogram!("http_request_seconds", "route" => route).record(start.elapsed());
    response
}

async fn not_found(request: Request) -> Response {
    let detail = format!("there is nothing at {}", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, "Not found", detail).into_response()
}

async fn method_not_allowed(request: Request) -> Response {
    let detail = format!("{} is not served here", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed", detail).into_response()
}
