//! Whether the log, the shards and the letters agree with each other, whatever clients were told.

use std::collections::{HashMap, HashSet};

use super::books::{Books, Logged};
use crate::order::OpId;
use crate::shard::{Decided, Tally};

/// What an operation is known as, over all shards.
pub(super) struct Held<'a> {
    rows: HashMap<OpId, Vec<&'a Decided>>,
    letters: HashSet<(u16, u64)>,
    lettered: HashSet<OpId>,
}

impl<'a> Held<'a> {
    pub(super) fn of(shards: &'a [Tally]) -> Self {
        let mut rows: HashMap<OpId, Vec<&Decided>> = HashMap::new();
        for row in shards.iter().flat_map(|s| s.applied.iter().chain(&s.dead)) {
            rows.entry(row.op).or_default().push(row);
        }
        let letters = || shards.iter().flat_map(|shard| &shard.letters);
        Self {
            rows,
            letters: letters().map(|l| (l.partition, l.offset)).collect(),
            lettered: letters().filter_map(|letter| letter.op).collect(),
        }
    }

    pub(super) fn holds(&self, op: OpId) -> bool {
        self.rows.contains_key(&op)
    }

    pub(super) fn operations(&self) -> impl Iterator<Item = &OpId> {
        self.rows.keys()
    }

    /// Rows beyond the first of their operation.
    pub(super) fn twice(&self) -> u64 {
        self.rows.values().map(|rows| rows.len() as u64 - 1).sum()
    }

    /// Whether a record of the log came to something: an operation with its payload, or a letter.
    fn answers_for(&self, partition: u16, logged: &Logged) -> bool {
        if self.letters.contains(&(partition, logged.offset)) {
            return true;
        }
        let Some(order) = &logged.order else {
            return false;
        };
        // The same key with another payload is nobody's repeat: it has to be a letter.
        self.rows
            .get(&order.op)
            .is_some_and(|rows| rows.iter().any(|row| row.fingerprint == order.fingerprint))
    }
}

/// Records of the log, below the watermarks of all shards that serve their partition, that came to nothing.
pub(super) fn skipped(books: &Books, held: &Held<'_>) -> u64 {
    let mut skipped = 0;
    for (partition, log) in (0..).zip(&books.partitions) {
        let reached = marks(books, partition).map(|mark| mark.position).min();
        let Some(reached) = reached else { continue };
        skipped += log
            .records
            .iter()
            .filter(|logged| logged.offset < reached.0 && !held.answers_for(partition, logged))
            .count() as u64;
    }
    skipped
}

/// Rows of shards that do not stand in the log as the shard has them, though the log still reaches back so far.
pub(super) fn unfounded(books: &Books) -> u64 {
    let rows = books
        .shards
        .iter()
        .flat_map(|shard| shard.applied.iter().chain(&shard.dead));
    rows.filter(|row| {
        let Some(log) = books.partitions.get(usize::from(row.partition)) else {
            return true;
        };
        if row.offset < log.start.0 {
            return false;
        }
        let at = log
            .records
            .binary_search_by_key(&row.offset, |logged| logged.offset);
        let order = at.ok().and_then(|at| log.records[at].order.as_ref());
        !order.is_some_and(|order| {
            order.op == row.op
                && order.fingerprint == row.fingerprint
                && order.account == row.account
                && order.quantity == row.quantity
        })
    })
    .count() as u64
}

/// Operations that were written off without a letter that says so.
pub(super) fn unlettered(books: &Books, held: &Held<'_>) -> u64 {
    books
        .shards
        .iter()
        .flat_map(|shard| &shard.dead)
        .filter(|row| !held.lettered.contains(&row.op))
        .count() as u64
}

/// Watermarks that cannot be: of another log, beyond its end, or with rows of their own shard above them.
pub(super) fn wrong_watermarks(books: &Books) -> u64 {
    let mut wrong = 0;
    for shard in &books.shards {
        let marks: HashMap<u16, _> = shard.watermarks.iter().copied().collect();
        for (partition, mark) in &marks {
            let end = books
                .partitions
                .get(usize::from(*partition))
                .map(|log| log.end);
            let sound = mark.log == books.log && end.is_some_and(|end| mark.position <= end);
            wrong += u64::from(!sound);
        }
        let above = |row: &&Decided| {
            marks
                .get(&row.partition)
                .is_none_or(|mark| row.offset >= mark.position.0)
        };
        let rows = shard.applied.iter().chain(&shard.dead);
        wrong += rows.filter(above).count() as u64;
    }
    wrong
}

/// Whether every shard that serves a partition has applied it to its end.
pub(super) fn drained(books: &Books) -> bool {
    (0..)
        .zip(&books.partitions)
        .filter(|(_, log)| log.end.0 > 0)
        .all(|(partition, log)| {
            let mut marks = marks(books, partition).peekable();
            marks.peek().is_some() && marks.all(|mark| mark.position >= log.end)
        })
}

/// Accounts whose sums are not the sums over their orders.
pub(super) fn wrong_sums(books: &Books) -> u64 {
    let mut sums: HashMap<&str, (u64, u64)> = HashMap::new();
    for row in books.shards.iter().flat_map(|shard| &shard.applied) {
        let (orders, units) = sums.entry(&row.account).or_default();
        *orders += 1;
        *units += u64::from(row.quantity);
    }
    let mut kept: HashMap<&str, (u64, u64)> = HashMap::new();
    for account in books.shards.iter().flat_map(|shard| &shard.accounts) {
        let (orders, units) = kept.entry(&account.account).or_default();
        *orders += account.orders;
        *units += account.units;
    }
    let differ = sums.iter().filter(|(id, sum)| kept.get(*id) != Some(sum));
    let unheard_of = kept.keys().filter(|id| !sums.contains_key(*id));
    (differ.count() + unheard_of.count()) as u64
}

fn marks(books: &Books, partition: u16) -> impl Iterator<Item = &crate::shard::Watermark> {
    books
        .shards
        .iter()
        .flat_map(|shard| &shard.watermarks)
        .filter(move |(of, _)| *of == partition)
        .map(|(_, mark)| mark)
}
