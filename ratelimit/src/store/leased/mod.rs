//! Prepaid leases: a node reserves units on the store and spends them here.

#[cfg(test)]
mod crowd;
mod decide;
mod ends;
mod lease;
mod operate;
mod table;

use std::fmt;
use std::sync::Arc;

use seawall_redis::Source;

pub use self::decide::LeasedDeciding;
use self::decide::can_lease;
use self::ends::Shared;
use self::lease::KeyLease;
use self::table::Table;
use crate::decision::{Charge, Charges, Verdict};
use crate::policy::Policy;
use crate::store::Store;
use crate::store::redis::{RedisScope, RedisStore};
use crate::window::WindowKind;

/// Keys of a rule that a node knows. Others are decided by the store each time.
const KEYS: usize = 200_000;

/// Decides most requests here, out of units that were paid for on the store before.
///
/// A node whose requests for a key come in close succession takes a lease on the store: so many units, charged there
/// at once, to be spent here within a short time. Until they are spent or the time is over, requests of the key
/// are decided in this process. The size follows the rate of the key. Keys that come now and then are
/// decided by the store each time, in batches.
///
/// ```
/// use seawall_ratelimit::{BoxError, Leased, Quota, RateLimitLayer, RedisStore, Rule};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let server = test_support::Redis::start().await;
/// # let url = server.url();
/// let connection = redis::Client::open(url)?.get_connection_manager().await?;
/// let limits = RateLimitLayer::new(Leased::over(RedisStore::new(connection)))
///     .rule(Rule::new("tenant", Quota::per_minute(10_000)).key(|tenant: &u64| (*tenant).into()))
///     .checker();
/// for _ in 0..1_000 {
///     limits.check(&7).await?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// # Never over the limit
///
/// Units are paid before they are spent, so there is nothing to make up for later, whatever becomes of the node:
/// - They are charged to the bucket in which the lease *ends*, the present one or the next, and every decision counts
///   that one too. So at whatever moment of the lease they are spent, they count for a whole window afterwards.
/// - The time of the lease runs here from before it was asked for, less a fiftieth for clocks of different pace.
/// - What was not spent can be spent no more before it goes back, goes back once at most, and to the bucket that was
///   charged.
///
/// A node that ends without giving back leaves its units charged: nobody gets them before they are old.
///
/// # What it costs
///
/// - Units that lie in a lease are nobody else's: up to 1/16 of the limit on each node, for the time of the lease.
/// - Being charged later than they are spent, units count for longer than a window: a flood that never ends gets at least
///   W / (W + w + T) of the limit, where the window W has 16 buckets of length w and leases last T: as long as a bucket, but
///   at most 4 s.
///
///   | window | bucket | lease | of the limit, at least | in one lease, at most |
///   | --- | --- | --- | --- | --- |
///   | up to 160 ms | below 10 ms | none | 16/17 = 0.941 | nothing |
///   | a second | 62.5 ms | 62.5 ms | 16/18 = 0.888 | 1/16 of the limit |
///   | a minute | 3.75 s | 3.75 s | 16/18 = 0.888 | 1/16 of the limit |
///   | an hour | 225 s | 4 s | 0.940 | 1/16 of the limit |
///   | a day | 5,400 s | 4 s | 0.941 | 1/16 of the limit |
///
/// - A refused key is not asked about until it could pass, or for a bucket if that is shorter; units that come back
///   meanwhile are noticed then.
/// - A block, or a newer version of the rule set elsewhere, is noticed when the lease is over.
///
/// Leases need a limit of at least 16 and a window of at least 160 ms; below that, the store decides each time.
/// A request under several rules is decided here if all of its keys have leases, else by the store as a
/// whole. Shadow rules are decided by the store.
pub struct Leased<St> {
    store: St,
    shared: Arc<Shared>,
}

/// What a [`Leased`] keeps for one rule.
#[derive(Clone)]
pub struct LeasedScope {
    store: RedisScope,
    table: Arc<Table>,
}

impl<S: Source> Leased<RedisStore<S>> {
    /// Takes leases on this store.
    pub fn over(store: RedisStore<S>) -> Self {
        Self {
            store,
            shared: Arc::new(Shared::new()),
        }
    }

    fn forget(&self, of: &Charge<'_, LeasedScope>) {
        let hash = of.scope.table.hash(of.key);
        let back = {
            let mut shard = of.scope.table.shard(hash);
            shard.get(hash).and_then(KeyLease::clear)
        };
        if let Some(back) = back {
            let refund = RedisStore::<S>::refund_of(&below(of), back);
            self.store.give_back(vec![refund]);
        }
    }
}

/// The charge as the store below sees it.
fn below<'a>(charge: &Charge<'a, LeasedScope>) -> Charge<'a, RedisScope> {
    Charge {
        number: charge.number,
        policy: charge.policy,
        scope: &charge.scope.store,
        key: charge.key,
        cost: charge.cost,
        terms: charge.terms,
    }
}

impl<S: Source> Store for Leased<RedisStore<S>> {
    type Scope = LeasedScope;
    type Deciding = LeasedDeciding;

    fn scope(&self, policy: &Policy) -> LeasedScope {
        LeasedScope {
            store: self.store.scope(policy),
            table: Arc::new(Table::with_capacity(KEYS)),
        }
    }

    fn keeps(&self, kind: WindowKind) -> bool {
        self.store.keeps(kind)
    }

    fn decide(&self, charges: &Charges<'_, LeasedScope>) -> Verdict<LeasedDeciding> {
        match charges.only() {
            Some(charge) if can_lease(charge) && charge.cost > 0 => self.decide_one(charge),
            _ => self.decide_all(charges),
        }
    }
}

impl<St: Clone> Clone for Leased<St> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<St: fmt::Debug> fmt::Debug for Leased<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LeasedScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedScope")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
