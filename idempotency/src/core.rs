//! The protocol against a store: how a call begins.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::{
    claim::Held,
    error::{Error, StoreError},
    key::{Fingerprint, RecordKey},
    pack::Packing,
    policy::{Abandoned, Rules},
    record::{self, Answer, Found, Pending, Standing, Swap, Swapped},
    store::Store,
    tasks::Tasks,
    telemetry,
};

/// How often a call looks again when others change the record under its hands. Whoever changed it
/// made progress, so losing this often in a row means that the key is in use.
const RACES: usize = 8;

/// When a refused call is told to come back, where nothing better is known.
const COME_BACK: Duration = Duration::from_secs(1);

/// What all clones of a service share.
#[derive(Debug)]
pub(crate) struct Core<St> {
    pub(crate) store: St,
    pub(crate) rules: Rules,
    pub(crate) tasks: Tasks,
    pub(crate) packing: Packing,
}

/// How a call begins.
#[derive(Debug)]
pub(crate) enum Begun<St> {
    /// It has the claim and runs.
    Run(Held<St>),
    /// It was handled before.
    Done(Answer),
}

/// A store that failed, and whether any copy of the command may have been carried out.
pub(crate) struct Failure {
    pub(crate) error: StoreError,
    unknown: bool,
}

impl<St: Store> Core<St> {
    /// Claims `key`, or says why not.
    ///
    /// Must run where it cannot be dropped: a claim that was written and forgotten blocks its key.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        key: RecordKey,
        fingerprint: Fingerprint,
    ) -> Result<Begun<St>, Error> {
        let keep_for = self.rules.keep_for();
        let mine = Pending::first(fingerprint, self.rules.lease(), keep_for);
        for _ in 0..RACES {
            let sent = Instant::now();
            let claim = || self.store.claim(&key, mine.encode(), keep_for);
            let found = match twice(claim).await {
                Ok(None) => return Ok(Begun::Run(self.held(key, mine, sent))),
                Ok(Some(found)) => found,
                Err(Failure { error, unknown }) => {
                    if unknown {
                        self.settle(key, Swap::release(&[mine]), Duration::ZERO);
                    }
                    return Err(error.into());
                }
            };
            let next = match record::look(&mine, found.clone())? {
                Found::Mine => return Ok(Begun::Run(self.held(key, mine, sent))),
                Found::Done(answer) => return Ok(Begun::Done(answer)),
                Found::Mismatch => return Err(Error::Mismatch),
                Found::Free { attempt } => {
                    let take = self.take(key, found, mine.after(attempt), Duration::ZERO);
                    Box::pin(take).await?
                }
                Found::Pending(other) => Box::pin(self.take_over(key, found, &mine, other)).await?,
            };
            if let Some(held) = next {
                telemetry::taken(&key, held.attempt());
                return Ok(Begun::Run(held));
            }
        }
        Err(Error::InFlight {
            retry_after: COME_BACK,
        })
    }

    /// Takes `found`, which is `other`'s claim, if that is abandoned and may be executed again.
    /// `None`: it is not there any more.
    async fn take_over(
        self: &Arc<Self>,
        key: RecordKey,
        found: Bytes,
        mine: &Pending,
        other: Pending,
    ) -> Result<Option<Held<St>>, Error> {
        let Some(remaining) = self.store.remaining(&key).await? else {
            return Ok(None);
        };
        match other.standing(remaining, self.store.steady_for()) {
            Standing::Claimed { left } => Err(Error::InFlight {
                retry_after: left.min(COME_BACK),
            }),
            Standing::Unsure { left } => Err(Error::InFlight { retry_after: left }),
            Standing::Abandoned => match self.rules.abandoned {
                Abandoned::Reject => Err(Error::Abandoned {
                    attempt: other.attempt,
                }),
                Abandoned::Reexecute => {
                    let mine = mine.after(other.attempt);
                    self.take(key, found, mine, other.lease()).await
                }
            },
        }
    }

    /// Swaps `found`, which nobody holds any more, for `mine`. `None`: somebody else was faster.
    async fn take(
        self: &Arc<Self>,
        key: RecordKey,
        found: Bytes,
        mine: Pending,
        lease: Duration,
    ) -> Result<Option<Held<St>>, Error> {
        let sent = Instant::now();
        let swap = Swap::take(found.clone(), &mine);
        match twice(|| self.store.swap(&key, &swap)).await {
            Ok(Swapped::Applied | Swapped::Already) => Ok(Some(self.held(key, mine, sent))),
            Ok(Swapped::Lost(_)) => Ok(None),
            Err(Failure { error, unknown }) => {
                if unknown {
                    self.settle(key, Swap::untake(found, &mine), lease);
                }
                Err(error.into())
            }
        }
    }

    /// Follows up a claim whose fate is unknown until it is certain that it does not stand, now or
    /// later: a late copy of it would be a record that nobody works for.
    ///
    /// Like a take-over, this waits until the connection has been steady for the lease of the claim
    /// that it may put an end to.
    fn settle(self: &Arc<Self>, key: RecordKey, release: Swap, steady: Duration) {
        let core = Arc::clone(self);
        self.tasks.spawn(async move {
            let mut pause = Pause::new(core.rules.lease());
            let give_up = Instant::now() + core.rules.keep_for();
            while Instant::now() < give_up {
                let unsteady = steady.saturating_sub(core.store.steady_for());
                if !unsteady.is_zero() {
                    sleep(unsteady).await;
                    continue;
                }
                match core.store.swap(&key, &release).await {
                    Ok(_) => return telemetry::settled(&key),
                    Err(StoreError::Foreign { .. }) => return,
                    Err(error) => telemetry::store_failed(&key, "settle", &error),
                }
                pause.wait().await;
            }
        });
    }

    fn held(self: &Arc<Self>, key: RecordKey, mine: Pending, sent: Instant) -> Held<St> {
        Held::new(Arc::clone(self), key, mine, sent)
    }
}

/// Sends a command, and once again if its reply was lost: a copy that was carried out is known by
/// its own bytes.
pub(crate) async fn twice<T, F>(mut send: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match send().await {
        Ok(reply) => Ok(reply),
        Err(error) if error.is_indeterminate() => send().await.map_err(|error| Failure {
            error,
            unknown: true,
        }),
        Err(error) => Err(Failure {
            error,
            unknown: false,
        }),
    }
}

/// Growing pauses between tries, up to a third of the lease.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
    longest: Duration,
}

impl Pause {
    const SHORTEST: Duration = Duration::from_millis(20);

    pub(crate) fn new(lease: Duration) -> Self {
        let longest = lease / 3;
        Self {
            next: Self::SHORTEST.min(longest),
            longest,
        }
    }

    pub(crate) async fn wait(&mut self) {
        sleep(self.next).await;
        self.next = (self.next * 2).min(self.longest);
    }
}
