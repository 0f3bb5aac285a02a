//! A whole worker: messages of a Redis Stream or a Kafka topic through a [`tower::Service`](tower_service::Service).

mod batched;
mod chore;
mod desk;
mod error;
mod handle;
mod handling;
#[cfg(feature = "kafka")]
mod kafka;
mod message;
mod pause;
#[cfg(feature = "redis")]
mod redis;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use self::desk::Limits;
#[cfg(feature = "kafka")]
pub use self::kafka::KafkaSource;
#[cfg(feature = "redis")]
pub use self::redis::{
    RedisSource,
    held::{HeldKey, HeldKeys},
    requeue::{Requeue, RequeueError},
};
pub use self::{
    batched::Batched,
    error::ConsumeError,
    message::{Message, PARKED_HEADER},
    pause::Pause,
};
use crate::{ConfigError, Letter, Sink, SinkError, Written, error::in_code};

/// The source of a `Consumer` that names none.
#[cfg(feature = "redis")]
type Usual = RedisSource;
#[cfg(not(feature = "redis"))]
type Usual = KafkaSource;

type WriteLetter = Arc<dyn Fn(Letter) -> Writing + Send + Sync>;
type Writing = Pin<Box<dyn Future<Output = Result<Written, SinkError>> + Send>>;

/// Reads the messages of a Redis Stream or of a Kafka topic as one of a consumer group, and hands them to a service.
///
/// A message is acknowledged after its service answered [`Outcome::Done`](crate::Outcome::Done) or
/// [`Outcome::DeadLettered`](crate::Outcome::DeadLettered), and never otherwise: one whose call fails is handled again after a wait.
/// It stays where it is when it is acknowledged; how long is for whoever owns the stream or the topic to say.
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
/// `Consumer::kafka(&config, "orders", "workers")` is the same line for a topic: what differs is said at
/// [`Consumer::kafka`](Consumer::kafka).
///
/// # After a crash
///
/// Messages of a consumer that is gone are taken over by another of the group, on Redis when nobody has held them for
/// [`claim_after`](Consumer::claim_after), on Kafka when the brokers give it the partition. They are suspects, for one of them may have ended its worker:
/// they run **one at a time, with nothing beside them**, and a mark is written before each starts. One whose
/// starts ended its worker [`poison_after`](Self::poison_after) times is dead: its letter, of the class
/// `poison`, is written without the handler seeing it again. So a message that kills its worker does it once
/// more than that at most, and no message beside it is condemned for it. While suspects run no new message
/// is begun; other consumers go on.
///
/// At most [`window`](Self::window) messages are with one consumer, so as many come again after a crash.
///
/// # Putting off
///
/// A call that fails with [`Parked`](crate::Parked) says after which wait the message should come again:
/// [`Disposition::Park`](crate::Disposition::Park) makes one of an error. Short waits pass in this process, and the message stays
/// unacknowledged. For waits over [`park_up_to`](Self::park_up_to), and when half the window is parked, the message is put off on
/// the server: on Redis into a sorted set beside the stream, acknowledged in the same script, and back into the stream when it is due by
/// the server's clock; on Kafka into a [topic of delays](Consumer::delays). It stays the message it was. Never early, whichever way.
///
/// # Default
///
/// 64 at once, a window of 1024, no order between messages, taken over after 30 seconds, dead after 3
/// starts, parked here for up to 30 seconds, 30 seconds to end what runs at a shutdown; letters of poison
/// messages in `{orders}.dead` for the stream `{orders}`, and `orders.dead` for the topic `orders`.
#[must_use = "a consumer does nothing until it runs"]
pub struct Consumer<B = Usual> {
    source: B,
    limits: Limits,
    pass_dead: bool,
    poison_after: u32,
    park_up_to: Duration,
    drain_for: Duration,
    poison_to: Option<WriteLetter>,
    pause: Pause,
}

impl<B> Consumer<B> {
    const fn over(source: B, pause: Pause) -> Self {
        Self {
            source,
            limits: Limits {
                concurrency: 64,
                window: 1024,
                ordered: false,
            },
            pass_dead: false,
            poison_after: 3,
            park_up_to: Duration::from_secs(30),
            drain_for: Duration::from_secs(30),
            poison_to: None,
            pause,
        }
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
    /// holds those behind it. Messages without a key have no order.
    ///
    /// On Redis one that is dead holds them as well, until its letter is redriven and the copy done, or until it is [let
    /// go](crate::HeldKeys). Those behind it are set aside beside the stream, as are those behind one that is parked when half the
    /// window is held, so that no key stands in the way of others; each comes back when the one before it is done, behind
    /// what is in the stream by then. With [`pass_dead`](Self::pass_dead) the dead hold nobody; on Kafka nothing else can be had, and it has to be said. Give
    /// the sink of a layer that acknowledges its messages [`holding_keys`](crate::RedisSink::holding_keys), or a crash between the letter and
    /// the next step lets those behind it go on.
    ///
    /// On Redis only one consumer of the group works at a time, to keep the order in all of it, and the others stand by. On Kafka
    /// each keeps it for its own partitions, of which a key has one. Nothing is put off on the server: a message waits here
    /// however long.
    pub fn ordered_by_key(mut self) -> Self {
        self.limits.ordered = true;
        self
    }

    /// Lets the messages behind a dead one of their key go on without it. Means something only where
    /// [order is kept](Self::ordered_by_key).
    pub fn pass_dead(mut self) -> Self {
        self.pass_dead = true;
        self
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
    /// not the default.
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

    /// Begins and reads no message while this is paused. What runs ends; what is held stays held.
    pub fn pausing(mut self, pause: &Pause) -> Self {
        self.pause = pause.clone();
        self
    }
}

fn boxed(sink: impl Sink) -> WriteLetter {
    let sink = Arc::new(sink);
    Arc::new(move |letter| {
        let sink = Arc::clone(&sink);
        Box::pin(async move { sink.write(letter).await })
    })
}

impl<B: fmt::Debug> fmt::Debug for Consumer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("source", &self.source)
            .field("limits", &self.limits)
            .field("pass_dead", &self.pass_dead)
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
    /// Messages that were set aside behind one of their key which was dead or parked.
    pub set_aside: u64,
    /// Messages that were taken over from a worker that was gone.
    pub taken_over: u64,
}
