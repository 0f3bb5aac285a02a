//! Does it close? Compares what clients were told with what the shards hold.

use std::collections::HashMap;

use serde::Serialize;

use crate::load::Ledger;
use crate::order::OpId;
use crate::shard::Tally;

/// The accounting of a run, by operation: `accepted ⊆ applied + dead ⊆ accepted + indeterminate`.
#[derive(Clone, Debug, Serialize)]
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
    /// Compares the two sides. `drained` says whether the workers had reached the end of the log.
    pub fn of(ledger: &Ledger, shards: &[Tally], drained: bool) -> Self {
        let mut held: HashMap<OpId, u64> = HashMap::new();
        let applied_ops = shards
            .iter()
            .flat_map(|s| s.applied.iter().map(|(op, _)| *op));
        let dead_ops = shards.iter().flat_map(|s| s.dead.iter().copied());
        for op in applied_ops.chain(dead_ops) {
            *held.entry(op).or_default() += 1;
        }
        let sum = |of: fn(&Tally) -> u64| shards.iter().map(of).sum::<u64>();
        let applied = sum(|s| s.applied.len() as u64);
        let units = sum(|s| {
            s.applied
                .iter()
                .map(|(_, quantity)| u64::from(*quantity))
                .sum()
        });
        let account_orders = sum(|s| s.account_orders);
        let account_units = sum(|s| s.account_units);
        let lost = ledger
            .accepted
            .keys()
            .filter(|op| !held.contains_key(op))
            .count() as u64;
        let known = |op: &OpId| ledger.accepted.contains_key(op) || ledger.unknown.contains(op);
        let phantom = held.keys().filter(|op| !known(op)).count() as u64;
        let in_two_places: u64 = held.values().map(|n| n - 1).sum();
        let double_applied = in_two_places + account_orders.saturating_sub(applied);
        let sums_match = account_orders == applied && account_units == units;
        let replay_mismatches = ledger.replay_mismatches;
        Self {
            accepted: ledger.accepted.len() as u64,
            applied,
            dead_lettered: sum(|s| s.dead.len() as u64),
            indeterminate: ledger.indeterminate().count() as u64,
            lost,
            phantom,
            double_applied,
            replay_mismatches,
            sums_match,
            drained,
            closed: drained
                && sums_match
                && [lost, phantom, double_applied, replay_mismatches]
                    .iter()
                    .all(|n| *n == 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Told;
    use bytes::Bytes;

    fn op(n: u8) -> OpId {
        OpId([n; 16])
    }

    fn ledger(accepted: &[u8], unknown: &[u8]) -> Ledger {
        let mut ledger = Ledger::new();
        for n in accepted {
            let told = Told::Answer {
                status: 202,
                replayed: false,
                body: Bytes::from_static(b"{}"),
            };
            ledger.note("order", Some(op(*n)), told);
        }
        for n in unknown {
            ledger.note("order", Some(op(*n)), Told::Nothing);
        }
        ledger
    }

    fn shard(applied: &[u8], dead: &[u8]) -> Tally {
        Tally {
            applied: applied.iter().map(|n| (op(*n), 2)).collect(),
            dead: dead.iter().map(|n| op(*n)).collect(),
            letters: vec![],
            account_orders: applied.len() as u64,
            account_units: 2 * applied.len() as u64,
        }
    }

    #[test]
    fn it_closes_when_every_accepted_order_is_applied_or_dead() {
        let books = Accounting::of(
            &ledger(&[1, 2, 3], &[4]),
            &[shard(&[1, 4], &[]), shard(&[2], &[3])],
            true,
        );
        assert!(books.closed, "{books:?}");
        assert_eq!(
            (books.applied, books.dead_lettered, books.indeterminate),
            (3, 1, 1)
        );
    }

    #[test]
    fn each_way_to_be_wrong_keeps_it_open() {
        let ok = ledger(&[1, 2], &[]);
        let cases: [(&str, Vec<Tally>, bool); 6] = [
            ("lost", vec![shard(&[1], &[])], true),
            ("phantom", vec![shard(&[1, 2, 9], &[])], true),
            (
                "two shards",
                vec![shard(&[1, 2], &[]), shard(&[2], &[])],
                true,
            ),
            ("applied and dead", vec![shard(&[1, 2], &[2])], true),
            (
                "effect twice",
                vec![Tally {
                    account_orders: 3,
                    account_units: 6,
                    ..shard(&[1, 2], &[])
                }],
                true,
            ),
            ("not drained", vec![shard(&[1, 2], &[])], false),
        ];
        for (case, shards, drained) in cases {
            assert!(!Accounting::of(&ok, &shards, drained).closed, "{case}");
        }
        let effect_missing = Tally {
            account_units: 3,
            ..shard(&[1, 2], &[])
        };
        assert!(
            !Accounting::of(&ok, &[effect_missing], true).closed,
            "an effect is missing"
        );
    }
}
