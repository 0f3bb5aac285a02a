//! What was fetched and not read yet, partition by partition.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use crate::log::{Chunk, Entry, Position, Reader};

/// Records in a queue at which its partition is paused, and at which it goes on.
const FULL: usize = 4_000;
const ROOM: usize = 1_000;

/// Bytes in a queue at which its partition is paused.
const FULL_BYTES: usize = 4 * 1024 * 1024;

/// The queues of all partitions.
#[derive(Debug)]
pub(super) struct Queues(Vec<Queue>);

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    arrived: Notify,
    end: watch::Sender<Position>,
    reader: watch::Sender<Reader>,
}

#[derive(Debug, Default)]
struct State {
    records: VecDeque<Entry>,
    bytes: usize,
    /// The position before the first record here; unknown until somebody asked for one.
    from: Option<Position>,
    /// The position after the last.
    to: Position,
    paused: bool,
    /// The brokers do not have what was asked for.
    lost: bool,
    commit: Option<Position>,
}

/// What a reader gets.
pub(super) enum Taken {
    /// Some records, and whether there is room again for others.
    Records { chunk: Chunk, resume: bool },
    /// None yet.
    Nothing,
    /// The queue stands elsewhere in the partition.
    Elsewhere,
    /// The brokers do not have them.
    Lost,
}

impl Queues {
    pub(super) fn new(partitions: u16) -> Self {
        let queue = |_| Queue {
            state: Mutex::default(),
            arrived: Notify::new(),
            end: watch::Sender::new(Position(0)),
            reader: watch::Sender::new(Reader::Unknown),
        };
        Self((0..partitions).map(queue).collect())
    }

    pub(super) fn count(&self) -> u16 {
        self.0.len().try_into().expect("made from a u16")
    }

    fn queue(&self, partition: u16) -> &Queue {
        self.0
            .get(usize::from(partition))
            .expect("the log has the partition")
    }

