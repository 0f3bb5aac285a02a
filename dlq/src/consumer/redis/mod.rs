//! Messages of a Redis Stream.

mod delayed;
mod entry;
mod group;
pub(super) mod held;
mod link;
pub(super) mod requeue;
mod run;
mod scripts;
mod server;
mod settle;
#[cfg(test)]
mod tests;

use std::{
    collections::hash_map::RandomState,
    fmt,
    future::Future,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

use tower_service::Service;

use self::{group::Group, run::Shift, server::Server};
use super::{Consumer, Pause, WriteLetter, boxed, desk::Limits};
use crate::{
    BoxError, ConfigError, ConsumeError, Message, Outcome, RedisSink, Totals, error::in_code, names,
};

/// A stream of Redis, as one of a consumer group reads it: see [`Consumer::redis`].
pub struct RedisSource {
    server: Server,
    stream: String,
    group: String,
    make_stream: bool,
    claim_after: Duration,
}

/// What a consumer at work knows of its settings.
struct Settings {
    limits: Limits,
    consumer: String,
    claim_after: Duration,
    poison_after: u32,
    park_up_to: Duration,
    drain_for: Duration,
    poison_to: WriteLetter,
    pause: Pause,
    /// Whether a message that is dead holds back those behind it of its key.
    hold_dead: bool,
}

impl Consumer<RedisSource> {
    /// A consumer of `stream` in `group`, on connections of its own: reading blocks one.
    ///
    /// Each has a name of its own in the group. The group is made where there is none, and begins with the
    /// first message of the stream. A consumer says every third of [`claim_after`](Self::claim_after) that its messages are in
    /// good hands, running or parked.
    pub fn redis(
        client: &::redis::Client,
        stream: impl Into<String>,
        group: impl Into<String>,
    ) -> Self {
        Self::of(Server::One(client.clone()), stream.into(), group.into())
    }

    /// The same of a stream on a Redis Cluster. All that belongs to it lies in the slot of the stream, and letters do if
    /// they are named for it: `{orders}.dead` for `{orders}`.
    ///
    /// A slot that moves and a replica that takes over are waited for. What the replica did not have yet is lost with its
    /// primary, as ever in a cluster: what was acknowledged there may be handled again, and a message that was just added is gone.
    #[cfg(feature = "cluster")]
    pub fn redis_cluster(
        client: &::redis::cluster::ClusterClient,
        stream: impl Into<String>,
        group: impl Into<String>,
    ) -> Self {
        Self::of(
            Server::Cluster(Box::new(client.clone())),
            stream.into(),
            group.into(),
        )
    }

    fn of(server: Server, stream: String, group: String) -> Self {
        let source = RedisSource {
            server,
            stream,
            group,
            make_stream: false,
            claim_after: Duration::from_secs(30),
        };
        Self::over(source, Pause::new())
    }

    /// Makes the stream where there is none. Without it that is an error, for most often the name is wrong.
    pub fn make_stream(mut self) -> Self {
        self.source.make_stream = true;
        self
    }

    /// How long nobody holds a message before its worker is taken to be gone. A consumer holds its messages
    /// every third of this time; one that cannot for so long is taken for dead while it works, and its
    /// messages are handled twice.
    ///
    /// # Panics
    ///
    /// If it is below 10 ms.
    pub fn claim_after(self, idle: Duration) -> Self {
        in_code!(self.try_claim_after(idle))
    }

    /// [`claim_after`](Self::claim_after) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is below 10 ms.
    pub fn try_claim_after(mut self, idle: Duration) -> Result<Self, ConfigError> {
        if idle < Duration::from_millis(10) {
            return Err(ConfigError::new(
                "a worker cannot show every third of less than 10 ms that it lives",
            ));
        }
        self.source.claim_after = idle;
        Ok(self)
    }

    /// Works until `shutdown` completes, then ends what has begun.
    ///
    /// While Redis cannot be reached nothing is read, and what has ended is acknowledged when it can be
    /// again. What is parked at the end is put off on the server if it asked to be, and else left to the
    /// next consumer, at once. Dropping the future is as good as a crash: nothing is lost, and what was
    /// unfinished is taken over.
    ///
    /// # Errors
    ///
    /// If Redis cannot be reached at the start, there is no such stream, or the stream or the group is
    /// taken away.
    pub async fn run<S, R>(
        self,
        handler: S,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Totals, ConsumeError>
    where
        S: Service<Message, Response = Outcome<R>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let consumer = name();
        let source = self.source;
        let group = Group::new(
            &source.server,
            &source.stream,
            &source.group,
            consumer.clone(),
        )
        .await?;
        group.join(source.make_stream).await?;
        let hold_dead = self.limits.ordered && !self.pass_dead;
        let poison_to = match self.poison_to {
            Some(write) => write,
            None => {
                let letters = names::beside(&source.stream, ".dead")?;
                let sink = RedisSink::try_over(group.client(), letters)?
                    .try_acknowledging(&source.stream, &source.group)?;
                boxed(if hold_dead { sink.holding_keys() } else { sink })
            }
        };
        let settings = Settings {
            limits: self.limits,
            consumer,
            claim_after: source.claim_after,
            poison_after: self.poison_after,
            park_up_to: self.park_up_to,
            drain_for: self.drain_for,
            poison_to,
            pause: self.pause,
            hold_dead,
        };
        // Large, and moved with whatever it becomes a part of.
        Box::pin(Shift::new(settings, group, handler).run(shutdown)).await
    }
}

/// A name that no other consumer has: the standard library draws the keys of each of these at random.
fn name() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{random:016x}", std::process::id())
}

impl fmt::Debug for RedisSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSource")
            .field("stream", &self.stream)
            .field("group", &self.group)
            .field("claim_after", &self.claim_after)
            .finish_non_exhaustive()
    }
}
