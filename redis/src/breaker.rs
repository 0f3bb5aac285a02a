//! The breaker as a rule: no clock and no waiting, `now` is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::ConfigError;

/// When to stop asking a server that fails, and when to ask it again.
///
/// After so many failures without a success between them the breaker opens, and calls are refused
/// at once. After the cool-off one call, the probe, is let through: if it succeeds the breaker closes,
/// if it fails the next cool-off begins, and if its caller goes away before it ended another call may
/// probe at once.
///
/// What counts is an outage: no reply within the deadline, a broken connection, a server that is
/// loading, read-only or without its cluster. An error that answers the command (`WRONGTYPE`,
/// `NOSCRIPT`, a script that fails) proves that the server is there, and counts as a success.
///
/// # Default
///
/// Five failures, one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// `None` never opens.
    opens_after: Option<u32>,
    cool_off: Duration,
}

impl Breaker {
    /// Opens after `failures` outages in a row and lets a probe through after `cool_off`.
    ///
    /// # Panics
    ///
    /// When `failures` is zero.
    #[must_use]
    pub const fn new(failures: u32, cool_off: Duration) -> Self {
        match Self::try_new(failures, cool_off) {
            Ok(breaker) => breaker,
            Err(_) => panic!("a breaker that opens after zero failures would never be closed"),
        }
    }

    /// [`new`](Breaker::new) for values that come from a file.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoFailures`] when `failures` is zero.
    pub const fn try_new(failures: u32, cool_off: Duration) -> Result<Self, ConfigError> {
        if failures == 0 {
            return Err(ConfigError::NoFailures);
        }
        Ok(Self {
            opens_after: Some(failures),
            cool_off,
        })
    }

    /// Never opens: each call waits for its own deadline.
    #[must_use]
    pub const fn never() -> Self {
        Self {
            opens_after: None,
            cool_off: Duration::ZERO,
        }
    }
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new(5, Duration::from_secs(1))
    }
}

/// What a breaker does with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// It goes to the server.
    Closed,
    /// It is refused.
    Open {
        /// How long until one is let through as the probe; zero when the next one is.
        retry_in: Duration,
    },
    /// It is refused while the probe is under way.
    HalfOpen,
}

impl BreakerState {
    /// One word for a log or a metric: `closed`, `open` or `half_open`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The state behind a [`Breaker`].
///
/// Whoever is admitted holds a [`Ticket`] and gives it back with what came of it. Each change between
/// open and closed begins a new period, and a ticket of a period before says nothing about this one: of
/// a hundred calls that hung when the breaker opened, none can open it again after it closed.
#[derive(Debug)]
pub(crate) struct Circuit {
    rule: Breaker,
    state: State,
    period: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { until: Instant },
}

/// The right to make one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    period: u64,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The server answered.
    Answered,
    /// It is out.
    Failed,
    /// The caller went away before it was known.
    Abandoned,
}

impl Circuit {
    pub(crate) fn new(rule: Breaker) -> Self {
        Self {
            rule,
            state: State::Closed { failures: 0 },
            period: 0,
        }
    }

    /// Admits a call that will take at most `within`, or says how long to wait: for the cool-off to end,
    /// or for the probe to.
    pub(crate) fn admit(&mut self, now: Instant, within: Duration) -> Result<Ticket, Duration> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until } | State::HalfOpen { until } if now < until => {
                return Err(until - now);
            }
            // A probe that outstays its time has lost its turn: nothing wedges, whatever became of it.
            State::Open { .. } | State::HalfOpen { .. } => self.enter(State::HalfOpen {
                until: later(now, within),
            }),
        }
        Ok(Ticket {
            period: self.period,
        })
    }

    /// Takes a ticket back.
    pub(crate) fn settle(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) {
        if ticket.period != self.period {
            return;
        }
        match (self.state, outcome) {
            (State::Closed { .. }, Outcome::Answered) => {
                self.state = State::Closed { failures: 0 };
            }
            (State::Closed { failures }, Outcome::Failed) => {
                let failures = failures.saturating_add(1);
                self.state = State::Closed { failures };
                if self.rule.opens_after.is_some_and(|most| failures >= most) {
                    self.open(now, self.rule.cool_off);
                }
            }
            (State::HalfOpen { .. }, Outcome::Answered) => {
                self.enter(State::Closed { failures: 0 })
            }
            (State::HalfOpen { .. }, Outcome::Failed) => self.open(now, self.rule.cool_off),
            (State::HalfOpen { .. }, Outcome::Abandoned) => self.open(now, Duration::ZERO),
            (State::Closed { .. }, Outcome::Abandoned) | (State::Open { .. }, _) => {}
        }
    }

    pub(crate) fn state(&self, now: Instant) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { until } => BreakerState::Open {
                retry_in: until.saturating_duration_since(now),
            },
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    fn open(&mut self, now: Instant, cool_off: Duration) {
        self.enter(State::Open {
            until: later(now, cool_off),
        });
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.period += 1;
    }
}

/// `now + wait`, or a century on where the clock cannot count that far.
fn later(now: Instant, wait: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now.checked_add(wait).unwrap_or_else(|| now + CENTURY)
}

#[cfg(test)]
mod tests;
