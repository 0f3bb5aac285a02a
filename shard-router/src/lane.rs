//! What keeps one shard's trouble from the others: a lane of its own for each endpoint.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::access::Position;
use crate::bulkhead::{Admission, Bulkhead, Cap, enter};
use crate::ewma::PeakEwma;
use crate::health::{Entrance, Health, Quarantine, Verdict};
use crate::telemetry::{self, EndpointMeter, Outcome};
use crate::{BoxError, Endpoint, Refusal, Role, RouteError};

/// What all lanes of a router have in common.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) bulkhead: Bulkhead,
    pub(crate) cap: Arc<Cap>,
    pub(crate) quarantine: Arc<Quarantine>,
    pub(crate) peak_ewma: Option<Duration>,
}

/// All that belongs to one endpoint: its service, who works, who waits, how far it is.
pub(crate) struct Lane<S> {
    endpoint: Endpoint,
    /// What calls are made on are clones of it. Locked for no longer than it takes to clone.
    service: Mutex<S>,
    bulkhead: Bulkhead,
    /// Of the router: each ticket has room under it.
    cap: Arc<Cap>,
    places: Arc<Semaphore>,
    queued: AtomicUsize,
    /// Requests that were sent here and have not ended, polled or not: what picking goes by.
    load: AtomicUsize,
    position: AtomicU64,
    health: Health,
    /// How long it takes, where replicas are picked by that.
    ewma: Option<PeakEwma>,
    meter: EndpointMeter,
}

/// How a request comes in.
pub(crate) enum Entry {
    /// At once: the ticket has its place.
    Enters,
    /// It has to wait, and may.
    Waits,
    /// It has to wait, and too many do.
    Full,
}

impl<S> Lane<S> {
    pub(crate) fn new(endpoint: Endpoint, service: S, rules: &Rules) -> Self {
        let bulkhead = rules.bulkhead;
        Self {
            health: Health::new(Arc::clone(&rules.quarantine)),
            ewma: rules.peak_ewma.map(PeakEwma::new),
            meter: EndpointMeter::new(&endpoint),
            endpoint,
            service: Mutex::new(service),
            bulkhead,
            cap: Arc::clone(&rules.cap),
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

    fn leave_queue(&self) {
        self.queued.fetch_sub(1, Relaxed);
        self.meter.queued(-1.0);
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// The endpoint is listed no more.
    pub(crate) fn retire(&self) {
        if self.health.retire() {
            self.meter.ejected(false);
        }
    }

    /// Whether one request more would have to wait.
    pub(crate) fn is_busy(&self) -> bool {
        self.load() >= self.bulkhead.concurrency
    }

    pub(crate) fn health(&self) -> &Health {
        &self.health
    }

    /// What to pick it by, the least first.
    pub(crate) fn cost(&self, now: Option<Instant>) -> f64 {
        match (&self.ewma, now) {
            (Some(ewma), Some(now)) => ewma.cost(self.load(), now),
            _ => self.load() as f64,
        }
    }

    /// May a request be sent here?
    pub(crate) fn admit(&self, role: Role) -> Result<Entrance, RouteError> {
        match self.health.enter() {
            Entrance::Closed { retry_in } => Err(RouteError::Ejected {
                shard: self.endpoint.shard().clone(),
                role,
                retry_in,
            }),
            entrance => Ok(entrance),
        }
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

impl<S> Drop for Lane<S> {
    fn drop(&mut self) {
        self.retire();
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
    is_probe: bool,
    /// When it was called, where that is measured.
    called: Option<Instant>,
    outcome: Outcome,
    verdict: Verdict,
    /// Has room under the router's cap.
    is_admitted: bool,
    /// Has a place at the endpoint.
    is_placed: bool,
}

impl<S> Ticket<S> {
    /// For a request whose room under the cap was handed over.
    pub(crate) fn new(lane: Arc<Lane<S>>, role: Role, is_probe: bool) -> Self {
        lane.load.fetch_add(1, Relaxed);
        lane.meter.started();
        Self {
            lane,
            role,
            is_probe,
            called: None,
            outcome: Outcome::Dropped,
            verdict: Verdict::Unknown,
            is_admitted: true,
            is_placed: false,
        }
    }

    /// Takes a place at the endpoint. The semaphore is fair: while someone waits, no newcomer enters.
    pub(crate) fn enter(&mut self) -> Entry {
        let lane = &*self.lane;
        match lane.places.try_acquire() {
            Ok(place) => {
                place.forget();
                self.is_placed = true;
                Entry::Enters
            }
            Err(_) if enter(&lane.queued, lane.bulkhead.queue) => {
                lane.meter.queued(1.0);
                Entry::Waits
            }
            Err(_) => Entry::Full,
        }
    }

    /// Takes the place that it waited for.
    pub(crate) fn place(&mut self, place: OwnedSemaphorePermit) {
        place.forget();
        self.is_placed = true;
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

    pub(crate) fn is_primary(&self) -> bool {
        self.role.is_primary()
    }

    /// The service is called now.
    pub(crate) fn called(&mut self) {
        if self.lane.ewma.is_some() || self.lane.meter.measures() {
            self.called = Some(Instant::now());
        }
    }

    /// The request has ended like this; what it held of the router is given back.
    pub(crate) fn end(mut self, outcome: Outcome, verdict: Verdict) {
        (self.outcome, self.verdict) = (outcome, verdict);
    }

    /// The request leaves this lane and stays in the router.
    pub(crate) fn leave(mut self, outcome: Outcome, verdict: Verdict) -> Option<Admission> {
        (self.outcome, self.verdict) = (outcome, verdict);
        let was_admitted = std::mem::take(&mut self.is_admitted);
        was_admitted.then(|| Admission::taken_over(Arc::clone(&self.lane.cap)))
    }

    /// What this error, in answer to the call, says of the endpoint.
    pub(crate) fn verdict(&self, error: &BoxError) -> Verdict {
        if Refusal::of(error).is_some() {
            return Verdict::Alive;
        }
        let ejection = self.lane.health.quarantine().ejection();
        ejection.map_or(Verdict::Unknown, |ejection| ejection.verdict(error))
    }
}

impl<S> Drop for Ticket<S> {
    fn drop(&mut self) {
        if self.is_placed {
            self.lane.places.add_permits(1);
        }
        if self.is_admitted {
            self.lane.cap.leave();
        }
        self.lane.load.fetch_sub(1, Relaxed);
        if let Some(is_out) = self.lane.health.ended(self.verdict, self.is_probe) {
            self.lane.meter.ejected(is_out);
            telemetry::ejected(&self.lane.endpoint, is_out);
        }
        let took = self.called.map(|called| (called.elapsed(), called));
        if let (Some(ewma), Some((took, called)), Outcome::Ok) =
            (&self.lane.ewma, took, self.outcome)
        {
            ewma.observe(took, called + took);
        }
        self.lane
            .meter
            .ended(self.outcome, took.map(|(took, _)| took));
    }
}
