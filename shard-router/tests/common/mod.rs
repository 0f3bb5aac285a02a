//! A shard set whose readiness and answers the test decides.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use seawall_shard_router::{
    Access, BoxError, Bulkhead, Endpoint, Key, RouteError, ShardRouter, Slot, TopologyHandle,
};
use tokio::sync::oneshot;
use tower::Service;

/// A request for a key, which an endpoint answers with where it was served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) slot: Slot,
    pub(crate) access: Access,
}

pub(crate) fn write(slot: u16) -> Request {
    Request {
        slot: Slot::new(slot).unwrap(),
        access: Access::Write,
    }
}

pub(crate) fn read(slot: u16) -> Request {
    Request {
        access: Access::Read,
        ..write(slot)
    }
}

/// The error of a shard itself.
#[derive(Debug, PartialEq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

pub(crate) type Answer = Result<Endpoint, Broken>;

/// All endpoints of a test, by address.
#[derive(Clone, Default)]
pub(crate) struct Backends(Arc<Mutex<HashMap<String, Arc<Mutex<Backend>>>>>);

struct Backend {
    ready: Result<bool, &'static str>,
    at_once: bool,
    waiting: Vec<Waker>,
    calls: Vec<oneshot::Sender<Answer>>,
    served: usize,
    made: usize,
    alive: usize,
}

impl Backends {
    pub(crate) fn service(&self, endpoint: &Endpoint) -> ShardService {
        let backend = self.backend(endpoint.address());
        let mut inner = backend.lock().unwrap();
        inner.made += 1;
        inner.alive += 1;
        drop(inner);
        ShardService {
            endpoint: endpoint.clone(),
            backend,
            readied: false,
        }
    }

    fn backend(&self, address: &str) -> Arc<Mutex<Backend>> {
        let backend = || {
            Arc::new(Mutex::new(Backend {
                ready: Ok(true),
                at_once: true,
                waiting: Vec::new(),
                calls: Vec::new(),
                served: 0,
                made: 0,
                alive: 0,
            }))
        };
        Arc::clone(
            self.0
                .lock()
                .unwrap()
                .entry(address.to_owned())
                .or_insert_with(backend),
        )
    }

    fn with<T>(&self, address: &str, look: impl FnOnce(&mut Backend) -> T) -> T {
        look(&mut self.backend(address).lock().unwrap())
    }

    /// Whether it is ready: pending while `Ok(false)`.
    pub(crate) fn set_ready(&self, address: &str, ready: Result<bool, &'static str>) {
        let waiting = self.with(address, |backend| {
            backend.ready = ready;
            std::mem::take(&mut backend.waiting)
        });
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Calls stay open until [`Backends::answer`].
    pub(crate) fn hold(&self, address: &str) {
        self.with(address, |backend| backend.at_once = false);
    }

    /// Ends the oldest open call.
    pub(crate) fn answer(&self, address: &str, answer: Answer) {
        self.take_call(address, 0).send(answer).ok();
    }

    pub(crate) fn take_call(&self, address: &str, place: usize) -> oneshot::Sender<Answer> {
        self.with(address, |backend| backend.calls.remove(place))
    }

    /// How many calls are open, not counting those whose caller is gone.
    pub(crate) fn open(&self, address: &str) -> usize {
        self.with(address, |backend| {
            backend.calls.retain(|call| !call.is_closed());
            backend.calls.len()
        })
    }

    pub(crate) fn served(&self, address: &str) -> usize {
        self.with(address, |backend| backend.served)
    }

    /// How often the factory was asked for it.
    pub(crate) fn made(&self, address: &str) -> usize {
        self.with(address, |backend| backend.made)
    }

    /// How many instances of its service there are.
    pub(crate) fn alive(&self, address: &str) -> usize {
        self.with(address, |backend| backend.alive)
    }
}

/// The service of one endpoint. Insists that it is readied itself before it is called.
pub(crate) struct ShardService {
    endpoint: Endpoint,
    backend: Arc<Mutex<Backend>>,
    readied: bool,
}

impl Clone for ShardService {
    fn clone(&self) -> Self {
        self.backend.lock().unwrap().alive += 1;
        let (endpoint, backend) = (self.endpoint.clone(), Arc::clone(&self.backend));
        Self {
            endpoint,
            backend,
            readied: false,
        }
    }
}

impl Drop for ShardService {
    fn drop(&mut self) {
        self.backend.lock().unwrap().alive -= 1;
    }
}

impl Service<Request> for ShardService {
    type Response = Endpoint;
    type Error = Broken;
    type Future = Response;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut backend = self.backend.lock().unwrap();
        match backend.ready {
            Ok(true) => {
                self.readied = true;
                Poll::Ready(Ok(()))
            }
            Ok(false) => {
                backend.waiting.push(cx.waker().clone());
                Poll::Pending
            }
            Err(why) => Poll::Ready(Err(Broken(why))),
        }
    }

    fn call(&mut self, _: Request) -> Response {
        assert!(
            std::mem::take(&mut self.readied),
            "called without being readied"
        );
        let mut backend = self.backend.lock().unwrap();
        backend.served += 1;
        if backend.at_once {
            return Response::Now(Some(self.endpoint.clone()));
        }
        let (answer, open) = oneshot::channel();
        backend.calls.push(answer);
        Response::Open(open)
    }
}

pub(crate) enum Response {
    Now(Option<Endpoint>),
    Open(oneshot::Receiver<Answer>),
}

impl Future for Response {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match &mut *self {
            Response::Now(answer) => Poll::Ready(Ok(answer.take().unwrap())),
            Response::Open(open) => Poll::Ready(
                ready!(Pin::new(open).poll(cx)).unwrap_or(Err(Broken("the call was dropped"))),
            ),
        }
    }
}

/// A router over these backends, and what tests ask it.
pub(crate) type TestRouter = ShardRouter<ShardService, KeyOf, AccessOf>;
pub(crate) type KeyOf = for<'a> fn(&'a Request) -> Key<'a>;
pub(crate) type AccessOf = fn(&Request) -> Access;

pub(crate) fn router(
    topology: impl Into<TopologyHandle>,
    backends: &Backends,
    bulkhead: Bulkhead,
) -> TestRouter {
    let backends = backends.clone();
    let key: KeyOf = |request| request.slot.into();
    let access: AccessOf = |request| request.access;
    ShardRouter::new(topology, move |endpoint: &Endpoint| {
        backends.service(endpoint)
    })
    .key(key)
    .access(access)
    .each_shard(bulkhead)
}

/// What was refused, of an answer that must be a refusal.
pub(crate) fn refusal<T>(answer: Result<T, BoxError>) -> RouteError {
    let error = answer.err().expect("it was to be refused");
    RouteError::find(&*error)
        .unwrap_or_else(|| panic!("no refusal: {error}"))
        .clone()
}

/// Nothing is at work and nothing waits, anywhere.
pub(crate) fn assert_idle(router: &TestRouter) {
    for load in router.loads() {
        assert_eq!((load.in_flight, load.queued), (0, 0), "{}", load.endpoint);
    }
}
