//! Records by hand: for operators, and for programs that clean up after others.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    core::{Core, twice},
    error::Error,
    exchange::Keep,
    key::RecordKey,
    pack::Unpacked,
    record::{Answer, Completed, Owner, Pending, Record, Standing, Swap, Swapped},
    store::Store,
    telemetry,
};

/// How often a change is tried when the record changes under one's hands.
const RACES: usize = 8;

/// Looks up, expires and completes records; made by [`IdempotencyLayer::records`].
///
/// It keeps to the protocol as calls do: what changes a record names the exact bytes that it replaces, so
/// nothing is lost that happened between a look and a change, and **nothing is deleted**. An expired record
/// leaves the number of its attempt behind, so that fencing tokens go on and do not start again.
///
/// A key is where its record lies: [`RecordKey::new`] of scope and key, or what a log line or a span says
/// (`"3f9a...".parse::<RecordKey>()`). The scope of a header is [`Key::of`](crate::Key::of) of its value, as
/// in `Key::of(["Bearer ..."])`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), seawall_idempotency::BoxError> {
/// use seawall_idempotency::{BoxError, Expired, IdempotencyLayer, MemoryStore, RecordKey, State};
/// use tower::{Service, ServiceBuilder, ServiceExt};
///
/// let layer = IdempotencyLayer::new(MemoryStore::with_capacity(1_000))
///     .unscoped()
///     .key(|m: &&str| (*m).into())
///     .codec(());
/// let records = layer.records();
/// let mut worker = ServiceBuilder::new().layer(layer).service_fn(async |_: &str| Ok::<_, BoxError>(()));
/// worker.ready().await?.call("a").await?;
///
/// let key = RecordKey::new(None, &"a".into());
/// let seen = records.look_up(&key).await?.unwrap();
/// assert!(matches!(seen.state, State::Completed { .. }));
/// assert_eq!(records.expire(&key).await?, Expired::Released { attempt: 1 });
/// # Ok(()) }
/// ```
///
/// [`IdempotencyLayer::records`]: crate::IdempotencyLayer::records
#[derive(Debug, Clone)]
pub struct Records<St> {
    core: Arc<Core<St>>,
}

/// What lies under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The attempt that wrote it last.
    pub attempt: u64,
    /// For how long it will be kept, unless it is written again.
    pub remaining: Duration,
    /// How the call stands.
    pub state: State,
}

/// How a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It is being handled, as far as can be told from here.
    InFlight {
        /// When that can be told again, if nothing is heard of it until then.
        left: Duration,
    },
    /// Whoever handled it is gone.
    Abandoned {
        /// For how long nothing was heard.
        silent_for: Duration,
    },
    /// It was given up without having done anything; the next call executes.
    Released,
    /// It was handled.
    Completed {
        /// What it was answered, as its codec wrote it; `Err` if only that it was handled is known.
        answer: Result<Bytes, crate::record::Why>,
    },
}

/// What became of an order to expire a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Expired {
    /// It is expired: the next call with the key executes, as the attempt after this one.
    Released {
        /// The attempt whose record it was.
        attempt: u64,
    },
    /// Nothing was changed: somebody is handling the call. [`Records::revoke`] takes it from him.
    InFlight {
        /// The attempt that runs.
        attempt: u64,
        /// When to look again.
        left: Duration,
    },
    /// There is no record.
    Nothing,
}

/// What became of an order to complete a call by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Concluded {
    /// It is completed: calls with the key get this answer.
    Stored {
        /// The attempt that was completed in the place of its owner.
        attempt: u64,
    },
    /// Nothing was changed: somebody is handling the call.
    InFlight {
        /// The attempt that runs.
        attempt: u64,
        /// When to look again.
        left: Duration,
    },
    /// Nothing was changed: it is completed already.
    Already {
        /// The attempt that did it.
        attempt: u64,
    },
    /// Nothing was changed: there is no claim to complete, so nobody knows what was asked for.
    Nothing,
}

impl<St: Store> Records<St> {
    pub(crate) fn new(core: Core<St>) -> Self {
        Self {
            core: Arc::new(core),
        }
    }

    /// What lies under `key`. Reads only.
    ///
    /// # Errors
    ///
    /// When the store fails, or what lies there is not a record or an answer of this layer.
    pub async fn look_up(&self, key: &RecordKey) -> Result<Option<Seen>, Error> {
        let Some((record, _, remaining)) = self.read(key).await? else {
            return Ok(None);
        };
        let (attempt, state) = match record {
            Record::Released { attempt } => (attempt, State::Released),
            Record::Completed(completed) => {
                let unpacked = self.core.packing.unpack(key, completed.answer);
                let answer = match unpacked.map_err(|error| Error::Answer(error.into()))? {
                    Unpacked::Whole(answer) => Ok(answer),
                    Unpacked::Tombstone(why) => Err(why),
                };
                (completed.attempt, State::Completed { answer })
            }
            Record::Pending(pending) => {
                let state = match self.in_flight(&pending, remaining) {
                    Some(left) => State::InFlight { left },
                    None => State::Abandoned {
                        silent_for: pending.age(remaining),
                    },
                };
                (pending.attempt, state)
            }
        };
        Ok(Some(Seen {
            attempt,
            remaining,
            state,
        }))
    }

