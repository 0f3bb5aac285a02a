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
///
/// # Clone
///
/// Classifier and stamp, and what copies requests, are cloned for each call: state in them that is to be one goes behind
/// an [`Arc`].
#[derive(Clone)]
#[must_use = "a layer does nothing until a service is put into it"]
pub struct RetryLayer<C = AnyError, K = ByClone, M = (), D = (), B = ()> {
    settings: Settings,
    policy: Policy<C, K, M>,
    deadline_of: D,
    budget_by: B,
}

impl RetryLayer {
    /// Retries by `backoff`.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            settings: Settings {
                backoff,
                budget: None,
                deadline: None,
                attempt_timeout: None,
                ready_within: Duration::from_secs(10),
                sessions: backoff.is_seeded().then(|| Arc::new(AtomicU64::new(0))),
            },
            policy: Policy {
                classify: AnyError,
                clone: ByClone,
                stamp: (),
                waits: None,
            },
            deadline_of: (),
            budget_by: (),
        }
    }
}

impl<C, K, M, D, B> RetryLayer<C, K, M, D, B> {
    /// Decides by `classify` which outcomes are worth another attempt: a
    /// [`Classify`](crate::Classify), such as a closure
    /// `|outcome: Result<&Res, &BoxError>| Class`.
    ///
    /// A response that is not a success and is not retried any more is returned as it is: only an
    /// error becomes a [`RetryError`](crate::RetryError).
    pub fn classify<C2>(self, classify: C2) -> RetryLayer<C2, K, M, D, B> {
        let Policy {
            clone,
            stamp,
            waits,
            ..
        } = self.policy;
        RetryLayer {
            settings: self.settings,
            policy: Policy {
                classify,
                clone,
                stamp,
                waits,
            },
            deadline_of: self.deadline_of,
            budget_by: self.budget_by,
        }
    }

    /// Copies requests by `clone`: a [`CloneRequest`](crate::CloneRequest), such as a closure
    /// `|request: &Req| Option<Req>`. For requests that are not `Clone`, or that must not be sent
    /// twice: what gives `None` is sent once.
    pub fn clone_with<K2>(self, clone: K2) -> RetryLayer<C, K2, M, D, B> {
        let Policy {
            classify,
            stamp,
            waits,
            ..
        } = self.policy;
        RetryLayer {
            settings: self.settings,
            policy: Policy {
                classify,
                clone,
                stamp,
                waits,
            },
            deadline_of: self.deadline_of,
            budget_by: self.budget_by,
        }
    }

    /// Marks each request with its [`Attempt`](crate::Attempt) before it is sent: a
    /// [`Stamp`](crate::Stamp), such as a closure `|request: &mut Req, attempt: Attempt|`.
    pub fn stamp<M2>(self, stamp: M2) -> RetryLayer<C, K, M2, D, B> {
        let Policy {
            classify,
            clone,
            waits,
            ..
        } = self.policy;
        RetryLayer {
            settings: self.settings,
            policy: Policy {
                classify,
                clone,
                stamp,
                waits,
            },
            deadline_of: self.deadline_of,
            budget_by: self.budget_by,
        }
    }

    /// Respects a deadline that the request brings along: a
    /// [`RequestDeadline`](crate::RequestDeadline), such as a closure
    /// `|request: &Req| Option<Instant>`. The nearer of this and [`deadline`](Self::deadline) holds.
    ///
    /// With one that has already passed the first attempt still begins, and ends as soon as it has to
    /// wait for anything.
    pub fn deadline_of<D2>(self, deadline_of: D2) -> RetryLayer<C, K, M, D2, B> {
        RetryLayer {
            settings: self.settings,
            policy: self.policy,
            deadline_of,
            budget_by: self.budget_by,
        }
    }

    /// Allows retries only as far as `budget` goes. Keep a clone to look at it, or to give other
    /// layers that call the same service.
    pub fn budget(mut self, budget: Budget) -> Self {
        self.settings.budget = Some(budget);
        self
    }

    /// Takes the retries of each request out of a budget of its own: a
    /// [`PickBudget`](crate::PickBudget), such as a closure `|request: &Req| Option<Budget>` that finds
    /// it in [`Budgets`](crate::Budgets) by a key. Where it gives `None`, the budget of all requests
    /// counts, if there is one.
    pub fn budget_by<B2>(self, budget_by: B2) -> RetryLayer<C, K, M, D, B2> {
        RetryLayer {
            settings: self.settings,
            policy: self.policy,
            deadline_of: self.deadline_of,
            budget_by,
        }
    }

    /// Takes the waits from an iterator, made anew for each call that comes to retry; where it ends, the
    /// call ends as [`Exhausted`](crate::Stopped::Exhausted).
    ///
    /// The backoff still says how many attempts there are at most and how long a wait may be. Its
    /// formula and its jitter are not used.
    ///
    /// ```
    /// use std::time::Duration;
    /// use seawall_retry::{Backoff, RetryLayer};
    ///
    /// let layer = RetryLayer::new(Backoff::constant(Duration::from_secs(60)).attempts(10))
    ///     .waits(|| [1, 5, 30].map(Duration::from_secs));
    /// # let _ = layer.layer(());
    /// # use tower::Layer;
    /// ```
    pub fn waits<F, I>(mut self, make: F) -> Self
    where
        F: Fn() -> I + Send + Sync + 'static,
        I: IntoIterator<Item = Duration>,
        I::IntoIter: Send + Sync + 'static,
    {
        self.policy.waits = Some(Arc::new(move || Box::new(make().into_iter())));
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
        self.settings.deadline = Some(deadline);
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
        self.settings.attempt_timeout = Some(limit);
        Ok(self)
    }

    /// How long the inner service may take to become ready for a further attempt. Zero means that it
    /// has to be ready at once.
    pub fn ready_within(mut self, limit: Duration) -> Self {
        self.settings.ready_within = limit;
        self
    }
}

impl<C, K, M, D, B> fmt::Debug for RetryLayer<C, K, M, D, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl<S, C, K, M, D, B> Layer<S> for RetryLayer<C, K, M, D, B>
where
    Self: Clone,
{
    type Service = Retry<S, C, K, M, D, B>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self {
            settings,
            policy,
            deadline_of,
            budget_by,
        } = self.clone();
        Retry {
            inner,
            settings: Arc::new(settings),
            policy,
            deadline_of,
            budget_by,
        }
    }
}
