//! The HTTP/1.1 server: bounded connections, bounded patience, a clean end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

/// How long a client may take to send a request's head.
const HEAD: Duration = Duration::from_secs(10);

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 8_192;

/// Serves until `stop`, then lets each connection finish the request it is at, at most `drain` long.
pub async fn serve(listener: TcpListener, app: Router, stop: CancellationToken, drain: Duration) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let (app, stop) = (app.clone(), stop.clone());
                connections.spawn(async move {
                    if let Err(error) = connection(stream, app, stop).await {
                        tracing::debug!(%error, "a connection ended early");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: those that are open will give some back.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            left = connections.len(),
            "connections were still busy at the end"
        );
    }
}

async fn connection(
    stream: TcpStream,
    app: Router,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let peer = stream.peer_addr()?;
    stream.set_nodelay(true)?;
    let service = service_fn(move |request: Request<Incoming>| {
        let mut app = app.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        async move {
            ServiceExt::<Request<Body>>::ready(&mut app)
                .await?
                .call(request)
                .await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        // Answers to pipelined requests go out in one write.
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn served(app: Router) -> (TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, app, stop.clone(), Duration::from_secs(5)));
        (
            TcpStream::connect(address).await.expect("it listens"),
            stop,
            server,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_finish_its_head_is_hung_up_on() {
        let (mut client, _stop, _server) = served(Router::new()).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: ")
            .await
            .expect("it is open");
        let mut answer = Vec::new();
        client
            .read_to_end(&mut answer)
            .await
            .expect("it is closed in order");
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_head_without_end_is_refused() {
        let (mut client, _stop, _server) = served(Router::new()).await;
        let head = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(2 * MAX_HEAD));
        // The server may hang up while it is still being sent.
        let _ = client.write_all(head.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn a_request_that_was_begun_is_answered_after_the_stop() {
        let begun = Arc::new(Semaphore::new(0));
        let go = Arc::new(Semaphore::new(0));
        let app = Router::new().route("/", {
            let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
            get(move || async move {
                begun.add_permits(1);
                let _ = go.acquire().await;
                "late"
            })
        });
        let (mut client, stop, server) = served(app).await;
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .expect("it is open");
        begun.acquire().await.expect("it is never closed").forget();
        stop.cancel();
        go.add_permits(1);
        let mut answer = Vec::new();
        client
            .read_to_end(&mut answer)
            .await
            .expect("it is closed in order");
        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"late"));
        server.await.expect("no panic");
    }
}
