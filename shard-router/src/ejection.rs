//! When an endpoint that fails is left alone, as it is set.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::health::Verdict;
use crate::{BoxError, ConfigError};

/// When an endpoint that fails is left alone, and for how long.
///
/// A request that it did not take in time is a failure, and so is a service that says that it
/// cannot get ready. Whether an error in answer to a call is one, only you can say: a violated
/// constraint says nothing against the server, and a few of them in a row must not take a shard
/// off everyone. So such errors count neither way until [`Ejection::counting`] says which do.
///
/// What comes for an ejected primary is refused at once with
/// [`RouteError::Ejected`](crate::RouteError::Ejected), or waits where that
/// [was asked for](crate::ShardRouter::hold). Reads go to the replicas that are left, and to the
/// primary when none is.
///
/// ```
/// # use std::time::Duration;
/// # use seawall_shard_router::{BoxError, Ejection};
/// let ejection = Ejection::after(5)
///     .lasting(Duration::from_secs(1), Duration::from_secs(30))
///     .at_most(0.2)
///     .counting(|error: &BoxError| error.downcast_ref::<std::io::Error>().is_some());
/// # let _ = ejection;
/// ```
///
/// # Default
/// Five failures in a row; one second, doubled up to thirty; at most a tenth of all endpoints,
/// though always one.
#[derive(Clone)]
#[must_use]
pub struct Ejection {
    pub(crate) failures: u32,
    shortest: Duration,
    longest: Duration,
    share: f64,
    counting: Option<Counting>,
}

type Counting = Arc<dyn Fn(&BoxError) -> bool + Send + Sync>;

impl Ejection {
    /// After so many failures in a row.
    ///
    /// # Panics
    /// When it is zero.
    pub fn after(failures: u32) -> Self {
        Self::try_after(failures).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`Ejection::after`] for a value that comes from outside.
    ///
    /// # Errors
    /// [`ConfigError::Failures`] when it is zero.
    pub fn try_after(failures: u32) -> Result<Self, ConfigError> {
        if failures == 0 {
            return Err(ConfigError::Failures);
        }
        Ok(Self {
            failures,
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(30),
            share: 0.1,
            counting: None,
        })
    }

    /// How long the first ejection lasts, and the longest. Each that follows soon after the one
    /// before lasts twice as long.
    pub fn lasting(mut self, first: Duration, longest: Duration) -> Self {
        self.shortest = first;
        self.longest = longest.max(first);
        self
    }

    /// At most this share of all endpoints of the router is ejected at once, and always one may
    /// be. When everything fails, the fault is more likely on this side.
    ///
    /// # Panics
    /// Unless it is above 0 and at most 1.
    pub fn at_most(self, share: f64) -> Self {
        self.try_at_most(share)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`Ejection::at_most`] for a value that comes from outside.
    ///
    /// # Errors
    /// [`ConfigError::EjectedShare`] unless it is above 0 and at most 1.
    pub fn try_at_most(mut self, share: f64) -> Result<Self, ConfigError> {
        if !(share > 0.0 && share <= 1.0) {
            return Err(ConfigError::EjectedShare { given: share });
        }
        self.share = share;
        Ok(self)
    }

    /// Which errors in answer to a call are failures of the endpoint. The others then show that it
    /// is alive, as an answer does.
    pub fn counting(mut self, counts: impl Fn(&BoxError) -> bool + Send + Sync + 'static) -> Self {
        self.counting = Some(Arc::new(counts));
        self
    }

    /// How many of so many endpoints may be ejected.
    pub(crate) fn most(&self, endpoints: usize) -> usize {
        ((endpoints as f64 * self.share) as usize).max(1)
    }

    /// How long the `times`-th ejection in a row lasts.
    pub(crate) fn length(&self, times: u32) -> Duration {
        let doubled = 1_u32.checked_shl(times.saturating_sub(1));
        let length = doubled.and_then(|factor| self.shortest.checked_mul(factor));
        length.unwrap_or(self.longest).min(self.longest)
    }

    pub(crate) fn verdict(&self, error: &BoxError) -> Verdict {
        match &self.counting {
            None => Verdict::Unknown,
            Some(counts) if counts(error) => Verdict::Failed,
            Some(_) => Verdict::Alive,
        }
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self::after(5)
    }
}

impl fmt::Debug for Ejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ejection")
            .field("failures", &self.failures)
            .field("shortest", &self.shortest)
            .field("longest", &self.longest)
            .field("share", &self.share)
            .finish_non_exhaustive()
    }
}
