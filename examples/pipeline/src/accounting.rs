//! Does it close? Compares what clients were told with what lies on the disk.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::data::Data;
use crate::load::{Ledger, Operation};
use crate::log::{Log, Position};
use crate::order::OpId;
use crate::shard::{Counted, ShardDb, ShardError, Tally};

/// What the shards and the log hold.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// The shards.
    pub shards: Vec<Tally>,
    /// The end of each partition of the log.
    pub ends: Vec<Position>,
}

impl Books {
    /// Reads them from an open data directory.
    ///
    /// # Errors
    ///
    /// When a shard cannot be read.
    pub async fn read(data: &Data) -> Result<Self, ShardError> {
        let mut shards = Vec::new();
        for shard in data.shards() {
            shards.push(shard.tally().await?);
        }
        let log = data.log();
        let ends = (0..log.partitions())
            .map(|partition| *log.end(partition).borrow())
            .collect();
        Ok(Self { shards, ends })
    }

    /// Whether every shard that serves a partition has applied it to its end.
    fn drained(&self) -> bool {
        (0..).zip(&self.ends).all(|(partition, end)| {
            let mut marks = self
                .shards
                .iter()
                .flat_map(|shard| &shard.watermarks)
                .filter(|(of, _)| *of == partition)
                .map(|(_, mark)| mark.position)
                .peekable();
            *end == Position(0) || (marks.peek().is_some() && marks.all(|mark| mark >= *end))
        })
    }
}

/// The accounting of a run, by operation: `accepted ⊆ applied + dead ⊆ accepted + indeterminate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Accounting {
    /// Operations that a client was told are accepted.
    pub accepted: u64,
    /// Operations that count.
    pub applied: u64,
    /// Operations that were written off with a letter.
    pub dead_lettered: u64,
    /// Operations whose fate no client knows.
    pub indeterminate: u64,
    /// Accepted, and neither applied nor dead. Must be zero.
    pub lost: u64,
    /// Applied or dead, though nobody was told and nobody is in doubt. Must be zero.
    pub phantom: u64,
    /// Operations that count more than once. Must be zero.
    pub double_applied: u64,
    /// Operations that count for another account or with another quantity than was sent. Must be zero.
    pub altered: u64,
    /// Orders that were sent after another of their account was accepted, and lie before it. Must be zero.
    pub out_of_order: u64,
    /// Replays whose bytes differ from the first answer. Must be zero.
    pub replay_mismatches: u64,
    /// Whether the accounts' sums equal the sums over the orders.
    pub sums_match: bool,
    /// Whether every partition was applied to its end.
    pub drained: bool,
    /// Whether all of that holds.
    pub closed: bool,
}

impl Accounting {
    /// Compares the two sides.
    pub fn of(ledger: &Ledger, books: &Books) -> Self {
        let counted = || books.shards.iter().flat_map(|shard| &shard.applied);
        let mut held: HashMap<OpId, u64> = HashMap::new();
        for op in counted().map(|counted| counted.op).chain(
            books
                .shards
                .iter()
                .flat_map(|shard| shard.dead.iter().copied()),
        ) {
            *held.entry(op).or_default() += 1;
        }
        let sum = |of: fn(&Tally) -> u64| books.shards.iter().map(of).sum::<u64>();
        let applied = counted().count() as u64;
        let units: u64 = counted().map(|counted| u64::from(counted.quantity)).sum();
        let account_orders = sum(|shard| shard.account_orders);
        let sent = ledger.operations();
        let count = |is: &dyn Fn(&OpId, &Operation) -> bool| {
            sent.iter()
                .filter(|(op, operation)| is(op, operation))
                .count() as u64
        };
        let lost = count(&|op, operation| operation.accepted.is_some() && !held.contains_key(op));
        let may_be = |op: &OpId| {
            sent.get(op)
                .is_some_and(|sent| sent.accepted.is_some() || sent.in_doubt > 0)
        };
        let phantom = held.keys().filter(|op| !may_be(op)).count() as u64;
        let altered = counted().filter(|counted| {
            sent.get(&counted.op).is_some_and(|operation| {
                operation.sent.account != counted.account
                    || operation.sent.quantity != counted.quantity
            })
        });
        let in_two_places: u64 = held.values().map(|n| n - 1).sum();
        let mut books = Self {
            accepted: ledger.accepted(),
            applied,
            dead_lettered: sum(|shard| shard.dead.len() as u64),
            indeterminate: ledger.indeterminate(),
            lost,
            phantom,
            double_applied: in_two_places + account_orders.saturating_sub(applied),
            altered: altered.count() as u64,
            out_of_order: out_of_order(sent, counted()),
            replay_mismatches: ledger.replay_mismatches,
            sums_match: account_orders == applied && sum(|shard| shard.account_units) == units,
            drained: books.drained(),
            closed: false,
        };
        let faults = [
            books.lost,
            books.phantom,
            books.double_applied,
            books.altered,
            books.out_of_order,
            books.replay_mismatches,
        ];
        books.closed = books.drained && books.sums_match && faults == [0; 6];
        books
    }
}

impl fmt::Display for Accounting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            accepted,
            applied,
            dead_lettered,
            indeterminate,
            ..
        } = self;
        writeln!(
            f,
            "  accepted {accepted}, applied {applied}, dead {dead_lettered}, in doubt {indeterminate}"
        )?;
        writeln!(
            f,
            "  lost {}, phantom {}, applied twice {}, altered {}, out of order {}, replays that differ {}",
            self.lost,
            self.phantom,
            self.double_applied,
            self.altered,
            self.out_of_order,
            self.replay_mismatches,
        )?;
        let sums = if self.sums_match { "match" } else { "DIFFER" };
        let log = if self.drained {
            "drained"
        } else {
            "NOT DRAINED"
        };
        let closed = if self.closed { "closed" } else { "NOT CLOSED" };
        writeln!(f, "  sums {sums}, log {log}: {closed}")
    }
}

