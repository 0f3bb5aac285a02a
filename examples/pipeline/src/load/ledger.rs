//! What the load was told: the outside half of the accounting. It believes nothing but answers.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use hdrhistogram::Histogram;

use super::reads::Reads;
use crate::order::OpId;

/// Latencies, from one microsecond to two minutes, three digits exact.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are in order")
}

/// An order as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The account it is for.
    pub account: String,
    /// Its units.
    pub quantity: u32,
}

/// What is known of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// What was sent, the first time.
    pub sent: Sent,
    /// When that was, on the ledger's own clock, which counts what it notes.
    pub sent_at: u64,
    /// When it was first answered with 202, and with which bytes.
    pub accepted: Option<(u64, Bytes)>,
    /// Attempts that were never answered clearly.
    pub in_doubt: u64,
}

/// An answer, or its absence.
#[derive(Clone, Debug)]
pub enum Told {
    /// The server answered.
    Answer {
        /// The status.
        status: u16,
        /// Whether it said that it is a replay.
        replayed: bool,
        /// The body.
        body: Bytes,
    },
    /// The connection failed after the request went out.
    Nothing,
}

impl Told {
    /// The status, 0 where there is none.
    pub fn status(&self) -> u16 {
        match self {
            Self::Answer { status, .. } => *status,
            Self::Nothing => 0,
        }
    }
}

/// Everything that the load was told of its orders.
#[derive(Debug, Default)]
pub struct Ledger {
    operations: HashMap<OpId, Operation>,
    accepted: u64,
    clock: u64,
    reads: Reads,
    /// Answers that said that they are replays.
    pub replays: u64,
    /// Answers to a repeat whose bytes differ from the first answer's.
    pub replay_mismatches: u64,
}

impl Ledger {
    /// Notes that an order is about to be sent. From here on it may arrive.
    pub fn sent(&mut self, op: OpId, sent: Sent) {
        self.clock += 1;
        let sent_at = self.clock;
        let operation = self.operations.entry(op).or_insert_with(|| Operation {
            sent,
            sent_at,
            accepted: None,
            in_doubt: 0,
        });
        operation.in_doubt += 1;
    }

    /// Notes what became of it. Answers whether it was accepted just now for the first time.
    pub fn told(&mut self, op: OpId, told: Told) -> bool {
        self.clock += 1;
        let Some(operation) = self.operations.get_mut(&op) else {
            return false;
        };
        let told = match told {
            // Silence leaves the fate open, and so do errors in the middle of it, and a key that another sending
            // holds: that one may yet be taken. A clear refusal does not.
            Told::Nothing
            | Told::Answer {
                status: 409 | 500 | 502 | 504,
                ..
            } => return false,
            Told::Answer {
                status,
                replayed,
                body,
            } => (status == 202).then_some((replayed, body)),
        };
        operation.in_doubt -= 1;
        let Some((replayed, body)) = told else {
            return false;
        };
        self.replays += u64::from(replayed);
        if let Some((_, first)) = &operation.accepted {
            self.replay_mismatches += u64::from(*first != body);
            return false;
        }
        operation.accepted = Some((self.clock, body));
        self.accepted += 1;
        true
    }

    /// The operations that were sent.
    pub fn operations(&self) -> &HashMap<OpId, Operation> {
        &self.operations
    }

    /// What reads told.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    pub(super) fn reads_mut(&mut self) -> &mut Reads {
        &mut self.reads
    }

    /// Operations that were accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Operations of which nobody was told that they are accepted, though they may have been taken.
    pub fn indeterminate(&self) -> u64 {
        let in_doubt =
            |operation: &&Operation| operation.accepted.is_none() && operation.in_doubt > 0;
        self.operations.values().filter(in_doubt).count() as u64
    }
}

/// Figures of a load under way.
#[derive(Debug)]
pub struct Figures {
    /// Requests by kind and status; status 0 is a connection that failed.
    pub statuses: BTreeMap<(&'static str, u16), u64>,
    /// Microseconds from the intended send time to the whole answer, reads and writes.
    pub latency: Histogram<u64>,
    /// The same, writes alone.
    pub write_latency: Histogram<u64>,
    /// The same, the orders of users that are watched.
    pub watched_latency: Histogram<u64>,
    /// How late requests were sent because every connection was busy, in microseconds.
    pub send_delay: Histogram<u64>,
}

impl Figures {
    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.statuses
            .iter()
            .filter(|((_, status), _)| *status != 0)
            .map(|(_, n)| n)
            .sum()
    }

    /// Answers with this status, over all kinds.
    pub fn with_status(&self, status: u16) -> u64 {
        self.statuses
            .iter()
            .filter(|((_, s), _)| *s == status)
            .map(|(_, n)| n)
            .sum()
    }
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            statuses: BTreeMap::new(),
            latency: histogram(),
            write_latency: histogram(),
            watched_latency: histogram(),
            send_delay: histogram(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: OpId = OpId([1; 16]);

    fn send(ledger: &mut Ledger) {
        ledger.sent(
            OP,
            Sent {
                account: "user:u".into(),
                quantity: 1,
            },
        );
    }

    fn answer(status: u16, replayed: bool, body: &'static [u8]) -> Told {
        Told::Answer {
            status,
            replayed,
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn a_replay_with_other_bytes_is_a_mismatch() {
        let mut ledger = Ledger::default();
        for (told, first) in [
            (answer(202, false, b"a"), true),
            (answer(202, true, b"a"), false),
        ] {
            send(&mut ledger);
            assert_eq!(ledger.told(OP, told), first);
        }
        assert_eq!((ledger.replays, ledger.replay_mismatches), (1, 0));
        send(&mut ledger);
        ledger.told(OP, answer(202, true, b"b"));
        assert_eq!((ledger.replays, ledger.replay_mismatches), (2, 1));
    }

    #[test]
    fn a_lost_answer_is_in_doubt_until_a_retry_is_accepted() {
        let mut ledger = Ledger::default();
        send(&mut ledger);
        assert_eq!(
            ledger.indeterminate(),
            1,
            "it may arrive from the moment it is sent"
        );
        ledger.told(OP, Told::Nothing);
        assert_eq!(ledger.indeterminate(), 1);
        send(&mut ledger);
        ledger.told(OP, answer(202, false, b"a"));
        assert_eq!((ledger.accepted(), ledger.indeterminate()), (1, 0));
    }

    #[test]
    fn a_key_that_another_sending_holds_says_nothing_of_what_becomes_of_it() {
        let mut ledger = Ledger::default();
        send(&mut ledger);
        ledger.told(OP, answer(409, false, b""));
        assert_eq!((ledger.accepted(), ledger.indeterminate()), (0, 1));
    }

    #[test]
    fn a_clear_refusal_claims_nothing() {
        let mut ledger = Ledger::default();
        for status in [400, 422, 429, 503] {
            send(&mut ledger);
            ledger.told(OP, answer(status, false, b""));
        }
        assert_eq!((ledger.accepted(), ledger.indeterminate()), (0, 0));
    }
}