    /// Is told of what arrives next.
    pub(super) fn arrived(&self, partition: u16) -> Notified<'_> {
        self.queue(partition).arrived.notified()
    }

    pub(super) fn end(&self, partition: u16) -> Position {
        *self.queue(partition).end.borrow()
    }

    pub(super) fn follow_end(&self, partition: u16) -> watch::Receiver<Position> {
        self.queue(partition).end.subscribe()
    }

    pub(super) fn follow_reader(&self, partition: u16) -> watch::Receiver<Reader> {
        self.queue(partition).reader.subscribe()
    }

    pub(super) fn is_here(&self, partition: u16) -> bool {
        *self.queue(partition).reader.borrow() == Reader::Here
    }

    /// The partition is at least so long.
    pub(super) fn reaches(&self, partition: u16, end: Position) {
        self.queue(partition).end.send_if_modified(|known| {
            let further = end > *known;
            *known = end.max(*known);
            further
        });
    }

    /// Takes records from a position on.
    pub(super) fn take(&self, partition: u16, from: Position, max: usize) -> Taken {
        let mut state = self.queue(partition).lock();
        if state.from != Some(from) {
            return Taken::Elsewhere;
        }
        if state.lost {
            return Taken::Lost;
        }
        let max = max.min(state.records.len());
        let Some(last) = max.checked_sub(1).and_then(|last| state.records.get(last)) else {
            return Taken::Nothing;
        };
        let next = Position(last.offset + 1);
        let entries: Vec<Entry> = state.records.drain(..max).collect();
        state.bytes -= entries
            .iter()
            .map(|entry| entry.payload.len())
            .sum::<usize>();
        state.from = Some(next);
        let resume = state.paused && state.records.len() <= ROOM;
        if resume {
            state.paused = false;
        }
        Taken::Records {
            chunk: Chunk { entries, next },
            resume,
        }
    }

    /// Puts in a record. Answers whether the partition is to be paused now.
    pub(super) fn push(&self, partition: u16, entry: Entry) -> bool {
        let queue = self.queue(partition);
        let mut state = queue.lock();
        // From before a seek, or nobody asked for anything yet.
        if state.from.is_none() || entry.offset < state.to.0 {
            return false;
        }
        state.to = Position(entry.offset + 1);
        state.bytes += entry.payload.len();
        state.records.push_back(entry);
        let full = state.records.len() >= FULL || state.bytes >= FULL_BYTES;
        let pause = full && !state.paused;
        state.paused |= full;
        let end = state.to;
        drop(state);
        queue.arrived.notify_waiters();
        self.reaches(partition, end);
        pause
    }

    /// Forgets what is there: the next record will be at `from` or above.
    pub(super) fn restart(&self, partition: u16, from: Option<Position>) {
        let mut state = self.queue(partition).lock();
        let commit = state.commit.take();
        *state = State {
            from,
            to: from.unwrap_or_default(),
            commit,
            ..State::default()
        };
    }

    /// The brokers do not have what these partitions want: whoever waits learns of it.
    pub(super) fn lose(&self) {
        for queue in &self.0 {
            let mut state = queue.lock();
            if state.from.is_some() && state.records.is_empty() {
                state.lost = true;
                drop(state);
                queue.arrived.notify_waiters();
            }
        }
    }

    /// Says who reads which partition, after those whose place is not known yet.
    pub(super) fn assign(&self, partitions: &[u16], to: Reader) {
        for partition in partitions {
            self.restart(*partition, None);
            self.queue(*partition).reader.send_replace(to);
        }
        for queue in &self.0 {
            queue.reader.send_if_modified(|reader| {
                let unknown = *reader == Reader::Unknown;
                if unknown {
                    *reader = Reader::Elsewhere;
                }
                unknown
            });
        }
    }

    pub(super) fn commit(&self, partition: u16, position: Position) {
        self.queue(partition).lock().commit = Some(position);
    }

    /// What is to be committed of the partitions that are read here.
    pub(super) fn take_commits(&self) -> Vec<(u16, Position)> {
        let mut commits = Vec::new();
        for partition in 0..self.count() {
            let commit = self.queue(partition).lock().commit.take();
            commits.extend(
                commit
                    .filter(|_| self.is_here(partition))
                    .map(|position| (partition, position)),
            );
        }
        commits
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that may panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entry(offset: u64) -> Entry {
        Entry {
            offset,
            payload: Bytes::from_static(b"x"),
        }
    }

    fn offsets(taken: Taken) -> Vec<u64> {
        let Taken::Records { chunk, .. } = taken else {
            return Vec::new();
        };
        chunk.entries.iter().map(|entry| entry.offset).collect()
    }

    #[test]
    fn records_are_taken_in_order_and_the_position_is_behind_the_last() {
        let queues = Queues::new(1);
        queues.restart(0, Some(Position(5)));
        for offset in [5, 6, 9] {
            queues.push(0, entry(offset));
        }
        assert_eq!(queues.end(0), Position(10));
        assert_eq!(offsets(queues.take(0, Position(5), 2)), [5, 6]);
        assert_eq!(offsets(queues.take(0, Position(7), 2)), [9]);
        assert!(matches!(queues.take(0, Position(10), 2), Taken::Nothing));
        assert!(matches!(queues.take(0, Position(7), 2), Taken::Elsewhere));
    }

    #[test]
    fn what_was_fetched_before_a_seek_is_not_read_after_it() {
        let queues = Queues::new(1);
        // Nobody has said from where on.
        queues.push(0, entry(40));
        queues.restart(0, Some(Position(50)));
        queues.push(0, entry(41));
        queues.push(0, entry(50));
        assert_eq!(offsets(queues.take(0, Position(50), 10)), [50]);
    }

    #[test]
    fn a_full_queue_pauses_once_and_goes_on_when_there_is_room() {
        let queues = Queues::new(1);
        queues.restart(0, Some(Position(0)));
        let pauses = (0..FULL as u64 + 10).filter(|n| queues.push(0, entry(*n)));
        assert_eq!(pauses.count(), 1);
        let (mut at, mut resumed) = (Position(0), 0);
        while let Taken::Records { chunk, resume } = queues.take(0, at, 500) {
            at = chunk.next;
            resumed += u32::from(resume);
        }
        assert_eq!((at, resumed), (Position(FULL as u64 + 10), 1));
    }

    #[test]
    fn partitions_that_nobody_named_are_read_elsewhere_once_any_is_assigned() {
        let queues = Queues::new(3);
        queues.assign(&[1], Reader::Here);
        assert!(queues.is_here(1));
        assert_eq!(*queues.follow_reader(0).borrow(), Reader::Elsewhere);
        queues.commit(0, Position(4));
        queues.commit(1, Position(7));
        assert_eq!(queues.take_commits(), [(1, Position(7))]);
    }
}
