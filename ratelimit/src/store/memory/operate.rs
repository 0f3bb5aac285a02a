use std::sync::Arc;
use std::time::Duration;

use super::counters::{Counters, Windows};
use super::{MemoryScope, MemoryStore};
use crate::decision::{Charge, Charges, Decision};
use crate::error::StoreError;
use crate::store::table::Whole;
use crate::store::{Operate, Standing};
use crate::window::Terms;

impl Operate for MemoryStore {
    async fn peek(&self, of: &Charge<'_, MemoryScope>) -> Result<Standing, StoreError> {
        let now = self.now();
        let held = of.scope.counters.hold(of.key, of.terms, now);
        let standing = held.standing(now);
        Ok(Standing {
            outcome: standing.outcome.in_window_of(of.terms),
            ..standing
        })
    }

    async fn reset(&self, of: &Charge<'_, MemoryScope>) -> Result<(), StoreError> {
        let now = self.now();
        let mut held = of.scope.counters.hold(of.key, of.terms, now);
        held.reset(of.policy.window(), of.terms, now);
        Ok(())
    }

    async fn block(&self, of: &Charge<'_, MemoryScope>, time: Duration) -> Result<(), StoreError> {
        let now = self.now();
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut held = of.scope.counters.hold(of.key, of.terms, now);
        held.block_until(now.saturating_add(time), now);
        Ok(())
    }

    async fn unblock(&self, of: &Charge<'_, MemoryScope>) -> Result<(), StoreError> {
        let now = self.now();
        let mut held = of.scope.counters.hold(of.key, of.terms, now);
        held.unblock(now);
        Ok(())
    }

    type Receipt = MemoryReceipt;

    fn receipt(&self, charges: &Charges<'_, MemoryScope>, decision: &Decision) -> MemoryReceipt {
        let Some(moment) = decision.moment() else {
            return MemoryReceipt {
                taken: Box::new([]),
            };
        };
        let taken = charges.iter().zip(decision.iter());
        // A shadow without room was not charged.
        let taken = taken.filter(|(charge, (_, outcome))| outcome.passes() && charge.cost > 0);
        let taken = taken.map(|(charge, _)| Taken {
            hash: charge.scope.counters.hash(charge.key),
            counters: Arc::clone(&charge.scope.counters),
            terms: charge.terms,
            moment,
            units: charge.cost,
        });
        MemoryReceipt {
            taken: taken.collect(),
        }
    }

    fn refund(&self, receipt: MemoryReceipt) {
        for taken in receipt.taken {
            match &taken.counters.windows {
                Windows::Strict(table) => {
                    taken.give_back(table.whole(table.place(taken.hash)), self.now());
                }
                Windows::Named(named) => {
                    let mut held = named.hold(taken.hash, taken.terms, self.now());
                    held.refund(taken.moment, taken.units);
                }
            }
        }
    }
}

/// What a decision in memory has charged.
#[derive(Debug)]
pub struct MemoryReceipt {
    taken: Box<[Taken]>,
}

#[derive(Debug)]
struct Taken {
    counters: Arc<Counters>,
    hash: (u64, u64),
    terms: Terms,
    moment: u64,
    units: u32,
}

impl Taken {
    /// To the bucket it came from, if there is such a one yet.
    fn give_back(&self, mut whole: Whole<'_>, now: u64) {
        if !whole.is_known() {
            return;
        }
        let mut window = whole.window(self.terms, now);
        if window.terms().width == self.terms.width {
            window.refund(window.bucket_of(self.moment), self.units);
            whole.put(&window, now);
        }
    }
}
