//! Which message is handled next: no clock and no Redis, `now` is an argument.
//!
//! What is held, from the moment when it is read until it is known to be acknowledged, is waiting, running,
//! parked, a suspect, or being settled. Suspects run alone, with nothing beside them: when the process ends
//! while one runs, it is known which it was.

#[cfg(feature = "redis")]
mod aside;
mod order;
mod suspects;
#[cfg(all(test, feature = "redis"))]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "redis")]
pub(super) use aside::Aside;
use bytes::Bytes;
use tokio::time::Instant;

use super::Message;

/// The first wait after a failure that says nothing of a wait; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

type Id = Arc<str>;

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Messages that are handled at once.
    pub(super) concurrency: usize,
    /// Messages that are held at once: as many come again after a crash.
    pub(super) window: usize,
    /// Messages of one key one after another.
    pub(super) ordered: bool,
}

#[derive(Debug)]
pub(super) struct Desk {
    limits: Limits,
    held: HashMap<Id, Held>,
    waiting: VecDeque<Id>,
    parked: BTreeSet<(Instant, Id)>,
    suspects: VecDeque<Id>,
    /// The suspect that runs or is about to.
    alone: Option<Id>,
    running: usize,
    /// Where order is kept: the keys of messages that wait, run or are parked, and who waits behind each.
    behind: HashMap<Bytes, VecDeque<Id>>,
    /// Messages that are dead and hold back others of their key.
    #[cfg(feature = "redis")]
    dead: VecDeque<Id>,
    /// Messages whose key is held back on the server.
    #[cfg(feature = "redis")]
    late: VecDeque<Id>,
    /// What is parked or a suspect is not begun any more.
    closing: bool,
}

#[derive(Debug, Default)]
struct Held {
    /// Of a suspect not known before it is started.
    message: Option<Message>,
    suspect: bool,
    /// Of a suspect: the mark of its start, while it may be on the server.
    mark: Option<String>,
    /// Of a suspect: when it may be started.
    not_before: Option<Instant>,
    failures: u32,
    /// Whether it is the one of its key that others wait behind.
    first_of_key: bool,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Handle this message.
    Handle(Message),
    /// Mark the start of this suspect.
    Mark(Id),
}