/// Orders that lie before one of the same account and partition that was accepted before they were sent.
fn out_of_order<'a>(
    sent: &HashMap<OpId, Operation>,
    counted: impl Iterator<Item = &'a Counted>,
) -> u64 {
    /// When, and the offset; an acceptance at a moment comes before what is sent later.
    type Moments = Vec<(u64, bool, u64)>;
    let mut by_account: HashMap<(&str, u16), Moments> = HashMap::new();
    for counted in counted {
        let Some(operation) = sent.get(&counted.op) else {
            continue;
        };
        let moments = by_account
            .entry((&counted.account, counted.partition))
            .or_default();
        moments.push((operation.sent_at, false, counted.offset));
        if let Some((at, _)) = operation.accepted {
            moments.push((at, true, counted.offset));
        }
    }
    let mut wrong = 0;
    for moments in by_account.values_mut() {
        moments.sort_unstable();
        let mut highest = None;
        for &(_, accepted, offset) in moments.iter() {
            if accepted {
                highest = highest.max(Some(offset));
            } else {
                wrong += u64::from(highest.is_some_and(|highest| offset < highest));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Sent, Told};
    use crate::log::LogId;
    use crate::shard::Watermark;
    use bytes::Bytes;

    fn op(n: u8) -> OpId {
        OpId([n; 16])
    }

    /// Orders of two units each, one after the other.
    fn ledger(accepted: &[u8], unknown: &[u8]) -> Ledger {
        let mut ledger = Ledger::default();
        for n in accepted.iter().chain(unknown) {
            ledger.sent(
                op(*n),
                Sent {
                    account: "a".into(),
                    quantity: 2,
                },
            );
            let body = Bytes::from_static(b"{}");
            let told = Told::Answer {
                status: 202,
                replayed: false,
                body,
            };
            ledger.told(
                op(*n),
                if accepted.contains(n) {
                    told
                } else {
                    Told::Nothing
                },
            );
        }
        ledger
    }

    /// A shard that has applied these in this order.
    fn shard(applied: &[u8], dead: &[u8]) -> Tally {
        let counted = |(offset, n): (u64, &u8)| Counted {
            op: op(*n),
            account: "a".into(),
            quantity: 2,
            partition: 0,
            offset,
        };
        let mark = Watermark {
            log: LogId([0; 16]),
            epoch: 1,
            position: Position(100),
        };
        Tally {
            applied: (1..).zip(applied).map(counted).collect(),
            dead: dead.iter().map(|n| op(*n)).collect(),
            letters: vec![],
            account_orders: applied.len() as u64,
            account_units: 2 * applied.len() as u64,
            watermarks: vec![(0, mark)],
        }
    }

    fn of(ledger: &Ledger, shards: Vec<Tally>) -> Accounting {
        Accounting::of(
            ledger,
            &Books {
                shards,
                ends: vec![Position(100), Position(0)],
            },
        )
    }

    #[test]
    fn it_closes_when_every_accepted_order_is_applied_or_dead() {
        let told = ledger(&[1, 2, 3], &[4]);
        let books = of(&told, vec![shard(&[1, 4], &[]), shard(&[2], &[3])]);
        assert!(books.closed, "{books:?}");
        assert_eq!(
            (books.applied, books.dead_lettered, books.indeterminate),
            (3, 1, 1)
        );
    }

    #[test]
    fn each_way_to_be_wrong_keeps_it_open() {
        let ok = ledger(&[1, 2], &[]);
        let right = || shard(&[1, 2], &[]);
        let mut altered = right();
        altered.applied[0].quantity = 3;
        altered.account_units += 1;
        let mut behind = right();
        behind.watermarks[0].1.position = Position(99);
        let cases = [
            ("lost", vec![shard(&[1], &[])]),
            ("phantom", vec![shard(&[1, 2, 9], &[])]),
            ("two shards", vec![right(), shard(&[2], &[])]),
            ("applied and dead", vec![shard(&[1, 2], &[2])]),
            (
                "effect twice",
                vec![Tally {
                    account_orders: 3,
                    account_units: 6,
                    ..right()
                }],
            ),
            (
                "an effect is missing",
                vec![Tally {
                    account_units: 3,
                    ..right()
                }],
            ),
            ("altered", vec![altered]),
            ("out of order", vec![shard(&[2, 1], &[])]),
            ("not drained", vec![behind]),
            (
                "never adopted",
                vec![Tally {
                    watermarks: vec![],
                    ..right()
                }],
            ),
        ];
        assert!(of(&ok, vec![right()]).closed);
        for (case, shards) in cases {
            assert!(!of(&ok, shards).closed, "{case}");
        }
    }

    #[test]
    fn orders_that_were_under_way_together_may_lie_in_either_order() {
        let mut told = Ledger::default();
        for n in [1, 2] {
            told.sent(
                op(n),
                Sent {
                    account: "a".into(),
                    quantity: 2,
                },
            );
        }
        for n in [1, 2] {
            let body = Bytes::new();
            told.told(
                op(n),
                Told::Answer {
                    status: 202,
                    replayed: false,
                    body,
                },
            );
        }
        assert!(of(&told, vec![shard(&[2, 1], &[])]).closed);
    }
}
