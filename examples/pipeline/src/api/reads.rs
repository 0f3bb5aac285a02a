//! Answering reads: from the cache, or from a replica of the shard that owns the slot.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{StatusCode, header};
use seawall_shard_router::{Slot, TopologyHandle, slot_of};
use serde::Serialize;

use super::Api;
use super::problem::Problem;
use super::seen::{Seen, VERSION};
use crate::cache::{Answer, Class, LoadError, Loaded};
use crate::log::Log;
use crate::order::{OrderId, Principal, Record};
use crate::shard::{Document, Query, State as OrderState, Versioned};
use crate::shards::{self, Shards};

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

/// One order, by its id.
pub(super) async fn order<L: Log>(
    State(api): State<Arc<Api<L>>>,
    Path(id): Path<String>,
    seen: Seen,
) -> Response {
    let Some(id) = OrderId::parse(&id) else {
        return absent("order");
    };
    read(
        &api,
        id.slot,
        Query::Order(id),
        seen,
        move |found| match found {
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
                    Class::Response,
                )
            }
            _ => absent_body("order"),
        },
    )
    .await
}

/// What a user has ordered.
pub(super) async fn user<L: Log>(
    State(api): State<Arc<Api<L>>>,
    Path(id): Path<String>,
    seen: Seen,
) -> Response {
    let account = Principal::User(id.clone()).account();
    let slot = slot_of(account.as_bytes());
    read(
        &api,
        slot,
        Query::Account(account),
        seen,
        move |found| match found {
            Some(Document::Account { orders, units }) => json(
                &UserBody {
                    user_id: &id,
                    orders,
                    units,
                },
                Class::Profile,
            ),
            _ => absent_body("user"),
        },
    )
    .await
}

/// A product of the catalogue. None ever changes, so whatever a reader has seen will do.
pub(super) async fn product<L: Log>(
    State(api): State<Arc<Api<L>>>,
    Path(id): Path<String>,
) -> Response {
    let slot = slot_of(id.as_bytes());
    read(
        &api,
        slot,
        Query::Product(id.clone()),
        Seen(0),
        move |found| match found {
            Some(Document::Product { name, price_cents }) => {
                let body = ProductBody {
                    product_id: &id,
                    name: &name,
                    price_cents,
                };
                json(&body, Class::Product)
            }
            _ => absent_body("product"),
        },
    )
    .await
}

/// Answers from the cache, or from a replica of the shard that owns the slot: with nothing older than was seen.
async fn read<L: Log>(
    api: &Api<L>,
    slot: Slot,
    query: Query,
    Seen(seen): Seen,
    show: impl FnOnce(Option<Document>) -> Answer + Send + 'static,
) -> Response {
    let (shards, topology) = (api.shards.clone(), api.topology.clone());
    let found = api
        .cache
        .read(query, seen, move |query, at_least| async move {
            let Versioned { version, document } =
                ask(&shards, &topology, slot, query, at_least).await?;
            Ok(Loaded {
                version,
                answer: show(document),
            })
        })
        .await;
    let detail = match found {
        Ok(Loaded { version, answer }) if version >= seen => {
            let mut response = respond(answer);
            if version > 0 {
                response.headers_mut().insert(VERSION, version.into());
            }
            return response;
        }
        // A replica that lagged has taken over, and the log is being applied again; or nobody ever said so.
        Ok(_) => "its shard has not come to the version that was seen",
        Err(error) => {
            tracing::warn!(%error, "a read failed");
            "its shard does not answer"
        }
    };
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "Not available now", detail)
        .retry_after(1)
        .into_response()
}

/// Asks a shard for a document of this version or a higher one: a replica, or the primary where that lags.
pub(super) async fn ask(
    shards: &Shards,
    topology: &TopologyHandle,
    slot: Slot,
    query: Query,
    at_least: u64,
) -> Result<Versioned, LoadError> {
    Ok(shards::read(shards, topology, slot, query, at_least).await?)
}

/// An order that is accepted, and not yet decided.
pub(super) fn pending(id: OrderId, record: &Record) -> Answer {
    order_body(
        id,
        "accepted",
        None,
        &record.item,
        record.quantity,
        Class::Pending,
    )
}

fn order_body(
    id: OrderId,
    status: &'static str,
    reason: Option<&str>,
    item: &str,
    quantity: u32,
    class: Class,
) -> Answer {
    json(
        &OrderBody {
            order_id: id.to_string(),
            status,
            reason,
            item,
            quantity,
        },
        class,
    )
}

fn json(body: &impl Serialize, class: Class) -> Answer {
    let body = serde_json::to_vec(body).expect("an answer of plain fields serialises");
    Answer {
        status: StatusCode::OK,
        body: body.into(),
        class,
    }
}

fn respond(Answer { status, body, .. }: Answer) -> Response {
    let kind = if status == StatusCode::OK {
        "application/json"
    } else {
        "application/problem+json"
    };
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

fn absent(what: &'static str) -> Response {
    respond(absent_body(what))
}

fn absent_body(what: &'static str) -> Answer {
    let body =
        format!(r#"{{"status":404,"title":"Not found","detail":"there is no such {what}"}}"#);
    Answer {
        status: StatusCode::NOT_FOUND,
        body: Bytes::from(body),
        class: Class::Absent,
    }
}
