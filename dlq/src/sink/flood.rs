//! A limit on how fast letters may come: a flood says that more is wrong than the messages.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    ConfigError, Depth, Filter, Letter, LetterId, Page, Queue, Sink, SinkError, Span, Written,
    error::in_code, telemetry,
};

/// Takes at most so many new letters in any window of time; more are refused with
/// [`SinkError::Flooded`], and so their messages are not acknowledged. Clones share the count.
///
/// When a deployment breaks every message, the queue would be emptied into the dead-letter queue within
/// minutes. Behind a guard the messages stay at their source, and the consumer slows down.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use seawall_dlq::{Envelope, Failure, FloodGuard, Letter, MemorySink, Origin, Sink, SinkError};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let sink = FloodGuard::new(MemorySink::with_capacity(1_000), 2, Duration::from_secs(60));
/// let letter = |offset| {
///     let envelope = Envelope::new(Origin::log("orders", 3, offset), "payload");
///     Letter::new(envelope, Failure::new("bug", "everything fails"), SystemTime::now())
/// };
/// assert!(sink.write(letter(1)).await.is_ok());
/// assert!(sink.write(letter(2)).await.is_ok());
/// assert!(matches!(sink.write(letter(3)).await, Err(SinkError::Flooded { .. })));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct FloodGuard<S> {
    sink: S,
    most: usize,
    window: Duration,
    written: Arc<Mutex<Recent>>,
}

/// When the letters of the window were written, oldest first. At most as many as may be.
type Recent = VecDeque<Instant>;

impl<S> FloodGuard<S> {
    /// Lets at most `letters` through to `sink` in any `window`.
    ///
    /// # Panics
    ///
    /// If one of them is zero.
    pub fn new(sink: S, letters: usize, window: Duration) -> Self {
        in_code!(Self::try_new(sink, letters, window))
    }

    /// [`new`](Self::new) for values that are not known to be right.
    ///
    /// # Errors
    ///
    /// If one of them is zero.
    pub fn try_new(sink: S, letters: usize, window: Duration) -> Result<Self, ConfigError> {
        if letters == 0 || window.is_zero() {
            return Err(ConfigError::new(
                "a flood guard lets through at least one letter, in a window longer than nothing",
            ));
        }
        Ok(Self {
            sink,
            most: letters,
            window,
            written: Arc::default(),
        })
    }

    /// The sink behind the guard.
    pub fn get_ref(&self) -> &S {
        &self.sink
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place in the window at `now`, or says how long until there is one.
    fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut written = self.lock();
        while let Some(first) = written.front() {
            let left = self
                .window
                .saturating_sub(now.saturating_duration_since(*first));
            if left.is_zero() {
                written.pop_front();
            } else if written.len() >= self.most {
                return Err(left);
            } else {
                break;
            }
        }
        written.push_back(now);
        Ok(())
    }

    /// Gives back a place that was taken for a letter that is not new.
    fn give_back(&self, at: Instant) {
        let mut written = self.lock();
        if let Some(place) = written.iter().rposition(|&taken| taken == at) {
            written.remove(place);
        }
    }
}

impl<S: Sink> Sink for FloodGuard<S> {
    async fn write(&self, letter: Letter) -> Result<Written, SinkError> {
        let now = Instant::now();
        if let Err(retry_in) = self.admit(now) {
            telemetry::flooded(retry_in);
            return Err(SinkError::Flooded { retry_in });
        }
        // Dropped here the place stays taken: the letter may have been written.
        let written = self.sink.write(letter).await;
        if !matches!(written, Ok(Written::New)) {
            self.give_back(now);
        }
        written
    }
}

impl<S: Queue> Queue for FloodGuard<S> {
    fn depth(&self) -> impl Future<Output = Result<Depth, SinkError>> + Send {
        self.sink.depth()
    }

    fn list(
        &self,
        filter: &Filter,
        span: &Span,
        limit: usize,
    ) -> impl Future<Output = Result<Page, SinkError>> + Send {
        self.sink.list(filter, span, limit)
    }

    fn get(&self, id: LetterId) -> impl Future<Output = Result<Option<Letter>, SinkError>> + Send {
        self.sink.get(id)
    }

    fn remove(&self, id: LetterId) -> impl Future<Output = Result<bool, SinkError>> + Send {
        self.sink.remove(id)
    }
}
