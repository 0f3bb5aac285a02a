//! The settings that a layer shares with every service and call that comes from it.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Backoff, Budget};

/// What holds for any request and any service.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) backoff: Backoff,
    pub(crate) budget: Option<Budget>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) ready_within: Duration,
    /// Numbers the calls that come to retry: a seeded backoff gives each its own delays.
    pub(crate) sessions: Arc<AtomicU64>,
}

/// The settings, with the parts of the user's choosing behind `Arc`s: so the layer can be cloned
/// without asking that they can, and state inside them stays one.
pub(crate) struct Policy<C, K, M, D> {
    pub(crate) settings: Settings,
    pub(crate) classify: Arc<C>,
    pub(crate) clone: Arc<K>,
    pub(crate) stamp: Arc<M>,
    pub(crate) deadline_of: Arc<D>,
}

impl<C, K, M, D> Policy<C, K, M, D> {
    /// When an attempt that starts now has to be over, if ever: the nearer of the two limits. Reads the
    /// clock only for a timeout of its own.
    pub(crate) fn attempt_end(&self, deadline: Option<Instant>) -> Option<Instant> {
        match self.settings.attempt_timeout {
            Some(limit) => nearer(Instant::now().checked_add(limit), deadline),
            None => deadline,
        }
    }
}

/// The earlier of two limits, either of which may be missing.
pub(crate) fn nearer(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

impl<C, K, M, D> Clone for Policy<C, K, M, D> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            classify: Arc::clone(&self.classify),
            clone: Arc::clone(&self.clone),
            stamp: Arc::clone(&self.stamp),
            deadline_of: Arc::clone(&self.deadline_of),
        }
    }
}

impl<C, K, M, D> fmt::Debug for Policy<C, K, M, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(f)
    }
}
