//! The way of a message: dead letters around retries around the router.
//!
//! Only what is final is dead, so the dead letters stand outside the retries; each attempt is routed by the newest
//! topology, so the router stands inside them. A passing failure is never dead: when retries are exhausted it
//! goes back to the worker, which lets the partition rest.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seawall_dlq::{
    DeadLetterLayer, Disposition, Envelope, Failure, Letter, Origin, Outcome, Sink, SinkError,
    Written,
};
use seawall_retry::{Attempt, Backoff, Budget, Class, Jitter, RetryError, RetryLayer};
use seawall_shard_router::{BoxError, RouteError, Slot, TopologyHandle};
use tower::ServiceBuilder;
use tower::util::BoxCloneSyncService;

use crate::chaos::failpoint::{Step, reach};
use crate::errors::find;
use crate::log::{LogId, Position};
use crate::order::Record;
use crate::shard::{Batch, DeadRow, Fate, Row, ShardError};
use crate::shards::{Ask, ShardAnswer, ShardRequest, Shards, Write, ask};

/// The name of the log in letters.
const TOPIC: &str = "orders";

/// The header of a letter that tells the slot of its record's shard.
const SLOT: &str = "slot";

/// The class of records that cannot be read.
pub const UNDECODABLE: &str = "undecodable";

/// What a message comes to.
pub type Handled = Outcome<ShardAnswer>;

/// The whole way, as one service.
pub type Stack = BoxCloneSyncService<ShardRequest, Handled, BoxError>;

/// The stack, with a count of the retries that went through it.
#[derive(Clone)]
pub struct MessageStack {
    /// The service.
    pub service: Stack,
    retries: Arc<AtomicU64>,
}

impl MessageStack {
    /// Attempts beyond the first.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for MessageStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageStack")
            .field("retries", &self.retries())
            .finish_non_exhaustive()
    }
}

/// How retries wait: 1, 2, 4, 8 s and so on up to 5 minutes, times `scale`.
#[derive(Clone, Copy, Debug)]
pub struct RetrySettings {
    /// Below 1 for a demo that has no minutes to wait.
    pub scale: f64,
}

/// Puts the layers together.
pub fn messages(
    shards: &Shards,
    topology: &TopologyHandle,
    log: LogId,
    settings: RetrySettings,
) -> MessageStack {
    let backoff = Backoff::exponential(Duration::from_secs(1).mul_f64(settings.scale))
        .cap(Duration::from_secs(300).mul_f64(settings.scale))
        .jitter(Jitter::Equal)
        .attempts(5);
    let retries = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&retries);
    let sink = ShardSink {
        shards: shards.clone(),
        topology: topology.clone(),
        log,
    };
    let service = ServiceBuilder::new()
        .layer(
            DeadLetterLayer::new(sink)
                .capture(envelope)
                .explain(explain)
                .dispose(|error: &BoxError| match find::<ShardError>(&**error) {
                    Some(ShardError::Poison { .. }) => Disposition::DeadLetter,
                    _ => Disposition::Propagate,
                }),
        )
        .layer(
            RetryLayer::new(backoff)
                .classify(|outcome: Result<&ShardAnswer, &BoxError>| classify(outcome))
                .stamp(move |_: &mut ShardRequest, attempt: Attempt| {
                    if attempt.number > 1 {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                })
                .budget(Budget::ratio(0.1).burst(100)),
        )
        .service(shards.clone());
    MessageStack {
        service: BoxCloneSyncService::new(service),
        retries,
    }
}

fn classify(outcome: Result<&ShardAnswer, &BoxError>) -> Class {
    let Err(error) = outcome else {
        return Class::Success;
    };
    let busy = find::<RouteError>(&**error).is_some();
    let passing = find::<ShardError>(&**error).is_some_and(ShardError::is_transient);
    if busy || passing {
        Class::Transient
    } else {
        Class::Permanent
    }
}

/// What a letter keeps of a request. Only a record that is alone can become one.
fn envelope(request: &ShardRequest) -> Option<Envelope> {
    let Ask::Apply(Write {
        batch,
        alone: Some(payload),
        ..
    }) = &request.ask
    else {
        return None;
    };
    let origin = Origin::log(TOPIC, batch.partition.into(), batch.from.0);
    let envelope = Envelope::new(origin, payload.clone())
        .header(SLOT, request.slot.get().to_string().into_bytes());
    Some(match batch.rows.first() {
        Some(Row {
            fate: Fate::Apply(record),
            ..
        }) => envelope.key(record.account.clone().into_bytes()),
        _ => envelope,
    })
}

fn explain(error: &BoxError) -> Option<Failure> {
    let retry = RetryError::find(error);
    let failure = match find::<ShardError>(&**error) {
        Some(ShardError::Poison { class, reason, .. }) => Failure::new(*class, reason),
        _ => Failure::of(error),
    };
    Some(match retry {
        Some(retry) => failure.attempts(retry.attempts).lasted(retry.elapsed),
        None => failure,
    })
}

/// Writes a letter where its record belongs: in the shard, in the transaction that writes the record off and
/// moves the watermark over it.
struct ShardSink {
    shards: Shards,
    topology: TopologyHandle,
    log: LogId,
}

impl Sink for ShardSink {
    async fn write(&self, letter: Letter) -> Result<Written, SinkError> {
        let (slot, write) = self.dead(&letter)?;
        reach(Step::BeforeLetter);
        let answer = ask(&self.shards, slot, Ask::Apply(write))
            .await
            .map_err(SinkError::other)?;
        reach(Step::AfterLetter);
        match answer {
            ShardAnswer::Applied(applied) if applied.dead > 0 => Ok(Written::New),
            ShardAnswer::Applied(_) => Ok(Written::Repeat),
            other => Err(SinkError::other(format!(
                "a letter was answered by {other:?}"
            ))),
        }
    }
}

impl ShardSink {
    /// The batch that writes a record off, and the slot of its shard.
    fn dead(&self, letter: &Letter) -> Result<(Slot, Write), SinkError> {
        let slot = letter.headers.iter().find(|(name, _)| &**name == SLOT);
        let slot = slot
            .and_then(|(_, slot)| std::str::from_utf8(slot).ok()?.parse().ok())
            .and_then(Slot::new);
        let (
            Origin::Log {
                partition, offset, ..
            },
            Some(slot),
        ) = (&letter.origin, slot)
        else {
            return Err(SinkError::other(
                "the letter does not come from the log of orders",
            ));
        };
        let partition = u16::try_from(*partition).map_err(SinkError::other)?;
        let row = DeadRow {
            // What the worker could not read is no order, even if its bytes look like one: it may name a slot
            // that is not of this partition, and an operation that lives elsewhere.
            record: (letter.failure.class != UNDECODABLE)
                .then(|| serde_json::from_slice::<Record>(&letter.payload).ok())
                .flatten(),
            letter: letter.id().to_string(),
            class: letter.failure.class.clone(),
            body: letter.to_json().into(),
        };
        let batch = Batch {
            partition,
            log: self.log,
            epoch: self.topology.current().epoch(),
            from: Position(*offset),
            next: Position(offset + 1),
            rows: vec![Row {
                offset: *offset,
                fate: Fate::Dead(row),
            }],
        };
        let write = Write {
            batch: Arc::new(batch),
            alone: None,
            condemned: None,
        };
        Ok((slot, write))
    }
}

impl fmt::Debug for ShardSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShardSink")
            .field("log", &self.log)
            .finish_non_exhaustive()
    }
}
