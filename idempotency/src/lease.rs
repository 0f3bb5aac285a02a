//! What a handler is told about its claim.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::Notify;

/// The number of an attempt at one key: 1 for the first, and higher for each that follows.
///
/// It is a fencing token. A resource that remembers the highest number which it has seen for a key,
/// and refuses lower ones, cannot be written to by an attempt that was stalled and taken over.
/// Numbers start again once the record is gone, after its retention or because the store lost it;
/// so the resource keeps the key itself as well.
///
/// HTTP handlers find it in the request's extensions; with the `axum` feature it is an extractor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub u64);

/// Whether an attempt still holds its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// The store confirmed it within the lease.
    Held,
    /// A renewal failed, or the lease ran out by this process's clock before the store confirmed it
    /// again. Another attempt may begin, or has begun. It can become `Held` again.
    Doubtful,
    /// Another attempt has taken the key. What this one answers will not count.
    Lost,
}

/// A handler's view of its claim, in the request's extensions beside the [`Fence`].
///
/// The layer renews the claim at a third of its lease for as long as the handler runs; a handler
/// that is about to do what cannot be undone looks here first.
#[derive(Clone)]
pub struct Lease {
    shared: Arc<Shared>,
}

/// Made for each call that runs, and changed for hardly any: so no more than a byte and a list of
/// those who wait.
#[derive(Default)]
struct Shared {
    state: AtomicU8,
    changed: Notify,
}

const STATES: [LeaseState; 3] = [LeaseState::Held, LeaseState::Doubtful, LeaseState::Lost];

impl Lease {
    pub(crate) fn held() -> Self {
        Self {
            shared: Arc::default(),
        }
    }

    /// How the claim stands from now on.
    pub(crate) fn mark(&self, now: LeaseState) {
        let before = self.shared.state.swap(now as u8, Ordering::AcqRel);
        if before != now as u8 {
            self.shared.changed.notify_waiters();
        }
    }

    /// How the claim stands now.
    pub fn state(&self) -> LeaseState {
        STATES[usize::from(self.shared.state.load(Ordering::Acquire))]
    }

    /// Waits until the claim is no longer [`LeaseState::Held`], and says what it is then. It never
    /// ends for a call that was completed.
    pub async fn in_doubt(&mut self) -> LeaseState {
        self.reaches(|state| state != LeaseState::Held).await
    }

    /// Waits until another attempt has taken the key. It never ends if none does.
    pub async fn lost(&mut self) {
        self.reaches(|state| state == LeaseState::Lost).await;
    }

    async fn reaches(&self, wanted: impl Fn(LeaseState) -> bool) -> LeaseState {
        loop {
            // It sees each change from here on, so none falls between the look and the wait.
            let changed = self.shared.changed.notified();
            let state = self.state();
            if wanted(state) {
                return state;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("state", &self.state())
            .finish()
    }
}

/// What one attempt is given: its number, and the view of its claim.
#[derive(Debug, Clone)]
pub struct Claim {
    fence: Fence,
    lease: Lease,
}

impl Claim {
    pub(crate) fn new(attempt: u64, lease: Lease) -> Self {
        Self {
            fence: Fence(attempt),
            lease,
        }
    }

    /// The attempt's number.
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// The view of the claim, to be kept by whoever does the work.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}
