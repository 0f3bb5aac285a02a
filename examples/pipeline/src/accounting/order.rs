//! Order per key: what was sent after another order of its account was accepted must lie behind it.

use std::collections::HashMap;

use crate::load::Operation;
use crate::order::OpId;
use crate::shard::Decided;

/// Orders that lie before one of the same account and partition that was accepted before they were sent.
pub(super) fn out_of_order<'a>(
    sent: &HashMap<OpId, Operation>,
    applied: impl Iterator<Item = &'a Decided>,
) -> u64 {
    /// When, and the offset; an acceptance at a moment comes before what is sent later.
    type Moments = Vec<(u64, bool, u64)>;
    let mut by_account: HashMap<(&str, u16), Moments> = HashMap::new();
    for row in applied {
        let Some(operation) = sent.get(&row.op) else {
            continue;
        };
        let moments = by_account.entry((&row.account, row.partition)).or_default();
        moments.push((operation.sent_at, false, row.offset));
        if let Some((at, _)) = operation.accepted {
            moments.push((at, true, row.offset));
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
