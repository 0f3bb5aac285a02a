use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bb8::{ManageConnection, Pool, PooledConnection, RunError};
use redis::aio::ConnectionLike;
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::Source;
use crate::error::pool_timed_out;

/// How long a suspect connection has to answer a PING before it is replaced. Short of any sensible
/// deadline, so that the caller who meets it is still served.
const TEST_WITHIN: Duration = Duration::from_millis(100);

/// A `bb8` pool, taken in the order of asking.
///
/// A `bb8` pool alone lets a task that just gave a connection back take it again before one that has
/// waited, so under steady load some tasks starve. Here a first-come-first-served semaphore of the
/// pool's size stands in front, and the pool itself is never waited for.
///
/// The pool may be built with `test_on_check_out(false)`, which saves a round trip for each command.
/// Instead, once a connection failed or left a command unanswered, as many of the next checkouts as
/// the pool has connections are tested with a PING, and one that does not answer it within 100 ms is
/// replaced in place.
///
/// Clones share the semaphore; make one `Pooled` of each pool.
pub struct Pooled<M: ManageConnection> {
    pool: Pool<M>,
    turns: Arc<Turns>,
}

struct Turns {
    semaphore: Semaphore,
    size: usize,
    /// How many of the next checkouts are to be tested.
    suspects: AtomicUsize,
    replaced: AtomicU64,
}

impl<M> Pooled<M>
where
    M: ManageConnection<Error = RedisError>,
    M::Connection: ConnectionLike,
{
    /// Runs commands on connections of `pool`.
    pub fn new(pool: Pool<M>) -> Self {
        let size = usize::try_from(pool.config().max_size)
            .unwrap_or(Semaphore::MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        Self {
            pool,
            turns: Arc::new(Turns {
                semaphore: Semaphore::new(size),
                size,
                suspects: AtomicUsize::new(0),
                replaced: AtomicU64::new(0),
            }),
        }
    }

    async fn take(&self) -> RedisResult<Taken<'_, M>> {
        let turn = self
            .turns
            .semaphore
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let connection = self.pool.get().await.map_err(|error| match error {
            RunError::User(error) => error,
            RunError::TimedOut => pool_timed_out(),
        })?;
        let mut taken = Taken {
            connection,
            _turn: turn,
        };
        if self.turns.next_is_suspect() && !answers(&mut *taken.connection).await {
            // A redis connection never tells the pool that it broke, and would come back for ever.
            let doubt = Doubt::of(&self.turns);
            *taken.connection = self.pool.dedicated_connection().await?;
            doubt.dispel();
            self.turns.replaced.fetch_add(1, Ordering::Relaxed);
        }
        Ok(taken)
    }
}

async fn answers<C: ConnectionLike + Send>(connection: &mut C) -> bool {
    matches!(
        timeout(TEST_WITHIN, super::command(connection, &Cmd::ping())).await,
        Ok(Ok(_))
    )
}

/// A connection and the turn it was taken in. The connection goes back first, so that whoever gets the
/// turn finds it there.
struct Taken<'a, M: ManageConnection> {
    connection: PooledConnection<'a, M>,
    _turn: SemaphorePermit<'a>,
}

/// Holds while a reply is awaited. Dropped before it is dispelled, it leaves all connections suspect,
/// for they lead to the same server and what befell one may have befallen each.
#[must_use]
struct Doubt<'a> {
    turns: &'a Turns,
    dispelled: bool,
}

impl<'a> Doubt<'a> {
    fn of(turns: &'a Turns) -> Self {
        Self {
            turns,
            dispelled: false,
        }
    }

    fn dispel(mut self) {
        self.dispelled = true;
    }

    /// Dispels the doubt if the server answered, be it with an error.
    fn weigh<T>(self, reply: &RedisResult<T>) {
        match reply {
            Err(error) if error.is_io_error() || error.is_unrecoverable_error() => {}
            _ => self.dispel(),
        }
    }
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.dispelled {
            self.turns
                .suspects
                .store(self.turns.size, Ordering::Relaxed);
        }
    }
}

impl Turns {
    fn next_is_suspect(&self) -> bool {
        self.suspects
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }
}

impl<M> Source for Pooled<M>
where
    M: ManageConnection<Error = RedisError>,
    M::Connection: ConnectionLike,
{
    async fn command(&self, cmd: &Cmd) -> RedisResult<Value> {
        let mut taken = self.take().await?;
        let doubt = Doubt::of(&self.turns);
        let reply = super::command(&mut *taken.connection, cmd).await;
        doubt.weigh(&reply);
        reply
    }

    async fn pipeline(&self, pipe: &Pipeline) -> RedisResult<Vec<Value>> {
        let mut taken = self.take().await?;
        let doubt = Doubt::of(&self.turns);
        let replies = super::pipeline(&mut *taken.connection, pipe).await;
        doubt.weigh(&replies);
        replies
    }

    fn replaced(&self) -> u64 {
        let by_pool = self.pool.state().statistics;
        self.turns.replaced.load(Ordering::Relaxed)
            + by_pool.connections_closed_broken
            + by_pool.connections_closed_invalid
    }
}

impl<M: ManageConnection> Clone for Pooled<M> {
    fn clone(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            turns: Arc::clone(&self.turns),
        }
    }
}

impl<M: ManageConnection> fmt::Debug for Pooled<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled")
            .field("size", &self.turns.size)
            .field("free", &self.turns.semaphore.available_permits())
            .finish_non_exhaustive()
    }
}
