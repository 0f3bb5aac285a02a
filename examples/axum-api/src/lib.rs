//! An API on axum with limits: of each client, of each user by plan, and of wrong passwords. Orders are made once.
//!
//! - `POST /login` with `{"user", "password"}`: five wrong passwords a minute for each client, and as many right
//!   ones as it likes.
//! - `/orders`: ten a second for each client and 100 a minute for each user, or 1,000 for one who pays.
//! - `POST /orders` with `{"article", "number"}`, an `Authorization` and an `Idempotency-Key`: sent again, it is
//!   answered again and makes no second order.
//! - `PUT /admin/quota/{rule}` with `{"limit", "seconds"}`, `POST /admin/block/{user}`: for operators, and
//!   not to be reached from outside.

pub mod shop;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use seawall_ratelimit::{
    Apply, Checker, ClientIp, Key, MemoryStore, Peer, Plan, Quota, Quotas, RateLimitLayer, Rule,
    TopRefused,
};
use serde::{Deserialize, Serialize};
use tower::ServiceBuilder;

const USER: HeaderName = HeaderName::from_static("x-user");
const PLAN: HeaderName = HeaderName::from_static("x-plan");

/// Clients by the address of their connection: this server stands behind no proxy.
fn client() -> ClientIp<impl Peer<Request>> {
    ClientIp::direct().peer(|request: &Request| {
        let peer = request.extensions().get::<ConnectInfo<SocketAddr>>()?;
        Some(peer.0.ip())
    })
}

/// All of the API.
pub fn app() -> Router {
    let store = MemoryStore::with_capacity(100_000);
    let top = TopRefused::new(100);

    let orders = RateLimitLayer::new(store.clone())
        .rule(Rule::new("client", Quota::per_second(10)).by(client()))
        .rule(
            Rule::new("user", Quota::per_minute(100))
                .by(USER)
                .plan(|request: &Request, _| plan(request)),
        )
        // What a limit of the whole would do, before it does it.
        .rule(Rule::new("everyone", Quota::per_second(1_000)).shadow())
        .top_refused(&top)
        .http()
        .legacy_fields();
    let quotas = orders.quotas();
    let operated = orders.checker();

    let logins = RateLimitLayer::new(store)
        .rule(Rule::new("wrong-password", Quota::per_minute(5)).by(client()))
        .http()
        .refund_if(|answer: &Result<Response, Infallible>| match answer {
            Ok(response) => response.status() != StatusCode::UNAUTHORIZED,
            Err(never) => match *never {},
        });

    Router::new()
        .route("/orders", get(list_orders))
        .merge(shop::routes(
            seawall_idempotency::MemoryStore::with_capacity(100_000),
            shop::Books::default(),
        ))
        // Of all routes so far: one limit for reading and making orders, and a flood is refused before
        // it claims a key.
        .layer(ServiceBuilder::new().layer(orders))
        .route(
            "/login",
            post(log_in).layer(ServiceBuilder::new().layer(logins)),
        )
        .nest("/admin", admin(quotas, operated, top))
}

/// A header of the gateway that knows who pays.
fn plan(request: &Request) -> Plan {
    match request.headers().get(PLAN).map(|plan| plan.as_bytes()) {
        Some(b"paid") => Plan::Quota(Quota::per_minute(1_000)),
        Some(b"closed") => Plan::Denied,
        _ => Plan::Regular,
    }
}

async fn list_orders() -> Json<[&'static str; 2]> {
    Json(["tea", "biscuits"])
}

/// Who wants to come in.
#[derive(Debug, Deserialize)]
struct Login {
    user: String,
    password: String,
}

async fn log_in(Json(login): Json<Login>) -> StatusCode {
    match (login.user.as_str(), login.password.as_str()) {
        ("ada", "sesame") => StatusCode::NO_CONTENT,
        _ => StatusCode::UNAUTHORIZED,
    }
}

#[derive(Clone)]
struct Admin<Rs> {
    quotas: Quotas,
    limits: Checker<MemoryStore, Rs>,
    top: TopRefused,
}

fn admin<Rs>(quotas: Quotas, limits: Checker<MemoryStore, Rs>, top: TopRefused) -> Router
where
    Rs: Apply<Request> + Send + Sync + 'static,
{
    Router::new()
        .route("/quota/{rule}", put(set_quota::<Rs>))
        .route("/block/{user}", post(block::<Rs>))
        .route("/refused", get(refused::<Rs>))
        .with_state(Admin {
            quotas,
            limits,
            top,
        })
}

/// A quota as an operator sends it.
#[derive(Debug, Deserialize)]
struct NewQuota {
    limit: u32,
    seconds: u64,
}

async fn set_quota<Rs>(
    State(admin): State<Admin<Rs>>,
    Path(rule): Path<String>,
    Json(new): Json<NewQuota>,
) -> Result<String, (StatusCode, String)> {
    let quota = Quota::try_new(new.limit, Duration::from_secs(new.seconds));
    let wrong = |error| (StatusCode::BAD_REQUEST, format!("{error}\n"));
    let version = admin.quotas.set(&rule, quota.map_err(wrong)?);
    Ok(format!("version {}\n", version.map_err(wrong)?))
}

async fn block<Rs>(
    State(admin): State<Admin<Rs>>,
    Path(user): Path<String>,
) -> Result<StatusCode, (StatusCode, String)> {
    let hour = Duration::from_secs(3_600);
    let blocked = admin.limits.block("user", Key::from(&user), hour).await;
    let failed = |error| (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"));
    blocked.map(|()| StatusCode::NO_CONTENT).map_err(failed)
}

/// Whom a rule refused, by the hash of its key, and how often.
#[derive(Debug, Serialize)]
struct Refused {
    rule: String,
    key: String,
    count: u64,
}

async fn refused<Rs>(State(admin): State<Admin<Rs>>) -> Json<Vec<Refused>> {
    let list = admin.top.list().into_iter().map(|refused| Refused {
        rule: refused.rule().to_owned(),
        key: refused.key().to_string(),
        count: refused.count(),
    });
    Json(list.collect())
}
