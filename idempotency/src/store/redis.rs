//! Records on a Redis server, one key each.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ::redis::{Cmd, RedisError, Value};
use bytes::Bytes;
use seawall_redis::{Client, Pooled, Script, Shared, Source};

use super::Store;
use crate::{
    error::StoreError,
    key::RecordKey,
    record::{Swap, Swapped},
};

/// Keeps records on Redis 7.0 or later, a cluster included: each record is one key.
///
/// A first request takes two commands, a replay takes one: `SET NX GET PX` for the claim, and for its end
/// `SET IFEQ GET PX` where the server has it (Redis 8.4, Valkey 8.1), and one call of a script that compares
/// and swaps where it has not. Which of them is found out by the first try. Give the server a `maxmemory-policy` of `noeviction`: a record that was
/// evicted is a call that may be executed again.
///
/// ```
/// use seawall_idempotency::{Abandoned, IdempotencyLayer, RedisStore};
/// # struct Message { id: u64 }
///
/// fn once(connection: redis::aio::MultiplexedConnection) -> impl tower::Layer<()> {
///     IdempotencyLayer::new(RedisStore::new(connection))
///         .unscoped()
///         .key(|m: &Message| m.id.into())
///         .codec(())
///         .abandoned(Abandoned::Reexecute)
/// }
/// # assert_eq!(std::mem::size_of_val(&once), 0);
/// ```
///
/// # Outage
///
/// The [`Client`] has a deadline for each command and a breaker. While the server cannot be reached,
/// calls are refused and nothing is executed; a claim whose reply was lost is sent once again, and
/// after that released in the background until the server has answered. The breaker is what bounds
/// how many such claims an outage leaves: with [`Breaker::never`](seawall_redis::Breaker::never) it
/// is every call that was refused.
///
/// What only looks abandoned is judged by [`Client::steady_for`]: give each process one client, and
/// not one for each call.
#[derive(Debug, Clone)]
pub struct RedisStore<S> {
    client: Client<S>,
    prefix: Arc<str>,
    /// Whether the server has refused to compare and set by itself.
    scripted: Arc<AtomicBool>,
}

/// Compares and swaps. The bytes that were found come back when they are none of those expected.
static SWAP: Script = Script::new(
    r"
local found = redis.call('GET', KEYS[1])
if found == ARGV[1] then
  return 2
end
local matches = found == false and ARGV[3] == '1'
for i = 4, #ARGV do
  matches = matches or found == ARGV[i]
end
if matches then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return found
",
);

impl<C> RedisStore<Shared<C>>
where
    C: ::redis::aio::ConnectionLike + Clone + Send + Sync + 'static,
{
    /// Over a connection that many calls share: multiplexed, a `ConnectionManager`, or a cluster's.
    pub fn new(connection: C) -> Self {
        Self::from(Client::new(Shared::new(connection)))
    }
}

impl<M> RedisStore<Pooled<M>>
where
    M: bb8::ManageConnection<Error = RedisError>,
    M::Connection: ::redis::aio::ConnectionLike,
{
    /// Over a pool, from which each command takes a connection in turn.
    pub fn pooled(pool: bb8::Pool<M>) -> Self {
        Self::from(Client::new(Pooled::new(pool)))
    }
}

impl<S: Source> From<Client<S>> for RedisStore<S> {
    /// With a deadline and a breaker of the caller's choice.
    fn from(client: Client<S>) -> Self {
        Self {
            client,
            prefix: Arc::from("seawall:idempotency:"),
            scripted: Arc::default(),
        }
    }
}

impl<S> RedisStore<S> {
    /// What the names of its keys begin with, `seawall:idempotency:` by default. Layers which share
    /// a server and have other records, other scopes or other codecs need prefixes of their own.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Arc::from(prefix);
        self
    }

    fn name(&self, key: &RecordKey) -> String {
        let mut name = String::with_capacity(self.prefix.len() + 64);
        // Writing to a string does not fail.
        let _ = write!(name, "{}{key}", self.prefix);
        name
    }
}

