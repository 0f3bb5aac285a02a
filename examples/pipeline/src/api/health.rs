//! What operators ask.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use super::Api;
use super::problem::Problem;
use crate::log::Log;

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
