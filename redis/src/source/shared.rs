use std::fmt;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisResult, Value};

use super::Source;

/// A connection whose clones share one socket, or one set of sockets: a multiplexed connection, a
/// `ConnectionManager` or a cluster connection.
///
/// Prefer a `ConnectionManager` to a bare multiplexed connection, which stays broken once it broke.
/// Never give it a connection on which something blocks, such as a blocking read of a stream: every
/// command behind it would wait.
///
/// A cluster connection asks again by itself when a slot moves or a server is replaced. Where it has to wait for that
/// (`TRYAGAIN`, `CLUSTERDOWN`, `LOADING`), it waits for 1.28 seconds or more, beyond the default deadline: build it with
/// a `min_retry_wait` of some milliseconds and a `max_retry_wait` below the deadline.
#[derive(Clone)]
pub struct Shared<C>(C);

impl<C> Shared<C> {
    /// Runs commands on clones of `connection`.
    pub fn new(connection: C) -> Self {
        Self(connection)
    }
}

impl<C> Source for Shared<C>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    async fn command(&self, cmd: &Cmd) -> RedisResult<Value> {
        super::command(&mut self.0.clone(), cmd).await
    }

    async fn pipeline(&self, pipe: &Pipeline) -> RedisResult<Vec<Value>> {
        super::pipeline(&mut self.0.clone(), pipe).await
    }
}

impl<C> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
