//! Messages that go on only after another of their key which is dead, or waits for long: they are set aside on the
//! server, so that they neither overtake it nor fill the window.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{Desk, Id};
use crate::Message;

/// Messages of one key that go on only after another of it.
#[derive(Debug, Clone)]
pub(in crate::consumer) struct Aside {
    pub(in crate::consumer) key: Bytes,
    /// The message that they wait for, if that is news.
    pub(in crate::consumer) by: Option<Message>,
    /// Whether it is dead.
    pub(in crate::consumer) dead: bool,
    /// In their order.
    pub(in crate::consumer) messages: Vec<Message>,
}

impl Desk {
    /// A message is dead, and holds back those of its key, if it has one and order is kept.
    pub(in crate::consumer) fn died(&mut self, id: &Id) -> bool {
        let keyed = self
            .message(id)
            .and_then(|message| self.key(message))
            .is_some();
        if keyed {
            self.came_back(id);
            self.dead.push_back(Arc::clone(id));
        }
        keyed
    }

    /// A message that is to be set aside: its key is held back on the server.
    pub(in crate::consumer) fn arrive_late(&mut self, message: Message) {
        let id = Arc::clone(&message.id);
        if self.alone.as_ref() == Some(&id) {
            self.alone = None;
        }
        let held = self.held.entry(Arc::clone(&id)).or_default();
        held.message = Some(message);
        self.late.push_back(id);
    }

    /// Whether something is to be set aside.
    pub(in crate::consumer) fn has_aside(&self) -> bool {
        !self.dead.is_empty() || !self.late.is_empty() || self.crowd().is_some()
    }

    /// A parked message behind which so many wait that there is little room for others: the one with most.
    fn crowd(&self) -> Option<Id> {
        if self.held.len() < self.limits.window / 2 || self.closing {
            return None;
        }
        let behind = |id: &Id| {
            let key = self.message(id).and_then(|message| message.key.as_ref());
            key.and_then(|key| self.behind.get(key))
                .map_or(0, VecDeque::len)
        };
        let parked = self.parked.iter().map(|(_, id)| (behind(id), id));
        let (most, id) = parked.max_by_key(|(behind, _)| *behind)?;
        (most > 0 && self.held.get(id)?.first_of_key).then(|| Arc::clone(id))
    }

    /// Takes what is to be set aside for one key. It is held until [`set_aside`](Self::set_aside).
    pub(in crate::consumer) fn take_aside(&mut self) -> Option<Aside> {
        let dead = self.dead.pop_front();
        let is_dead = dead.is_some();
        if let Some(id) = dead.or_else(|| self.crowd()) {
            let held = self.held.get(&id)?;
            let by = held.message.clone()?;
            let key = by.key.clone()?;
            let behind = self.behind.get_mut(&key).filter(|_| held.first_of_key);
            let messages = behind.map(std::mem::take).unwrap_or_default();
            let messages = messages.iter().filter_map(|id| self.message(id).cloned());
            return Some(Aside {
                messages: messages.collect(),
                key,
                by: Some(by),
                dead: is_dead,
            });
        }
        let key = self.message(self.late.front()?)?.key.clone()?;
        let mut messages = Vec::new();
        for id in std::mem::take(&mut self.late) {
            match self.message(&id) {
                Some(message) if message.key.as_ref() == Some(&key) => {
                    messages.push(message.clone())
                }
                _ => self.late.push_back(id),
            }
        }
        Some(Aside {
            key,
            by: None,
            dead: false,
            messages,
        })
    }

    /// What was taken to be set aside is so.
    pub(in crate::consumer) fn set_aside(&mut self, aside: &Aside) {
        for message in &aside.messages {
            self.held.remove(&message.id);
        }
        if let Some(dead) = aside.by.as_ref().filter(|_| aside.dead) {
            self.release(&dead.id);
        }
    }
}
