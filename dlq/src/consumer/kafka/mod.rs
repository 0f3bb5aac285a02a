//! Messages of a Kafka topic.

mod delay;
mod poll;
mod rebalance;
mod run;
mod track;

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::sync::mpsc;
use tower_service::Service;

use self::{
    delay::Delays,
    poll::{Control, Item, Polling},
    rebalance::Context,
    run::Shift,
};
use super::{Consumer, Pause, WriteLetter, boxed, desk::Limits};
use crate::{
    BoxError, ConfigError, ConsumeError, KafkaSink, Message, Outcome, Totals,
    error::in_code,
    kafka::{DEADLINE, asker, topics, with_defaults},
};

/// A topic of Kafka, as one of a consumer group reads it: see [`Consumer::kafka`].
pub struct KafkaSource {
    config: ClientConfig,
    topic: Arc<str>,
    group: Arc<str>,
    make: Option<(i32, i32)>,
    delays: Vec<Duration>,
}

/// What a consumer at work knows of its settings.
struct Settings {
    topic: Arc<str>,
    limits: Limits,
    poison_after: u32,
    park_up_to: Duration,
    drain_for: Duration,
    poison_to: WriteLetter,
    pause: Pause,
    delays: Delays,
}

/// The member of the group: a client, and the thread that polls it.
struct Member {
    consumer: Arc<BaseConsumer<Context>>,
    items: mpsc::Receiver<Item>,
    control: mpsc::UnboundedReceiver<Control>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Member {
    /// The thread ends by itself, and the client leaves the group with it.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

impl Consumer<KafkaSource> {
    /// A consumer of `topic` in `group`, with a client of its own made of these settings: `bootstrap.servers`, those of
    /// security, `session.timeout.ms` and others. A group that is new begins with the first record there is.
    ///
    /// What differs from [`Consumer::redis`]:
    ///
    /// - **What is committed is the lowest offset that is not done**, of each partition. No message is begun that is further from it
    ///   than the [`window`](Self::window) divided by the partitions that this consumer has, so as many messages as the window holds
    ///   come again after a crash. One message that is parked holds the commit back, not the others.
    /// - Partitions are given back and taken cooperatively (`cooperative-sticky`). What runs of a partition that is asked back ends
    ///   first, for as long as [`drain_for`](Self::drain_for), and is committed.
    /// - That a consumer is at work, and how often a suspect was started, lies in the metadata of its commits. A partition that was left
    ///   in order has no suspects.
    /// - Where [order is kept](Self::ordered_by_key), what is parked holds back those of its key, what is dead does not: that has to be
    ///   said by [`pass_dead`](Self::pass_dead), and is refused at the start otherwise.
    /// - A record that the log forgot before it was done is an error, [`ConsumeError::Forgotten`].
    ///
    /// ```no_run
    /// use rdkafka::ClientConfig;
    /// use seawall_dlq::{BoxError, Consumer, DeadLetterLayer, KafkaSink, Message};
    /// use tower::{ServiceBuilder, service_fn};
    ///
    /// # async fn worker() -> Result<(), BoxError> {
    /// let mut config = ClientConfig::new();
    /// config.set("bootstrap.servers", "127.0.0.1:9092");
    /// let sink = KafkaSink::open(&config, "orders.dead").await?;
    /// let handler = ServiceBuilder::new()
    ///     .layer(DeadLetterLayer::new(sink).capture(Message::to_letter))
    ///     .service(service_fn(|order: Message| async move {
    ///         println!("{:?}", order.payload);
    ///         Ok::<_, BoxError>(())
    ///     }));
    /// let shutdown = async { tokio::signal::ctrl_c().await.unwrap_or(()) };
    /// Consumer::kafka(&config, "orders", "workers").run(handler, shutdown).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn kafka(
        config: &ClientConfig,
        topic: impl Into<Arc<str>>,
        group: impl Into<Arc<str>>,
    ) -> Self {
        let source = KafkaSource {
            config: config.clone(),
            topic: topic.into(),
            group: group.into(),
            make: None,
            delays: Vec::new(),
        };
        Self::over(source, Pause::new())
    }

    /// Makes the topic, and those of delays, where there are none: so many partitions, each with so many replicas (-1 for as
    /// many as the cluster makes by itself). Without it a topic that is not there is an error.
    pub fn make_topics(mut self, partitions: i32, replicas: i32) -> Self {
        self.source.make = Some((partitions, replicas));
        self
    }

    /// Puts messages off into topics of delays, one for each of these times: `orders.workers.delay-60000ms` holds what `workers` of
    /// `orders` put off for a minute. A wait is made of as many as fit into it, and what is left of it passes in this process. Without
    /// delays all of it does, and holds the commit back.
    ///
    /// A record of such a topic is handled as the message it was, by whichever consumer of the group has its partition, and by no other
    /// group. It is held until it has lain there for the time, by the clock of the brokers
    /// (`message.timestamp.type=LogAppendTime`, as [`make_topics`](Self::make_topics) sets it; else since it was read); the partition is
    /// paused meanwhile.
    ///
    /// # Panics
    ///
    /// If one is shorter than a millisecond, or is there twice.
    pub fn delays(self, delays: impl IntoIterator<Item = Duration>) -> Self {
        in_code!(self.try_delays(delays))
    }

    /// [`delays`](Self::delays) for values that are not known to be right.
    ///
    /// # Errors
    ///
    /// If one is shorter than a millisecond, or is there twice.
    pub fn try_delays(
        mut self,
        delays: impl IntoIterator<Item = Duration>,
    ) -> Result<Self, ConfigError> {
        let mut delays: Vec<_> = delays.into_iter().collect();
        delays.sort();
        let millis: Vec<_> = delays.iter().map(Duration::as_millis).collect();
        if millis.first() == Some(&0) || millis.windows(2).any(|two| two[0] == two[1]) {
            return Err(ConfigError::new(
                "the delays of a consumer are different numbers of milliseconds, and none is zero",
            ));
        }
        self.source.delays = delays;
        Ok(self)
    }

    /// Works until `shutdown` completes, then ends what has begun.
    ///
    /// While the brokers cannot be reached nothing is read, and what has ended is committed when they can be again. What is
    /// parked at the end is put off into a topic of delays if it asked to be and there is one, and else left to the next consumer.
    /// Dropping the future is as good as a crash: nothing is lost, and what was unfinished is taken over.
    ///
    /// # Errors
    ///
    /// If [order is to be kept](Self::ordered_by_key) and the dead are not said to be [passed](Self::pass_dead), the brokers cannot
    /// be reached at the start, a topic is not there, the log has forgotten what is not done, or access is refused.
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
        if self.limits.ordered && !self.pass_dead {
            return Err(ConfigError::new(
                "on Kafka a dead message does not hold back those of its key, for nothing tells over a crash in which \
                 order they would go on: say `pass_dead()` if they may go on without it, or read from Redis",
            )
            .into());
        }
        let source = self.source;
        let tiers: Vec<_> = { source.delays.iter() }
            .map(|delay| (*delay, delay::topic(&source.topic, &source.group, *delay)))
            .collect();
        let of_delays = tiers.iter().map(|(_, topic)| Arc::clone(topic));
        let all: Vec<_> = std::iter::once(Arc::clone(&source.topic))
            .chain(of_delays)
            .collect();
        source.check(&all).await?;
        let poison_to = match self.poison_to {
            Some(write) => write,
            None => {
                let letters = format!("{}.dead", source.topic);
                let opened = KafkaSink::open(&source.config, letters).await;
                boxed(opened.map_err(ConsumeError::Letters)?)
            }
        };
        let settings = Settings {
            topic: Arc::clone(&source.topic),
            limits: self.limits,
            poison_after: self.poison_after,
            park_up_to: self.park_up_to,
            drain_for: self.drain_for,
            poison_to,
            pause: self.pause,
            delays: Delays::new(&source.config, tiers)?,
        };
        let member = source.join(&all, &settings)?;
        Shift::new(settings, member, handler).run(shutdown).await
    }
}

