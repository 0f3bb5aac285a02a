//! A claim that is held: kept alive, and brought to its end.

use std::{convert::Infallible, future, pin::pin, slice, sync::Arc};

use tokio::time::{Instant, sleep_until};

use crate::{
    core::{Core, Pause},
    error::StoreError,
    key::RecordKey,
    lease::{Claim, Lease, LeaseState},
    record::{Answer, Pending, Swap, Swapped},
    store::Store,
    telemetry,
};

#[derive(Debug)]
pub(crate) struct Held<St> {
    core: Arc<Core<St>>,
    key: RecordKey,
    /// The last form of the claim that the store confirmed.
    current: Pending,
    /// When the renewal of `current` was first sent, if its fate is open. Then the claim may
    /// already have its next form.
    renewing: Option<Instant>,
    /// When the last command which the store confirmed was sent; the lease counts from here.
    confirmed: Instant,
    state: Lease,
}

impl<St: Store> Held<St> {
    pub(crate) fn new(
        core: Arc<Core<St>>,
        key: RecordKey,
        current: Pending,
        sent: Instant,
    ) -> Self {
        Self {
            core,
            key,
            current,
            renewing: None,
            confirmed: sent,
            state: Lease::held(),
        }
    }

    pub(crate) fn key(&self) -> &RecordKey {
        &self.key
    }

    pub(crate) fn attempt(&self) -> u64 {
        self.current.attempt
    }

    pub(crate) fn claim(&self) -> Claim {
        Claim::new(self.current.attempt, self.state.clone())
    }

    /// Renews the claim at a third of its lease. Never ends; may be dropped at any point, since
    /// what is known of the claim is kept in `self`.
    pub(crate) async fn keep(&mut self) -> Infallible {
        let third = self.current.lease() / 3;
        let mut due = self.confirmed + third;
        loop {
            sleep_until(due).await;
            let sent = Instant::now();
            let first_sent = *self.renewing.get_or_insert(sent);
            match self.renew().await {
                Ok(Swapped::Applied) => {
                    self.renewed(sent);
                    due = sent + third;
                }
                // An earlier copy was carried out: at some time after it was sent, no more is known.
                Ok(Swapped::Already) => {
                    self.renewed(first_sent);
                    due = first_sent + third;
                }
                // The store forgot the record. Nobody else claims it, and completion will say so.
                Ok(Swapped::Lost(None)) => {
                    self.mark(LeaseState::Doubtful);
                    due = Instant::now() + third;
                }
                Ok(Swapped::Lost(Some(_))) => {
                    self.mark(LeaseState::Lost);
                    telemetry::lost(&self.key, self.current.attempt);
                    return future::pending().await;
                }
                Err(error) => {
                    self.mark(LeaseState::Doubtful);
                    telemetry::store_failed(&self.key, "renew", &error);
                    due = Instant::now() + third / 4;
                }
            }
        }
    }

    /// Sends one renewal, and marks the claim doubtful if the lease runs out meanwhile.
    async fn renew(&self) -> Result<Swapped, StoreError> {
        let swap = Swap::renew(&self.current);
        let mut reply = pin!(self.core.store.swap(&self.key, &swap));
        tokio::select! {
            biased;
            reply = &mut reply => reply,
            () = sleep_until(self.confirmed + self.current.lease()) => {
                self.mark(LeaseState::Doubtful);
                reply.await
            }
        }
    }

    fn renewed(&mut self, sent: Instant) {
        self.current = self.current.beat();
        self.renewing = None;
        self.confirmed = sent;
        self.mark(LeaseState::Held);
    }

    fn mark(&self, now: LeaseState) {
        self.state.mark(now);
    }

    /// Stores the end of the call. Returns what the store made of it once that is known, or `None`
    /// if it will not be. `delayed` is called when the first try fails.
    pub(crate) async fn complete(&self, answer: Answer, delayed: impl FnMut()) -> Option<Swapped> {
        let swap = self.with_forms(|forms| Swap::complete(forms, answer));
        self.end(swap, "complete", delayed).await
    }

    /// Gives the claim up: nothing was done.
    pub(crate) async fn release(&self, delayed: impl FnMut()) -> Option<Swapped> {
        let swap = self.with_forms(Swap::release);
        self.end(swap, "release", delayed).await
    }

    /// Each form that the claim may have in the store.
    fn with_forms(&self, of: impl FnOnce(&[Pending]) -> Swap) -> Swap {
        match self.renewing {
            None => of(slice::from_ref(&self.current)),
            Some(_) => of(&[self.current.clone(), self.current.beat()]),
        }
    }

    async fn end(
        &self,
        swap: Swap,
        what: &'static str,
        mut delayed: impl FnMut(),
    ) -> Option<Swapped> {
        let mut pause = Pause::new(self.current.lease());
        let give_up = Instant::now() + self.current.retention();
        loop {
            match self.core.store.swap(&self.key, &swap).await {
                Ok(swapped) => return Some(swapped),
                Err(error) => {
                    telemetry::store_failed(&self.key, what, &error);
                    delayed();
                    if matches!(error, StoreError::Foreign { .. }) {
                        return None;
                    }
                }
            }
            if Instant::now() >= give_up {
                return None;
            }
            Box::pin(pause.wait()).await;
        }
    }
}
