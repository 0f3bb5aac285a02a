//! A dead-letter queue as a [`tower`](tower_service) layer: what finally fails is written down before
//! it is acknowledged, and can be sent again.
//!
//! [`DeadLetterLayer`] keeps a cheap [`Envelope`] of each request. When the request fails for good, it
//! writes a [`Letter`] to a [`Sink`], waits until the letter is written, and only then answers
//! [`Outcome::DeadLettered`]. **If the letter cannot be written the call fails, and an error means:
//! do not acknowledge.** So a request is at its source or in the sink at any time, and never nowhere.
//!
//! ```
//! use std::{io, time::Duration};
//! use bytes::Bytes;
//! use seawall_dlq::{
//!     BoxError, DeadLetterLayer, Envelope, Failure, MemorySink, Origin, Outcome, Queue,
//! };
//! use seawall_retry::{Backoff, RetryError, RetryLayer};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! #[derive(Clone)]
//! struct Message { partition: u32, offset: u64, payload: Bytes }
//!
//! impl Message {
//!     fn to_letter(&self) -> Envelope {
//!         Envelope::new(Origin::log("orders", self.partition, self.offset), self.payload.clone())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let sink = MemorySink::with_capacity(10_000);
//! let mut handler = ServiceBuilder::new()
//!     .layer(
//!         DeadLetterLayer::new(sink.clone())
//!             .capture(Message::to_letter)
//!             // The crates do not know each other: a closure says what the error knows.
//!             .explain(|error: &BoxError| {
//!                 let retry = RetryError::find(error)?;
//!                 Some(
//!                     Failure::of(&retry.source)
//!                         .class(retry.stopped.as_str())
//!                         .attempts(retry.attempts)
//!                         .lasted(retry.elapsed),
//!                 )
//!             }),
//!     )
//!     .layer(RetryLayer::new(Backoff::exponential(Duration::from_secs(1)).attempts(3)))
//!     .service(service_fn(|message: Message| async move {
//!         match &message.payload[..] {
//!             b"poison" => Err(io::Error::other("cannot be parsed")),
//!             _ => Ok("applied"),
//!         }
//!     }));
//!
//! let good = Message { partition: 3, offset: 17, payload: "order".into() };
//! let answer = handler.ready().await.unwrap().call(good).await.unwrap();
//! assert_eq!(answer, Outcome::Done("applied"));
//!
//! let bad = Message { partition: 3, offset: 18, payload: "poison".into() };
//! let answer = handler.ready().await.unwrap().call(bad).await.unwrap();
//! let id = answer.dead_lettered().expect("the letter is written: both may be acknowledged");
//!
//! let letter = sink.get(id).await.unwrap().unwrap();
//! assert_eq!(letter.origin.to_string(), "orders/3@18");
//! assert_eq!((letter.failure.class.as_str(), letter.failure.attempts), ("exhausted", 3));
//! assert_eq!(letter.failure.message, "cannot be parsed");
//! # }
//! ```
//!
//! # One request, one letter
//!
//! The id of a letter follows from where the request came from and how often it has been redriven
//! ([`LetterId`]). A request that dies again before it was acknowledged, after a crash for one, finds
//! its letter in the sink: [`Written::Repeat`]. A redriven copy that dies again is of another
//! generation, and so another letter.
//!
//! # What is dead
//!
//! By default every error; [`dispose`](DeadLetterLayer::dispose) can give those that may pass (a shard
//! that is down, say) to the caller instead, who pauses and tries again, or say that the request should
//! come again after a wait ([`Parked`]). A panic in the service is caught and is dead, always: it would
//! come again with the next delivery.
//!
//! # Sending letters again
//!
//! [`Redrive`] sends letters back as copies of the next generation, at a rate, and removes each only
//! when its copy is known to be written. [`Queue`] is what it reads from, and what people can list.
//!
//! # Watching
//!
//! [`Monitor`] raises an alert when a queue is too full, [`census`] counts by what killed the letters, and a
//! [`FloodGuard`] in front of a sink refuses letters when they come too fast to be the messages' fault.
//!
//! # Order
//!
//! Dead letters belong outside retry, so that only what is final is dead. A panic passes through
//! retry, so it is dead after one attempt.
//!
//! Writing a letter needs a tokio runtime with its timer enabled.
//!
//! # Features
//!
//! - `file`: `FileSink`, checksummed and synced before the answer (Unix).
//! - `redis`: `RedisSink`, letters in a stream of Redis; `Consumer`, a whole worker on Redis Streams;
//!   `Requeue`, the way back for a redrive.
//! - `cluster`: `Consumer::redis_cluster`, messages on a Redis Cluster. Sinks, redrives and held keys take connections to a cluster
//!   without it.
//! - `kafka`: `KafkaSink`, letters in a topic of Kafka; `KafkaRequeue`, the way back into their partitions. It builds
//!   librdkafka: a C compiler and make are needed. TLS, SASL and zstd are features of `rdkafka` for you to switch on.
//! - `cli`: the command line tool `seawall-dlq`, for letters in a file, on Redis and on a cluster; with `kafka` on Kafka too.
//! - `tracing`, `metrics`: events, and what is counted for letters and messages.
//!
//! # Metrics
//!
//! | metric | kind | counts |
//! | --- | --- | --- |
//! | `seawall_dlq_letters_total` | counter | letters, by `written`: `new`, `repeat`, `failed` |
//! | `seawall_dlq_depth` | gauge | letters in the queue |
//! | `seawall_dlq_oldest_seconds` | gauge | the age of the oldest, as a [`Monitor`] sees it |
//! | `seawall_dlq_alert` | gauge | 1 while its alert is raised |
//! | `seawall_dlq_flooded_total` | counter | letters that a [`FloodGuard`] refused |
//! | `seawall_dlq_redriven_total` | counter | letters sent again and removed |
//! | `seawall_dlq_not_redriven_total` | counter | letters that could not be, and are where they were |
//! | `seawall_dlq_messages_total` | counter | messages, by `ended`: `done`, `dead`, `parked`, `failed` |
//! | `seawall_dlq_suspects_total` | counter | messages taken over from a worker that is gone |
//! | `seawall_dlq_condemned_total` | counter | messages dead because they end their workers |
//! | `seawall_dlq_set_aside_total` | counter | messages set aside behind one of their key |
//! | `seawall_dlq_delayed_back_total` | counter | messages that were put off, and are back |
//! | `seawall_dlq_batch_messages` | histogram | messages in each batch of `Batched` |
//! | `seawall_dlq_batch_split_total` | counter | messages handled again one by one, as their batch failed as a whole |

