//! Orders that are made once: the layer repeats answers, and the books check the fencing token.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing::post};
use http::header::AUTHORIZATION;
use seawall_idempotency::{Abandoned, Fence, IdempotencyKey, IdempotencyLayer, Store};
use serde::{Deserialize, Serialize};

/// Where orders are kept: a database, but for its disk.
///
/// The layer promises one execution for each attempt, and a second attempt only where the first was silent for
/// its whole lease. A first attempt that was merely stalled may still come back and write. So the books keep, in
/// the same transaction as the effect, the key with the highest attempt that they have seen: an order of a key that
/// is known is not made again, and who comes with a lower attempt is turned away. This makes the effect happen once.
#[derive(Debug, Clone, Default)]
pub struct Books(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    last: u64,
    by_key: HashMap<IdempotencyKey, Page>,
}

#[derive(Debug)]
struct Page {
    fence: Fence,
    /// Once it is written.
    order: Option<u64>,
}

/// The attempt was taken over by a later one.
#[derive(Debug, PartialEq, Eq)]
pub struct Stale;

impl Books {
    /// Notes that an attempt begins: from now on earlier ones cannot write.
    ///
    /// # Errors
    ///
    /// When a later attempt has begun.
    pub fn begin(&self, key: &IdempotencyKey, fence: Fence) -> Result<(), Stale> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Page { fence, order: None };
        let page = pages.by_key.entry(key.clone()).or_insert(fresh);
        if page.fence > fence {
            return Err(Stale);
        }
        page.fence = fence;
        Ok(())
    }

    /// Makes the order of a key, once, and says its number.
    ///
    /// # Errors
    ///
    /// When a later attempt has begun.
    pub fn write(&self, key: &IdempotencyKey, fence: Fence) -> Result<u64, Stale> {
        self.begin(key, fence)?;
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Pages { last, by_key } = &mut *pages;
        let page = by_key.get_mut(key).ok_or(Stale)?;
        Ok(*page.order.get_or_insert_with(|| {
            *last += 1;
            *last
        }))
    }

    /// How many orders there are.
    pub fn orders(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last
    }
}

/// What a customer wants.
#[derive(Debug, Deserialize)]
pub struct NewOrder {
    /// What, and how many of it.
    pub article: String,
    /// At least one.
    pub number: u32,
}

/// What was ordered.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Order {
    /// The order's own number.
    pub id: u64,
    /// What.
    pub article: String,
}

/// `POST /orders`, for whoever says who he is and gives each order a key.
pub fn routes(records: impl Store, books: Books) -> Router {
    let once = IdempotencyLayer::http(records)
        .scope(AUTHORIZATION)
        .require_key()
        .json_fingerprint()
        .publish_retention()
        .documentation("https://shop.example/docs/idempotency")
        // The books make a second execution harmless.
        .abandoned(Abandoned::Reexecute);
    Router::new()
        .route("/orders", post(create))
        .with_state(books)
        .layer(once)
}

async fn create(
    State(books): State<Books>,
    fence: Fence,
    Extension(key): Extension<IdempotencyKey>,
    Json(new): Json<NewOrder>,
) -> Result<(StatusCode, Json<Order>), (StatusCode, &'static str)> {
    if new.number == 0 {
        return Err((StatusCode::BAD_REQUEST, "an order is of something"));
    }
    let stale = |Stale| (StatusCode::CONFLICT, "another attempt took this order over");
    let id = books.write(&key, fence).map_err(stale)?;
    let article = new.article;
    Ok((StatusCode::CREATED, Json(Order { id, article })))
}
