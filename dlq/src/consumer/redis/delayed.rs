//! Messages that are put off on the server: in a sorted set by when they are due, by its clock.

use std::{sync::Arc, time::Duration};

use ::redis::Value;
use bytes::Bytes;
use seawall_redis::Error;

use super::{
    entry,
    group::{Group, nonsense},
    scripts::{DELAY, MOVE},
};
use crate::{ConfigError, Message, names};

/// Messages that are put back into the stream by one script.
const MOVED_AT_ONCE: &str = "100";
/// A message of more fields is not put off on the server: a script can hand on so many.
const MOST_FIELDS: usize = 1000;

/// The names of what is put off.
#[derive(Debug)]
pub(super) struct Delayed {
    set: String,
    messages: String,
}

impl Delayed {
    pub(super) fn new(stream: &str, group: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            set: names::beside(stream, &format!(":{group}:delayed"))?,
            messages: names::beside(stream, &format!(":{group}:delayed:messages"))?,
        })
    }
}

impl Group {
    /// Whether a message can be put off on the server.
    pub(super) fn can_delay(message: &Message) -> bool {
        message.headers.len() + 4 <= MOST_FIELDS
    }

    /// Puts a message off until so long from now, by the server's clock, and acknowledges it.
    pub(super) async fn delay(&self, message: &Message, wait: Duration) -> Result<(), Error> {
        let id = message.to_letter().id().to_string();
        // Rounded up: never early.
        let wait = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        // Beyond what a score holds exactly nothing is due anyway.
        let wait = wait.min(1 << 50).to_string();
        let fields: Vec<(Arc<str>, Bytes)> = entry::to_put_off(message);
        let mut args = vec![message.id.as_bytes(), id.as_bytes(), wait.as_bytes()];
        for (name, value) in &fields {
            args.extend([name.as_bytes(), &value[..]]);
        }
        let (names, delayed) = (self.names(), self.delayed());
        let keys = [
            names.stream.as_bytes(),
            names.starts.as_bytes(),
            delayed.set.as_bytes(),
            delayed.messages.as_bytes(),
        ];
        self.script(&DELAY, &keys, false, &args).await.map(drop)
    }

    /// Puts back what is due. Answers how many, and how long until the next.
    pub(super) async fn put_back(&self) -> Result<(u64, Option<Duration>), Error> {
        let delayed = self.delayed();
        let keys = [
            self.stream().as_bytes(),
            delayed.set.as_bytes(),
            delayed.messages.as_bytes(),
        ];
        let most = MOVED_AT_ONCE.as_bytes();
        match self.client().script(&MOVE, &keys, &[most]).await? {
            Value::Array(answer) => match &answer[..] {
                [Value::Int(moved), Value::Int(next)] => Ok((
                    u64::try_from(*moved).unwrap_or_default(),
                    u64::try_from(*next).ok().map(Duration::from_millis),
                )),
                _ => Err(nonsense()),
            },
            _ => Err(nonsense()),
        }
    }
}
