//! The layer and its settings.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tower_layer::Layer;

use crate::{
    AnyError, Backoff, Budget, ByClone, ConfigError, Retry,
    error::in_code,
    policy::{Policy, Settings},
};

/// Repeats calls that failed for a passing reason.
///
/// All services made by one layer, and by its clones, share its budget.
///
/// # Default
///
/// Any error is transient and any response a success ([`AnyError`]); requests are `Clone`
/// ([`ByClone`]); no budget, no deadline and no attempt timeout; the inner service has 10 seconds to
/// become ready for a further attempt.
#[must_use = "a layer does nothing until a service is put into it"]
pub struct RetryLayer<C = AnyError, K = ByClone, M = (), D = ()> {
    policy: Policy<C, K, M, D>,
}

impl RetryLayer {
    /// Retries by `backoff`.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            policy: Policy {
                settings: Settings {
                    backoff,
                    budget: None,
                    deadline: None,
                    attempt_timeout: None,
                    ready_within: Duration::from_secs(10),
                    sessions: Arc::new(AtomicU64::new(0)),
                },
                classify: Arc::new(AnyError),
                clone: Arc::new(ByClone),
                stamp: Arc::new(()),
                deadline_of: Arc::new(()),
            },
        }
    }
}

impl<C, K, M, D> RetryLayer<C, K, M, D> {
    /// Decides by `classify` which outcomes are worth another attempt: a
    /// [`Classify`](crate::Classify), such as a closure
    /// `|outcome: Result<&Res, &BoxError>| Class`.
    ///
    /// A response that is not a success and is not retried any more is returned as it is: only an
    /// error becomes a [`RetryError`](crate::RetryError).
    pub fn classify<C2>(self, classify: C2) -> RetryLayer<C2, K, M, D> {
        let Policy {
            settings,
            clone,
            stamp,
            deadline_of,
            ..
        } = self.policy;
        RetryLayer {
            policy: Policy {
                settings,
                classify: Arc::new(classify),
                clone,
                stamp,
                deadline_of,
            },
        }
    }

    /// Copies requests by `clone`: a [`CloneRequest`](crate::CloneRequest), such as a closure
    /// `|request: &Req| Option<Req>`. For requests that are not `Clone`, or that must not be sent
    /// twice: what gives `None` is sent once.
    pub fn clone_with<K2>(self, clone: K2) -> RetryLayer<C, K2, M, D> {
        let Policy {
            settings,
            classify,
            stamp,
            deadline_of,
            ..
        } = self.policy;
        RetryLayer {
            policy: Policy {
                settings,
                classify,
                clone: Arc::new(clone),
                stamp,
                deadline_of,
            },
        }
    }

    /// Marks each request with its [`Attempt`](crate::Attempt) before it is sent: a
    /// [`Stamp`](crate::Stamp), such as a closure `|request: &mut Req, attempt: Attempt|`.
    pub fn stamp<M2>(self, stamp: M2) -> RetryLayer<C, K, M2, D> {
        let Policy {
            settings,
            classify,
            clone,
            deadline_of,
            ..
        } = self.policy;
        RetryLayer {
            policy: Policy {
                settings,
                classify,
                clone,
                stamp: Arc::new(stamp),
                deadline_of,
            },
        }
    }

    /// Respects a deadline that the request brings along: a
    /// [`RequestDeadline`](crate::RequestDeadline), such as a closure
    /// `|request: &Req| Option<Instant>`. The nearer of this and [`deadline`](Self::deadline) holds.
    ///
    /// With one that has already passed the first attempt still begins, and ends as soon as it has to
    /// wait for anything.
    pub fn deadline_of<D2>(self, deadline_of: D2) -> RetryLayer<C, K, M, D2> {
        let Policy {
            settings,
            classify,
            clone,
            stamp,
            ..
        } = self.policy;
        RetryLayer {
            policy: Policy {
                settings,
                classify,
                clone,
                stamp,
                deadline_of: Arc::new(deadline_of),
            },
        }
    }

    /// Allows retries only as far as `budget` goes. Keep a clone to look at it, or to give other
    /// layers that call the same service.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.policy.settings.budget = Some(budget);
        self
    }

    /// Ends a call this long after it began, whatever it is doing then: waiting, readying, or running
    /// an attempt. A wait that would end later is not begun.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn deadline(self, deadline: Duration) -> Self {
        in_code!(self.try_deadline(deadline))
    }

    /// [`deadline`](Self::deadline) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn try_deadline(mut self, deadline: Duration) -> Result<Self, ConfigError> {
        if deadline.is_zero() {
            return Err(ConfigError::new(
                "a deadline of zero leaves no time for the first attempt",
            ));
        }
        self.policy.settings.deadline = Some(deadline);
        Ok(self)
    }

    /// Cuts off each attempt after this long. Waits do not count. The classifier sees an
    /// [`Interrupted::AttemptTimeout`](crate::Interrupted::AttemptTimeout).
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn attempt_timeout(self, limit: Duration) -> Self {
        in_code!(self.try_attempt_timeout(limit))
    }

    /// [`attempt_timeout`](Self::attempt_timeout) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn try_attempt_timeout(mut self, limit: Duration) -> Result<Self, ConfigError> {
        if limit.is_zero() {
            return Err(ConfigError::new(
                "an attempt timeout of zero leaves no time for an attempt",
            ));
        }
        self.policy.settings.attempt_timeout = Some(limit);
        Ok(self)
    }

    /// How long the inner service may take to become ready for a further attempt. Zero means that it
    /// has to be ready at once.
    pub fn ready_within(mut self, limit: Duration) -> Self {
        self.policy.settings.ready_within = limit;
        self
    }
}

impl<C, K, M, D> Clone for RetryLayer<C, K, M, D> {
    fn clone(&self) -> Self {
        Self {
            policy: self.policy.clone(),
        }
    }
}

impl<C, K, M, D> fmt::Debug for RetryLayer<C, K, M, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("policy", &self.policy)
            .finish()
    }
}

impl<S, C, K, M, D> Layer<S> for RetryLayer<C, K, M, D> {
    type Service = Retry<S, C, K, M, D>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry::new(inner, self.policy.clone())
    }
}
