//! One call that several wait for.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::SharedError;

pub(super) type Output<T> = Result<T, SharedError>;

pub(super) type Call<T> = Pin<Box<dyn Future<Output = Output<T>> + Send>>;

/// A call that is driven by one of those who wait for it. Only he is woken on its way; the others
/// are woken when it is over. Who drives and goes away hands it to another.
pub(super) struct Flight<T> {
    /// Somebody who waits would have its answer remembered.
    remembered: AtomicBool,
    state: Mutex<State<T>>,
}

struct State<T> {
    call: Option<Call<T>>,
    output: Option<Output<T>>,
    driver: Option<usize>,
    /// By their numbers; none for those who have not been polled, and those who are gone.
    wakers: Vec<Option<Waker>>,
    /// Numbers of those who are gone.
    free: Vec<usize>,
}

impl<T> Flight<T> {
    /// Of a call that is to [begin](Flight::begin).
    pub(super) fn new() -> Self {
        Self {
            remembered: AtomicBool::new(false),
            state: Mutex::new(State {
                call: None,
                output: None,
                driver: None,
                wakers: Vec::new(),
                free: Vec::new(),
            }),
        }
    }

    pub(super) fn remember(&self) {
        self.remembered.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_remembered(&self) -> bool {
        self.remembered.load(Ordering::Relaxed)
    }

    /// Makes the call. If that panics, it is over for all who have joined meanwhile.
    pub(super) fn begin(&self, make: impl FnOnce() -> Call<T>) {
        let driving = Driving {
            flight: self,
            call: None,
        };
        let call = make();
        std::mem::forget(driving);
        let mut state = self.state();
        state.call = Some(call);
        let next = state.next();
        drop(state);
        next.into_iter().for_each(Waker::wake);
    }

    /// A number for one more who waits, unless there are as many as may, or it is over.
    pub(super) fn join(&self, at_most: usize) -> Option<usize> {
        let mut state = self.state();
        if state.output.is_some() || state.waiting() >= at_most {
            return None;
        }
        let number = state.free.pop().unwrap_or(state.wakers.len());
        if number == state.wakers.len() {
            state.wakers.push(None);
        }
        Some(number)
    }

    /// Whether that was the last who waited.
    pub(super) fn leave(&self, number: usize) -> bool {
        let mut state = self.state();
        state.wakers[number] = None;
        state.free.push(number);
        if state.driver == Some(number) {
            state.driver = None;
        }
        let (is_last, next) = (state.waiting() == 0, state.next());
        drop(state);
        next.into_iter().for_each(Waker::wake);
        is_last
    }

    pub(super) fn poll(&self, number: usize, cx: &mut Context<'_>) -> Poll<Output<T>>
    where
        T: Clone,
    {
        let mut state = self.state();
        if let Some(output) = &state.output {
            return Poll::Ready(output.clone());
        }
        if state.driver.is_none_or(|driver| driver == number)
            && let Some(call) = state.call.take()
        {
            state.driver = Some(number);
            drop(state);
            let mut driving = Driving {
                flight: self,
                call: Some(call),
            };
            let polled = driving.call.as_mut().map(|call| call.as_mut().poll(cx));
            return match polled {
                Some(Poll::Ready(output)) => {
                    driving.call = None;
                    std::mem::forget(driving);
                    self.over(output.clone());
                    Poll::Ready(output)
                }
                _ => {
                    self.state().call = driving.call.take();
                    std::mem::forget(driving);
                    Poll::Pending
                }
            };
        }
        let waker = &mut state.wakers[number];
        match waker {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn over(&self, output: Output<T>) {
        let mut state = self.state();
        state.output = Some(output);
        let wakers = std::mem::take(&mut state.wakers);
        state.wakers = vec![None; wakers.len()];
        state.call = None;
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// Who waits, driver included.
    fn waiting(&self) -> usize {
        self.wakers.len() - self.free.len()
    }

    /// Somebody to drive, where nobody does. One who has not been polled yet will see for himself;
    /// one who is woken and goes away before he drives is followed by the next.
    fn next(&mut self) -> Option<Waker> {
        if self.driver.is_some() || self.call.is_none() {
            return None;
        }
        self.wakers.iter_mut().find_map(Option::take)
    }
}

/// While the call is made or polled. Dropped only when that panics: then it is over for all.
struct Driving<'a, T> {
    flight: &'a Flight<T>,
    call: Option<Call<T>>,
}

impl<T> Drop for Driving<'_, T> {
    fn drop(&mut self) {
        self.flight.over(Err(SharedError::panicked()));
    }
}
