//! How long to wait between attempts: pure data, and an iterator over it.

mod delays;

use std::time::Duration;

pub use self::delays::Delays;

use crate::error::{ConfigError, in_code};

/// How much of each delay is left to chance, so that clients which failed together do not come
/// back together.
///
/// The draw happens inside the capped delay, never on top of it: no delay exceeds the cap, and
/// delays at the cap are still spread. `d` is the delay by the backoff's
/// formula, already capped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Jitter {
    /// Exactly `d`.
    #[default]
    None,
    /// Uniform in `0..=d`. The best spread for many clients of one service.
    Full,
    /// Uniform in `d/2..=d`: never comes back at once.
    Equal,
    /// Uniform between the base and three times the delay before, or the cap where that is nearer. The
    /// formula plays no part. (The draw is not cut at the cap, as it is elsewhere: two of three late
    /// delays would be the cap itself, the same for everybody.)
    Decorrelated,
}

/// How many attempts, and how long to wait between them: growing by a factor, by the Fibonacci
/// numbers, or not at all. For other waits see [`RetryLayer::waits`](crate::RetryLayer::waits).
///
/// # Default
///
/// Factor 2 where it is exponential, cap 300 seconds (or the base, if that is longer), 5 attempts, no jitter.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use seawall_retry::Backoff;
///
/// let backoff = Backoff::exponential(Duration::from_secs(1)).attempts(5);
/// let seconds: Vec<u64> = backoff.delays().map(|d| d.as_secs()).collect();
/// assert_eq!(seconds, [1, 2, 4, 8]); // five calls, four waits between them
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    base: Duration,
    growth: Growth,
    cap: Duration,
    attempts: u32,
    jitter: Jitter,
    seed: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Growth {
    Factor(f64),
    Fibonacci,
}

const DEFAULT_CAP: Duration = Duration::from_secs(300);

impl Backoff {
    /// Waits `base` before the second attempt, and [`factor`](Self::factor) times as long before
    /// each further one.
    ///
    /// # Panics
    ///
    /// If `base` is zero: such retries would run in a tight loop.
    pub const fn exponential(base: Duration) -> Self {
        in_code!(Self::try_exponential(base))
    }

    /// [`exponential`](Self::exponential) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `base` is zero.
    pub const fn try_exponential(base: Duration) -> Result<Self, ConfigError> {
        Self::growing(base, Growth::Factor(2.0))
    }

    /// Waits `delay` before each attempt but the first.
    ///
    /// # Panics
    ///
    /// If `delay` is zero.
    pub const fn constant(delay: Duration) -> Self {
        in_code!(Self::try_constant(delay))
    }

    /// [`constant`](Self::constant) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `delay` is zero.
    pub const fn try_constant(delay: Duration) -> Result<Self, ConfigError> {
        Self::growing(delay, Growth::Factor(1.0))
    }

    /// Waits 1, 1, 2, 3, 5, 8 ... times `base`: each wait is the sum of the two before.
    ///
    /// # Panics
    ///
    /// If `base` is zero.
    pub const fn fibonacci(base: Duration) -> Self {
        in_code!(Self::try_fibonacci(base))
    }

    /// [`fibonacci`](Self::fibonacci) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `base` is zero.
    pub const fn try_fibonacci(base: Duration) -> Result<Self, ConfigError> {
        Self::growing(base, Growth::Fibonacci)
    }

    /// No wait is ever longer than this, with any jitter and after any number of attempts.
    ///
    /// It bounds a server's `Retry-After` as well: a server that asks for more ends the call, with
    /// [`Stopped::Throttled`](crate::Stopped::Throttled).
    ///
    /// # Panics
    ///
    /// If `cap` is shorter than the base.
    #[must_use]
    pub const fn cap(self, cap: Duration) -> Self {
        in_code!(self.try_cap(cap))
    }

    /// [`cap`](Self::cap) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `cap` is shorter than the base.
    pub const fn try_cap(mut self, cap: Duration) -> Result<Self, ConfigError> {
        if cap.as_nanos() < self.base.as_nanos() {
            return Err(ConfigError::new(
                "the cap of a backoff must not be shorter than its base",
            ));
        }
        self.cap = cap;
        Ok(self)
    }

    /// How many calls to make in all: 5 is the first and four retries, 1 is no retry.
    ///
    /// # Panics
    ///
    /// If `attempts` is zero.
    #[must_use]
    pub const fn attempts(self, attempts: u32) -> Self {
        in_code!(self.try_attempts(attempts))
    }

