//! What the load was told: the outside half of the accounting. It believes nothing but answers.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use hdrhistogram::Histogram;

use crate::order::OpId;

/// Latencies, from one microsecond to two minutes, three digits exact.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are in order")
}

/// Everything that the load was told.
#[derive(Debug)]
pub struct Ledger {
    /// Operations that were answered with 202, with the answer's bytes.
    pub accepted: HashMap<OpId, Bytes>,
    /// Operations with an attempt whose fate the client does not know.
    pub unknown: HashSet<OpId>,
    /// Orders sent, repeats included.
    pub writes_sent: u64,
    /// Requests by kind and status; status 0 is a connection that failed.
    pub statuses: BTreeMap<(&'static str, u16), u64>,
    /// Answers that said that they are replays.
    pub replays: u64,
    /// Replays whose bytes differ from the first answer's.
    pub replay_mismatches: u64,
    /// Microseconds from the intended send time to the whole answer, reads and writes.
    pub latency: Histogram<u64>,
    /// The same, writes alone.
    pub write_latency: Histogram<u64>,
    /// How late requests were sent because every connection was busy, in microseconds.
    pub send_delay: Histogram<u64>,
}

/// An answer, or its absence.
#[derive(Debug)]
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

impl Ledger {
    /// A ledger without entries.
    pub fn new() -> Self {
        Self {
            accepted: HashMap::new(),
            unknown: HashSet::new(),
            writes_sent: 0,
            statuses: BTreeMap::new(),
            replays: 0,
            replay_mismatches: 0,
            latency: histogram(),
            write_latency: histogram(),
            send_delay: histogram(),
        }
    }

    /// Notes what became of a request; `op` is there for an order. Answers whether it was accepted just now
    /// for the first time.
    pub fn note(&mut self, kind: &'static str, op: Option<OpId>, told: Told) -> bool {
        let status = match &told {
            Told::Answer { status, .. } => *status,
            Told::Nothing => 0,
        };
        *self.statuses.entry((kind, status)).or_default() += 1;
        let Some(op) = op else { return false };
        self.writes_sent += 1;
        match told {
            Told::Answer {
                status: 202,
                replayed,
                body,
            } => {
                self.replays += u64::from(replayed);
                match self.accepted.get(&op) {
                    Some(first) => {
                        self.replay_mismatches += u64::from(*first != body);
                        false
                    }
                    None => {
                        self.accepted.insert(op, body);
                        true
                    }
                }
            }
            // Silence, and a gateway timeout, leave the fate open. A clear refusal does not.
            Told::Nothing
            | Told::Answer {
                status: 500 | 502 | 504,
                ..
            } => {
                self.unknown.insert(op);
                false
            }
            Told::Answer { .. } => false,
        }
    }

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

    /// Operations whose fate the client does not know.
    pub fn indeterminate(&self) -> impl Iterator<Item = &OpId> {
        self.unknown
            .iter()
            .filter(|op| !self.accepted.contains_key(*op))
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: OpId = OpId([1; 16]);

    fn answer(status: u16, replayed: bool, body: &'static [u8]) -> Told {
        Told::Answer {
            status,
            replayed,
            body: Bytes::from_static(body),
        }
    }

    #[test]
    fn a_replay_with_other_bytes_is_a_mismatch() {
        let mut ledger = Ledger::new();
        assert!(ledger.note("order", Some(OP), answer(202, false, b"a")));
        assert!(!ledger.note("order", Some(OP), answer(202, true, b"a")));
        assert_eq!((ledger.replays, ledger.replay_mismatches), (1, 0));
        ledger.note("order", Some(OP), answer(202, true, b"b"));
        assert_eq!((ledger.replays, ledger.replay_mismatches), (2, 1));
    }

    #[test]
    fn a_lost_answer_is_indeterminate_until_a_retry_is_accepted() {
        let mut ledger = Ledger::new();
        ledger.note("order", Some(OP), Told::Nothing);
        assert_eq!(ledger.indeterminate().count(), 1);
        ledger.note("order", Some(OP), answer(202, false, b"a"));
        assert_eq!(ledger.indeterminate().count(), 0);
    }

    #[test]
    fn a_clear_refusal_claims_nothing() {
        let mut ledger = Ledger::new();
        for status in [400, 409, 422, 429, 503] {
            ledger.note("order", Some(OP), answer(status, false, b""));
        }
        assert_eq!(
            (ledger.accepted.len(), ledger.indeterminate().count()),
            (0, 0)
        );
    }
}
