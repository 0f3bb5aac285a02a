//! Joining a call that is under way, or beginning one.

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use super::flight::Flight;
use super::{Flights, SharedError, Sharing};
use crate::BoxError;

/// What [`CoalesceLayer`](super::CoalesceLayer) makes of a service.
///
/// # Readiness
/// It is ready when the inner service is. A read that joins another leaves the inner service
/// ready for the next request.
pub struct Coalesce<S, F, K, T> {
    inner: S,
    by: F,
    waiters: usize,
    flights: Arc<Flights<K, T>>,
}

impl<S, F, K, T> Coalesce<S, F, K, T> {
    pub(super) fn new(inner: S, by: F, waiters: usize, flights: Arc<Flights<K, T>>) -> Self {
        Self {
            inner,
            by,
            waiters,
            flights,
        }
    }
}

impl<S, F, K, T, Req> Service<Req> for Coalesce<S, F, K, T>
where
    S: Service<Req, Response = T, Error: Into<BoxError>, Future: Send + 'static>,
    F: Fn(&Req) -> Sharing<K>,
    K: Hash + Eq + Clone,
    T: Clone + Send + 'static,
{
    type Response = T;
    type Error = BoxError;
    type Future = CoalesceFuture<S::Future, K, T>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let sharing = (self.by)(&request);
        let is_cached = matches!(sharing, Sharing::Cached(_));
        let state = match sharing {
            Sharing::Alone => State::Alone {
                call: self.inner.call(request),
                write: None,
            },
            Sharing::Write(key) => {
                self.flights.detach(&key);
                let flights = Arc::clone(&self.flights);
                State::Alone {
                    call: self.inner.call(request),
                    write: Some(Write { flights, key }),
                }
            }
            Sharing::Cached(key) | Sharing::Read(key) => {
                match is_cached.then(|| self.flights.recall(&key)).flatten() {
                    Some(answer) => State::Known {
                        answer: Some(answer),
                    },
                    None => State::Shared {
                        seat: self.share(key, is_cached, request),
                    },
                }
            }
        };
        CoalesceFuture { state }
    }
}

impl<S, F, K, T> Coalesce<S, F, K, T>
where
    K: Hash + Eq + Clone,
    T: Clone,
{
    /// A seat in a call of this key: one that is under way, or one that begins with this request.
    fn share<Req>(&mut self, key: K, is_cached: bool, request: Req) -> Seat<K, T>
    where
        S: Service<Req, Response = T, Error: Into<BoxError>, Future: Send + 'static>,
    {
        let mut map = self.flights.map(&key);
        let joined = map.get(&key).and_then(|flight| {
            let number = flight.join(self.waiters)?;
            Some((Arc::clone(flight), number))
        });
        let is_first = joined.is_none();
        let (flight, number) = joined.unwrap_or_else(|| {
            let flight = Arc::new(Flight::new());
            let number = flight.join(usize::MAX).expect("there is room for one");
            map.insert(key.clone(), Arc::clone(&flight));
            (flight, number)
        });
        drop(map);
        if is_cached {
            flight.remember();
        }
        let flights = Arc::clone(&self.flights);
        let seat = Seat {
            flights,
            key,
            flight,
            number,
        };
        if is_first {
            seat.flight.begin(|| {
                let call = self.inner.call(request);
                Box::pin(async move { call.await.map_err(|e| SharedError::of(e.into())) })
            });
        }
        seat
    }
}

impl<S: Clone, F: Clone, K, T> Clone for Coalesce<S, F, K, T> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            by: self.by.clone(),
            waiters: self.waiters,
            flights: Arc::clone(&self.flights),
        }
    }
}

impl<S: fmt::Debug, F, K, T> fmt::Debug for Coalesce<S, F, K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coalesce")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// One who waits. Dropping it, he goes; with the last one the call goes too.
struct Seat<K: Hash + Eq, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
    flight: Arc<Flight<T>>,
    number: usize,
}

impl<K: Hash + Eq, T> Seat<K, T> {
    /// Whoever comes from now on begins a new call, or gets this answer where it is remembered.
    fn close(&self, answer: Option<&T>) {
        let mut map = self.flights.map(&self.key);
        let is_ours = map
            .get(&self.key)
            .is_some_and(|flight| Arc::ptr_eq(flight, &self.flight));
        let ours = is_ours.then(|| map.remove(&self.key));
        // A call that a write has overtaken is no longer in the map, and is not remembered.
        if let (true, true, Some(answer), Some(cache)) = (
            is_ours,
            self.flight.is_remembered(),
            answer,
            &self.flights.cache,
        ) {
            cache.put(&self.key, answer);
        }
        drop(map);
        drop(ours);
    }
}

impl<K: Hash + Eq, T> Drop for Seat<K, T> {
    fn drop(&mut self) {
        // Joining happens under the lock of the map too, so nobody joins a call that is let go.
        let mut map = self.flights.map(&self.key);
        let is_last = self.flight.leave(self.number);
        let is_ours = map
            .get(&self.key)
            .is_some_and(|flight| Arc::ptr_eq(flight, &self.flight));
        let ours = (is_last && is_ours).then(|| map.remove(&self.key));
        drop(map);
        drop(ours);
    }
}

/// A write under way. When it ends, or is dropped and may have been applied all the same, no later
/// read joins one that is under way.
struct Write<K: Hash + Eq, T> {
    flights: Arc<Flights<K, T>>,
    key: K,
}

impl<K: Hash + Eq, T> Drop for Write<K, T> {
    fn drop(&mut self) {
        self.flights.detach(&self.key);
    }
}

pin_project! {
    /// The response of a [`Coalesce`].
    #[must_use = "futures do nothing unless polled"]
    pub struct CoalesceFuture<Fut, K, T>
    where
        K: Hash,
        K: Eq,
    {
        #[pin]
        state: State<Fut, K, T>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<Fut, K, T>
    where
        K: Hash,
        K: Eq,
    {
        Alone { #[pin] call: Fut, write: Option<Write<K, T>> },
        Shared { seat: Seat<K, T> },
        Known { answer: Option<T> },
    }
}

impl<Fut, K, T, E> Future for CoalesceFuture<Fut, K, T>
where
    Fut: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
    K: Hash + Eq,
    T: Clone,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Alone { call, write } => {
                let answer = ready!(call.poll(cx));
                // Before anyone learns of it.
                *write = None;
                Poll::Ready(answer.map_err(Into::into))
            }
            StateProj::Shared { seat } => {
                let answer = ready!(seat.flight.poll(seat.number, cx));
                seat.close(answer.as_ref().ok());
                Poll::Ready(answer.map_err(Into::into))
            }
            StateProj::Known { answer } => {
                let answer = answer.take().expect("polled after it was ready");
                Poll::Ready(Ok(answer))
            }
        }
    }
}

impl<Fut, K: Hash + Eq, T> fmt::Debug for CoalesceFuture<Fut, K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Alone { .. } => "alone",
            State::Shared { .. } => "shared",
            State::Known { .. } => "known",
        };
        f.debug_struct("CoalesceFuture")
            .field("state", &state)
            .finish_non_exhaustive()
    }
}
