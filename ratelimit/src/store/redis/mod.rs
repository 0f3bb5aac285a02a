//! Counters on Redis: one script for all rules of a request, by the server's clock.

pub(crate) mod batch;
pub(crate) mod lane;
mod outage;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use redis::aio::ConnectionLike;
use seawall_redis::{Client, Pooled, Shared, Source};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use self::batch::{Act, Answer, LeaseAsk, Leased, Refund, Request};
use self::lane::{Ask, Lanes, TakeLease};
pub use self::outage::Outage;
use self::outage::{LocalRule, Standby};
use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::{ConfigError, StoreError};
use crate::key::Key;
use crate::policy::Policy;
use crate::quota::MAX_WINDOW;
use crate::store::{Operate, Standing, Store};
use crate::window::{Terms, Wait};

const DEFAULT_PREFIX: &str = "seawall";

/// Counters that many processes share: strict by the clock of the Redis server.
///
/// A request is decided in one call of one script, whatever number of rules it checks, and decisions that are
/// asked for at the same time share a call: what arrives while one is under way is the next batch. Nobody waits
/// for a timer. It needs Redis 7 or newer.
///
/// ```
/// use seawall_ratelimit::{BoxError, Outage, Quota, RateLimitLayer, RedisStore, Rule};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let server = test_support::Redis::start().await;
/// # let url = server.url();
/// let connection = redis::Client::open(url)?.get_connection_manager().await?;
/// let store = RedisStore::new(connection).on_outage(Outage::Local { share: 0.1 });
/// let logins = RateLimitLayer::new(store)
///     .rule(Rule::new("login", Quota::per_hour(1)).key(|name: &String| name.into()))
///     .checker();
///
/// let name = String::from("ada");
/// assert!(logins.check(&name).await.is_ok());
/// assert!(logins.check(&name).await.is_err());
/// # Ok(())
/// # }
/// ```
///
/// # Slots
///
/// All rules of a request are charged in one script, so their keys lie in one slot: all keys of a
/// [prefix](RedisStore::prefix) do. On a cluster, a prefix is therefore served by one node; layers
/// whose load one node cannot bear want a prefix each.
///
/// # Keys
///
/// `{prefix}:rule:hash`, where the hash is of fixed size and made of the rule's name and the key, so
/// nothing from outside reaches Redis as it is. A record is 108 bytes and goes away by itself
/// a window (and two sixteenths) after it was last charged. Beside them, each store keeps two keys
/// `{prefix}!name` with the number and the reply of its last batches, for a minute. A value of something else under such a key is
/// [`StoreError::ForeignValue`], and is left alone.
///
/// # Outage
///
/// Each request has the deadline of the [`Client`], from when it is first polled, and batches go through its
/// breaker (250 ms, and five failures, unless set). If there is no decision, [`on_outage`](RedisStore::on_outage) says what happens. The default
/// is [`Outage::Closed`]: what cannot be counted is not let through.
///
/// # Limits of strictness
///
/// Strict means strict by the server's clock, for what the server remembers. When its clock jumps forward,
/// or a failover loses writes, or it evicts keys for want of memory, what was counted is forgotten.
/// A batch that a cluster client sends again after a lost reply counts once: it is known by its number. A
/// request whose reply was lost for good may have been counted, which refuses too much and never too little.
#[derive(Clone)]
pub struct RedisStore<S> {
    lanes: Arc<Lanes<S>>,
    prefix: Arc<str>,
    outage: Outage,
    standby: Standby,
}

impl<C> RedisStore<Shared<C>>
where
    C: ConnectionLike + Clone + Send + Sync + 'static,
{
    /// On a connection that can be cloned and shared: multiplexed, `ConnectionManager` or cluster.
    pub fn new(connection: C) -> Self {
        Client::new(Shared::new(connection)).into()
    }
}

impl<M> RedisStore<Pooled<M>>
where
    M: bb8::ManageConnection<Error = redis::RedisError>,
    M::Connection: ConnectionLike,
{
    /// On a pool, from which connections are taken in the order of asking.
    pub fn pooled(pool: bb8::Pool<M>) -> Self {
        Client::new(Pooled::new(pool)).into()
    }
}

/// On a client whose deadline and breaker are set.
impl<S: Source> From<Client<S>> for RedisStore<S> {
    fn from(client: Client<S>) -> Self {
        let outage = Outage::default();
        Self {
            lanes: Lanes::new(client, DEFAULT_PREFIX),
            prefix: DEFAULT_PREFIX.into(),
            standby: Standby::of(outage),
            outage,
        }
    }
}

