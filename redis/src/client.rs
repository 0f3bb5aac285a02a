use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, ErrorKind, Pipeline, RedisResult, ServerErrorKind, Value};
use tokio::time::{Instant, timeout};

use crate::breaker::{Breaker, BreakerState, Circuit, Outcome, Ticket};
use crate::error::{ConfigError, Error, is_outage_reply};
use crate::script::Script;
use crate::source::{Pooled, Shared, Source};
use crate::telemetry;

/// How long a call may take unless [`Client::deadline`] says otherwise: 250 milliseconds.
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(250);

/// A source of connections with a deadline on every call and a breaker in front.
///
/// The deadline covers everything: the wait for a connection of the pool, connecting, the command and
/// its reply. A call that runs out of it may still be carried out; see [`Error::is_indeterminate`].
///
/// Calls that cannot get a connection of a pool within the deadline count as failures as well, so a pool
/// that is far too small opens the breaker.
///
/// A future of it may be dropped at any point: that leaves no connection taken and no probe of the
/// breaker open.
///
/// # Clone
///
/// Clones share the breaker and what is known of the connection. [`breaker`](Client::breaker) begins a
/// new one for the clone it is called on; [`deadline`](Client::deadline) sets that clone's only.
///
/// # Default
///
/// A deadline of [`DEFAULT_DEADLINE`]; a breaker that opens after five failures for one second.
#[derive(Debug, Clone)]
pub struct Client<S> {
    source: S,
    deadline: Duration,
    health: Arc<Mutex<Health>>,
}

/// What the clones know together.
#[derive(Debug)]
struct Health {
    circuit: Circuit,
    /// Since when nothing befell the connection.
    steady_since: Instant,
    /// [`Source::replaced`] when it was last looked at.
    replaced: u64,
}

impl<C> Client<Shared<C>>
where
    Shared<C>: Source,
{
    /// A client on a connection that clones: multiplexed, `ConnectionManager` or cluster.
    pub fn shared(connection: C) -> Self {
        Self::new(Shared::new(connection))
    }
}

impl<M> Client<Pooled<M>>
where
    M: bb8::ManageConnection<Error = redis::RedisError>,
    M::Connection: redis::aio::ConnectionLike,
{
    /// A client on a `bb8` pool, taken in the order of asking.
    pub fn pooled(pool: bb8::Pool<M>) -> Self {
        Self::new(Pooled::new(pool))
    }
}

impl<S: Source> Client<S> {
    /// A client on `source`, with the default deadline and breaker.
    pub fn new(source: S) -> Self {
        let health = Arc::new(Mutex::new(Health {
            circuit: Circuit::new(Breaker::default()),
            steady_since: Instant::now(),
            replaced: source.replaced(),
        }));
        Self {
            source,
            deadline: DEFAULT_DEADLINE,
            health,
        }
    }

