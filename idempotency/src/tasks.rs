//! The calls that are being handled, for a shutdown to wait for.

use std::{
    future::Future,
    panic::{self, AssertUnwindSafe},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle, time::timeout};
use tokio_util::task::TaskTracker;

/// The handlers and the unfinished business of a layer. They run on when their caller goes away,
/// so a shutdown has to wait for them:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
/// use seawall_idempotency::{Drain, IdempotencyLayer, MemoryStore};
///
/// let layer = IdempotencyLayer::new(MemoryStore::with_capacity(1_000));
/// let tasks = layer.tasks();
/// // ... once the server takes no more requests:
/// assert_eq!(tasks.drain(Duration::from_secs(30)).await, Drain::Finished);
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
}

/// A call, from its claim to its stored answer.
pub(crate) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// How a [`Tasks::drain`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Drain {
    /// Every call was handled and its answer is stored.
    Finished,
    /// The deadline passed first. What is left runs on until the runtime stops; then its records
    /// stay pending, and count as abandoned after their lease.
    Unfinished {
        /// How many are left.
        tasks: usize,
    },
}

impl Tasks {
    /// How many calls are being handled, or wait for the store to be told.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Waits until there is none, for at most `deadline`. Stop what brings new calls first.
    pub async fn drain(&self, deadline: Duration) -> Drain {
        self.tracker.close();
        match timeout(deadline, self.tracker.wait()).await {
            Ok(()) => Drain::Finished,
            Err(_) => Drain::Unfinished { tasks: self.len() },
        }
    }

    /// Runs `work` here for as far as it comes at once, and in a task from there on. Its caller can
    /// drop it neither before it is in its task nor afterwards.
    pub(crate) fn begin(&self, mut work: Work, cx: &mut Context<'_>) {
        // Where there is no runtime this panics, and nothing was claimed yet.
        let runtime = Handle::current();
        let _counted = self.tracker.token();
        // A panic ends the work, and not its caller: as in a task.
        let begun = panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx)));
        if matches!(begun, Ok(Poll::Pending)) {
            self.tracker.spawn_on(work, &runtime);
        }
    }

    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(task)
    }
}