impl<S: Source> RedisStore<S> {
    /// What to do with a request when Redis does not decide about it.
    ///
    /// # Panics
    ///
    /// When a local share is not above 0 and at most 1.
    #[must_use]
    pub fn on_outage(self, outage: Outage) -> Self {
        match self.try_on_outage(outage) {
            Ok(store) => store,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`on_outage`](RedisStore::on_outage) for values from outside the code.
    ///
    /// # Errors
    ///
    /// When a local share is not above 0 and at most 1.
    pub fn try_on_outage(mut self, outage: Outage) -> Result<Self, ConfigError> {
        outage.check()?;
        self.standby = Standby::of(outage);
        self.outage = outage;
        Ok(self)
    }

    /// What all keys begin with; `seawall` unless set. Stores with one prefix on one server share the
    /// counters of rules of one name.
    ///
    /// # Panics
    ///
    /// When the prefix is empty or holds a brace.
    #[must_use]
    pub fn prefix(self, prefix: &str) -> Self {
        match self.try_prefix(prefix) {
            Ok(store) => store,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`prefix`](RedisStore::prefix) for values from outside the code.
    ///
    /// # Errors
    ///
    /// When the prefix is empty or holds a brace.
    pub fn try_prefix(mut self, prefix: &str) -> Result<Self, ConfigError> {
        if prefix.is_empty() || prefix.contains(['{', '}']) {
            return Err(ConfigError::Prefix(prefix.to_owned()));
        }
        self.lanes = Lanes::new(self.lanes.client().clone(), prefix);
        self.prefix = prefix.into();
        Ok(self)
    }
}

/// What a [`RedisStore`] keeps for one rule.
#[derive(Clone, Debug)]
pub struct RedisScope {
    rule: Arc<ScopedRule>,
}

#[derive(Debug)]
struct ScopedRule {
    policy: Policy,
    /// `{prefix}:rule:`, to be followed by the hash of a key.
    stem: String,
    /// Fed with the rule's name and its length.
    hasher: Sha256,
    /// The rule for when Redis is out.
    local: Option<LocalRule>,
}

impl ScopedRule {
    fn hash(&self, key: Key<'_>) -> [u8; 16] {
        let mut hasher = self.hasher.clone();
        hasher.update([key.kind()]);
        hasher.update(key.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize()[..16]);
        half
    }
}

/// One rule of one request, kept until Redis has answered.
#[derive(Debug)]
struct Asked {
    number: u8,
    rule: Arc<ScopedRule>,
    hash: [u8; 16],
    cost: u32,
    terms: Terms,
    shadow: bool,
}

impl Asked {
    fn of(charge: &Charge<'_, RedisScope>) -> Self {
        Self {
            number: charge.number,
            rule: Arc::clone(&charge.scope.rule),
            hash: charge.scope.rule.hash(charge.key),
            cost: charge.cost,
            terms: charge.terms,
            shadow: charge.is_shadow(),
        }
    }

    fn write_key(&self, into: &mut Vec<u8>) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        into.extend_from_slice(self.rule.stem.as_bytes());
        for byte in self.hash {
            into.push(DIGITS[usize::from(byte >> 4)]);
            into.push(DIGITS[usize::from(byte & 15)]);
        }
    }

    fn refund(&self, bucket: u64, units: u32) -> Refund {
        let mut key = Vec::new();
        self.write_key(&mut key);
        Refund {
            key,
            terms: self.terms,
            bucket,
            units,
        }
    }

    fn foreign(&self) -> StoreError {
        StoreError::ForeignValue {
            rule: self.rule.policy.shared_name(),
        }
    }
}

impl<S: Source> Store for RedisStore<S> {
    type Scope = RedisScope;
    type Deciding = RedisDeciding;

    fn scope(&self, policy: &Policy) -> RedisScope {
        let name = policy.name();
        let mut hasher = Sha256::new();
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        RedisScope {
            rule: Arc::new(ScopedRule {
                stem: format!("{{{}}}:{name}:", self.prefix),
                hasher,
                local: self.standby.rule(policy),
                policy: policy.clone(),
            }),
        }
    }

    fn decide(&self, charges: &Charges<'_, RedisScope>) -> Verdict<RedisDeciding> {
        let mut asked = charges.iter().map(|charge| Asked::of(&charge));
        let Some(first) = asked.next() else {
            return Verdict::Now(Decision::empty());
        };
        let request = Arc::new(Request {
            first,
            more: asked.collect(),
            act: Act::Decide,
            lease: None,
        });
        Verdict::Later(self.deciding(request, None))
    }
}

impl<S: Source> RedisStore<S> {
    fn deciding(&self, request: Arc<Request>, lease: Option<TakeLease>) -> RedisDeciding {
        RedisDeciding {
            lanes: Arc::clone(&self.lanes) as Arc<dyn Ask>,
            stage: Stage::Asking(lease),
            request,
            standby: self.standby.clone(),
            outage: self.outage,
        }
    }

    /// Decides, and leases beside it.
    pub(crate) fn decide_leasing(
        &self,
        of: &Charge<'_, RedisScope>,
        lease: Option<(LeaseAsk, TakeLease)>,
    ) -> RedisDeciding {
        let (lease, take) = lease.unzip();
        let request = Request {
            first: Asked::of(of),
            more: Vec::new(),
            act: Act::Decide,
            lease,
        };
        self.deciding(Arc::new(request), take)
    }

