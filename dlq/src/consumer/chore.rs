//! What a consumer does again and again.

use std::time::Duration;

use tokio::time::Instant;

/// Something that is done again and again, once at a time.
#[derive(Debug)]
pub(super) struct Chore {
    pub(super) at: Instant,
    pub(super) busy: bool,
}

impl Chore {
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            busy: false,
        }
    }

    pub(super) fn begin(&mut self, now: Instant) -> bool {
        let begin = !self.busy && self.at <= now;
        self.busy |= begin;
        begin
    }

    pub(super) fn again_in(&mut self, wait: Duration) {
        self.busy = false;
        self.at = Instant::now() + wait;
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        (!self.busy).then_some(self.at)
    }
}
