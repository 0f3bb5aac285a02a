//! The way back: a copy of a letter into the stream it came from.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use ::redis::{Cmd, Value};
use seawall_redis::{Client, Shared, Source};
use tower_service::Service;

use super::entry::copy;
use crate::{Letter, Origin};

/// As the sink's: a copy is worth waiting for.
const DEADLINE: Duration = Duration::from_secs(5);

/// A service that adds a letter to the stream from which it came, for
/// [`Redrive::through`](crate::Redrive::through): key, headers and payload byte for byte, and the two headers that make it a copy
/// of its generation.
///
/// ```
/// use seawall_dlq::{BoxError, RedisSink, Redrive, Requeue};
///
/// # async fn redrive(client: redis::Client) -> Result<(), BoxError> {
/// let connection = client.get_connection_manager().await?;
/// let letters = RedisSink::new(connection.clone(), "{orders}.dead");
/// let summary = Redrive::new(letters).per_second(500.0).through(Requeue::new(connection)).await?;
/// println!("{} letters are back", summary.redriven);
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// #     let server = test_support::Redis::start().await;
/// #     redrive(redis::Client::open(server.url()).unwrap()).await.unwrap();
/// # });
/// ```
#[derive(Debug, Clone)]
pub struct Requeue<S> {
    client: Client<S>,
}

impl<C> Requeue<Shared<C>>
where
    C: ::redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
{
    /// Over a connection that many calls share.
    pub fn new(connection: C) -> Self {
        Self::from(Client::shared(connection).deadline(DEADLINE))
    }
}

impl<S: Source> From<Client<S>> for Requeue<S> {
    /// With a deadline and a breaker of the caller's choice.
    fn from(client: Client<S>) -> Self {
        Self { client }
    }
}

impl<S: Source> Service<Letter> for Requeue<S> {
    type Response = ();
    type Error = RequeueError;
    type Future = Pin<Box<dyn Future<Output = Result<(), RequeueError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RequeueError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, letter: Letter) -> Self::Future {
        let client = self.client.clone();
        Box::pin(async move {
            let Origin::Stream { stream, .. } = &letter.origin else {
                return Err(RequeueError::NotFromAStream(letter.origin));
            };
            let mut add = Cmd::new();
            // A stream that is not there has no reader: the letter is better off where it is.
            add.arg("XADD").arg(&**stream).arg("NOMKSTREAM").arg("*");
            for (name, value) in copy(&letter) {
                add.arg(&*name).arg(&value[..]);
            }
            match client.command(&add).await.map_err(RequeueError::Redis)? {
                Value::Nil => Err(RequeueError::NoStream(stream.to_string())),
                _ => Ok(()),
            }
        })
    }
}

/// Why a copy is not in its stream.
#[derive(Debug)]
#[non_exhaustive]
pub enum RequeueError {
    /// The letter came from somewhere else.
    NotFromAStream(Origin),
    /// There is no such stream.
    NoStream(String),
    /// Redis failed; the copy may be there.
    Redis(seawall_redis::Error),
}

impl fmt::Display for RequeueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFromAStream(origin) => {
                write!(f, "{origin} is no entry of a Redis Stream")
            }
            Self::NoStream(stream) => write!(f, "there is no stream {stream}"),
            Self::Redis(_) => f.write_str("Redis failed"),
        }
    }
}

impl Error for RequeueError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotFromAStream(_) | Self::NoStream(_) => None,
            Self::Redis(error) => Some(error),
        }
    }
}
