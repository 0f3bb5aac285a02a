use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// A future that has not ended after so many polls is taken to never end.
const MOST_POLLS: usize = 100_000;

/// Drops a future at each of its polls: makes one, polls it `k` times, drops it and runs `after_drop`,
/// for `k` = 0, 1, 2, ..., until one ends before its drop. Returns what that one gave.
///
/// It is polled again only when something woke it, so it takes the steps it takes in real life, under
/// paused time (which moves on to the next timer) as well as with real sockets. `after_drop` gets `k`
/// and is the place to check that nothing was leaked; it may await what settles by itself.
///
/// # Panics
///
/// When the future has not ended after 100,000 polls.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let permits = tokio::sync::Semaphore::new(1);
/// test_support::drop_at_every_poll(
///     || async {
///         let _permit = permits.acquire().await;
///         tokio::task::yield_now().await;
///     },
///     async |polls| assert_eq!(permits.available_permits(), 1, "leaked after {polls} polls"),
/// )
/// .await;
/// # });
/// ```
pub async fn drop_at_every_poll<F: Future>(
    mut make: impl FnMut() -> F,
    mut after_drop: impl AsyncFnMut(usize),
) -> F::Output {
    for polls in 0..MOST_POLLS {
        if let Some(output) = poll_at_most(make(), polls).await {
            return output;
        }
        after_drop(polls).await;
    }
    panic!("the future has not ended after {MOST_POLLS} polls");
}

async fn poll_at_most<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut future = pin!(future);
    let alarm = Arc::new(Alarm::default());
    let waker = Waker::from(Arc::clone(&alarm));
    let mut left = polls;
    poll_fn(move |context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        alarm.watch(context.waker());
        // A wakeup that belongs to a future dropped before is no step of this one.
        if !alarm.rang() {
            return Poll::Pending;
        }
        left -= 1;
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Wakes the harness, and remembers that it was this future that asked for it.
#[derive(Debug)]
struct Alarm {
    rung: AtomicBool,
    outer: Mutex<Waker>,
}

impl Default for Alarm {
    /// Rung once, for the first poll needs no wakeup.
    fn default() -> Self {
        Self {
            rung: AtomicBool::new(true),
            outer: Mutex::new(Waker::noop().clone()),
        }
    }
}

impl Alarm {
    fn watch(&self, outer: &Waker) {
        self.outer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(outer);
    }

    fn rang(&self) -> bool {
        self.rung.swap(false, Ordering::SeqCst)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::SeqCst);
        let outer = self
            .outer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        outer.wake();
    }
}
