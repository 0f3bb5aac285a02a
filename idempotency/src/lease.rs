//! What a handler is told about its claim.

use std::future;

use tokio::sync::watch;

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
#[derive(Debug, Clone)]
pub struct Lease {
    state: watch::Receiver<LeaseState>,
}

impl Lease {
    pub(crate) fn new(state: watch::Receiver<LeaseState>) -> Self {
        Self { state }
    }

    /// How the claim stands now.
    pub fn state(&self) -> LeaseState {
        *self.state.borrow()
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

    async fn reaches(&mut self, wanted: impl Fn(LeaseState) -> bool) -> LeaseState {
        // Without its guard, which cannot be sent to another thread.
        let state = self
            .state
            .wait_for(|state| wanted(*state))
            .await
            .ok()
            .map(|state| *state);
        match state {
            Some(state) => state,
            None => future::pending().await,
        }
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