    /// How long a call may take in all.
    ///
    /// # Panics
    ///
    /// When it is zero.
    #[must_use]
    pub fn deadline(self, deadline: Duration) -> Self {
        match self.try_deadline(deadline) {
            Ok(client) => client,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`deadline`](Client::deadline) for a value that comes from a file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoDeadline`] when it is zero.
    pub fn try_deadline(mut self, deadline: Duration) -> Result<Self, ConfigError> {
        if deadline.is_zero() {
            return Err(ConfigError::NoDeadline);
        }
        self.deadline = deadline;
        Ok(self)
    }

    /// How long a call of this client may take in all.
    #[must_use]
    pub const fn time_limit(&self) -> Duration {
        self.deadline
    }

    /// Puts a new breaker, closed, in front of this client and the clones made of it from now on.
    #[must_use]
    pub fn breaker(mut self, breaker: Breaker) -> Self {
        let health = {
            let known = self.health();
            Health {
                circuit: Circuit::new(breaker),
                steady_since: known.steady_since,
                replaced: known.replaced,
            }
        };
        self.health = Arc::new(Mutex::new(health));
        self
    }

    /// Runs one command.
    ///
    /// # Errors
    ///
    /// Any of [`Error`]; an error that the server answered is [`Error::Redis`].
    pub async fn command(&self, cmd: &Cmd) -> Result<Value, Error> {
        self.guard(self.source.command(cmd), |_| false).await
    }

    /// Runs several commands in one round trip; one reply for each, in their order, also where the
    /// pipeline is atomic.
    ///
    /// A command that the server refused does not fail the others: its reply is
    /// [`Value::ServerError`].
    ///
    /// # Errors
    ///
    /// Any of [`Error`]; then some of the commands may have run, unless
    /// [`is_indeterminate`](Error::is_indeterminate) says otherwise or the pipeline is atomic.
    pub async fn pipeline(&self, pipe: &Pipeline) -> Result<Vec<Value>, Error> {
        let out = |replies: &Vec<Value>| replies.iter().any(is_outage_reply);
        self.guard(self.source.pipeline(pipe), out).await
    }

    /// Runs a script by its digest; a server that does not know it gets its source, once.
    ///
    /// Keys and arguments are bytes and arrive as they are. Both attempts share one deadline.
    ///
    /// # Errors
    ///
    /// Any of [`Error`]; an error raised by the script is [`Error::Redis`].
    pub async fn script(
        &self,
        script: &Script,
        keys: &[&[u8]],
        args: &[&[u8]],
    ) -> Result<Value, Error> {
        let run = async {
            match self.source.command(&script.by_digest(keys, args)).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    self.source.command(&script.by_source(keys, args)).await
                }
                reply => reply,
            }
        };
        self.guard(run, |_| false).await
    }

    /// For how long nothing befell the connection: since the client was made, or since a call last
    /// failed with an outage, ran out of its deadline, or a connection of the pool was found broken.
    ///
    /// This is for protocols in which silence of others means something only to somebody who was
    /// connected all the while. A call that was dropped by its caller counts for nothing. A connection
    /// that reconnects by itself is noticed by the call that failed on it; the cluster connection,
    /// which sends such a call again by itself, is not.
    #[must_use]
    pub fn steady_for(&self) -> Duration {
        let replaced = self.source.replaced();
        let now = Instant::now();
        let mut health = self.health();
        if health.replaced != replaced {
            health.replaced = replaced;
            health.steady_since = now;
        }
        now.saturating_duration_since(health.steady_since)
    }

    /// What the breaker would do with a call now.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.health().circuit.state(Instant::now())
    }

    async fn guard<T>(
        &self,
        run: impl Future<Output = RedisResult<T>>,
        replied_out: impl FnOnce(&T) -> bool,
    ) -> Result<T, Error> {
        let outcome = match self.admit() {
            Ok(admitted) => {
                let outcome = match timeout(self.deadline, run).await {
                    Ok(reply) => reply.map_err(Error::Redis),
                    Err(_) => Err(Error::Deadline(self.deadline)),
                };
                admitted.settle(match &outcome {
                    Ok(reply) if replied_out(reply) => Outcome::Failed,
                    Err(error) if error.is_outage() => Outcome::Failed,
                    _ => Outcome::Answered,
                });
                outcome
            }
            Err(retry_in) => Err(Error::Open { retry_in }),
        };
        outcome.inspect_err(telemetry::call_failed)
    }

    fn admit(&self) -> Result<Admitted<'_>, Duration> {
        let ticket = change(&self.health, |health, now| {
            health.circuit.admit(now, self.deadline)
        })?;
        Ok(Admitted {
            health: &self.health,
            ticket: Some(ticket),
        })
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        lock(&self.health)
    }
}

/// Changes what is known and, once the lock is released, tells of a breaker in another state.
fn change<T>(health: &Mutex<Health>, change: impl FnOnce(&mut Health, Instant) -> T) -> T {
    let now = Instant::now();
    let (changed, before, after) = {
        let mut health = lock(health);
        let before = health.circuit.state(now);
        let changed = change(&mut health, now);
        (changed, before, health.circuit.state(now))
    };
    if before.name() != after.name() {
        telemetry::breaker_changed(before, after);
    }
    changed
}

/// A call that was let through. Dropped before it is settled, its caller went away.
#[derive(Debug)]
struct Admitted<'a> {
    health: &'a Mutex<Health>,
    ticket: Option<Ticket>,
}

impl Admitted<'_> {
    fn settle(mut self, outcome: Outcome) {
        self.give_back(outcome);
    }

    fn give_back(&mut self, outcome: Outcome) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        change(self.health, |health, now| {
            health.circuit.settle(ticket, outcome, now);
            if outcome == Outcome::Failed {
                health.steady_since = now;
            }
        });
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.give_back(Outcome::Abandoned);
    }
}

/// The state is whole after each statement, so a panic elsewhere leaves it good.
fn lock(health: &Mutex<Health>) -> MutexGuard<'_, Health> {
    health.lock().unwrap_or_else(PoisonError::into_inner)
}
