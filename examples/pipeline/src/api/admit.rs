//! How many requests are worked on at once. More of them wait a moment, in the order in which they came, and are
//! refused then, before anything was read or asked for them: so a server that is offered more than it can do goes on
//! doing what it can, and what it holds in memory stays bounded.
//!
//! The moment matters as much as the bound. A refusal costs a good part of what an order costs, most of it for
//! HTTP; a client that is refused at once asks again at once, and a server that only refuses has no time left to serve.
//! And whoever is let in must not wait long behind the others, or the answer comes when nobody waits for it any more: so
//! there are as many places as keep the log busy, and no more.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// How long a request waits for a place.
const WAIT: Duration = Duration::from_millis(250);

/// A place among those that are worked on. A handler that goes on when its client has left holds it until it is done.
pub(super) type Place = Arc<OwnedSemaphorePermit>;

/// So many places.
pub(super) fn places(at_once: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(at_once))
}

/// Lets a request in when there is a place for it.
pub(super) async fn admit(
    State(places): State<Arc<Semaphore>>,
    mut request: Request,
    next: Next,
) -> Response {
    let place = match Arc::clone(&places).try_acquire_owned() {
        Ok(place) => Some(place),
        Err(_) => match tokio::time::timeout(WAIT, places.acquire_owned()).await {
            Ok(place) => Some(place.expect("the semaphore is never closed")),
            Err(_) => None,
        },
    };
    let Some(place) = place else {
        metrics::counter!("pipeline_shed_total").increment(1);
        return Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Too busy",
            "more requests are worked on than this server can take",
        )
        .retry_after(1)
        .into_response();
    };
    let place: Place = Arc::new(place);
    request.extensions_mut().insert(Arc::clone(&place));
    let response = next.run(request).await;
    drop(place);
    response
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use futures_util::FutureExt;
    use tokio::sync::Notify;
    use tower::{Service, ServiceExt};

    use super::*;

    /// A server with one place, whose only handler goes on when it is told to.
    fn server(go: &Arc<Notify>) -> Router {
        let go = Arc::clone(go);
        Router::new()
            .route(
                "/",
                get(move || {
                    let go = Arc::clone(&go);
                    async move { go.notified().await }
                }),
            )
            .route_layer(from_fn_with_state(places(1), admit))
            .route("/healthz", get(|| async {}))
    }

    async fn ask(server: &Router, path: &str) -> Response {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let mut server = server.clone();
        let Ok(ready) = ServiceExt::<Request>::ready(&mut server).await;
        let Ok(response) = ready.call(request).await;
        response
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_a_moment_and_is_refused() {
        let go = Arc::new(Notify::new());
        let server = server(&go);
        let mut first = Box::pin(ask(&server, "/"));
        assert!(first.as_mut().now_or_never().is_none());
        let refused = tokio::time::timeout(2 * WAIT, ask(&server, "/"))
            .await
            .expect("it is not let in");
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(refused.headers()["retry-after"], "1");
        assert_eq!(
            refused.headers()["content-type"],
            "application/problem+json"
        );
        assert_eq!(ask(&server, "/healthz").await.status(), StatusCode::OK);
        go.notify_one();
        assert_eq!(first.await.status(), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_in_when_a_place_is_free() {
        let go = Arc::new(Notify::new());
        let server = server(&go);
        let mut first = Box::pin(ask(&server, "/"));
        let mut second = Box::pin(ask(&server, "/"));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        go.notify_one();
        assert_eq!(first.await.status(), StatusCode::OK);
        go.notify_one();
        assert_eq!(second.await.status(), StatusCode::OK);
    }
}