impl Desk {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            held: HashMap::new(),
            waiting: VecDeque::new(),
            parked: BTreeSet::new(),
            suspects: VecDeque::new(),
            alone: None,
            running: 0,
            behind: HashMap::new(),
            #[cfg(feature = "redis")]
            dead: VecDeque::new(),
            #[cfg(feature = "redis")]
            late: VecDeque::new(),
            closing: false,
        }
    }

    /// From now on only what was read for the first time is begun.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// How many messages may be read now.
    pub(super) fn room(&self) -> usize {
        if self.has_suspects() {
            return 0;
        }
        let ahead = 2 * self.limits.concurrency;
        let window = self.limits.window.saturating_sub(self.held.len());
        window.min(ahead.saturating_sub(self.waiting.len() + self.running))
    }

    #[cfg(feature = "redis")]
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether nothing runs nor is about to.
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.alone.is_none()
    }

    pub(super) fn ids(&self) -> Vec<Id> {
        self.held.keys().cloned().collect()
    }

    pub(super) fn message(&self, id: &str) -> Option<&Message> {
        self.held.get(id).and_then(|held| held.message.as_ref())
    }

    /// Whether a message that is to come again after this wait is better left to the server than parked: where the wait is
    /// long, or half of the window is parked already and more would keep others from being read. No suspect is, nor
    /// anything whose order counts.
    pub(super) fn is_to_leave(&self, id: &str, wait: Duration, park_up_to: Duration) -> bool {
        let is_crowded = self.parked.len() >= self.limits.window / 2;
        !self.limits.ordered && !self.is_suspect(id) && (wait > park_up_to || is_crowded)
    }

    /// New messages, in their order.
    pub(super) fn arrive(&mut self, messages: Vec<Message>) {
        for message in messages {
            let id = Arc::clone(&message.id);
            let key = self.key(&message);
            let held = Held {
                message: Some(message),
                ..Held::default()
            };
            if self.held.insert(Arc::clone(&id), held).is_none() && self.is_first(&id, key) {
                self.waiting.push_back(id);
            }
        }
    }

    /// A new message that is not handled before `at`.
    #[cfg(feature = "kafka")]
    pub(super) fn arrive_parked(&mut self, message: Message, at: Instant) {
        let id = Arc::clone(&message.id);
        let held = Held {
            message: Some(message),
            ..Held::default()
        };
        if self.held.insert(Arc::clone(&id), held).is_none() {
            self.parked.insert((at, id));
        }
    }

    /// What to do next, if anything can be done now. A suspect is started only if all that was to be settled
    /// is settled, or its last mark might still count.
    pub(super) fn next(&mut self, now: Instant, settled: bool) -> Option<Next> {
        if self.alone.is_some() {
            return None;
        }
        if let Some(place) = self.ready_suspect(now) {
            if self.running > 0 || !settled {
                return None;
            }
            let id = self.suspects.remove(place)?;
            self.alone = Some(Arc::clone(&id));
            return Some(Next::Mark(id));
        }
        if self.running >= self.limits.concurrency {
            return None;
        }
        let id = self.due(now).or_else(|| self.waiting.pop_front())?;
        let message = self.held.get(&id)?.message.clone()?;
        self.running += 1;
        Some(Next::Handle(message))
    }

    fn due(&mut self, now: Instant) -> Option<Id> {
        loop {
            let (at, _) = self.parked.first()?;
            if *at > now || self.closing {
                return None;
            }
            let (_, id) = self.parked.pop_first()?;
            let held = self.held.get(&id)?;
            let first_of_key = held.first_of_key;
            let key = held.message.as_ref().and_then(|message| self.key(message));
            // One that was put off before it was first of its key is so now, or waits for who is.
            if first_of_key || self.is_first(&id, key) {
                return Some(id);
            }
        }
    }

    /// A message came back from its handler and is not finished: it is handled again at `again_at`, or
    /// after a wait that grows with its failures. Answers the mark of a suspect.
    pub(super) fn park(&mut self, id: &Id, now: Instant, wait: Option<Duration>) -> Option<String> {
        self.came_back(id);
        let held = self.held.get_mut(id)?;
        let wait = wait.unwrap_or_else(|| {
            held.failures = held.failures.saturating_add(1);
            let doubled = FIRST_WAIT.saturating_mul(1 << held.failures.min(16).saturating_sub(1));
            doubled.min(LONGEST_WAIT)
        });
        if let Some(message) = &mut held.message {
            message.parked = message.parked.saturating_add(1);
        }
        // Beyond what the clock can show is as good as never.
        let at = now
            .checked_add(wait)
            .unwrap_or(now + Duration::from_secs(100 * 365 * 24 * 60 * 60));
        if held.suspect {
            held.not_before = Some(at);
            let mark = held.mark.take();
            match self.limits.ordered {
                true => self.suspects.push_front(Arc::clone(id)),
                false => self.suspects.push_back(Arc::clone(id)),
            }
            return mark;
        }
        self.parked.insert((at, Arc::clone(id)));
        None
    }

    /// A message is finished, and to be acknowledged.
    pub(super) fn finish(&mut self, id: &Id) {
        self.came_back(id);
        self.pass_on(id);
    }

    fn came_back(&mut self, id: &Id) {
        self.running = self.running.saturating_sub(1);
        if self.alone.as_ref() == Some(id) {
            self.alone = None;
        }
    }

    /// A message is acknowledged, or not this consumer's any more.
    pub(super) fn release(&mut self, id: &Id) {
        if self.alone.as_ref() == Some(id) {
            self.alone = None;
        }
        self.pass_on(id);
        self.held.remove(id);
    }

    /// Messages that somebody else holds now. What runs goes on: its end is told all the same.
    pub(super) fn lose(&mut self, ids: &[Id]) {
        for id in ids {
            let count = |desk: &Self| desk.waiting.len() + desk.suspects.len() + desk.parked.len();
            let before = count(self);
            self.waiting.retain(|waiting| waiting != id);
            self.suspects.retain(|suspect| suspect != id);
            self.parked.retain(|(_, parked)| parked != id);
            if count(self) < before {
                self.release(id);
                continue;
            }
            let key = self.message(id).and_then(|message| self.key(message));
            if let Some(behind) = key.and_then(|key| self.behind.get_mut(&key))
                && let Some(place) = behind.iter().position(|waiting| waiting == id)
            {
                behind.remove(place);
                self.held.remove(id);
            }
        }
    }

    /// Everything that is parked, with what is left of its wait.
    pub(super) fn take_parked(&mut self, now: Instant) -> Vec<(Message, Duration)> {
        let parked = std::mem::take(&mut self.parked);
        let left = parked.into_iter().filter_map(|(at, id)| {
            let message = self.held.get(&id)?.message.clone()?;
            Some((message, at.saturating_duration_since(now)))
        });
        left.collect()
    }

    /// Whether a parked message failed, rather than asked for its wait.
    pub(super) fn has_failed(&self, id: &str) -> bool {
        self.held.get(id).is_some_and(|held| held.failures > 0)
    }

    /// When something may be done without anything happening before. What is due and was not begun waits
    /// for something to happen.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let parked = self.parked.iter().map(|(at, _)| *at);
        let parked = parked.take(self.limits.concurrency).find(|at| *at > now);
        let suspects = self.suspects.iter();
        let suspect = suspects
            .filter_map(|id| self.held.get(id)?.not_before)
            .filter(|at| *at > now)
            .min();
        parked.into_iter().chain(suspect).min()
    }
}
