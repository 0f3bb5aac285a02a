//! Does it close? Compares what clients were told with what lies on the disk, and what lies there with itself.

mod books;
mod inside;
mod order;

use std::fmt;

use serde::Serialize;

use self::inside::Held;
use crate::load::{Ledger, Operation};
use crate::order::OpId;
use crate::shard::Decided;

pub use self::books::{Books, Logged, LoggedOrder, Partition};

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
    /// Records of the log below the watermarks that came to nothing: neither applied, nor dead, nor a letter.
    /// Must be zero, whether or not a client knows of them.
    pub skipped: u64,
    /// Orders of shards that do not stand in the log as the shard has them. Must be zero.
    pub unfounded: u64,
    /// Operations that were written off without a letter. Must be zero.
    pub unlettered: u64,
    /// Watermarks of another log, beyond its end, or with rows above them. Must be zero.
    pub wrong_watermarks: u64,
    /// Answers to reads that contradict the shards: a cache that lies. Must be zero.
    pub wrong_reads: u64,
    /// Whether each account's sums equal the sums over its orders.
    pub sums_match: bool,
    /// Whether every partition was applied to its end.
    pub drained: bool,
    /// Whether all of that holds.
    pub closed: bool,
}

impl Accounting {
    /// Compares the two sides.
    pub fn of(ledger: &Ledger, books: &Books) -> Self {
        let held = Held::of(&books.shards);
        let applied = || books.shards.iter().flat_map(|shard| &shard.applied);
        let sent = ledger.operations();
        let count = |is: &dyn Fn(&OpId, &Operation) -> bool| {
            sent.iter()
                .filter(|(op, operation)| is(op, operation))
                .count() as u64
        };
        let may_be = |op: &OpId| {
            sent.get(op)
                .is_some_and(|sent| sent.accepted.is_some() || sent.in_doubt > 0)
        };
        let altered = |row: &&Decided| {
            sent.get(&row.op).is_some_and(|operation| {
                operation.sent.account != row.account || operation.sent.quantity != row.quantity
            })
        };
        let in_accounts: u64 = books.shards.iter().map(|shard| shard.sums().0).sum();
        let count_applied = applied().count() as u64;
        let mut accounting = Self {
            accepted: ledger.accepted(),
            applied: count_applied,
            dead_lettered: books.shards.iter().map(|s| s.dead.len() as u64).sum(),
            indeterminate: ledger.indeterminate(),
            lost: count(&|op, operation| operation.accepted.is_some() && !held.holds(*op)),
            phantom: held.operations().filter(|op| !may_be(op)).count() as u64,
            double_applied: held.twice() + in_accounts.saturating_sub(count_applied),
            altered: applied().filter(altered).count() as u64,
            out_of_order: order::out_of_order(sent, applied()),
            replay_mismatches: ledger.replay_mismatches,
            skipped: inside::skipped(books, &held),
            unfounded: inside::unfounded(books),
            unlettered: inside::unlettered(books, &held),
            wrong_watermarks: inside::wrong_watermarks(books),
            wrong_reads: ledger.reads().wrong(&books.shards),
            sums_match: inside::wrong_sums(books) == 0,
            drained: inside::drained(books),
            closed: false,
        };
        accounting.closed = accounting.drained
            && accounting.sums_match
            && accounting.faults().iter().all(|(_, n)| *n == 0);
        accounting
    }

    /// What must be zero, by name.
    pub fn faults(&self) -> [(&'static str, u64); 11] {
        [
            ("lost", self.lost),
            ("phantom", self.phantom),
            ("applied twice", self.double_applied),
            ("altered", self.altered),
            ("out of order", self.out_of_order),
            ("replays that differ", self.replay_mismatches),
            ("skipped", self.skipped),
            ("unfounded", self.unfounded),
            ("unlettered", self.unlettered),
            ("wrong watermarks", self.wrong_watermarks),
            ("wrong reads", self.wrong_reads),
        ]
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
        let faults = self.faults().map(|(what, n)| format!("{what} {n}"));
        let (clients, inside) = faults.split_at(6);
        writeln!(f, "  {}", clients.join(", "))?;
        writeln!(f, "  {}", inside.join(", "))?;
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

#[cfg(test)]
mod tests;