    /// [`attempts`](Self::attempts) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `attempts` is zero.
    pub const fn try_attempts(mut self, attempts: u32) -> Result<Self, ConfigError> {
        if attempts == 0 {
            return Err(ConfigError::new(
                "a backoff needs at least one attempt: the first call",
            ));
        }
        self.attempts = attempts;
        Ok(self)
    }

    /// How many times longer each delay is than the one before. A constant or a Fibonacci backoff
    /// becomes an exponential one.
    ///
    /// # Panics
    ///
    /// If `factor` is below 1 or not a finite number.
    #[must_use]
    pub const fn factor(self, factor: f64) -> Self {
        in_code!(self.try_factor(factor))
    }

    /// [`factor`](Self::factor) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `factor` is below 1 or not a finite number.
    pub const fn try_factor(mut self, factor: f64) -> Result<Self, ConfigError> {
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(ConfigError::new(
                "the factor of a backoff must be finite and at least 1",
            ));
        }
        self.growth = Growth::Factor(factor);
        Ok(self)
    }

    /// How much of each delay is left to chance.
    #[must_use]
    pub const fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// Makes the jitter reproducible: session `n` draws the same delays in every run, and still
    /// other ones than session `m`. Without a seed each session draws its own.
    #[must_use]
    pub const fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The delays of one session, in order: one fewer than there are attempts.
    ///
    /// With a [seed](Self::seed) these are the delays of session 0.
    pub fn delays(&self) -> Delays {
        self.session(0)
    }

    /// The delays of the session with this number, which matters only with a [seed](Self::seed).
    pub fn session(&self, number: u64) -> Delays {
        Delays::new(*self, number)
    }

    const fn growing(base: Duration, growth: Growth) -> Result<Self, ConfigError> {
        if base.is_zero() {
            return Err(ConfigError::new(
                "the base of a backoff must be longer than zero",
            ));
        }
        let cap = if base.as_nanos() > DEFAULT_CAP.as_nanos() {
            base
        } else {
            DEFAULT_CAP
        };
        Ok(Self {
            base,
            growth,
            cap,
            attempts: 5,
            jitter: Jitter::None,
            seed: None,
        })
    }

    pub(crate) const fn is_seeded(&self) -> bool {
        self.seed.is_some()
    }

    #[inline]
    pub(crate) const fn max_attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) const fn longest(&self) -> Duration {
        self.cap
    }

    /// The delay before retry `n`, the first being 0, without jitter. Never longer than the cap, and
    /// defined for any `n`.
    pub fn delay(&self, n: u32) -> Duration {
        if n == 0 {
            return self.base;
        }
        let base = self.base.as_nanos();
        let cap = self.cap.as_nanos();
        let times = |growth: Option<u128>| {
            growth
                .and_then(|growth| base.checked_mul(growth))
                .map_or(cap, |grown| grown.min(cap))
        };
        let nanos = match self.growth {
            Growth::Fibonacci => times(fibonacci(n)),
            // Whole factors stay in integers, so that 1, 2, 4, 8 is exact however far it runs.
            Growth::Factor(factor) if factor.fract() == 0.0 && factor <= f64::from(u32::MAX) => {
                times((factor as u128).checked_pow(n))
            }
            // The growth may be infinite, never NaN. A cast from float to integer saturates, and the
            // rounding of long delays must not make one shorter than the base.
            Growth::Factor(factor) => {
                let growth = factor.powi(i32::try_from(n).unwrap_or(i32::MAX));
                ((base as f64 * growth) as u128).clamp(base, cap)
            }
        };
        from_nanos(nanos)
    }
}

/// The number with this index in 1, 1, 2, 3, 5 ..., if it is not too large: of the first 187 none is.
fn fibonacci(n: u32) -> Option<u128> {
    let (mut this, mut next) = (1_u128, Some(1));
    for _ in 0..n {
        let after = next.and_then(|next: u128| this.checked_add(next));
        (this, next) = (next?, after);
    }
    Some(this)
}

/// The inverse of `Duration::as_nanos`, for values that came from a `Duration`.
fn from_nanos(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    match u64::try_from(nanos / SECOND) {
        Ok(seconds) => Duration::new(seconds, (nanos % SECOND) as u32),
        Err(_) => Duration::MAX,
    }
}
