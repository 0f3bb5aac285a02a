//! The ways in which calls are made. Ours and the peers of a row are driven by the same one.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::Instant;
use tower::Service;

use crate::measure::Lane;

/// How many tasks call at the same time where a server or a disk answers.
pub(crate) const TASKS: usize = 256;

/// Calls one after the other on this thread. Each gets its number, which goes on from turn to turn.
pub(crate) fn in_turn<'a>(mut call: impl FnMut(u64) + 'a) -> Lane<'a> {
    let mut next = 0;
    Lane::new(move |calls| timed(&mut next, calls, &mut call))
}

/// Each of the callers makes all the calls on a thread of its own, all at the same time; the time is
/// their mean.
pub(crate) fn at_once<'a>(callers: Vec<impl FnMut(u64) + Send + 'a>) -> Lane<'a> {
    let threads = callers.len();
    let mut callers: Vec<_> = callers.into_iter().map(|caller| (0, caller)).collect();
    Lane::new(move |calls| {
        let gate = Barrier::new(threads);
        let elapsed: Duration = std::thread::scope(|scope| {
            let running: Vec<_> = callers
                .iter_mut()
                .map(|(next, caller)| {
                    let gate = &gate;
                    scope.spawn(move || {
                        gate.wait();
                        timed(next, calls, caller)
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|caller| caller.join().expect("a call has failed, as said above"))
                .sum()
        });
        elapsed / threads as u32
    })
}

/// The allocator counts for each thread, which would burden those that allocate.
fn timed(next: &mut u64, calls: u64, call: &mut impl FnMut(u64)) -> Duration {
    let mut elapsed = Duration::ZERO;
    allocation_counter::opt_out(|| {
        let start = Instant::now();
        for number in *next..*next + calls {
            call(number);
        }
        elapsed = start.elapsed();
    });
    *next += calls;
    elapsed
}

/// Calls one after the other on a runtime of one thread: for calls that start tasks of their own.
pub(crate) fn awaited<'a>(runtime: &'a Runtime, mut call: impl AsyncFnMut(u64) + 'a) -> Lane<'a> {
    let mut next = 0;
    Lane::new(move |calls| {
        let mut elapsed = Duration::ZERO;
        allocation_counter::opt_out(|| {
            runtime.block_on(async {
                let start = Instant::now();
                for number in next..next + calls {
                    call(number).await;
                }
                elapsed = start.elapsed();
            });
        });
        next += calls;
        elapsed
    })
}

/// [`TASKS`] tasks on a runtime share the calls: who is done with one takes the next, so that a caller
/// who is served late holds up nobody else.
pub(crate) fn tasks<'a, C, F>(runtime: &'a Runtime, call: C) -> Lane<'a>
where
    C: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    Lane::new(move |calls| {
        let end = next.load(Ordering::Relaxed) + calls;
        let start = Instant::now();
        runtime.block_on(async {
            let tasks: Vec<_> = (0..TASKS)
                .map(|_| {
                    let (next, call) = (Arc::clone(&next), call.clone());
                    tokio::spawn(async move {
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= end {
                                return;
                            }
                            call(number).await;
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("a call has failed, as said above");
            }
        });
        let elapsed = start.elapsed();
        next.store(end, Ordering::Relaxed);
        elapsed
    })
}

/// As [`tasks`] does, for calls that wait for long: never fewer than all tasks make at once, twice over, or a short slice would
/// show how long one waits and not how many are done.
pub(crate) fn tasks_that_wait<'a, C, F>(runtime: &'a Runtime, call: C) -> Lane<'a>
where
    C: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let mut lane = tasks(runtime, call);
    Lane::new(move |calls| {
        let made = calls.max(2 * TASKS as u64);
        lane.run(made).mul_f64(calls as f64 / made as f64)
    })
}

/// As [`tasks`] does, [`TASKS`] calls for each that is asked for; the time is not theirs but what 99 of 100 of them
/// waited at most.
pub(crate) fn tasks_p99<'a, C, F>(runtime: &'a Runtime, call: C) -> Lane<'a>
where
    C: Fn(u64) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send,
{
    let waits = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&waits);
    let mut lane = tasks(runtime, move |number| {
        let (call, noted) = (call(number), Arc::clone(&noted));
        async move {
            let start = Instant::now();
            call.await;
            let waited = start.elapsed();
            noted.lock().expect("a push does not panic").push(waited);
        }
    });
    Lane::new(move |calls| {
        lane.run(calls * TASKS as u64);
        let mut waits = waits.lock().expect("all tasks have ended");
        waits.sort_unstable();
        let most = waits[waits.len() * 99 / 100];
        waits.clear();
        most * u32::try_from(calls).expect("a slice is short")
    })
}

/// A runtime as `#[tokio::main]` makes it.
pub(crate) fn runtime() -> Runtime {
    Runtime::new().expect("threads can be started")
}

/// A runtime of one thread, which is the one that blocks on it.
pub(crate) fn runtime_here() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("it needs nothing that could be missing")
}

/// Readies a service and calls it. It has to answer at once: it is polled with a waker that does
/// nothing, and no runtime is involved.
#[inline]
pub(crate) fn call<S, R>(service: &mut S, request: R) -> S::Response
where
    S: Service<R, Error: Debug>,
{
    let mut context = Context::from_waker(Waker::noop());
    match service.poll_ready(&mut context) {
        Poll::Ready(Ok(())) => {}
        _ => panic!("the service is not ready"),
    }
    // Pinned where it comes from the call, as by `.await`: handing it to a function that polls it would
    // copy it once more.
    match pin!(service.call(request)).poll(&mut context) {
        Poll::Ready(response) => response.expect("nothing is refused here"),
        Poll::Pending => panic!("the answer is not there at once"),
    }
}

/// What a call of ours allocates beyond what one of the bare service does.
pub(crate) fn allocations(mut ours: impl FnMut(u64), mut bare: impl FnMut(u64)) -> f64 {
    const CALLS: u64 = 1_000;
    let count = |call: &mut dyn FnMut(u64)| {
        // The first calls fill what is filled once.
        (0..CALLS).for_each(&mut *call);
        test_support::count_allocations(|| (CALLS..2 * CALLS).for_each(&mut *call))
    };
    (count(&mut ours) as f64 - count(&mut bare) as f64) / CALLS as f64
}