impl<S: Source> RedisStore<S> {
    /// The server's own command, which says what lay there before. `None`: let the script decide, for the
    /// server does not know the command, or there was nothing (or one that says so of a value which does
    /// not match).
    async fn compare_and_set(
        &self,
        name: &str,
        from: &Bytes,
        swap: &Swap,
    ) -> Result<Option<Swapped>, StoreError> {
        let room = 64 + name.len() + from.len() + swap.to().len();
        let mut set = Cmd::with_capacity(8, room);
        set.arg("SET").arg(name).arg(&swap.to()[..]);
        set.arg("IFEQ").arg(&from[..]).arg("GET");
        set.arg("PX").arg(millis(swap.keep_for()));
        match self.client.command(&set).await {
            Ok(Value::BulkString(found)) if found == from[..] => Ok(Some(Swapped::Applied)),
            Ok(Value::BulkString(found)) if found == swap.to()[..] => Ok(Some(Swapped::Already)),
            Ok(Value::BulkString(found)) => Ok(Some(Swapped::Lost(Some(found.into())))),
            Ok(Value::Nil) => Ok(None),
            Ok(other) => Err(unexpected(&other)),
            Err(seawall_redis::Error::Redis(reply)) if reply.code() == Some("ERR") => {
                self.scripted.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(error) => Err(unavailable(error)),
        }
    }
}

impl<S: Source> Store for RedisStore<S> {
    async fn claim(
        &self,
        key: &RecordKey,
        record: Bytes,
        keep_for: Duration,
    ) -> Result<Option<Bytes>, StoreError> {
        let mut set = Cmd::with_capacity(7, 192 + self.prefix.len() + record.len());
        set.arg("SET").arg(self.name(key)).arg(&record[..]);
        set.arg("NX").arg("GET").arg("PX").arg(millis(keep_for));
        match self.client.command(&set).await.map_err(unavailable)? {
            Value::Nil => Ok(None),
            Value::BulkString(found) => Ok(Some(found.into())),
            other => Err(unexpected(&other)),
        }
    }

    async fn remaining(&self, key: &RecordKey) -> Result<Option<Duration>, StoreError> {
        let mut pttl = Cmd::new();
        pttl.arg("PTTL").arg(self.name(key));
        match self.client.command(&pttl).await.map_err(unavailable)? {
            Value::Int(-1) => Err(StoreError::Foreign {
                found: "a value that never expires",
            }),
            Value::Int(left) => Ok(u64::try_from(left).ok().map(Duration::from_millis)),
            other => Err(unexpected(&other)),
        }
    }

    async fn swap(&self, key: &RecordKey, swap: &Swap) -> Result<Swapped, StoreError> {
        let name = self.name(key);
        if let [from] = swap.from()
            && !self.scripted.load(Ordering::Relaxed)
            && let Some(swapped) = self.compare_and_set(&name, from, swap).await?
        {
            return Ok(swapped);
        }
        let keep_for = millis(swap.keep_for()).to_string();
        let from_nothing: &[u8] = if swap.from_nothing() { b"1" } else { b"0" };
        let mut args: Vec<&[u8]> = vec![swap.to(), keep_for.as_bytes(), from_nothing];
        args.extend(swap.from().iter().map(|bytes| &bytes[..]));
        match self
            .client
            .script(&SWAP, &[name.as_bytes()], &args)
            .await
            .map_err(unavailable)?
        {
            Value::Int(1) => Ok(Swapped::Applied),
            Value::Int(2) => Ok(Swapped::Already),
            Value::Nil => Ok(Swapped::Lost(None)),
            Value::BulkString(found) => Ok(Swapped::Lost(Some(found.into()))),
            other => Err(unexpected(&other)),
        }
    }

    fn steady_for(&self) -> Duration {
        self.client.steady_for()
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis())
        .unwrap_or(u64::MAX)
        .max(1)
}

fn unavailable(error: seawall_redis::Error) -> StoreError {
    match &error {
        seawall_redis::Error::Redis(reply) if reply.code() == Some("WRONGTYPE") => {
            StoreError::Foreign {
                found: "a value of another type",
            }
        }
        _ => StoreError::Unavailable {
            indeterminate: error.is_indeterminate(),
            source: Box::new(error),
        },
    }
}

/// A reply no Redis gives to this command: it was carried out, in some way.
fn unexpected(value: &Value) -> StoreError {
    let error = RedisError::from((
        ::redis::ErrorKind::UnexpectedReturnType,
        "the server's reply has another shape than the command's",
        format!("{value:?}").chars().take(64).collect(),
    ));
    StoreError::Unavailable {
        indeterminate: true,
        source: Box::new(error),
    }
}
