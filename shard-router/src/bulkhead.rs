//! What keeps one shard's trouble from the others: a lane of its own for each endpoint.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::Position;
use crate::telemetry::{EndpointMeter, Outcome};
use crate::{ConfigError, Endpoint, Role, RouteError};

/// The largest concurrency.
pub(crate) const MOST: usize = Semaphore::MAX_PERMITS;

/// What each endpoint may hold of the router: calls at work, requests that wait, and for how long.
///
/// # Default
/// A concurrency of 64, a queue of 256, and one second until a request fails fast.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct Bulkhead {
    concurrency: usize,
    queue: usize,
    fail_fast: Duration,
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
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admission> {
        enter(&self.held, self.limit).then(|| Admission(Arc::clone(self)))
    }
}

/// One request's room under the cap.
#[derive(Debug)]
pub(crate) struct Admission(Arc<Cap>);

impl Drop for Admission {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Relaxed);
    }
}

/// Counts one more, unless there are `limit` already.
fn enter(count: &AtomicUsize, limit: usize) -> bool {
    // One addition in the common case, where an exchange would be retried under contention. An
    // addition that goes too far is taken back: it may refuse a neighbour, and never admits one.
    if count.fetch_add(1, Relaxed) < limit {
        return true;
    }
    count.fetch_sub(1, Relaxed);
    false
}

/// All that belongs to one endpoint: its service, who works, who waits, how far it is.
pub(crate) struct Lane<S> {
    endpoint: Endpoint,
    /// What calls are made on are clones of it. Locked for no longer than it takes to clone.
    service: Mutex<S>,
    bulkhead: Bulkhead,
    places: Arc<Semaphore>,
    queued: AtomicUsize,
    /// Requests that were sent here and have not ended, polled or not: what picking goes by.
    load: AtomicUsize,
    position: AtomicU64,
    meter: EndpointMeter,
}

/// How a request comes in.
pub(crate) enum Entry {
    /// At once: this is its place.
    Enters(OwnedSemaphorePermit),
    /// It has to wait, and may.
    Waits,
    /// It has to wait, and too many do.
    Full,
}

impl<S> Lane<S> {
    pub(crate) fn new(endpoint: Endpoint, service: S, bulkhead: Bulkhead) -> Self {
        Self {
            meter: EndpointMeter::new(&endpoint),
            endpoint,
            service: Mutex::new(service),
            bulkhead,
            places: Arc::new(Semaphore::new(bulkhead.concurrency)),
            queued: AtomicUsize::new(0),
            load: AtomicUsize::new(0),
            position: AtomicU64::new(0),
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// An instance for one call, to be readied by the task that calls it.
    pub(crate) fn service(&self) -> S
    where
        S: Clone,
    {
        self.service
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn places(&self) -> &Arc<Semaphore> {
        &self.places
    }

    /// How long a request may wait here.
    pub(crate) fn patience(&self) -> Duration {
        self.bulkhead.fail_fast
    }

    /// The semaphore is fair: while someone waits, no newcomer enters.
    pub(crate) fn enter(&self) -> Entry {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Entry::Enters(place),
            Err(_) if enter(&self.queued, self.bulkhead.queue) => {
                self.meter.queued(1.0);
                Entry::Waits
            }
            Err(_) => Entry::Full,
        }
    }

    fn leave_queue(&self) {
        self.queued.fetch_sub(1, Relaxed);
        self.meter.queued(-1.0);
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.bulkhead.concurrency - self.places.available_permits()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    pub(crate) fn position(&self) -> Position {
        Position(self.position.load(Relaxed))
    }

    /// As reported, lower or not: a replica that was restored from a backup has gone back.
    pub(crate) fn report(&self, position: Position) {
        self.position.store(position.0, Relaxed);
    }
}

impl<S> fmt::Debug for Lane<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("endpoint", &self.endpoint)
            .field("in_flight", &self.in_flight())
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}

/// A place in the queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(crate) struct Waiting<S>(pub(crate) Arc<Lane<S>>);

impl<S> Drop for Waiting<S> {
    fn drop(&mut self) {
        self.0.leave_queue();
    }
}

/// A request that was sent to a lane and has not ended. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Ticket<S> {
    lane: Arc<Lane<S>>,
    /// What the endpoint is by the snapshot that the request was routed by.
    role: Role,
    outcome: Outcome,
    _admission: Admission,
}

impl<S> Ticket<S> {
    pub(crate) fn new(lane: Arc<Lane<S>>, role: Role, admission: Admission) -> Self {
        lane.load.fetch_add(1, Relaxed);
        lane.meter.started();
        Self {
            lane,
            role,
            outcome: Outcome::Dropped,
            _admission: admission,
        }
    }

    /// No place came free, and the queue is full.
    pub(crate) fn queue_full(&self) -> RouteError {
        let (shard, role) = (self.lane.endpoint.shard().clone(), self.role);
        RouteError::QueueFull {
            shard,
            role,
            queue: self.lane.bulkhead.queue,
        }
    }

    /// The endpoint did not take the request in time.
    pub(crate) fn fail_fast(&self, waited: Duration) -> RouteError {
        let (shard, role) = (self.lane.endpoint.shard().clone(), self.role);
        RouteError::FailFast {
            shard,
            role,
            waited,
        }
    }

    pub(crate) fn lane(&self) -> &Arc<Lane<S>> {
        &self.lane
    }

    pub(crate) fn end(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        self.lane.load.fetch_sub(1, Relaxed);
        self.lane.meter.ended(self.outcome);
    }
}
