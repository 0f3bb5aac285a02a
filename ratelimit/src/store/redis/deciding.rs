//! A decision that the server makes.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::batch::{Answer, Request};
use super::lane::{Ask, TakeLease};
use super::outage::Standby;
use super::{Outage, failed};
use crate::decision::Decision;
use crate::error::StoreError;

/// A decision that Redis makes, together with all those that are asked for at the same time.
///
/// It is asked for when this is first polled, which has to be within a tokio runtime. Dropped before its
/// batch is on its way, it is not counted.
pub struct RedisDeciding {
    lanes: Arc<dyn Ask>,
    stage: Stage,
    /// Kept for the case that Redis does not decide.
    request: Arc<Request>,
    standby: Standby,
    outage: Outage,
}

impl RedisDeciding {
    pub(super) fn new(
        lanes: Arc<dyn Ask>,
        request: Arc<Request>,
        lease: Option<TakeLease>,
        standby: Standby,
        outage: Outage,
    ) -> Self {
        Self {
            lanes,
            stage: Stage::Asking(lease),
            request,
            standby,
            outage,
        }
    }
}

enum Stage {
    Asking(Option<TakeLease>),
    Waiting(oneshot::Receiver<Answer>),
}

impl Future for RedisDeciding {
    type Output = Result<Decision, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Stage::Asking(lease) = &mut this.stage {
            let lanes = Arc::clone(&this.lanes);
            let told = lanes.ask(Arc::clone(&this.request), lease.take());
            this.stage = Stage::Waiting(told);
        }
        let Stage::Waiting(told) = &mut this.stage else {
            unreachable!("it was just asked");
        };
        let decision = match ready!(Pin::new(told).poll(cx)) {
            Ok(answer) => answer.decision,
            Err(_) => Err(failed::given_up()),
        };
        Poll::Ready(match decision {
            Ok(decision) => Ok(decision),
            Err(error) => this.standby.decide(this.outage, &this.request, error),
        })
    }
}

impl fmt::Debug for RedisDeciding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDeciding").finish_non_exhaustive()
    }
}
