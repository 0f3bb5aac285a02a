//! The one way in which a record changes: compare exact bytes, and swap.

use std::time::Duration;

use bytes::Bytes;

use super::{Answer, Completed, Pending, Record};

/// A change of a record, good for exactly the bytes that it names.
///
/// A swap may be sent twice, by a cluster client for instance: the second copy finds the new bytes
/// and says [`Swapped::Already`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Swap {
    from: Vec<Bytes>,
    from_nothing: bool,
    to: Bytes,
    keep_for: Duration,
}

/// What a swap found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Swapped {
    /// The record was as named, and is changed now.
    Applied,
    /// The record was changed already, by an earlier copy of this swap.
    Already,
    /// The record is another one, and was left as it is. `None`: there is no record.
    Lost(Option<Bytes>),
}

impl Swap {
    /// The owner is alive: its next heartbeat for its last one.
    pub fn renew(current: &Pending) -> Self {
        let next = current.beat();
        Self {
            from: vec![current.encode()],
            from_nothing: false,
            to: next.encode(),
            keep_for: next.retention(),
        }
    }

    /// The owner is done.
    ///
    /// `held` is every form which its claim may have in the store: the last heartbeat that was
    /// confirmed, and the one on its way. Where there is no record any more, the answer is stored
    /// too: nobody else has claimed the key.
    pub fn complete(held: &[Pending], answer: Answer) -> Self {
        let mine = &held[0];
        let completed = Record::Completed(Completed {
            owner: mine.owner,
            attempt: mine.attempt,
            fingerprint: mine.fingerprint,
            answer,
        });
        Self::away(held, completed)
    }

    /// The owner did nothing, and gives its claim up.
    ///
    /// It leaves the number of its attempt behind. Were the record deleted, numbers would start
    /// again from 1, and a stalled owner of an earlier attempt would pass the fence. Where there
    /// is no record (yet), the number is written all the same, so that a late copy of the claim
    /// finds its place taken.
    pub fn release(held: &[Pending]) -> Self {
        Self::away(
            held,
            Record::Released {
                attempt: held[0].attempt,
            },
        )
    }

    /// `mine` for what an abandoned or released attempt left behind.
    pub fn take(found: Bytes, mine: &Pending) -> Self {
        Self {
            from: vec![found],
            from_nothing: false,
            to: mine.encode(),
            keep_for: mine.retention(),
        }
    }

    /// Puts an end to a [`take`](Self::take) whose fate is unknown: whether it was carried out, is
    /// on its way or got lost, the attempt is released and a late copy of it finds nothing to swap.
    pub fn untake(found: Bytes, mine: &Pending) -> Self {
        let mut swap = Self::away(
            std::slice::from_ref(mine),
            Record::Released {
                attempt: mine.attempt,
            },
        );
        swap.from.push(found);
        swap.from_nothing = false;
        swap
    }

    /// Changes nothing, and says what lies there as [`Swapped::Lost`].
    pub fn look() -> Self {
        // No attempt has this number, so no record has these bytes.
        let nowhere = Record::Released { attempt: 0 };
        Self {
            from: Vec::new(),
            from_nothing: false,
            to: nowhere.encode(),
            keep_for: Duration::ZERO,
        }
    }

    /// `to` for exactly what was found: for changes that an operator makes.
    pub fn replace(found: Bytes, to: &Record, keep_for: Duration) -> Self {
        Self {
            from: vec![found],
            from_nothing: false,
            to: to.encode(),
            keep_for,
        }
    }

    fn away(held: &[Pending], to: Record) -> Self {
        Self {
            from: held.iter().map(Pending::encode).collect(),
            from_nothing: true,
            to: to.encode(),
            keep_for: held[0].retention(),
        }
    }

    /// The bytes that it replaces, any of them.
    pub fn from(&self) -> &[Bytes] {
        &self.from
    }

    /// Whether it writes where there is no record.
    pub fn from_nothing(&self) -> bool {
        self.from_nothing
    }

    /// The bytes that it writes.
    pub fn to(&self) -> &Bytes {
        &self.to
    }

    /// For how long the store keeps what was written.
    pub fn keep_for(&self) -> Duration {
        self.keep_for
    }

    /// What this swap makes of `current`. A store must do the same in one step; on
    /// [`Swapped::Applied`] it holds [`to`](Self::to) afterwards and counts
    /// [`keep_for`](Self::keep_for) from then, otherwise it changes nothing.
    pub fn judge(&self, current: Option<&Bytes>) -> Swapped {
        match current {
            Some(bytes) if *bytes == self.to => Swapped::Already,
            Some(bytes) if self.from.contains(bytes) => Swapped::Applied,
            None if self.from_nothing => Swapped::Applied,
            other => Swapped::Lost(other.cloned()),
        }
    }
}
