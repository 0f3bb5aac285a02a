//! How long an endpoint takes to answer: an average that follows a rise at once and a fall slowly.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The peak-sensitive moving average of the time to an answer.
///
/// A longer time than the average replaces it. A shorter one counts by how long ago the last was:
/// after `decay`, what was known before has lost 63% of its weight.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    decay: Duration,
    known: Mutex<Option<Known>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    seconds: f64,
    at: Instant,
}

/// Dearer than any real answer: an endpoint that was given work and has never answered.
const UNKNOWN: f64 = 1e9;

impl PeakEwma {
    pub(crate) fn new(decay: Duration) -> Self {
        Self {
            decay,
            known: Mutex::new(None),
        }
    }

    pub(crate) fn observe(&self, took: Duration, now: Instant) {
        let seconds = took.as_secs_f64();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = match *known {
            Some(last) if last.seconds > seconds => {
                let weight = self.weight_of(last, now);
                last.seconds * weight + seconds * (1.0 - weight)
            }
            _ => seconds,
        };
        *known = Some(Known { seconds, at: now });
    }

    /// What one request more would cost, where `load` are on their way already. An endpoint that
    /// is slow and idle becomes cheaper as its average is forgotten, so that it is tried again.
    pub(crate) fn cost(&self, load: usize, now: Instant) -> f64 {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(last) => last.seconds * self.weight_of(last, now) * (load + 1) as f64,
            None if load == 0 => 0.0,
            None => UNKNOWN * load as f64,
        }
    }

    fn weight_of(&self, last: Known, now: Instant) -> f64 {
        let age = now.saturating_duration_since(last.at).as_secs_f64();
        (-age / self.decay.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_rise_counts_at_once_and_a_fall_in_time() {
        let ewma = PeakEwma::new(1_000 * MS);
        let start = Instant::now();
        assert_eq!(ewma.cost(0, start), 0.0);
        assert!(ewma.cost(1, start) > 1e8);
        ewma.observe(10 * MS, start);
        ewma.observe(100 * MS, start);
        assert_eq!(ewma.cost(0, start), 0.1);
        assert_eq!(ewma.cost(3, start), 0.4);
        ewma.observe(10 * MS, start);
        assert_eq!(ewma.cost(0, start), 0.1, "no time has passed");
        let later = start + 1_000 * MS;
        assert!((ewma.cost(0, later) - 0.1 / std::f64::consts::E).abs() < 1e-6);
        ewma.observe(10 * MS, later);
        let between = ewma.cost(0, later);
        assert!(between > 0.01 && between < 0.1, "{between}");
    }
}
