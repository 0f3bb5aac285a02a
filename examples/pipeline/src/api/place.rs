//! Taking orders.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use seawall_idempotency::{IdempotencyKey, Undone};

use super::admit::Place;
use super::problem::Problem;
use super::{Api, reads};
use crate::cache::Loaded;
use crate::chaos::failpoint::{Step, reach};
use crate::chaos::sabotage::{self, Sabotage};
use crate::log::{AppendError, Log};
use crate::order::{OpId, Order, OrderId, Principal, Record};
use crate::shard::{Document, Query, Versioned};

/// How long a write waits for its shard to say whether it knows the operation.
const DECIDED: Duration = Duration::from_millis(100);

/// Takes an order: it is accepted once it is durable in the log, and not before.
pub(super) async fn place<L: Log>(
    State(api): State<Arc<Api<L>>>,
    Extension(principal): Extension<Principal>,
    Extension(order): Extension<Order>,
    Extension(key): Extension<IdempotencyKey>,
    Extension(_place): Extension<Place>,
) -> Response {
    let op = OpId::derive(&principal, &key.0);
    let slot = principal.slot(op);
    let id = OrderId { slot, op };
    let fingerprint = order.fingerprint();
    let known = match sabotage::on(Sabotage::ForgetKeys) {
        true => None,
        false => decided(&api, id).await,
    };
    match known {
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
    reach(Step::BeforeAppend);
    if sabotage::on(Sabotage::EarlyAccept) {
        append_later(&api, partition, &record);
        return accepted(id);
    }
    match api.log.append(partition, record.encode()).await {
        Ok(offset) => {
            reach(Step::AfterAppend);
            metrics::counter!("pipeline_orders_accepted_total").increment(1);
            let pending = reads::pending(id, &record);
            // Below the version that applying will give it, so that it can never cover the outcome.
            let pending = Loaded {
                version: offset,
                answer: pending,
            };
            api.cache.set_everywhere(Query::Order(id), pending).await;
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
            // Rare, and each one has to be looked after by somebody: unlike a refusal.
            tracing::warn!(order = %id, partition, why, "an order is in doubt");
            let problem = Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "It is unknown whether the order was taken",
                why,
            );
            undone(problem.retry_after(1).into_response())
        }
    }
}

/// The record is on its way, and nobody waits for it: what [`Sabotage::EarlyAccept`] does.
fn append_later<L: Log>(api: &Arc<Api<L>>, partition: u16, record: &Record) {
    let (api, payload) = (Arc::clone(api), record.encode());
    tokio::spawn(async move {
        // Longer than orders of one account lie apart, on a busy machine too: so some of them change places.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..500))).await;
        if let Err(error) = api.log.append(partition, payload).await {
            tracing::warn!(%error, "an order that was accepted is lost");
        }
    });
}

/// The fingerprint of an operation that its shard has decided. Nothing, too, when the shard does not say so
/// in time: the log takes orders while a shard is out, and the shard will see a repeat for what it is.
async fn decided<L: Log>(api: &Api<L>, id: OrderId) -> Option<[u8; 16]> {
    let asked = reads::ask(&api.shards, &api.topology, id.slot, Query::Order(id), 0);
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
    let mut body = format!(r#"{{"orderId":"{id}","status":"accepted"}}"#);
    if sabotage::on(Sabotage::OtherBytes) {
        body.push_str(&" ".repeat(fastrand::usize(..1_000)));
    }
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
