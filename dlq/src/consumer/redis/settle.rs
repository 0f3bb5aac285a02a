//! Starts of suspects, which are marked, and ends of messages, which are acknowledged.

use std::sync::Arc;

use ::redis::Value;
use bytes::Bytes;
use seawall_redis::Error;

use super::{
    entry,
    group::{Group, nonsense, word},
    held::origin_of,
    scripts::{SETTLE, SETTLE_IN_ORDER, START},
};
use crate::Message;

/// What becomes of a suspect.
#[derive(Debug)]
pub(super) enum Start {
    /// It may run: its start is marked.
    Run(Message),
    /// It has been started so often, and none came back.
    Poison(Message, u32),
    /// It is with another consumer now, or acknowledged.
    Elsewhere,
    /// It is not in the stream any more.
    Gone,
    /// Its key is held back.
    Late(Message),
}

/// What is settled with one script.
#[derive(Debug, Default, Clone)]
pub(super) struct Settlement {
    /// Messages that are done.
    pub(super) done: Vec<Finished>,
    /// Suspects that ran and came back, each with its mark.
    pub(super) came_back: Vec<(Arc<str>, String)>,
}

/// A message that is done, and where order is kept its key and its origin: others may wait for it.
#[derive(Debug, Clone)]
pub(super) struct Finished {
    pub(super) id: Arc<str>,
    of: Option<(Bytes, Vec<u8>)>,
}

impl Finished {
    /// Of a message whose order counts.
    pub(super) fn in_order(message: &Message) -> Self {
        let key = message.key.clone();
        Self {
            id: Arc::clone(&message.id),
            of: key.map(|key| (key, origin_of(message))),
        }
    }
}

impl From<Arc<str>> for Finished {
    fn from(id: Arc<str>) -> Self {
        Self { id, of: None }
    }
}

impl Settlement {
    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.came_back.is_empty()
    }

    /// Takes some of it out, at most so many of each kind.
    pub(super) fn take(&mut self, most: usize) -> Self {
        Self {
            done: self.done.drain(..most.min(self.done.len())).collect(),
            came_back: self
                .came_back
                .drain(..most.min(self.came_back.len()))
                .collect(),
        }
    }

    pub(super) fn put_back(&mut self, other: Self) {
        self.done.extend(other.done);
        self.came_back.extend(other.came_back);
    }
}

impl Group {
    /// Marks the start of a suspect, before it is started.
    pub(super) async fn start(
        &self,
        id: &str,
        mark: &str,
        most: u32,
        in_order: bool,
    ) -> Result<Start, Error> {
        let most = most.to_string();
        let args = [id.as_bytes(), mark.as_bytes(), most.as_bytes()];
        let names = self.names();
        let mut keys = vec![names.stream.as_bytes(), names.starts.as_bytes()];
        keys.extend(in_order.then_some(names.held.as_bytes()));
        let answer = self.script(&START, &keys, true, &args).await?;
        let Value::Array(parts) = answer else {
            return Err(nonsense());
        };
        let mut parts = parts.into_iter();
        let what = parts.next().and_then(word);
        let mut message = || {
            let (count, fields) = (parts.next(), parts.next());
            let (Some(Value::Int(count)), Some(Value::Array(fields))) = (count, fields) else {
                return Err(nonsense());
            };
            let message = entry::from_fields(self.stream(), id.into(), fields);
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            message.map(|message| (message, count)).ok_or_else(nonsense)
        };
        match what.as_deref() {
            Some("start") => Ok(Start::Run(message()?.0)),
            Some("poison") => message().map(|(message, count)| Start::Poison(message, count)),
            Some("late") => Ok(Start::Late(message()?.0)),
            Some("elsewhere") => Ok(Start::Elsewhere),
            Some("gone") => Ok(Start::Gone),
            _ => Err(nonsense()),
        }
    }

    pub(super) async fn settle(
        &self,
        settlement: &Settlement,
        in_order: bool,
    ) -> Result<(), Error> {
        let done = settlement.done.len().to_string();
        let mut args = vec![done.as_bytes()];
        let keyed: Vec<_> = settlement
            .done
            .iter()
            .map(|done| match &done.of {
                Some((key, origin)) => ([b"k", &key[..]].concat(), &origin[..]),
                None => Default::default(),
            })
            .collect();
        for (done, (key, origin)) in settlement.done.iter().zip(&keyed) {
            args.push(done.id.as_bytes());
            if in_order {
                args.extend([&key[..], origin]);
            }
        }
        for (id, mark) in &settlement.came_back {
            args.extend([id.as_bytes(), mark.as_bytes()]);
        }
        let keys = self.names().all();
        let settled = match in_order {
            true => self.script(&SETTLE_IN_ORDER, &keys, false, &args).await,
            false => self.script(&SETTLE, &keys[..2], false, &args).await,
        };
        settled.map(drop)
    }
}
