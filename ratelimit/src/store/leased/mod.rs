//! Prepaid leases: a node reserves units on the store and spends them here.

mod lease;
mod table;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use seawall_redis::Source;
use tokio::time::Instant;

use self::lease::{KeyLease, Step, time_of};
use self::table::Table;
use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::StoreError;
use crate::policy::Policy;
use crate::store::redis::batch::{LeaseAsk, Leased as Granted, Refund};
use crate::store::redis::lane::TakeLease;
use crate::store::redis::{RedisDeciding, RedisReceipt, RedisScope, RedisStore};
use crate::store::{Operate, Standing, Store};
use crate::window::{Outcome, Terms, WindowKind};

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
///   W / (W + w + T) of the limit, where the window W has 16 buckets of length w and leases last T. A lease lasts as
///   long as a bucket, but at most 4 s, so that is 16/18.
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

struct Shared {
    start: Instant,
    /// Leases by when they end, the next one first, as far as they are of one length.
    ends: Mutex<Ends>,
}

#[derive(Default)]
struct Ends {
    queue: VecDeque<End>,
    /// Whether a task sees to them.
    seen_to: bool,
}

struct End {
    at: u64,
    table: Arc<Table>,
    hash: u128,
    /// What gives the units back: with the key and terms of the lease.
    refund: Refund,
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
            shared: Arc::new(Shared {
                start: Instant::now(),
                ends: Mutex::default(),
            }),
        }
    }

    fn decide_one(&self, charge: &Charge<'_, LeasedScope>) -> Verdict<LeasedDeciding> {
        let now = self.shared.now();
        let table = &charge.scope.table;
        let hash = table.hash(charge.key);
        let stepped = {
            let mut shard = table.shard(hash);
            let new = || KeyLease::new(charge.terms, now);
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
                Verdict::Now(decision.charged_at(bucket * charge.terms.width))
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
    fn decide_all(&self, charges: &Charges<'_, LeasedScope>) -> Verdict<LeasedDeciding> {
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
                let new = || KeyLease::new(charge.terms, now);
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

const NOTHING: Granted = Granted {
    units: 0,
    bucket: 0,
    now: 0,
    left: 0,
};

/// Shadows and windows of other kinds are left to the store.
fn can_lease(charge: &Charge<'_, LeasedScope>) -> bool {
    !charge.is_shadow() && charge.policy.window() == WindowKind::Sliding
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

impl Shared {
    fn now(&self) -> u64 {
        self.micros(Instant::now())
    }

    fn micros(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.start).as_micros() as u64
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease that was asked for. Dropped before it came, it lets the next one be asked for.
struct Asking<S> {
    store: RedisStore<S>,
    shared: Arc<Shared>,
    table: Arc<Table>,
    hash: u128,
    terms: Terms,
    ask: LeaseAsk,
    refund: Refund,
    came: bool,
}

impl<S: Source> Asking<S> {
    fn take(&mut self, leased: Granted, sent: Instant) {
        self.came = true;
        let (now, sent) = (self.shared.now(), self.shared.micros(sent));
        let (back, ends) = match self.table.shard(self.hash).get(self.hash) {
            Some(key) => {
                let back = key.take(now, sent, self.terms, self.ask, leased);
                (back, key.ends())
            }
            // Forgotten meanwhile.
            None => (Some(leased), None),
        };
        if let Some(back) = back {
            self.store.give_back(vec![self.refund.of(back)]);
        }
        if let Some(at) = ends {
            see_to(
                &self.store,
                &self.shared,
                End {
                    at,
                    table: Arc::clone(&self.table),
                    hash: self.hash,
                    refund: self.refund.clone(),
                },
            );
        }
    }
}

impl<S> Drop for Asking<S> {
    fn drop(&mut self) {
        if !self.came
            && let Some(key) = self.table.shard(self.hash).get(self.hash)
        {
            key.give_up();
        }
    }
}

/// Has a lease given back when it is over, as far as it is not spent by then.
fn see_to<S: Source>(store: &RedisStore<S>, shared: &Arc<Shared>, end: End) {
    let mut ends = shared.ends();
    ends.queue.push_back(end);
    if !ends.seen_to {
        ends.seen_to = true;
        drop(ends);
        let watch = Watch {
            store: store.clone(),
            shared: Arc::clone(shared),
        };
        tokio::spawn(watch.run());
    }
}

/// Waits for leases to end, for as long as there are any.
struct Watch<S> {
    store: RedisStore<S>,
    shared: Arc<Shared>,
}

impl<S: Source> Watch<S> {
    async fn run(self) {
        loop {
            let next = {
                let mut ends = self.shared.ends();
                match ends.queue.front() {
                    Some(end) => end.at,
                    None => {
                        ends.seen_to = false;
                        return;
                    }
                }
            };
            // A little later, so that one waking serves many.
            let next = Duration::from_micros(next) + Duration::from_millis(5);
            tokio::time::sleep_until(self.shared.start + next).await;
            let now = self.shared.now();
            loop {
                let over: Vec<End> = {
                    let mut ends = self.shared.ends();
                    let over = ends.queue.iter().take_while(|end| end.at <= now);
                    let over = over.take(256).count();
                    ends.queue.drain(..over).collect()
                };
                if over.is_empty() {
                    break;
                }
                let back = over.iter().filter_map(|end| {
                    let mut shard = end.table.shard(end.hash);
                    let leased = shard.get(end.hash)?.expire(now)?;
                    Some(end.refund.of(leased))
                });
                self.store.give_back(back.collect());
                tokio::task::yield_now().await;
            }
        }
    }
}

impl<S> Drop for Watch<S> {
    /// If the runtime ends before the leases do, the next lease has another task see to them.
    fn drop(&mut self) {
        self.shared.ends().seen_to = false;
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

impl<S: Source> Operate for Leased<RedisStore<S>> {
    async fn peek(&self, of: &Charge<'_, LeasedScope>) -> Result<Standing, StoreError> {
        self.store.peek(&below(of)).await
    }

    async fn reset(&self, of: &Charge<'_, LeasedScope>) -> Result<(), StoreError> {
        self.forget(of);
        self.store.reset(&below(of)).await
    }

    async fn block(&self, of: &Charge<'_, LeasedScope>, time: Duration) -> Result<(), StoreError> {
        self.store.block(&below(of), time).await?;
        self.forget(of);
        Ok(())
    }

    async fn unblock(&self, of: &Charge<'_, LeasedScope>) -> Result<(), StoreError> {
        self.store.unblock(&below(of)).await?;
        self.forget(of);
        Ok(())
    }

    type Receipt = RedisReceipt;

    fn receipt(&self, charges: &Charges<'_, LeasedScope>, decision: &Decision) -> RedisReceipt {
        let mut below_all = Charges::new();
        for charge in charges.iter() {
            below_all.push(below(&charge));
        }
        self.store.receipt(&below_all, decision)
    }

    fn refund(&self, receipt: RedisReceipt) {
        self.store.refund(receipt);
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

impl fmt::Debug for LeasedDeciding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeasedDeciding").finish_non_exhaustive()
    }
}