impl KafkaSource {
    /// Whether the topics are there. Makes them where that was asked for.
    async fn check(&self, wanted: &[Arc<str>]) -> Result<(), ConsumeError> {
        let asker = Arc::new(asker(&self.config)?);
        loop {
            let asking = Arc::clone(&asker);
            let asked = tokio::task::spawn_blocking(move || topics(&asking)).await;
            let known = asked.map_err(ConsumeError::lost)??;
            let mut missing = { wanted.iter() }.filter(|topic| !known.contains_key(&***topic));
            match (missing.next(), self.make) {
                (None, _) => return Ok(()),
                (Some(topic), None) => return Err(ConsumeError::NoTopic(Arc::clone(topic))),
                (Some(topic), Some((partitions, replicas))) => {
                    self.make(topic, partitions, replicas).await?;
                    // It is not known everywhere at once.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn make(
        &self,
        topic: &Arc<str>,
        partitions: i32,
        replicas: i32,
    ) -> Result<(), KafkaError> {
        let admin: AdminClient<DefaultClientContext> = self.config.create()?;
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replicas));
        if *topic != self.topic {
            new = new
                .set("message.timestamp.type", "LogAppendTime")
                .set("cleanup.policy", "delete")
                .set("retention.ms", "-1")
                .set("retention.bytes", "-1");
        }
        let options = AdminOptions::new().request_timeout(Some(DEADLINE));
        let made = admin.create_topics([&new], &options).await?;
        match made.into_iter().next() {
            Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
            None => Err(KafkaError::AdminOp(RDKafkaErrorCode::Unknown)),
        }
    }

    fn join(&self, all: &[Arc<str>], settings: &Settings) -> Result<Member, ConsumeError> {
        let mut config = with_defaults(
            &self.config,
            &[
                ("partition.assignment.strategy", "cooperative-sticky"),
                // What is gone is noticed before: it is an error.
                ("auto.offset.reset", "earliest"),
            ],
        );
        config
            .set("group.id", &*self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("allow.auto.create.topics", "false");
        let (items, read) = mpsc::channel(2 * settings.limits.concurrency);
        let (control, heard) = mpsc::unbounded_channel();
        let context = Context::new(control.clone(), settings.drain_for);
        let consumer: BaseConsumer<Context> = config.create_with_context(context)?;
        let names: Vec<&str> = all.iter().map(|topic| &**topic).collect();
        consumer.subscribe(&names)?;
        let consumer = Arc::new(consumer);
        let stop = Arc::new(AtomicBool::new(false));
        let polling = Polling {
            consumer: Arc::clone(&consumer),
            items,
            control,
            delays: settings.delays.clone(),
            stop: Arc::clone(&stop),
            runtime: tokio::runtime::Handle::current(),
        };
        let thread = thread::Builder::new()
            .name("seawall-dlq-poll".to_owned())
            .spawn(move || poll::run(polling))
            .map_err(|_| KafkaError::ClientCreation("no thread can be started".to_owned()))?;
        Ok(Member {
            consumer,
            items: read,
            control: heard,
            stop,
            thread: Some(thread),
        })
    }
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the client's settings: there may be passwords among them.
        f.debug_struct("KafkaSource")
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("delays", &self.delays)
            .finish_non_exhaustive()
    }
}