mod capture;
mod census;
mod clock;
#[cfg(any(feature = "redis", feature = "kafka"))]
mod consumer;
mod error;
mod fingerprint;
mod future;
mod json;
#[cfg(feature = "kafka")]
mod kafka;
mod layer;
mod letter;
mod monitor;
#[cfg(feature = "redis")]
mod names;
mod origin;
mod redrive;
mod service;
mod sink;
mod telemetry;

pub use capture::{Capture, Disposition, NoCapture, Outcome};
pub use census::{Cause, Census, Unreadable, census};
pub use clock::{SystemClock, WallClock};
#[cfg(feature = "kafka")]
pub use consumer::KafkaSource;
#[cfg(any(feature = "redis", feature = "kafka"))]
pub use consumer::{Batched, ConsumeError, Consumer, Message, PARKED_HEADER, Pause, Totals};
#[cfg(feature = "redis")]
pub use consumer::{HeldKey, HeldKeys, RedisSource, Requeue, RequeueError};
pub use error::{
    ConfigError, NotWritten, Panicked, Parked, RedriveError, RedriveReason, SinkError,
};
pub use fingerprint::{Fingerprint, ParseFingerprintError};
pub use future::ResponseFuture;
pub use json::DecodeError;
#[cfg(feature = "kafka")]
pub use kafka::{
    headers::NULLS_HEADER,
    requeue::{KafkaRequeue, KafkaRequeueError},
};
pub use layer::DeadLetterLayer;
pub use letter::{Envelope, Failure, GENERATION_HEADER, Letter, ORIGIN_HEADER};
pub use monitor::{Alert, Monitor};
pub use origin::{LetterId, Origin, ParseIdError};
pub use redrive::{Redrive, Summary};
pub use service::DeadLetter;
#[cfg(all(feature = "file", unix))]
pub use sink::file::{FileOptions, FileSink, OpenError};
pub use sink::flood::FloodGuard;
#[cfg(feature = "kafka")]
pub use sink::kafka::{KafkaOpenError, KafkaOptions, KafkaSink};
#[cfg(feature = "redis")]
pub use sink::redis::RedisSink;
pub use sink::{Cursor, Depth, Filter, Page, Queue, Sink, Span, Written, memory::MemorySink};

/// The error of a layered service: any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
