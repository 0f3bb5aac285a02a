//! What is decided here, and what is left to the store.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use seawall_redis::Source;

use super::ends::{Asking, Shared};
use super::lease::{KeyLease, Step, time_of};
use super::table::Table;
use super::{Leased, LeasedScope, below};
use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::StoreError;
use crate::store::Store;
use crate::store::redis::batch::{LeaseAsk, Leased as Granted};
use crate::store::redis::lane::TakeLease;
use crate::store::redis::{RedisDeciding, RedisStore};
use crate::window::{Outcome, Terms, WindowKind};

impl<S: Source> Leased<RedisStore<S>> {
    pub(super) fn decide_one(&self, charge: &Charge<'_, LeasedScope>) -> Verdict<LeasedDeciding> {
        let now = self.shared.now();
        let table = &charge.scope.table;
        let hash = table.hash(charge.key);
        let stepped = {
            let mut shard = table.shard(hash);
            let new = |passed| KeyLease::passed(charge.terms, now, charge.cost, passed);
            let time = time_of(charge.terms);
            let key = table.known(&mut shard, hash, now, time, new);
            key.map(|key| key.step(now, charge.terms, charge.cost))
        };
        let (step, back) = stepped.unwrap_or((Step::Ask(None), None));
        let of = below(charge);
        if let Some(back) = back {
            let refund = RedisStore::<S>::refund_of(&of, back);
            self.store.give_back(vec![refund]);
        }
        match step {
            Step::Pass(outcome, bucket) => {
                let mut decision = Decision::empty();
                decision.push(charge.number, outcome.in_window_of(charge.terms));
                decision.charged_at(bucket * charge.terms.width);
                Verdict::Now(decision)
            }
            Step::Refuse(outcome) => {
                let mut decision = Decision::empty();
                decision.push(charge.number, outcome.in_window_of(charge.terms));
                Verdict::Now(decision)
            }
            Step::Ask(lease) => {
                let lease = lease.map(|ask| (ask, self.taker(charge, hash, ask)));
                Verdict::Later(LeasedDeciding {
                    deciding: self.store.decide_leasing(&of, lease),
                    note: Some(Note {
                        shared: Arc::clone(&self.shared),
                        table: Arc::clone(table),
                        hash,
                        terms: charge.terms,
                        cost: charge.cost,
                    }),
                })
            }
        }
    }

    /// A request under several rules: out of leases, if there is one for each.
    pub(super) fn decide_all(&self, charges: &Charges<'_, LeasedScope>) -> Verdict<LeasedDeciding> {
        let now = self.shared.now();
        let mut decision = Decision::empty();
        let mut passed = Vec::with_capacity(charges.len());
        let mut refused = false;
        for charge in charges.iter().filter(|charge| charge.cost > 0) {
            if !can_lease(&charge) {
                break;
            }
            let table = &charge.scope.table;
            let hash = table.hash(charge.key);
            let stepped = {
                let mut shard = table.shard(hash);
                let new = |passed| KeyLease::passed(charge.terms, now, charge.cost, passed);
                let time = time_of(charge.terms);
                let key = table.known(&mut shard, hash, now, time, new);
                key.map(|key| key.step(now, charge.terms, charge.cost))
            };
            let (step, back) = stepped.unwrap_or((Step::Ask(None), None));
            if let Some(back) = back {
                let refund = RedisStore::<S>::refund_of(&below(&charge), back);
                self.store.give_back(vec![refund]);
            }
            match step {
                Step::Pass(outcome, bucket) => {
                    decision.push(charge.number, outcome.in_window_of(charge.terms));
                    passed.push((charge, hash, bucket));
                }
                Step::Refuse(_) => {
                    refused = true;
                    break;
                }
                Step::Ask(ask) => {
                    if let Some(ask) = ask {
                        let take = self.taker(&charge, hash, ask);
                        self.store.lease(&below(&charge), ask, take);
                    }
                    break;
                }
            }
        }
        if !refused && passed.len() == charges.len() {
            // Several buckets were charged, and a receipt can only name one moment: such are not given back.
            return Verdict::Now(decision);
        }
        for (charge, hash, bucket) in passed {
            if let Some(key) = charge.scope.table.shard(hash).get(hash) {
                key.put_back(charge.terms, bucket, charge.cost);
            }
        }
        let mut below_all = Charges::new();
        for charge in charges.iter() {
            below_all.push(below(&charge));
        }
        match self.store.decide(&below_all) {
            Verdict::Now(decision) => Verdict::Now(decision),
            Verdict::Later(deciding) => Verdict::Later(LeasedDeciding {
                deciding,
                note: None,
            }),
        }
    }

    /// What takes a lease when it comes.
    fn taker(&self, charge: &Charge<'_, LeasedScope>, hash: u128, ask: LeaseAsk) -> TakeLease {
        let mut asking = Asking {
            store: self.store.clone(),
            shared: Arc::clone(&self.shared),
            table: Arc::clone(&charge.scope.table),
            hash,
            terms: charge.terms,
            ask,
            refund: RedisStore::<S>::refund_of(&below(charge), NOTHING),
            came: false,
        };
        Box::new(move |leased, sent| asking.take(leased, sent))
    }
}

const NOTHING: Granted = Granted {
    units: 0,
    bucket: 0,
    now: 0,
    left: 0,
};

/// Shadows and windows of other kinds are left to the store.
pub(super) fn can_lease(charge: &Charge<'_, LeasedScope>) -> bool {
    !charge.is_shadow() && charge.policy.window() == WindowKind::Sliding
}
/// A decision that the store makes.
pub struct LeasedDeciding {
    deciding: RedisDeciding,
    note: Option<Note>,
}

/// Where to note that the store has refused.
struct Note {
    shared: Arc<Shared>,
    table: Arc<Table>,
    hash: u128,
    terms: Terms,
    cost: u32,
}

impl Note {
    /// A refused key is known, however seldom it comes.
    fn deny(&self, outcome: Outcome) {
        let now = self.shared.now();
        let mut shard = self.table.shard(self.hash);
        let new = || KeyLease::new(self.terms, now);
        if let Some(key) = self.table.make_known(&mut shard, self.hash, now, new) {
            key.deny(now, self.terms, self.cost, outcome);
        }
    }
}

impl Future for LeasedDeciding {
    type Output = Result<Decision, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let decided = ready!(Pin::new(&mut self.deciding).poll(cx));
        if let (Ok(decision), Some(note)) = (&decided, &self.note)
            && !decision.passes()
            && !decision.is_degraded()
            && let Some((_, outcome)) = decision.iter().next()
        {
            note.deny(outcome);
        }
        Poll::Ready(decided)
    }
}

impl fmt::Debug for LeasedDeciding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedDeciding").finish_non_exhaustive()
    }
}
