//! Where a command can be run.

mod pooled;
mod shared;

pub use pooled::Pooled;
pub use shared::Shared;

use std::future::Future;

use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisResult, Value};

/// Something that runs commands on a Redis.
///
/// A reply that is an error of the server comes back as `Err` from [`command`](Source::command), and
/// as [`Value::ServerError`] in its place from [`pipeline`](Source::pipeline).
///
/// Both futures may be dropped at any point: the command may then have run or not, and the source
/// serves the next one.
pub trait Source: Clone + Send + Sync + 'static {
    /// Runs one command.
    fn command(&self, cmd: &Cmd) -> impl Future<Output = RedisResult<Value>> + Send;

    /// Runs several commands in one round trip; one reply for each, also where it is a transaction.
    fn pipeline(&self, pipe: &Pipeline) -> impl Future<Output = RedisResult<Vec<Value>>> + Send;

    /// How many connections were found broken so far and replaced unseen by the caller. A source
    /// whose failures all reach the caller as errors leaves this at 0.
    fn replaced(&self) -> u64 {
        0
    }
}

async fn command<C: ConnectionLike + Send>(connection: &mut C, cmd: &Cmd) -> RedisResult<Value> {
    connection.req_packed_command(cmd).await?.extract_error()
}

async fn pipeline<C: ConnectionLike + Send>(
    connection: &mut C,
    pipe: &Pipeline,
) -> RedisResult<Vec<Value>> {
    if pipe.is_empty() {
        return Ok(Vec::new());
    }
    if !pipe.is_transaction() {
        return connection.req_packed_commands(pipe, 0, pipe.len()).await;
    }
    // MULTI and each queued command answer first; the replies that count are the one array of EXEC.
    let mut replies = connection
        .req_packed_commands(pipe, pipe.len() + 1, 1)
        .await?;
    match replies.pop() {
        Some(Value::Array(replies)) => Ok(replies),
        Some(Value::ServerError(error)) => Err(error.into()),
        other => Err((
            redis::ErrorKind::UnexpectedReturnType,
            "EXEC was not answered with one reply per command",
            format!("{other:?}"),
        )
            .into()),
    }
}
