//! A whole worker: messages of a Redis Stream through a [`tower::Service`](tower_service::Service).

mod desk;
mod group;
mod message;
mod requeue;
mod run;

use std::{
    collections::hash_map::RandomState,
    error::Error,
    fmt,
    future::Future,
    hash::{BuildHasher, Hasher},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use ::redis::RedisError;
use tokio::task::JoinError;
use tower_service::Service;

use self::{desk::Limits, group::Group, run::Shift};
pub use self::{
    message::{Message, PARKED_HEADER},
    requeue::{Requeue, RequeueError},
};
use crate::{
    BoxError, ConfigError, Letter, Outcome, RedisSink, Sink, SinkError, Written, error::in_code,
    names,
};

type WriteLetter = dyn Fn(Letter) -> Writing + Send + Sync;
type Writing = Pin<Box<dyn Future<Output = Result<Written, SinkError>> + Send>>;

/// Reads the messages of a Redis Stream as one of a consumer group, and hands them to a service.
///
/// A message is acknowledged after its service answered [`Outcome::Done`] or [`Outcome::DeadLettered`],
/// and never otherwise: one whose call fails is handled again after a wait. An entry stays in the stream when
/// it is acknowledged; how long is for whoever owns the stream to say (`XADD ... MAXLEN`, `XTRIM`).
///
/// ```no_run
/// use std::time::Duration;
/// use seawall_dlq::{BoxError, Consumer, DeadLetterLayer, Message, RedisSink};
/// use tower::{ServiceBuilder, service_fn};
///
/// # async fn worker() -> Result<(), BoxError> {
/// let client = redis::Client::open("redis://127.0.0.1/")?;
/// let sink = RedisSink::new(client.get_connection_manager().await?, "{orders}.dead")
///     .acknowledging("{orders}", "workers");
/// let handler = ServiceBuilder::new()
///     .layer(DeadLetterLayer::new(sink).capture(Message::to_letter))
///     .service(service_fn(|order: Message| async move {
///         println!("{:?}", order.payload);
///         Ok::<_, BoxError>(())
///     }));
/// let shutdown = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
/// Consumer::redis(&client, "{orders}", "workers").concurrency(64).run(handler, shutdown).await?;
/// # Ok(())
/// # }
/// ```
///
/// # After a crash
///
/// Messages that nobody has held for [`claim_after`](Self::claim_after) are taken over, by whichever
/// consumer of the group sees them first. They are suspects, for one of them may have ended its worker:
/// they run **one at a time, with nothing beside them**, and a mark is written before each starts. One whose
/// starts ended its worker [`poison_after`](Self::poison_after) times is dead: its letter, of the class
/// `poison`, is written without the handler seeing it again. So a message that kills its worker does it once
/// more than that at most, and no message beside it is condemned for it. While suspects run no new message
/// is begun; other consumers go on.
///
/// At most [`window`](Self::window) messages are with one consumer, so as many come again after a crash.
/// A consumer says every third of `claim_after` that its messages are in good hands, running or parked.
///
/// # Putting off
///
/// A call that fails with [`Parked`](crate::Parked) says after which wait the message should come again:
/// [`Disposition::Park`](crate::Disposition::Park) makes one of an error. Short waits pass in this process, and the message stays
/// unacknowledged. For waits over [`park_up_to`](Self::park_up_to), and when half the window is parked, the message goes
/// into a sorted set beside the stream, acknowledged in the same script, and back into the stream when it is due by the server's clock, as the message it was. Never
/// early, whichever way.
///
/// # Default
///
/// 64 at once, a window of 1024, no order between messages, taken over after 30 seconds, dead after 3
/// starts, parked here for up to 30 seconds, 30 seconds to end what runs at a shutdown; letters of poison
/// messages in `{orders}.dead` for the stream `{orders}`.
#[must_use = "a consumer does nothing until it runs"]
pub struct Consumer {
    client: ::redis::Client,
    stream: String,
    group: String,
    make_stream: bool,
    limits: Limits,
    claim_after: Duration,
    poison_after: u32,
    park_up_to: Duration,
    drain_for: Duration,
    poison_to: Option<Arc<WriteLetter>>,
}

/// What a consumer at work knows of its settings.
struct Settings {
    limits: Limits,
    consumer: String,
    claim_after: Duration,
    poison_after: u32,
    park_up_to: Duration,
    drain_for: Duration,
    poison_to: Arc<WriteLetter>,
}

impl Consumer {
    /// A consumer of `stream` in `group`, on connections of its own: reading blocks one.
    ///
    /// Each has a name of its own in the group. The group is made where there is none, and begins with the
    /// first message of the stream.
    pub fn redis(
        client: &::redis::Client,
        stream: impl Into<String>,
        group: impl Into<String>,
    ) -> Self {
        Self {
            client: client.clone(),
            stream: stream.into(),
            group: group.into(),
            make_stream: false,
            limits: Limits {
                concurrency: 64,
                window: 1024,
                ordered: false,
            },
            claim_after: Duration::from_secs(30),
            poison_after: 3,
            park_up_to: Duration::from_secs(30),
            drain_for: Duration::from_secs(30),
            poison_to: None,
        }
    }

    /// Makes the stream where there is none. Without it that is an error, for most often the name is wrong.
    pub fn make_stream(mut self) -> Self {
        self.make_stream = true;
        self
    }

    /// How many messages are handled at once.
    ///
    /// # Panics
    ///
    /// If it is zero, or more than the [`window`](Self::window).
    pub fn concurrency(self, messages: usize) -> Self {
        in_code!(self.try_concurrency(messages))
    }

    /// [`concurrency`](Self::concurrency) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is zero, or more than the [`window`](Self::window).
    pub fn try_concurrency(mut self, messages: usize) -> Result<Self, ConfigError> {
        self.limits.concurrency = messages;
        self.checked()
    }

    /// How many messages may be with this consumer: read and not acknowledged. As many come again when it
    /// is killed.
    ///
    /// # Panics
    ///
    /// If it is less than the [`concurrency`](Self::concurrency).
    pub fn window(self, messages: usize) -> Self {
        in_code!(self.try_window(messages))
    }

    /// [`window`](Self::window) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is less than the [`concurrency`](Self::concurrency).
    pub fn try_window(mut self, messages: usize) -> Result<Self, ConfigError> {
        self.limits.window = messages;
        self.checked()
    }

    fn checked(self) -> Result<Self, ConfigError> {
        if self.limits.concurrency == 0 {
            return Err(ConfigError::new(
                "a consumer handles at least one message at once",
            ));
        }
        if self.limits.window < self.limits.concurrency {
            return Err(ConfigError::new(
                "the window of a consumer holds at least as many messages as it handles at once",
            ));
        }
        Ok(self)
    }

    /// Handles messages of one key one after another, in the order of the stream. One that is parked
    /// holds those behind it; one that is dead does not. Messages without a key have no order.
    ///
    /// To keep the order in the whole group only one of its consumers works at a time, and the others
    /// stand by. Nothing is put off on the server: a message waits here however long.
    pub fn ordered_by_key(mut self) -> Self {
        self.limits.ordered = true;
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
        self.claim_after = idle;
        Ok(self)
    }

    /// How many times a suspect may be started and not come back before it is dead.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn poison_after(self, starts: u32) -> Self {
        in_code!(self.try_poison_after(starts))
    }

    /// [`poison_after`](Self::poison_after) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn try_poison_after(mut self, starts: u32) -> Result<Self, ConfigError> {
        if starts == 0 {
            return Err(ConfigError::new(
                "a suspect has to be started once to be known for poison",
            ));
        }
        self.poison_after = starts;
        Ok(self)
    }

    /// Writes the letters of messages that kill their worker to this sink: the one of the layer, if it is
    /// not `{orders}.dead` for the stream `{orders}`.
    pub fn poison_to(mut self, sink: impl Sink) -> Self {
        self.poison_to = Some(boxed(sink));
        self
    }

    /// The longest wait that passes in this process. What waits longer is put off on the server.
    pub fn park_up_to(mut self, wait: Duration) -> Self {
        self.park_up_to = wait;
        self
    }

    /// How long a shutdown waits for what runs. What has not ended by then is left to the next consumer.
    pub fn drain_for(mut self, wait: Duration) -> Self {
        self.drain_for = wait;
        self
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
        let group = Group::new(&self.client, &self.stream, &self.group, consumer.clone())?;
        group.join(self.make_stream).await?;
        let poison_to = match self.poison_to {
            Some(write) => write,
            None => {
                let letters = names::beside(&self.stream, ".dead")?;
                boxed(
                    RedisSink::try_over(group.client(), letters)?
                        .try_acknowledging(&self.stream, &self.group)?,
                )
            }
        };
        let settings = Settings {
            limits: self.limits,
            consumer,
            claim_after: self.claim_after,
            poison_after: self.poison_after,
            park_up_to: self.park_up_to,
            drain_for: self.drain_for,
            poison_to,
        };
        Shift::new(settings, group, handler).run(shutdown).await
    }
}

