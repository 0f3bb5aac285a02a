//! Letting a consumer stand still for a while.

use std::sync::Arc;

use tokio::sync::watch;

/// Stops consumers from beginning messages, and lets them go on. Clones are the same switch.
///
/// For the time when what messages need is known to be out: what waits is neither lost nor given to another consumer of
/// the group.
///
/// ```
/// use seawall_dlq::Pause;
///
/// let pause = Pause::new();
/// let elsewhere = pause.clone();
/// elsewhere.pause();
/// assert!(pause.is_paused());
/// pause.resume();
/// assert!(!elsewhere.is_paused());
/// ```
#[derive(Debug, Clone)]
pub struct Pause {
    paused: Arc<watch::Sender<bool>>,
}

impl Pause {
    /// One that is not paused.
    pub fn new() -> Self {
        Self {
            paused: Arc::new(watch::Sender::new(false)),
        }
    }

    /// From now on no message is begun.
    pub fn pause(&self) {
        self.paused.send_replace(true);
    }

    /// Messages are begun again.
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// Whether it is paused now.
    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Completes at the next change.
    pub(super) fn watch(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }
}

impl Default for Pause {
    fn default() -> Self {
        Self::new()
    }
}
