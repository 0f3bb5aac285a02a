//! What the user decides, each choice by its name.

use std::time::Duration;

use crate::error::ConfigError;

/// What a call gets while another with its key is being handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InFlight {
    /// It is refused at once, and told when to come back. The default.
    #[default]
    Reject,
    /// It waits up to this long for the other's answer, and is refused after that. It holds no
    /// place in the inner service meanwhile, and looks into the store again after 5 ms at first and
    /// every 250 ms at last.
    Wait(Duration),
}

/// What happens to a call whose handler vanished: its process died, or was cut off for longer than
/// its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Abandoned {
    /// It is refused until its record expires: nobody knows how far the handler came. The default.
    #[default]
    Reject,
    /// The next call with its key executes it again, as the next attempt. The effect has to be safe
    /// to repeat, or has to check the [`Fence`](crate::Fence).
    Reexecute,
}

/// What is kept when the inner service answers with an error instead of a response. An error is of
/// any type, so it cannot be stored itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failed {
    /// That the call was handled: it is never executed again. The default, since an error says
    /// nothing about what was done before it.
    #[default]
    Keep,
    /// Nothing: the next call executes again. For services whose errors mean that nothing was done.
    Release,
}

/// What the caller gets when its call was handled and the store cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unstored {
    /// Its answer at once; storing it is tried on in the background. The default. If that fails for
    /// longer than the lease, another call may execute again where the layer
    /// [re-executes](Abandoned::Reexecute).
    #[default]
    Answer,
    /// Nothing until the answer is stored: an answer that was given is one that will be repeated.
    Hold,
}

/// Settings which every adapter has.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    keep_for: Option<Duration>,
    lease: Option<Duration>,
    pub(crate) in_flight: InFlight,
    pub(crate) abandoned: Abandoned,
    pub(crate) failed: Failed,
    pub(crate) unstored: Unstored,
}

impl Rules {
    const KEEP_FOR: Duration = Duration::from_secs(24 * 60 * 60);
    const LEASE: Duration = Duration::from_secs(30);

    pub(crate) fn keep_for(&self) -> Duration {
        self.keep_for
            .unwrap_or_else(|| self.lease.unwrap_or_default().max(Self::KEEP_FOR))
    }

    pub(crate) fn lease(&self) -> Duration {
        self.lease
            .unwrap_or_else(|| self.keep_for().min(Self::LEASE))
    }

    pub(crate) fn set_keep_for(&mut self, keep_for: Duration) -> Result<(), ConfigError> {
        self.checked(Self {
            keep_for: Some(keep_for),
            ..*self
        })
    }

    pub(crate) fn set_lease(&mut self, lease: Duration) -> Result<(), ConfigError> {
        self.checked(Self {
            lease: Some(lease),
            ..*self
        })
    }

    fn checked(&mut self, next: Self) -> Result<(), ConfigError> {
        let (lease, keep_for) = (next.lease(), next.keep_for());
        if lease < ConfigError::SHORTEST_LEASE {
            return Err(ConfigError::LeaseTooShort(lease));
        }
        if keep_for > ConfigError::LONGEST_RETENTION {
            return Err(ConfigError::RetentionTooLong(keep_for));
        }
        if lease > keep_for {
            return Err(ConfigError::LeaseBeyondRetention { lease, keep_for });
        }
        *self = next;
        Ok(())
    }
}
