//! Messages whose worker is gone. One of them ended it, maybe: they run alone, and each start is marked first.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Desk, Held, Id};
use crate::Message;

impl Desk {
    /// Messages whose worker is gone, in their order. Answers those that are news.
    pub(in crate::consumer) fn suspect(&mut self, ids: Vec<Id>) -> Vec<Id> {
        let mut news = Vec::new();
        for id in ids {
            // One of our own that was not held in time is in good hands.
            if self.held.contains_key(&id) {
                continue;
            }
            let held = Held {
                suspect: true,
                ..Held::default()
            };
            self.held.insert(Arc::clone(&id), held);
            self.suspects.push_back(Arc::clone(&id));
            news.push(id);
        }
        news
    }

    pub(in crate::consumer) fn is_suspect(&self, id: &str) -> bool {
        self.held.get(id).is_some_and(|held| held.suspect)
    }

    pub(super) fn has_suspects(&self) -> bool {
        self.alone.is_some() || !self.suspects.is_empty()
    }

    /// How many suspects there is room for.
    #[cfg(feature = "redis")]
    pub(in crate::consumer) fn room_for_suspects(&self) -> usize {
        match self.has_suspects() {
            true => 0,
            false => self.limits.window.saturating_sub(self.held.len()),
        }
    }

    /// The suspect that runs or is about to.
    #[cfg(feature = "kafka")]
    pub(in crate::consumer) fn about_to_start(&self) -> Option<&Id> {
        self.alone.as_ref()
    }

    pub(super) fn ready_suspect(&self, now: Instant) -> Option<usize> {
        if self.closing {
            return None;
        }
        let ready = |id: &Id| {
            let not_before = self.held.get(id).and_then(|held| held.not_before);
            not_before.is_none_or(|at| at <= now)
        };
        if self.limits.ordered {
            // What was held before them comes before them, and the first comes first.
            let first = self.suspects.front()?;
            let is_first = self.waiting.is_empty() && self.parked.is_empty();
            return (is_first && ready(first)).then_some(0);
        }
        self.suspects.iter().position(ready)
    }

    /// The mark for the start of a suspect: the one that may be on the server already, or a new one.
    #[cfg(feature = "redis")]
    pub(in crate::consumer) fn mark(
        &mut self,
        id: &str,
        new: impl FnOnce() -> String,
    ) -> Option<String> {
        let held = self.held.get_mut(id)?;
        Some(held.mark.get_or_insert_with(new).clone())
    }

    /// The start of a suspect is marked: it runs.
    pub(in crate::consumer) fn marked(&mut self, message: Message) {
        self.running += 1;
        if let Some(held) = self.held.get_mut(&*message.id) {
            held.message = Some(message);
        }
    }

    /// It is not known whether the start of a suspect is marked: it is tried again at that time.
    #[cfg(feature = "redis")]
    pub(in crate::consumer) fn not_marked(&mut self, id: &Id, again_at: Instant) {
        self.alone = None;
        if let Some(held) = self.held.get_mut(id) {
            held.not_before = Some(again_at);
            self.suspects.push_front(Arc::clone(id));
        }
    }
}
