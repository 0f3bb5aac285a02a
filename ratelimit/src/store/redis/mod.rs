//! Counters on Redis: one script for all rules of a request, by the server's clock.

mod outage;
mod reply;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use redis::aio::ConnectionLike;
use seawall_redis::{Client, Pooled, Script, Shared, Source};
use sha2::{Digest, Sha256};

pub use self::outage::Outage;
use self::outage::{LocalRule, Standby};
use crate::decision::{Charges, Decision, Verdict};
use crate::error::{ConfigError, StoreError};
use crate::key::Key;
use crate::policy::Policy;
use crate::store::Store;
use crate::window::Terms;

static SCRIPT: Script = Script::new(include_str!("../window.lua"));
const DEFAULT_PREFIX: &str = "seawall";

/// Counters that many processes share: strict by the clock of the Redis server.
///
/// A decision is one call of one script, whatever number of rules it checks. It needs Redis 7 or newer.
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
/// nothing from outside reaches Redis as it is. A record is 96 bytes and goes away by itself
/// a window (and one sixteenth) after it was last charged. A value of something else under such a key is
/// [`StoreError::ForeignValue`], and is left alone.
///
/// # Outage
///
/// Each call has the deadline and the breaker of its [`Client`] (250 ms, and five failures, unless
/// set). If there is no decision, [`on_outage`](RedisStore::on_outage) says what happens. The default
/// is [`Outage::Closed`]: what cannot be counted is not let through.
///
/// # Limits of strictness
///
/// Strict means strict by the server's clock, for what the server remembers. When its clock jumps forward,
/// or a failover loses writes, or it evicts keys for want of memory, what was counted is forgotten.
/// A call that a cluster client sends again after a lost reply is counted twice, which refuses too
/// much and never too little.
#[derive(Clone)]
pub struct RedisStore<S> {
    client: Client<S>,
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
impl<S> From<Client<S>> for RedisStore<S> {
    fn from(client: Client<S>) -> Self {
        let outage = Outage::default();
        Self {
            client,
            prefix: DEFAULT_PREFIX.into(),
            standby: Standby::of(outage),
            outage,
        }
    }
}

impl<S> RedisStore<S> {
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
    fn key(&self) -> Vec<u8> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut key = Vec::with_capacity(self.rule.stem.len() + 2 * self.hash.len());
        key.extend_from_slice(self.rule.stem.as_bytes());
        for byte in self.hash {
            key.push(DIGITS[usize::from(byte >> 4)]);
            key.push(DIGITS[usize::from(byte & 15)]);
        }
        key
    }

    fn words(&self) -> [String; 5] {
        let terms = self.terms;
        [
            terms.version.to_string(),
            terms.limit.to_string(),
            terms.width.to_string(),
            self.cost.to_string(),
            u8::from(self.shadow).to_string(),
        ]
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
        let asked: Vec<Asked> = charges
            .iter()
            .map(|charge| Asked {
                number: charge.number,
                rule: Arc::clone(&charge.scope.rule),
                hash: charge.scope.rule.hash(charge.key),
                cost: charge.cost,
                terms: charge.terms,
                shadow: charge.is_shadow(),
            })
            .collect();
        let store = self.clone();
        Verdict::Later(RedisDeciding(Box::pin(async move {
            match ask(&store.client, &asked).await {
                Ok(decision) => Ok(decision),
                Err(error) => store.standby.decide(store.outage, &asked, error),
            }
        })))
    }
}

async fn ask<S: Source>(client: &Client<S>, asked: &[Asked]) -> Result<Decision, StoreError> {
    let keys: Vec<Vec<u8>> = asked.iter().map(Asked::key).collect();
    let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
    let words: Vec<[String; 5]> = asked.iter().map(Asked::words).collect();
    let mut args: Vec<&[u8]> = Vec::with_capacity(1 + 5 * asked.len());
    // The server's own time.
    args.push(b"");
    args.extend(words.iter().flatten().map(String::as_bytes));
    match client.script(&SCRIPT, &keys, &args).await {
        Ok(reply) => reply::read(&reply, asked),
        Err(error) => Err(StoreError::Unavailable(error.into())),
    }
}

/// A decision that Redis makes.
pub struct RedisDeciding(Pin<Box<dyn Future<Output = Result<Decision, StoreError>> + Send>>);

impl Future for RedisDeciding {
    type Output = Result<Decision, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
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
