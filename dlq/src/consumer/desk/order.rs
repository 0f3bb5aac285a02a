//! Messages of one key one after another: who is first, and who waits behind.

use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::Arc,
};

use bytes::Bytes;

use super::{Desk, Id};
use crate::Message;

impl Desk {
    pub(super) fn key(&self, message: &Message) -> Option<Bytes> {
        message.key.clone().filter(|_| self.limits.ordered)
    }

    /// Whether nothing of its key is in front of a message. Else it waits behind that.
    pub(super) fn is_first(&mut self, id: &Id, key: Option<Bytes>) -> bool {
        let Some(key) = key else {
            return true;
        };
        match self.behind.entry(key) {
            Entry::Occupied(behind) => {
                behind.into_mut().push_back(Arc::clone(id));
                return false;
            }
            Entry::Vacant(behind) => drop(behind.insert(VecDeque::new())),
        }
        if let Some(held) = self.held.get_mut(id) {
            held.first_of_key = true;
        }
        true
    }

    /// The next of its key goes on.
    pub(super) fn pass_on(&mut self, id: &Id) {
        let Some(held) = self.held.get_mut(id).filter(|held| held.first_of_key) else {
            return;
        };
        held.first_of_key = false;
        let Some(key) = held
            .message
            .as_ref()
            .and_then(|message| message.key.clone())
        else {
            return;
        };
        let Some(next) = self.behind.get_mut(&key).and_then(VecDeque::pop_front) else {
            self.behind.remove(&key);
            return;
        };
        if let Some(held) = self.held.get_mut(&next) {
            held.first_of_key = true;
        }
        // It came before those that are waiting.
        self.waiting.push_front(next);
    }
}
