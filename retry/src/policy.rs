//! The settings that every service of a layer and every call has.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Backoff, Budget, waits::MakeWaits};

/// What holds for any request and any service, and is plain data.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) backoff: Backoff,
    pub(crate) budget: Option<Budget>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) attempt_timeout: Option<Duration>,
    pub(crate) ready_within: Duration,
    /// Numbers the calls that come to retry, where a seeded backoff gives each its own delays.
    pub(crate) sessions: Option<Arc<AtomicU64>>,
}

/// What the user brought, and each call takes along. It is cloned by value: most of it has no size, and
/// counting the owners of something shared would cost more than all the rest of a call that succeeds.
#[derive(Clone)]
pub(crate) struct Policy<C, K, M> {
    pub(crate) classify: C,
    pub(crate) clone: K,
    pub(crate) stamp: M,
    /// Instead of the backoff's own waits.
    pub(crate) waits: Option<MakeWaits>,
}

/// When a call began, where that is known, and when it and its first attempt have to be over.
pub(crate) struct Times {
    pub(crate) started: Option<Instant>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) attempt_end: Option<Instant>,
}

impl Settings {
    /// Whether any limit counts from the start of a call.
    #[inline]
    pub(crate) const fn is_timed(&self) -> bool {
        self.deadline.is_some() || self.attempt_timeout.is_some()
    }

    /// The times of a call that begins now, with the deadline that the request brings along.
    pub(crate) fn times(&self, now: Instant, asked: Option<Instant>) -> Times {
        let own = self.deadline.and_then(|limit| now.checked_add(limit));
        let deadline = nearer(asked, own);
        Times {
            started: Some(now),
            deadline,
            attempt_end: self.attempt_end(Some(now), deadline),
        }
    }

    /// When an attempt that began at `start` has to be over, if ever: the nearer of the two limits. The
    /// start is known where there is an attempt timeout.
    pub(crate) fn attempt_end(
        &self,
        start: Option<Instant>,
        deadline: Option<Instant>,
    ) -> Option<Instant> {
        let end = start
            .zip(self.attempt_timeout)
            .and_then(|(start, limit)| start.checked_add(limit));
        nearer(end, deadline)
    }
}

/// The earlier of two limits, either of which may be missing.
pub(crate) fn nearer(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