    /// Leases, without anybody who waits for it.
    pub(crate) fn lease(&self, of: &Charge<'_, RedisScope>, ask: LeaseAsk, take: TakeLease) {
        let request = Request {
            first: Asked {
                cost: 0,
                shadow: false,
                ..Asked::of(of)
            },
            more: Vec::new(),
            act: Act::Lease,
            lease: Some(ask),
        };
        let lanes = Arc::clone(&self.lanes) as Arc<dyn Ask>;
        lanes.ask_for_lease(Arc::new(request), take);
    }

    /// What it takes to give units of a lease back.
    pub(crate) fn refund_of(of: &Charge<'_, RedisScope>, leased: Leased) -> Refund {
        Asked::of(of).refund(leased.bucket, leased.units)
    }

    pub(crate) fn give_back(&self, refunds: Vec<Refund>) {
        let lanes = Arc::clone(&self.lanes) as Arc<dyn Ask>;
        lanes.refund(refunds);
    }

    async fn act(&self, of: &Charge<'_, RedisScope>, act: Act) -> Result<Answer, StoreError> {
        let request = Arc::new(Request {
            first: Asked {
                cost: 0,
                shadow: false,
                ..Asked::of(of)
            },
            more: Vec::new(),
            act,
            lease: None,
        });
        let lanes = Arc::clone(&self.lanes) as Arc<dyn Ask>;
        lanes.ask(request, None).await.map_err(|_| lane::given_up())
    }
}

impl<S: Source> Operate for RedisStore<S> {
    async fn peek(&self, of: &Charge<'_, RedisScope>) -> Result<Standing, StoreError> {
        let answer = self.act(of, Act::Decide).await?;
        let decision = answer.decision?;
        let (_, outcome) = decision.iter().next().ok_or_else(lane::given_up)?;
        let rest = match outcome.wait() {
            Wait::Micros(micros) if answer.blocked => Some(Duration::from_micros(micros)),
            _ => None,
        };
        Ok(Standing {
            outcome: outcome.let_through(),
            blocked_for: rest,
        })
    }

    async fn reset(&self, of: &Charge<'_, RedisScope>) -> Result<(), StoreError> {
        self.act(of, Act::Reset).await?.decision.map(drop)
    }

    async fn block(&self, of: &Charge<'_, RedisScope>, time: Duration) -> Result<(), StoreError> {
        // Longer than any window can be is as good as for ever, and numbers beyond 53 bits are none.
        let micros = time.min(MAX_WINDOW).as_micros() as u64;
        self.act(of, Act::Block(micros)).await?.decision.map(drop)
    }

    async fn unblock(&self, of: &Charge<'_, RedisScope>) -> Result<(), StoreError> {
        self.act(of, Act::Unblock).await?.decision.map(drop)
    }

    type Receipt = RedisReceipt;

    fn receipt(&self, charges: &Charges<'_, RedisScope>, decision: &Decision) -> RedisReceipt {
        let Some(moment) = decision.moment() else {
            return RedisReceipt::default();
        };
        let charged = charges.iter().zip(decision.iter());
        let charged = charged.filter(|(charge, (_, outcome))| outcome.passes() && charge.cost > 0);
        let refund = |charge: &Charge<'_, RedisScope>| {
            let asked = Asked::of(charge);
            asked.refund(moment / asked.terms.width, asked.cost)
        };
        RedisReceipt {
            refunds: charged.map(|(charge, _)| refund(&charge)).collect(),
        }
    }

    fn refund(&self, receipt: RedisReceipt) {
        let lanes = Arc::clone(&self.lanes) as Arc<dyn Ask>;
        lanes.refund(receipt.refunds);
    }
}

/// What a decision on Redis has charged.
#[derive(Debug, Default)]
pub struct RedisReceipt {
    refunds: Vec<Refund>,
}

/// A decision that Redis makes, together with all those that are asked for at the same time.
///
/// It is asked for when this is first polled, which has to be within a tokio runtime. Dropped before its
/// batch is on its way, it is not counted.
pub struct RedisDeciding {
    lanes: Arc<dyn Ask>,
    stage: Stage,
    /// Kept for the case that Redis does not decide.
    request: Arc<Request>,
    standby: Standby,
    outage: Outage,
}

enum Stage {
    Asking(Option<TakeLease>),
    Waiting(oneshot::Receiver<Answer>),
}

impl Future for RedisDeciding {
    type Output = Result<Decision, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let Stage::Asking(lease) = &mut this.stage {
            let lanes = Arc::clone(&this.lanes);
            let told = lanes.ask(Arc::clone(&this.request), lease.take());
            this.stage = Stage::Waiting(told);
        }
        let Stage::Waiting(told) = &mut this.stage else {
            unreachable!("it was just asked");
        };
        let decision = match ready!(Pin::new(told).poll(cx)) {
            Ok(answer) => answer.decision,
            Err(_) => Err(lane::given_up()),
        };
        Poll::Ready(match decision {
            Ok(decision) => Ok(decision),
            Err(error) => this.standby.decide(this.outage, &this.request, error),
        })
    }
}

impl fmt::Debug for RedisDeciding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisDeciding").finish_non_exhaustive()
    }
}

impl<S> fmt::Debug for RedisStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .field("outage", &self.outage)
            .finish_non_exhaustive()
    }
}
