//! One function for each route.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use seawall_idempotency::{IdempotencyKey, Undone};
use seawall_shard_router::{Slot, slot_of};
use serde::Serialize;

use super::Api;
use super::problem::Problem;
use crate::cache::{Answer, LoadError, Loaded};
use crate::log::{AppendError, Log};
use crate::order::{OpId, Order, OrderId, Principal, Record};
use crate::shard::{Document, Query, State as OrderState, Versioned};
use crate::shards::{Ask, ShardAnswer, ShardRequest, Shards};

/// How long what is not there stays not there, for readers.
const KEEP_ABSENT: Duration = Duration::from_secs(1);

/// How long a write waits for its shard to say whether it knows the operation.
const DECIDED: Duration = Duration::from_millis(100);

/// How long an accepted order is shown as such, should its end never be heard of.
const KEEP_PENDING: Duration = Duration::from_secs(60);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderBody<'a> {
    order_id: String,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    item: &'a str,
    quantity: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserBody<'a> {
    user_id: &'a str,
    orders: u64,
    units: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProductBody<'a> {
    product_id: &'a str,
    name: &'a str,
    price_cents: u64,
}

/// Takes an order: it is accepted once it is durable in the log, and not before.
pub(super) async fn place<L: Log>(
    State(api): State<Arc<Api<L>>>,
    Extension(principal): Extension<Principal>,
    Extension(order): Extension<Order>,
    Extension(key): Extension<IdempotencyKey>,
) -> Response {
    let op = OpId::derive(&principal, &key.0);
    let slot = principal.slot(op);
    let id = OrderId { slot, op };
    let fingerprint = order.fingerprint();
    match decided(&api, id).await {
        Some(earlier) if earlier == fingerprint => return replayed(accepted(id)),
        // Not kept for the key: that belongs to the order that came first, and its retry must find it.
        Some(_) => return undone(key_reused()),
        None => {}
    }
    let record = Record {
        op: op.0,
        slot: slot.get(),
        account: principal.account(),
        item: order.item,
        quantity: order.quantity,
        fingerprint,
        at_ms: SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
    };
    let partition = slot.get() % api.log.partitions();
    match api.log.append(partition, record.encode()).await {
        Ok(offset) => {
            metrics::counter!("pipeline_orders_accepted_total").increment(1);
            let pending = order_body(
                id,
                "accepted",
                None,
                &record.item,
                record.quantity,
                KEEP_PENDING,
            );
            // Below the version that applying will give it, so that it can never cover the outcome.
            api.cache.set(
                Query::Order(id),
                Loaded {
                    version: offset,
                    answer: pending,
                },
            );
            accepted(id)
        }
        Err(AppendError::Refused(why)) => {
            let problem = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "The log takes no orders now",
                why,
            );
            undone(problem.retry_after(1).into_response())
        }
        Err(AppendError::Unknown(why)) => {
            let problem = Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "It is unknown whether the order was taken",
                why,
            );
            undone(problem.retry_after(1).into_response())
        }
    }
}

/// The fingerprint of an operation that its shard has decided. Nothing, too, when the shard does not say so
/// in time: the log takes orders while a shard is out, and the shard will see a repeat for what it is.
async fn decided<L: Log>(api: &Api<L>, id: OrderId) -> Option<[u8; 16]> {
    let asked = ask(api.shards.clone(), id.slot, Query::Order(id));
    match tokio::time::timeout(DECIDED, asked).await {
        Ok(Ok(Versioned {
            document: Some(Document::Order { fingerprint, .. }),
            ..
        })) => Some(fingerprint),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a shard could not say whether it knows an operation");
            None
        }
        _ => None,
    }
}

/// Says that an answer was given before, as the idempotency layer says it of what it remembers.
fn replayed(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert("idempotency-replayed", HeaderValue::from_static("true"));
    response
}

/// The answer to an accepted order. It holds nothing but what follows from the request, so that every
/// server, before and after any restart, gives the same bytes.
fn accepted(id: OrderId) -> Response {
    let body = format!(r#"{{"orderId":"{id}","status":"accepted"}}"#);
    let mut response = (StatusCode::ACCEPTED, body).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let location = HeaderValue::try_from(format!("/api/orders/{id}"));
    headers.insert(
        header::LOCATION,
        location.expect("hex digits are visible ASCII"),
    );
    response
}

fn key_reused() -> Response {
    let detail = "this key was used for another order; send a new order under a new key";
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "Idempotency key reused",
        detail,
    )
    .into_response()
}

/// Marks an answer that must not stand for the key: nothing is known to have been done.
fn undone(mut response: Response) -> Response {
    response.extensions_mut().insert(Undone);
    response
}

