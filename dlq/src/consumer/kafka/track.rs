//! Where a partition stands: what is done, what may be begun, and what a group keeps about it. No clock and no Kafka.
//!
//! The offset that is committed is the lowest that is not done. Beside it, as the commit's metadata, lies what the next
//! owner has to know if this one dies: up to where messages may have been begun, and which suspects were started how
//! often. Nothing is begun beyond what the brokers know of.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::{Message, consumer::message::At};

/// The version of the metadata. Anything else is not ours.
const VERSION: &str = "seawall1";
/// Starts that are kept: a commit's metadata holds 4 KiB, and each is of a crash.
const MOST_STARTS: usize = 100;
/// Records that are deleted together.
const WORTH_IT: i64 = 1000;

/// What is committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Mark {
    /// The lowest offset that is not done.
    pub(super) position: i64,
    /// Below this offset messages may have been begun; where nobody is at work there is none.
    pub(super) open: Option<i64>,
    /// How often a suspect was started and did not come back, by offset.
    pub(super) starts: BTreeMap<i64, u32>,
}

impl Mark {
    /// The metadata of its commit.
    pub(super) fn metadata(&self) -> String {
        let Some(open) = self.open else {
            return String::new();
        };
        let mut text = format!("{VERSION} {open}");
        for (offset, starts) in self.starts.iter().take(MOST_STARTS) {
            text.push_str(&format!(" {offset}:{starts}"));
        }
        text
    }

    /// What a commit says. Metadata of others says nothing.
    pub(super) fn read(position: i64, metadata: &str) -> Self {
        let clean = Self {
            position,
            ..Self::default()
        };
        let mut words = metadata.split(' ');
        if words.next() != Some(VERSION) {
            return clean;
        }
        let Some(open) = words.next().and_then(|word| word.parse().ok()) else {
            return clean;
        };
        let starts = words.filter_map(|word| {
            let (offset, starts) = word.split_once(':')?;
            Some((offset.parse().ok()?, starts.parse().ok()?))
        });
        Self {
            open: Some(open),
            starts: starts.collect(),
            ..clean
        }
    }
}

#[derive(Debug)]
pub(super) struct Track {
    /// Tells this assignment of the partition from those before.
    pub(super) epoch: u64,
    /// It is being given back: nothing of it is begun any more.
    pub(super) leaving: bool,
    /// The brokers are not asked for more of it until something is done.
    pub(super) paused: bool,
    known: Mark,
    next: i64,
    unfinished: BTreeSet<i64>,
    starts: BTreeMap<i64, u32>,
    suspects_until: i64,
    /// Before this nobody needs what lies there.
    deleted: i64,
    /// Read, and beyond what may be begun.
    ahead: VecDeque<(Message, Duration)>,
}

impl Track {
    /// A partition whose group left it so.
    pub(super) fn new(epoch: u64, left: Mark) -> Self {
        Self {
            epoch,
            leaving: false,
            paused: false,
            next: left.position,
            deleted: left.position,
            unfinished: BTreeSet::new(),
            starts: left.starts,
            suspects_until: left.open.unwrap_or(left.position),
            ahead: VecDeque::new(),
            // That somebody is at work has to be written before anything is begun.
            known: Mark {
                position: left.position,
                ..Mark::default()
            },
        }
    }

    /// The lowest offset that is not done.
    pub(super) fn position(&self) -> i64 {
        let ahead = self.ahead.front().map(|(message, _)| offset(message));
        let first = self.unfinished.first().copied().or(ahead);
        first.unwrap_or(self.next)
    }

    /// The next record, to be begun when it may be. One that was here already is not taken.
    /// `wait` is handed on with it.
    pub(super) fn read(&mut self, message: Message, wait: Duration) {
        let last = self.ahead.back();
        let next = last.map_or(self.next, |(last, _)| offset(last) + 1);
        if offset(&message) >= next {
            self.ahead.push_back((message, wait));
        }
    }

    /// A record that is no message.
    pub(super) fn pass(&mut self, offset: i64) {
        if self.ahead.is_empty() {
            self.next = self.next.max(offset + 1);
        }
    }

    /// The next message that may be begun: one so far from what is done that the brokers know of it.
    pub(super) fn admit(&mut self) -> Option<(Message, Duration)> {
        let open = self.known.open?;
        let at = offset(&self.ahead.front()?.0);
        if at >= open {
            return None;
        }
        self.next = at + 1;
        self.unfinished.insert(at);
        self.ahead.pop_front()
    }

    /// Whether something waits for what the brokers know.
    pub(super) fn is_held_up(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether a message of this offset may have been begun by an owner that is gone.
    pub(super) fn is_suspect(&self, offset: i64) -> bool {
        offset < self.suspects_until
    }

    pub(super) fn finish(&mut self, offset: i64) {
        self.unfinished.remove(&offset);
        self.starts.remove(&offset);
    }

    /// How often a suspect was started and did not come back.
    pub(super) fn starts(&self, offset: i64) -> u32 {
        self.starts.get(&offset).copied().unwrap_or_default()
    }

    /// A suspect is about to start: to be committed first.
    pub(super) fn start(&mut self, offset: i64) {
        *self.starts.entry(offset).or_default() += 1;
    }

    /// A suspect came back, however it ended.
    pub(super) fn came_back(&mut self, offset: i64) {
        self.starts.remove(&offset);
    }

    /// What is to be committed, where that is not what the brokers know. Nothing is begun that is further than
    /// `window` from what is done; with none, nothing is begun any more.
    pub(super) fn mark(&self, window: Option<i64>) -> Option<Mark> {
        let position = self.position();
        let mark = Mark {
            position,
            // What was begun stays said until it is done, also where the window has become smaller.
            open: window.map(|window| self.next.max(position + window)),
            starts: match window {
                Some(_) => self.starts.clone(),
                None => BTreeMap::new(),
            },
        };
        (mark != self.known).then_some(mark)
    }

    /// Before which offset records can be deleted where nobody else reads them, when it is worth it.
    pub(super) fn worth_deleting(&mut self, mark: &Mark) -> Option<i64> {
        let worth_it = mark.position - self.deleted >= WORTH_IT;
        worth_it.then(|| {
            self.deleted = mark.position;
            mark.position
        })
    }

    /// The brokers know this.
    pub(super) fn committed(&mut self, mark: Mark) {
        self.known = mark;
    }
}

/// The offset of a message, which lies in a topic.
pub(super) fn offset(message: &Message) -> i64 {
    match message.at {
        At::Record { offset, .. } => i64::try_from(offset).unwrap_or(i64::MAX),
        At::Entry => unreachable!("it was read from a topic"),
    }
}

#[cfg(test)]
mod tests;
