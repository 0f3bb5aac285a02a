use std::time::Duration;

use super::{BUCKETS, Terms};

/// What one rule says to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    pub(crate) reset: u64,
    /// Microseconds; 0 if it passes, `u64::MAX` if it never does.
    pub(crate) wait: u64,
    /// Microseconds; 0 if it is not known.
    pub(crate) window: u64,
    pub(crate) shadow: bool,
}

/// Whether a request passes a rule, or when it would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It passes.
    None,
    /// It would pass this many microseconds from now if nothing else were charged, and no sooner.
    Micros(u64),
    /// It never passes: it costs more than the whole quota.
    Forever,
}

impl Outcome {
    /// An outcome by a store's own reckoning: the limit in force, the units left after this request,
    /// the microseconds until the whole quota is back, and whether the request passes.
    #[must_use]
    pub const fn new(limit: u32, remaining: u32, reset_micros: u64, wait: Wait) -> Self {
        Self {
            limit,
            remaining,
            reset: reset_micros,
            wait: match wait {
                Wait::None => 0,
                Wait::Micros(micros) => micros,
                Wait::Forever => u64::MAX,
            },
            window: 0,
            shadow: false,
        }
    }

    /// The same, with the length of the window in force.
    #[must_use]
    pub const fn in_window_of(mut self, terms: Terms) -> Self {
        self.window = terms.width * BUCKETS;
        self
    }

    /// The same, said by a rule that only counts.
    #[must_use]
    pub const fn in_shadow(mut self) -> Self {
        self.shadow = true;
        self
    }

    /// The same for a key that is blocked for so many microseconds.
    pub(crate) const fn blocked_for(mut self, micros: u64) -> Self {
        self.wait = micros;
        self
    }

    /// Microseconds until it passes.
    #[cfg(feature = "redis")]
    pub(crate) const fn wait_micros(&self) -> u64 {
        self.wait
    }

    /// The same a while later.
    #[cfg(feature = "redis")]
    pub(crate) const fn still(mut self, wait: u64, reset: u64) -> Self {
        self.wait = wait;
        self.reset = reset;
        self
    }

    /// The same, but for a block.
    #[cfg(feature = "redis")]
    pub(crate) const fn let_through(mut self) -> Self {
        self.wait = 0;
        self
    }

    /// Whether it is said by a rule that only counts.
    #[must_use]
    pub const fn is_shadow(&self) -> bool {
        self.shadow
    }

    /// Whether the rule lets the request pass.
    #[must_use]
    pub const fn passes(&self) -> bool {
        self.wait == 0
    }

    /// The limit in force, in units. It is not the rule's own while a newer version of the rule is
    /// at work elsewhere.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// The length of the window in force, if the store said so.
    #[must_use]
    pub const fn window(&self) -> Option<Duration> {
        match self.window {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Units that are left once this request has been counted (or, if refused, not counted).
    #[must_use]
    pub const fn remaining(&self) -> u32 {
        self.remaining
    }

    /// How long until the whole quota is back, if nothing else is charged.
    #[must_use]
    pub const fn reset(&self) -> Duration {
        Duration::from_micros(self.reset)
    }

    /// Whether the request passes, or when it would.
    #[must_use]
    pub const fn wait(&self) -> Wait {
        match self.wait {
            0 => Wait::None,
            u64::MAX => Wait::Forever,
            micros => Wait::Micros(micros),
        }
    }
}