fn boxed(sink: impl Sink) -> Arc<WriteLetter> {
    let sink = Arc::new(sink);
    Arc::new(move |letter| {
        let sink = Arc::clone(&sink);
        Box::pin(async move { sink.write(letter).await })
    })
}

/// A name that no other consumer has: the standard library draws the keys of each of these at random.
fn name() -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{random:016x}", std::process::id())
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("stream", &self.stream)
            .field("group", &self.group)
            .field("limits", &self.limits)
            .field("claim_after", &self.claim_after)
            .field("poison_after", &self.poison_after)
            .field("park_up_to", &self.park_up_to)
            .field("drain_for", &self.drain_for)
            .finish_non_exhaustive()
    }
}

/// What a consumer has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Totals {
    /// Messages that were handled.
    pub done: u64,
    /// Messages that are dead, their letters written; those that killed their worker among them.
    pub dead: u64,
    /// Messages that were found to kill their worker.
    pub condemned: u64,
    /// How often a message was put off.
    pub parked: u64,
    /// How often a call failed, so that its message was not acknowledged and is handled again.
    pub failed: u64,
    /// Messages that were taken over from a worker that was gone.
    pub taken_over: u64,
}

/// Why a consumer stopped. What it had not acknowledged by then comes again.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConsumeError {
    /// A setting cannot work.
    Config(ConfigError),
    /// There is no such stream.
    NoStream(String),
    /// Redis cannot be used.
    Redis(seawall_redis::Error),
    /// A task of the consumer itself ended: the runtime is shutting down.
    Ended(JoinError),
}

impl ConsumeError {
    fn lost(error: JoinError) -> Self {
        Self::Ended(error)
    }
}

impl fmt::Display for ConsumeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::NoStream(stream) => write!(f, "there is no stream {stream}"),
            Self::Redis(_) => f.write_str("Redis cannot be used"),
            Self::Ended(_) => f.write_str("a task of the consumer ended"),
        }
    }
}

impl Error for ConsumeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(_) | Self::NoStream(_) => None,
            Self::Redis(error) => Some(error),
            Self::Ended(error) => Some(error),
        }
    }
}

impl From<ConfigError> for ConsumeError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<seawall_redis::Error> for ConsumeError {
    fn from(error: seawall_redis::Error) -> Self {
        Self::Redis(error)
    }
}

impl From<RedisError> for ConsumeError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error.into())
    }
}

#[cfg(test)]
mod tests;