/// One order, by its id.
pub(super) async fn order<L: Log>(
    State(api): State<Arc<Api<L>>>,
    Path(id): Path<String>,
) -> Response {
    let Some(id) = OrderId::parse(&id) else {
        return absent("order");
    };
    read(&api, id.slot, Query::Order(id), move |found| match found {
        Some(Document::Order {
            state,
            class,
            item,
            quantity,
            ..
        }) => {
            let status = match state {
                OrderState::Applied => "applied",
                OrderState::Dead => "rejected",
            };
            order_body(
                id,
                status,
                class.as_deref(),
                &item,
                quantity,
                Duration::from_secs(5 * 60),
            )
        }
        _ => absent_body("order"),
    })
    .await
}

/// What a user has ordered.
pub(super) async fn user<L: Log>(
    State(api): State<Arc<Api<L>>>,
    Path(id): Path<String>,
) -> Response {
    let account = Principal::User(id.clone()).account();
    let slot = slot_of(account.as_bytes());
    read(
        &api,
        slot,
        Query::Account(account),
        move |found| match found {
            Some(Document::Account { orders, units }) => json(
                &UserBody {
                    user_id: &id,
                    orders,
                    units,
                },
                Duration::from_secs(15 * 60),
            ),
            _ => absent_body("user"),
        },
    )
    .await
}

/// A product of the catalogue.
pub(super) async fn product<L: Log>(
    State(api): State<Arc<Api<L>>>,
    Path(id): Path<String>,
) -> Response {
    let slot = slot_of(id.as_bytes());
    read(
        &api,
        slot,
        Query::Product(id.clone()),
        move |found| match found {
            Some(Document::Product { name, price_cents }) => {
                let body = ProductBody {
                    product_id: &id,
                    name: &name,
                    price_cents,
                };
                json(&body, Duration::from_secs(60 * 60))
            }
            _ => absent_body("product"),
        },
    )
    .await
}

/// Whether the server wants requests.
pub(super) async fn ready<L: Log>(State(api): State<Arc<Api<L>>>) -> Response {
    if api.ready.load(Ordering::Relaxed) {
        return "ready\n".into_response();
    }
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "Not ready",
        "the server is draining",
    )
    .into_response()
}

/// The figures, for Prometheus.
pub(super) async fn metrics<L: Log>(State(api): State<Arc<Api<L>>>) -> Response {
    let (hits, misses) = api.cache.hits_and_misses();
    metrics::counter!("pipeline_cache_hits_total").absolute(hits);
    metrics::counter!("pipeline_cache_misses_total").absolute(misses);
    let text = api.metrics.render();
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
        .into_response()
}

/// Answers from the cache, or from a replica of the shard that owns the slot.
async fn read<L: Log>(
    api: &Api<L>,
    slot: Slot,
    query: Query,
    show: impl FnOnce(Option<Document>) -> Answer + Send + 'static,
) -> Response {
    let shards = api.shards.clone();
    let found = api
        .cache
        .get(query, |query| async move {
            let Versioned { version, document } = ask(shards, slot, query).await?;
            Ok(Loaded {
                version,
                answer: show(document),
            })
        })
        .await;
    match found {
        Ok(Answer { status, body, .. }) => {
            let kind = if status == StatusCode::OK {
                "application/json"
            } else {
                "application/problem+json"
            };
            (status, [(header::CONTENT_TYPE, kind)], body).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "a read failed");
            let detail = "its shard does not answer";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Not available now", detail)
                .retry_after(1)
                .into_response()
        }
    }
}

async fn ask(mut shards: Shards, slot: Slot, query: Query) -> Result<Versioned, LoadError> {
    use tower_service::Service;

    std::future::poll_fn(|cx| shards.poll_ready(cx))
        .await
        .map_err(LoadError::from)?;
    let request = ShardRequest {
        slot,
        ask: Ask::Read(query),
        attempt: 1,
    };
    match shards.call(request).await.map_err(LoadError::from)? {
        ShardAnswer::Document(found) => Ok(found),
        other => Err(LoadError::from(
            Box::<dyn std::error::Error + Send + Sync>::from(format!(
                "a read was answered by {other:?}"
            )),
        )),
    }
}

fn order_body(
    id: OrderId,
    status: &'static str,
    reason: Option<&str>,
    item: &str,
    quantity: u32,
    keep: Duration,
) -> Answer {
    json(
        &OrderBody {
            order_id: id.to_string(),
            status,
            reason,
            item,
            quantity,
        },
        keep,
    )
}

fn json(body: &impl Serialize, keep: Duration) -> Answer {
    let body = serde_json::to_vec(body).expect("an answer of plain fields serialises");
    Answer {
        status: StatusCode::OK,
        body: body.into(),
        keep,
    }
}

fn absent(what: &'static str) -> Response {
    Problem::new(
        StatusCode::NOT_FOUND,
        "Not found",
        format!("there is no such {what}"),
    )
    .into_response()
}

fn absent_body(what: &'static str) -> Answer {
    let body =
        format!(r#"{{"status":404,"title":"Not found","detail":"there is no such {what}"}}"#);
    Answer {
        status: StatusCode::NOT_FOUND,
        body: Bytes::from(body),
        keep: KEEP_ABSENT,
    }
}
