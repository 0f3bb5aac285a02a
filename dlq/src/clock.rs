//! The wall clock, which only dates letters: nothing is decided by it.

use std::time::SystemTime;

/// Tells the time of day. Any `Fn() -> SystemTime` is a clock.
pub trait WallClock: Send + Sync {
    /// The time of day.
    fn now(&self) -> SystemTime;
}

/// The clock of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl<F> WallClock for F
where
    F: Fn() -> SystemTime + Send + Sync,
{
    fn now(&self) -> SystemTime {
        self()
    }
}
