//! How much each endpoint, and the whole router, may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::ConfigError;

/// The largest concurrency.
pub(crate) const MOST: usize = Semaphore::MAX_PERMITS;

/// What each endpoint may hold of the router: calls at work, requests that wait, and for how long.
///
/// # Default
/// A concurrency of 64, a queue of 256, and one second until a request fails fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Bulkhead {
    pub(crate) concurrency: usize,
    pub(crate) queue: usize,
    pub(crate) fail_fast: Duration,
}

impl Bulkhead {
    /// As many calls at once, with the default queue and time.
    ///
    /// # Panics
    /// When it is zero, or above [`Semaphore::MAX_PERMITS`].
    pub const fn concurrency(calls: usize) -> Self {
        assert!(
            calls > 0,
            "a concurrency of zero would refuse every request"
        );
        assert!(
            calls <= MOST,
            "a concurrency above what a semaphore can count"
        );
        Self {
            concurrency: calls,
            queue: 256,
            fail_fast: Duration::from_secs(1),
        }
    }

    /// [`Bulkhead::concurrency`] for a value that comes from outside.
    ///
    /// # Errors
    /// [`ConfigError::Concurrency`] where the other panics.
    pub const fn try_concurrency(calls: usize) -> Result<Self, ConfigError> {
        if calls == 0 || calls > MOST {
            return Err(ConfigError::Concurrency { given: calls });
        }
        Ok(Self::concurrency(calls))
    }

    /// As many requests may wait for one of those calls to end. With zero, none waits.
    pub const fn queue(mut self, requests: usize) -> Self {
        self.queue = requests;
        self
    }

    /// A request that could not be handed to the inner service fails after this time, counted
    /// from when it first had to wait, be it in the queue or for the service to be ready.
    ///
    /// It does not bound the call itself: put a timeout into the service of the endpoint.
    pub const fn fail_fast(mut self, after: Duration) -> Self {
        self.fail_fast = after;
        self
    }
}

impl Default for Bulkhead {
    fn default() -> Self {
        Self::concurrency(64)
    }
}

/// How many requests a router may hold in all.
#[derive(Debug)]
pub(crate) struct Cap {
    limit: usize,
    held: AtomicUsize,
}

impl Cap {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            held: AtomicUsize::new(0),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Room for one request, or none.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Room<'_>> {
        enter(&self.held, self.limit).then(|| Room(self))
    }

    /// One request less.
    pub(crate) fn leave(&self) {
        self.held.fetch_sub(1, Relaxed);
    }
}

/// One request's room under the cap, before it is known who keeps it: a ticket, whose lane has the
/// cap, or an [`Admission`]. Counting one owner more of the cap for each request would cost as much
/// as the cap does.
#[derive(Debug)]
pub(crate) struct Room<'a>(&'a Arc<Cap>);

impl Room<'_> {
    /// Whoever asks for this gives it back, by [`Cap::leave`].
    pub(crate) fn hand_over(self) {
        std::mem::forget(self);
    }

    pub(crate) fn keep(self) -> Admission {
        let cap = Arc::clone(self.0);
        self.hand_over();
        Admission(Some(cap))
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// One request's room under the cap.
#[derive(Debug)]
pub(crate) struct Admission(Option<Arc<Cap>>);

impl Admission {
    /// Of room that was handed over.
    pub(crate) fn taken_over(cap: Arc<Cap>) -> Self {
        Self(Some(cap))
    }

    /// Whoever asks for this gives it back, by [`Cap::leave`].
    pub(crate) fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(cap) = &self.0 {
            cap.leave();
        }
    }
}

/// Counts one more, unless there are `limit` already.
pub(crate) fn enter(count: &AtomicUsize, limit: usize) -> bool {
    // One addition in the common case, where an exchange would be retried under contention. An
    // addition that goes too far is taken back: it may refuse a neighbour, and never admits one.
    if count.fetch_add(1, Relaxed) < limit {
        return true;
    }
    count.fetch_sub(1, Relaxed);
    false
}
