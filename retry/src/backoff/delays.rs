//! The delays of one session, drawn one after another.

use std::{iter::FusedIterator, time::Duration};

use fastrand::Rng;

use super::{Backoff, Jitter, from_nanos};

/// Iterator over the delays between the attempts of one session: see [`Backoff::delays`].
#[derive(Debug, Clone)]
pub struct Delays {
    backoff: Backoff,
    /// Retries handed out so far.
    next: u32,
    /// The delay before, for decorrelated jitter.
    before: Duration,
    rng: Rng,
}

impl Delays {
    /// Those of the session with this number, which matters only with a seed.
    pub(super) fn new(backoff: Backoff, session: u64) -> Self {
        let rng = match backoff.seed {
            Some(seed) => Rng::with_seed(mix(seed ^ mix(session))),
            None => Rng::new(),
        };
        Self {
            before: backoff.base,
            backoff,
            next: 0,
            rng,
        }
    }
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.next >= self.backoff.attempts - 1 {
            return None;
        }
        let envelope = self.backoff.delay(self.next);
        let delay = match self.backoff.jitter {
            Jitter::None => envelope,
            Jitter::Full => self.draw(Duration::ZERO, envelope),
            Jitter::Equal => self.draw(envelope / 2, envelope),
            Jitter::Decorrelated => {
                let top = self.before.saturating_mul(3).min(self.backoff.cap);
                self.draw(self.backoff.base, top)
            }
        };
        self.next += 1;
        self.before = delay;
        Some(delay)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.backoff.attempts - 1 - self.next) as usize;
        (left, Some(left))
    }
}

impl FusedIterator for Delays {}
impl ExactSizeIterator for Delays {}

impl Delays {
    fn draw(&mut self, low: Duration, high: Duration) -> Duration {
        from_nanos(self.rng.u128(low.as_nanos()..=high.as_nanos()))
    }
}

/// The finisher of SplitMix64: neighbouring seeds become unrelated ones.
const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
