//! A call of one attempt, or of two at the same time.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tower_service::Service;

use super::Terms;
use crate::{BoxError, Class, Classify, Withdrawal, telemetry};

pin_project! {
    /// The future of a [`Hedge`](super::Hedge) service.
    ///
    /// Dropped at any point it drops both attempts, and a hedge that was planned and not made goes
    /// back into the budget.
    #[must_use = "futures do nothing unless polled"]
    pub struct HedgeFuture<S, Req, C>
    where
        S: Service<Req>,
    {
        #[pin]
        first: Option<S::Future>,
        #[pin]
        second: Option<S::Future>,
        #[pin]
        timer: Option<Sleep>,
        // What the second attempt would be made of. Gone once it is made, or is not to be.
        spare: Option<Spare<S, Req>>,
        classify: C,
        terms: Terms,
    }
}

/// The second attempt, before it is made.
pub(super) struct Spare<S, Req> {
    service: S,
    request: Req,
    withdrawal: Option<Withdrawal>,
}

impl<S, Req> Spare<S, Req> {
    pub(super) const fn new(service: S, request: Req) -> Self {
        Self {
            service,
            request,
            withdrawal: None,
        }
    }
}

impl<S, Req, C> HedgeFuture<S, Req, C>
where
    S: Service<Req>,
{
    pub(super) const fn new(
        first: S::Future,
        spare: Option<Spare<S, Req>>,
        classify: C,
        terms: Terms,
    ) -> Self {
        Self {
            first: Some(first),
            second: None,
            timer: None,
            spare,
            classify,
            terms,
        }
    }
}

impl<S, Req, C> Future for HedgeFuture<S, Req, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            for one in [true, false] {
                let (mut attempt, mut other) = match one {
                    true => (this.first.as_mut(), this.second.as_mut()),
                    false => (this.second.as_mut(), this.first.as_mut()),
                };
                let Some(running) = attempt.as_mut().as_pin_mut() else {
                    continue;
                };
                let Poll::Ready(outcome) = running.poll(cx) else {
                    continue;
                };
                attempt.set(None);
                let outcome = outcome.map_err(Into::into);
                let success = this.classify.classify(outcome.as_ref()) == Class::Success;
                if success && this.terms.deposits {
                    this.terms.budget.deposit();
                }
                if success || other.is_none() {
                    other.set(None);
                    *this.spare = None;
                    return Poll::Ready(outcome);
                }
            }
            // ## One attempt => two, and the new one is polled in its turn
            ready!(self.as_mut().poll_hedge(cx));
        }
    }
}

impl<S, Req, C> HedgeFuture<S, Req, C>
where
    S: Service<Req>,
{
    /// Ready when the second attempt has just begun.
    fn poll_hedge(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        assert!(
            this.first.is_some() || this.second.is_some(),
            "polled after it was done"
        );
        let Some(spare) = this.spare else {
            return Poll::Pending;
        };
        if spare.withdrawal.is_none() {
            if this.timer.is_none() {
                this.timer.set(Some(sleep(this.terms.after)));
            }
            if let Some(timer) = this.timer.as_mut().as_pin_mut() {
                ready!(timer.poll(cx));
            }
            spare.withdrawal = this.terms.budget.withdraw();
        }
        let ready = match spare.withdrawal {
            Some(_) => ready!(spare.service.poll_ready(cx)).is_ok(),
            None => false,
        };
        let spare = this.spare.take();
        let Some(mut spare) = spare.filter(|_| ready) else {
            // The first attempt goes on alone.
            return Poll::Pending;
        };
        if let Some(withdrawal) = spare.withdrawal.take() {
            withdrawal.spend();
        }
        telemetry::hedging();
        this.second.set(Some(spare.service.call(spare.request)));
        Poll::Ready(())
    }
}

impl<S, Req, C> fmt::Debug for HedgeFuture<S, Req, C>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HedgeFuture")
            .field("first", &self.first.is_some())
            .field("second", &self.second.is_some())
            .finish_non_exhaustive()
    }
}
