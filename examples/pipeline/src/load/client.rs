//! One keep-alive HTTP/1.1 connection of the load.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ledger::Told;

/// How long the load waits for an answer before it gives up on it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection that is made anew when it breaks.
#[derive(Debug)]
pub(super) struct Connection {
    server: SocketAddr,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Connection {
    pub(super) fn new(server: SocketAddr) -> Self {
        Self {
            server,
            sender: None,
        }
    }

    /// Sends one request and waits for the whole answer.
    ///
    /// `Err` means that nothing was sent; a request that may have arrived is `Told::Nothing`.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> std::io::Result<Told> {
        let mut sender = match self.sender.take() {
            Some(sender) if sender.is_ready() => sender,
            _ => self.connect().await?,
        };
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let replayed = response.headers().contains_key("idempotency-replayed");
            let close = response
                .headers()
                .get(header::CONNECTION)
                .is_some_and(|v| v == "close");
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((
                Told::Answer {
                    status,
                    replayed,
                    body,
                },
                close,
            ))
        };
        match timeout(PATIENCE, exchange).await {
            Ok(Ok((told, close))) => {
                if !close {
                    self.sender = Some(sender);
                }
                Ok(told)
            }
            Ok(Err(_)) | Err(_) => Ok(Told::Nothing),
        }
    }

    async fn connect(&self) -> std::io::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.server).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(async move {
            // Its end shows in the sender; there is nobody else to tell.
            let _ = connection.await;
        });
        Ok(sender)
    }
}
