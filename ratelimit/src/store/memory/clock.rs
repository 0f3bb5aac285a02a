use std::fmt;

use tokio::time::Instant;

/// What a [`MemoryStore`](super::MemoryStore) reads the time from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Clock {
    /// `tokio::time::Instant`, so that tests with paused time drive the store.
    #[default]
    Tokio,
    /// The processor's counter, by the crate `quanta`; where it cannot be relied on, the operating system's clock.
    ///
    /// A reading takes less than half as long, which is about 15 ns of a decision. No test can pause it. Its pace is found
    /// out when the first such store of the process is made, which can take a fifth of a second.
    #[cfg(feature = "quanta")]
    Processor,
}

/// A clock, and when it was started.
#[derive(Clone)]
pub(super) enum Started {
    Tokio(Instant),
    #[cfg(feature = "quanta")]
    Processor {
        clock: quanta::Clock,
        start: u64,
    },
}

impl Started {
    pub(super) fn now(clock: Clock) -> Self {
        match clock {
            Clock::Tokio => Self::Tokio(Instant::now()),
            #[cfg(feature = "quanta")]
            Clock::Processor => {
                let clock = quanta::Clock::new();
                let start = clock.raw();
                Self::Processor { clock, start }
            }
        }
    }

    /// Microseconds since then.
    #[inline]
    pub(super) fn micros(&self) -> u64 {
        match self {
            Self::Tokio(start) => {
                let since = start.elapsed();
                since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())
            }
            #[cfg(feature = "quanta")]
            Self::Processor { clock, start } => clock.delta_as_nanos(*start, clock.raw()) / 1_000,
        }
    }
}

impl fmt::Debug for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tokio(_) => "Tokio",
            #[cfg(feature = "quanta")]
            Self::Processor { .. } => "Processor",
        })
    }
}

#[cfg(all(test, feature = "quanta"))]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "what it is compared with must not be paused either"
    )]
    fn the_counter_of_the_processor_goes_as_the_clock_goes() {
        let (ours, start) = (Started::now(Clock::Processor), std::time::Instant::now());
        let mut last = 0;
        while start.elapsed().as_millis() < 50 {
            let now = ours.micros();
            assert!(now >= last);
            last = now;
        }
        assert!((45_000..).contains(&ours.micros()));
        assert!(u128::from(last) <= start.elapsed().as_micros() * 11 / 10);
    }
}
