//! What a request may have to wait for: a place in time, a primary that is back, a newer topology.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::bulkhead::{Admission, Room};
use crate::lane::Ticket;
use crate::shared::Core;
use crate::{Access, BoxError, Place, Refusal, RouteError};

/// A wait off the happy path.
pub(crate) type Pause = Pin<Box<dyn Future<Output = ()> + Send>>;

/// After a service that said that it cannot get ready, nothing is sent to it again for this long.
const BREATH: Duration = Duration::from_millis(10);

/// What it takes to route a request once more: it may be held while a primary fails over, or have
/// to wait for a newer topology.
pub(crate) struct Way<S> {
    pub(crate) core: Arc<Core<S>>,
    place: Place,
    access: Access,
    /// Until when it may be held, once it was.
    until: Option<Instant>,
}

impl<S> Way<S> {
    pub(crate) fn new(core: Arc<Core<S>>, place: Place, access: Access) -> Self {
        Self {
            core,
            place,
            access,
            until: None,
        }
    }

    /// Room for it to be held after this refusal, if that is asked for and makes sense.
    pub(crate) fn room(&mut self, error: &RouteError) -> Option<Admission> {
        match error {
            RouteError::Ejected { .. } | RouteError::FailFast { .. } => self.room_in_time(),
            _ => None,
        }
    }

    pub(crate) fn room_in_time(&mut self) -> Option<Admission> {
        let (cap, within) = self.core.hold()?;
        let now = Instant::now();
        let until = *self.until.get_or_insert_with(|| now + within);
        (now < until).then(|| cap.admit()).flatten().map(Room::keep)
    }

    /// How long until it may be held no longer.
    pub(crate) fn left(&self) -> Duration {
        let until = self.until.unwrap_or_else(Instant::now);
        until.saturating_duration_since(Instant::now())
    }

    pub(crate) fn breath(&self) -> Pause {
        self.pause(self.core.quarantine().changes(), BREATH)
    }

    /// Until something changed, for so long at most.
    pub(crate) fn pause(&self, mut changes: watch::Receiver<()>, at_most: Duration) -> Pause {
        let at_most = at_most.min(self.left());
        Box::pin(async move {
            let _ = timeout(at_most, changes.changed()).await;
        })
    }

    pub(crate) fn ticket(
        &self,
        admission: Admission,
    ) -> Result<Ticket<S>, (Admission, RouteError)> {
        let table = self.core.table.load();
        match table.pick(&self.place, self.access, self.core.preference()) {
            Ok(pick) => {
                admission.hand_over();
                let lane = Arc::clone(pick.lane);
                Ok(Ticket::new(lane, pick.role, pick.is_probe))
            }
            Err(error) => Err((admission, error)),
        }
    }

    /// Fetches a newer topology, if that is what this error of a shard calls for.
    pub(crate) fn refresh(&self, error: &BoxError) -> Option<Pause> {
        let epoch = Refusal::of(error)?.epoch();
        let handle = self.core.handle();
        handle.is_behind(epoch).then(|| {
            let handle = handle.clone();
            // Who cannot be helped is told by the error of the shard.
            Box::pin(async move { drop(handle.refresh(epoch).await) }) as Pause
        })
    }
}

pin_project! {
    /// How long a request waits to be handed over. Nothing looks at the clock before it has to.
    pub(crate) struct Patience {
        #[pin]
        timer: Option<Sleep>,
        since: Option<Instant>,
    }
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self {
            timer: None,
            since: None,
        }
    }

    /// Waits no longer.
    pub(crate) fn end(self: Pin<&mut Self>) {
        self.project().timer.set(None);
    }

    /// Ready when the wait has lasted too long, with how long that was.
    pub(crate) fn poll_lost(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        after: Duration,
    ) -> Poll<Duration> {
        let mut this = self.project();
        let since = *this.since.get_or_insert_with(Instant::now);
        if this.timer.is_none() {
            this.timer.set(Some(sleep(after)));
        }
        if let Some(timer) = this.timer.as_pin_mut() {
            ready!(timer.poll(cx));
        }
        Poll::Ready(since.elapsed())
    }
}
