//! Watching how full a queue of letters is.

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};

use crate::{ConfigError, Depth, Queue, SystemClock, WallClock, error::in_code, telemetry};

type OnAlert = dyn FnMut(&Alert) + Send;

/// What a [`Monitor`] has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alert {
    /// There are more letters than there should be.
    Raised(Depth),
    /// There are few enough again.
    Cleared(Depth),
}

/// Looks at a queue now and then, and raises an alert once when it is too full and clears it once when it
/// is not any more: to a callback, as an event, and as a metric.
///
/// Between the two lies a gap, so that a queue which wavers around the threshold wakes nobody twice.
///
/// # Default
///
/// Raised over 100 letters, cleared at 50 or fewer; looks every ten seconds.
///
/// ```
/// use std::time::Duration;
/// use seawall_dlq::{Alert, Depth, MemorySink, Monitor};
///
/// let mut monitor = Monitor::new(MemorySink::with_capacity(1_000)).over(100);
/// let depth = |letters| Depth { letters, ..Depth::default() };
/// assert_eq!(monitor.observe(&depth(100)), None);
/// assert_eq!(monitor.observe(&depth(101)), Some(Alert::Raised(depth(101))));
/// assert_eq!(monitor.observe(&depth(99)), None, "it wavers");
/// assert_eq!(monitor.observe(&depth(50)), Some(Alert::Cleared(depth(50))));
/// ```
#[must_use = "a monitor does nothing until it watches"]
pub struct Monitor<Q> {
    queue: Q,
    over: u64,
    clear_at: u64,
    every: Duration,
    clock: Arc<dyn WallClock>,
    on_alert: Option<Box<OnAlert>>,
    raised: bool,
}

impl<Q> Monitor<Q> {
    /// Watches this queue.
    pub fn new(queue: Q) -> Self {
        Self {
            queue,
            over: 100,
            clear_at: 50,
            every: Duration::from_secs(10),
            clock: Arc::new(SystemClock),
            on_alert: None,
            raised: false,
        }
    }

    /// Raises the alert at more letters than this, and clears it at half as many.
    pub fn over(mut self, letters: u64) -> Self {
        self.over = letters;
        self.clear_at = letters / 2;
        self
    }

    /// Clears the alert at so many letters or fewer. Set after [`over`](Self::over), which sets it too.
    ///
    /// # Panics
    ///
    /// If that is more than what raises it.
    pub fn clear_at(self, letters: u64) -> Self {
        in_code!(self.try_clear_at(letters))
    }

    /// [`clear_at`](Self::clear_at) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If that is more than what raises it.
    pub fn try_clear_at(mut self, letters: u64) -> Result<Self, ConfigError> {
        if letters > self.over {
            return Err(ConfigError::new(
                "an alert that is cleared above what raises it is never quiet",
            ));
        }
        self.clear_at = letters;
        Ok(self)
    }

    /// How long it waits between two looks.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn every(self, wait: Duration) -> Self {
        in_code!(self.try_every(wait))
    }

    /// [`every`](Self::every) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn try_every(mut self, wait: Duration) -> Result<Self, ConfigError> {
        if wait.is_zero() {
            return Err(ConfigError::new("a monitor has to wait between two looks"));
        }
        self.every = wait;
        Ok(self)
    }

    /// Tells the age of the oldest letter by this clock.
    pub fn clock(mut self, clock: impl WallClock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Is called when the alert is raised, and when it is cleared.
    pub fn on_alert(mut self, on_alert: impl FnMut(&Alert) + Send + 'static) -> Self {
        self.on_alert = Some(Box::new(on_alert));
        self
    }

    /// What it makes of this depth: the rule by itself, for whoever counts in another way.
    pub fn observe(&mut self, depth: &Depth) -> Option<Alert> {
        match self.raised {
            false if depth.letters > self.over => {
                self.raised = true;
                Some(Alert::Raised(depth.clone()))
            }
            true if depth.letters <= self.clear_at => {
                self.raised = false;
                Some(Alert::Cleared(depth.clone()))
            }
            _ => None,
        }
    }
}

impl<Q: Queue> Monitor<Q> {
    /// Watches until it is dropped, and survives a queue that cannot be read for a while.
    pub async fn watch(mut self) -> Infallible {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let depth = match self.queue.depth().await {
                Ok(depth) => depth,
                Err(error) => {
                    telemetry::not_watched(&error);
                    continue;
                }
            };
            let age = depth
                .oldest
                .and_then(|oldest| self.clock.now().duration_since(oldest).ok());
            telemetry::watched(&depth, age.unwrap_or_default());
            if let Some(alert) = self.observe(&depth) {
                telemetry::alert(&alert);
                if let Some(on_alert) = &mut self.on_alert {
                    on_alert(&alert);
                }
            }
        }
    }
}

impl<Q: fmt::Debug> fmt::Debug for Monitor<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("queue", &self.queue)
            .field("over", &self.over)
            .field("clear_at", &self.clear_at)
            .field("every", &self.every)
            .field("raised", &self.raised)
            .finish_non_exhaustive()
    }
}
