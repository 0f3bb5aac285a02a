//! What clients were told by reads, and whether the shards agree: a cache may be late, it must not lie.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::order::OpId;
use crate::shard::{Decided, Tally};

/// How an order was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shown {
    /// Taken, and not decided.
    Accepted,
    /// It counts.
    Applied,
    /// It was written off.
    Rejected,
    /// There is no such order.
    Absent,
}

/// What clients were told of orders and accounts.
#[derive(Debug, Default)]
pub struct Reads {
    orders: HashMap<OpId, OrderReads>,
    accounts: HashMap<String, AccountReads>,
}

#[derive(Debug, Default)]
struct OrderReads {
    /// Every decided state it was shown in, with its units.
    decided: Vec<(Shown, u32)>,
    /// How it was shown when it was read back at the end.
    last: Option<Shown>,
}

#[derive(Debug, Default)]
struct AccountReads {
    /// The most orders and the most units it was shown with.
    most: (u64, u64),
    /// What it was shown with when it was read back at the end.
    last: Option<(u64, u64)>,
}

impl Reads {
    /// Notes how an order was shown, and whether that was the reading back at the end.
    pub fn order(&mut self, op: OpId, shown: Shown, quantity: u32, last: bool) {
        let order = self.orders.entry(op).or_default();
        if matches!(shown, Shown::Applied | Shown::Rejected)
            && !order.decided.contains(&(shown, quantity))
        {
            order.decided.push((shown, quantity));
        }
        if last {
            order.last = Some(shown);
        }
    }

    /// Notes the sums that an account was shown with.
    pub fn account(&mut self, account: String, orders: u64, units: u64, last: bool) {
        let known = self.accounts.entry(account).or_default();
        known.most = (known.most.0.max(orders), known.most.1.max(units));
        if last {
            known.last = Some((orders, units));
        }
    }

    /// Orders and accounts that were read back at the end.
    pub fn read_back(&self) -> (usize, usize) {
        (
            self.orders.values().filter(|o| o.last.is_some()).count(),
            self.accounts.values().filter(|a| a.last.is_some()).count(),
        )
    }

    /// Orders and accounts that were shown as they are not: as decided what is not or otherwise, with more orders
    /// than there are, or at the end with anything but what the shards hold.
    pub fn wrong(&self, shards: &[Tally]) -> u64 {
        fn by_op<'a>(
            rows: impl Iterator<Item = &'a Decided>,
            shown: Shown,
        ) -> impl Iterator<Item = (OpId, (Shown, u32))> {
            rows.map(move |row| (row.op, (shown, row.quantity)))
        }
        let applied = shards.iter().flat_map(|shard| &shard.applied);
        let dead = shards.iter().flat_map(|shard| &shard.dead);
        let truth: HashMap<OpId, (Shown, u32)> = by_op(applied, Shown::Applied)
            .chain(by_op(dead, Shown::Rejected))
            .collect();
        let orders = self.orders.iter().filter(|(op, reads)| {
            let truth = truth.get(op);
            reads.decided.iter().any(|shown| Some(shown) != truth)
                || reads.last.is_some_and(|last| {
                    truth.is_some_and(|(state, _)| *state != last)
                        || (truth.is_none() && last != Shown::Absent)
                })
        });
        let mut sums: HashMap<&str, (u64, u64)> = HashMap::new();
        for account in shards.iter().flat_map(|shard| &shard.accounts) {
            let (orders, units) = sums.entry(&account.account).or_default();
            *orders += account.orders;
            *units += account.units;
        }
        let accounts = self.accounts.iter().filter(|(account, reads)| {
            let truth = sums.get(account.as_str()).copied().unwrap_or_default();
            reads.most.0 > truth.0
                || reads.most.1 > truth.1
                || reads.last.is_some_and(|last| last != truth)
        });
        (orders.count() + accounts.count()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::Sums;

    const OP: OpId = OpId([1; 16]);

    fn shards(state: Option<Shown>) -> Vec<Tally> {
        let row = Decided {
            op: OP,
            fingerprint: [0; 16],
            account: "user:u".into(),
            quantity: 2,
            partition: 0,
            offset: 1,
        };
        let mut tally = Tally::default();
        match state {
            Some(Shown::Applied) => {
                tally.accounts.push(Sums {
                    account: row.account.clone(),
                    orders: 1,
                    units: 2,
                });
                tally.applied.push(row);
            }
            Some(_) => tally.dead.push(row),
            None => {}
        }
        vec![tally]
    }

    fn orders(reads: &[(Shown, u32, bool)], truth: Option<Shown>) -> u64 {
        let mut noted = Reads::default();
        for (shown, quantity, last) in reads {
            noted.order(OP, *shown, *quantity, *last);
        }
        noted.wrong(&shards(truth))
    }

    #[test]
    fn an_order_may_be_shown_late_and_never_as_what_it_is_not() {
        use Shown::{Absent, Accepted, Applied, Rejected};
        let late = [
            (Absent, 0, false),
            (Accepted, 2, false),
            (Applied, 2, false),
            (Accepted, 2, false),
            (Applied, 2, true),
        ];
        assert_eq!(orders(&late, Some(Applied)), 0);
        for (case, reads, truth) in [
            ("it was written off", (Applied, 2, false), Some(Rejected)),
            ("it counts", (Rejected, 2, false), Some(Applied)),
            ("it is not there", (Applied, 2, false), None),
            ("other units", (Applied, 3, false), Some(Applied)),
            ("late at the end", (Accepted, 2, true), Some(Applied)),
            ("forgotten at the end", (Absent, 0, true), Some(Applied)),
            ("promised at the end", (Accepted, 2, true), None),
        ] {
            assert_eq!(orders(&[reads], truth), 1, "{case}");
        }
    }

    #[test]
    fn an_account_is_never_shown_with_more_than_it_has_and_at_the_end_with_all() {
        let wrong = |orders, units, last| {
            let mut noted = Reads::default();
            noted.account("user:u".into(), orders, units, last);
            noted.wrong(&shards(Some(Shown::Applied)))
        };
        assert_eq!((wrong(0, 0, false), wrong(1, 2, true)), (0, 0));
        assert_eq!((wrong(2, 2, false), wrong(1, 3, false)), (1, 1));
        assert_eq!((wrong(0, 0, true), wrong(1, 1, true)), (1, 1));
    }
}
