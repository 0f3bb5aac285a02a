//! Counters on Redis: one script for all rules of a request, by the server's clock.

mod asked;
pub(crate) mod batch;
mod deciding;
mod failed;
pub(crate) mod lane;
mod operate;
mod outage;
pub(crate) mod plan;
mod reply;

use std::fmt;
use std::sync::Arc;

use redis::aio::ConnectionLike;
use seawall_redis::{Client, Pooled, Shared, Source};

use self::asked::Asked;
pub use self::asked::RedisScope;
use self::batch::{Act, LeaseAsk, Leased, Refund, Request};
pub use self::deciding::RedisDeciding;
use self::lane::{Ask, Lanes, TakeLease};
pub use self::operate::RedisReceipt;
pub use self::outage::Outage;
use self::outage::Standby;
use crate::decision::{Charge, Charges, Decision, Verdict};
use crate::error::ConfigError;
use crate::policy::Policy;
use crate::store::Store;
use crate::window::WindowKind;

const DEFAULT_PREFIX: &str = "seawall";

/// Counters that many processes share: strict by the clock of the Redis server.
///
/// A request is decided in one call of one script, whatever number of rules it checks, and decisions that are
/// asked for at the same time share a call: what arrives while one is under way is the next batch. Nobody waits
/// for a timer. It needs Redis 7 or newer, or Valkey.
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
/// While a slot moves from one server of a cluster to another, a request is decided only if all its records are on one
/// side. Others, and with them all that are new, are answered `TRYAGAIN`, with the batch in which they travel: nothing is counted
/// then, the cluster client asks again within the deadline, and after it comes the outage policy. Left alone that client waits for
/// more than a second first, so give it a `min_retry_wait` of some milliseconds.
///
/// # Keys
///
/// `{prefix}` and 21 letters, which are a hash (SHA-256, cut to 126 bits) of the rule's name, the kind of its window and
/// the key: nothing from outside reaches Redis as it is. A record is a string of 44 to 108 bytes, or, of a
/// [`WindowKind::Log`], a sorted set with a member for each moment; it goes away by itself a window (and two
/// sixteenths) after it was last charged. Beside them, each store keeps two keys `{prefix}!name` with
/// the number and the reply of its last batches, for a minute. A value of something else under such a key is
/// [`StoreError::ForeignValue`](crate::StoreError::ForeignValue), and is left alone.
///
/// # Windows
///
/// All [kinds](WindowKind), with the same decisions as in memory; by the clock of the server, which a step back
/// makes them forget no sooner and no later than a window from then. Decisions about the default one are the
/// fastest by far. A log takes O(log L) for a decision and up to L members.
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

impl<S: Source> Store for RedisStore<S> {
    type Scope = RedisScope;
    type Deciding = RedisDeciding;

    fn scope(&self, policy: &Policy) -> RedisScope {
        RedisScope::new(&self.prefix, policy, self.standby.rule(policy))
    }

    fn keeps(&self, _: WindowKind) -> bool {
        true
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
        let lanes = Arc::clone(&self.lanes) as Arc<dyn Ask>;
        RedisDeciding::new(lanes, request, lease, self.standby.clone(), self.outage)
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
}

impl<S> fmt::Debug for RedisStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("prefix", &self.prefix)
            .field("outage", &self.outage)
            .finish_non_exhaustive()
    }
}