    /// Lets the next call with `key` execute: forgets the answer of a call that was handled, or gives up one
    /// whose handler is gone. A call that is being handled is left alone.
    ///
    /// # Errors
    ///
    /// When the store fails, what lies there is not a record, or others keep changing it.
    pub async fn expire(&self, key: &RecordKey) -> Result<Expired, Error> {
        self.release(key, false).await
    }

    /// As [`expire`](Self::expire), and takes the key even from whoever is handling the call: its
    /// [`Lease`](crate::Lease) says so at its next heartbeat, its answer will not count, and its caller gets
    /// 409. What it does meanwhile, it still does: the next attempt runs beside it, with the next fencing
    /// token.
    ///
    /// # Errors
    ///
    /// As those of `expire`.
    pub async fn revoke(&self, key: &RecordKey) -> Result<Expired, Error> {
        self.release(key, true).await
    }

    /// Completes a call whose handler is gone, by somebody who knows how it ended: later calls get `answer`
    /// ([`Keep::Answer`], as the codec writes it; for HTTP see [`Keep::response`]) or are refused
    /// ([`Keep::Tombstone`]). With [`Keep::Undone`] it is released, as by [`expire`](Self::expire).
    ///
    /// # Errors
    ///
    /// When the store fails, what lies there is not a record, or others keep changing it.
    pub async fn complete(&self, key: &RecordKey, answer: Keep) -> Result<Concluded, Error> {
        for _ in 0..RACES {
            let Some((record, found, remaining)) = self.read(key).await? else {
                return Ok(Concluded::Nothing);
            };
            let pending = match record {
                Record::Released { .. } => return Ok(Concluded::Nothing),
                Record::Completed(Completed { attempt, .. }) => {
                    return Ok(Concluded::Already { attempt });
                }
                Record::Pending(pending) => pending,
            };
            let attempt = pending.attempt;
            if let Some(left) = self.in_flight(&pending, remaining) {
                return Ok(Concluded::InFlight { attempt, left });
            }
            let to = match answer.clone() {
                Keep::Undone => Record::Released { attempt },
                Keep::Answer(answer) => {
                    self.ended(pending.clone(), self.core.packing.pack(key, answer))
                }
                Keep::Tombstone(why) => self.ended(pending.clone(), Answer::Tombstone(why)),
            };
            if self.replace(key, found, &to, pending.retention()).await? {
                telemetry::by_hand(key, "completed", attempt);
                return Ok(Concluded::Stored { attempt });
            }
        }
        Err(contended())
    }

    async fn release(&self, key: &RecordKey, revoke: bool) -> Result<Expired, Error> {
        for _ in 0..RACES {
            let Some((record, found, remaining)) = self.read(key).await? else {
                return Ok(Expired::Nothing);
            };
            let (attempt, keep_for) = match record {
                Record::Released { attempt } => return Ok(Expired::Released { attempt }),
                Record::Completed(completed) => (completed.attempt, self.core.rules.keep_for()),
                Record::Pending(pending) => {
                    let attempt = pending.attempt;
                    match self.in_flight(&pending, remaining) {
                        Some(left) if !revoke => return Ok(Expired::InFlight { attempt, left }),
                        _ => (attempt, pending.retention()),
                    }
                }
            };
            let to = Record::Released { attempt };
            if self.replace(key, found, &to, keep_for).await? {
                let what = if revoke { "revoked" } else { "expired" };
                telemetry::by_hand(key, what, attempt);
                return Ok(Expired::Released { attempt });
            }
        }
        Err(contended())
    }

    /// The record, its bytes, and for how long it is kept. The two are read one after the other: a record that
    /// is renewed in between seems younger than it is, never older.
    async fn read(&self, key: &RecordKey) -> Result<Option<(Record, Bytes, Duration)>, Error> {
        match self.core.store.swap(key, &Swap::look()).await? {
            Swapped::Lost(Some(found)) => {
                let record = Record::decode(found.clone())?;
                let remaining = self.core.store.remaining(key).await?;
                Ok(remaining.map(|remaining| (record, found, remaining)))
            }
            Swapped::Lost(None) | Swapped::Applied | Swapped::Already => Ok(None),
        }
    }

    async fn replace(
        &self,
        key: &RecordKey,
        found: Bytes,
        to: &Record,
        keep_for: Duration,
    ) -> Result<bool, Error> {
        let swap = Swap::replace(found, to, keep_for);
        let swapped = twice(|| self.core.store.swap(key, &swap)).await;
        Ok(!matches!(
            swapped.map_err(|failed| failed.error)?,
            Swapped::Lost(_)
        ))
    }

    fn in_flight(&self, pending: &Pending, remaining: Duration) -> Option<Duration> {
        match pending.standing(remaining, self.core.store.steady_for()) {
            Standing::Claimed { left } | Standing::Unsure { left } => Some(left),
            Standing::Abandoned => None,
        }
    }

    fn ended(&self, pending: Pending, answer: Answer) -> Record {
        Record::Completed(Completed {
            owner: Owner::fresh(),
            attempt: pending.attempt,
            fingerprint: pending.fingerprint,
            answer,
        })
    }
}

fn contended() -> Error {
    Error::InFlight {
        retry_after: Duration::from_secs(1),
    }
}
