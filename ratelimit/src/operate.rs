//! What operators do to a key, through the [`Checker`] of a layer.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::decision::Charge;
use crate::error::StoreError;
use crate::key::Key;
use crate::layer::Checker;
use crate::store::{Operate, Standing};

impl<St: Operate, Rs> Checker<St, Rs> {
    /// How a key stands under a rule, by the rule's regular quota. Changes nothing.
    ///
    /// The key is what the rule finds in requests: for a rule by [`Key`] the same key, for one by client
    /// address the address (of IPv6 the network), for one that limits everyone [`Key::EVERYONE`].
    ///
    /// ```
    /// use seawall_ratelimit::{Key, MemoryStore, Quota, RateLimitLayer, Rule};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
    ///     .rule(Rule::new("user", Quota::per_minute(3)).key(|user: &String| user.into()))
    ///     .checker();
    /// let ada = String::from("ada");
    /// limits.check(&ada).await?;
    /// assert_eq!(limits.peek("user", Key::from("ada")).await?.outcome().remaining(), 2);
    ///
    /// limits.block("user", Key::from("ada"), Duration::from_secs(600)).await?;
    /// assert!(limits.check(&ada).await.is_err());
    /// limits.unblock("user", Key::from("ada")).await?;
    /// limits.reset("user", Key::from("ada")).await?;
    /// assert_eq!(limits.peek("user", Key::from("ada")).await?.outcome().remaining(), 3);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// When there is no rule of this name, or the store does not answer.
    pub async fn peek(&self, rule: &str, key: Key<'_>) -> Result<Standing, OperateError> {
        let charge = self.charge(rule, key)?;
        Ok(self.limiter.store().peek(&charge).await?)
    }

    /// Forgets what was counted for a key under a rule. A block stays.
    ///
    /// # Errors
    ///
    /// When there is no rule of this name, or the store does not answer.
    pub async fn reset(&self, rule: &str, key: Key<'_>) -> Result<(), OperateError> {
        let charge = self.charge(rule, key)?;
        Ok(self.limiter.store().reset(&charge).await?)
    }

    /// Refuses a key under a rule for so long, whatever it has left: clients are told to come back after that.
    ///
    /// # Errors
    ///
    /// When there is no rule of this name, or the store does not answer.
    pub async fn block(
        &self,
        rule: &str,
        key: Key<'_>,
        time: Duration,
    ) -> Result<(), OperateError> {
        let charge = self.charge(rule, key)?;
        Ok(self.limiter.store().block(&charge, time).await?)
    }

    /// Lifts a block. What was counted stays.
    ///
    /// # Errors
    ///
    /// When there is no rule of this name, or the store does not answer.
    pub async fn unblock(&self, rule: &str, key: Key<'_>) -> Result<(), OperateError> {
        let charge = self.charge(rule, key)?;
        Ok(self.limiter.store().unblock(&charge).await?)
    }

    fn charge<'a>(
        &'a self,
        rule: &str,
        key: Key<'a>,
    ) -> Result<Charge<'a, St::Scope>, OperateError> {
        let charge = self.limiter.charge(rule, key);
        charge.ok_or_else(|| OperateError::UnknownRule(rule.to_owned()))
    }
}

/// Why nothing was done to a key.
#[derive(Debug)]
#[non_exhaustive]
pub enum OperateError {
    /// The layer has no rule of this name.
    UnknownRule(String),
    /// The store did not do it, or did not say that it did.
    Store(StoreError),
}

impl From<StoreError> for OperateError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for OperateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownRule(name) => write!(f, "no rule is named {name:?}"),
            Self::Store(_) => f.write_str("the store of the rate limits did not do it"),
        }
    }
}

impl Error for OperateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            Self::UnknownRule(_) => None,
        }
    }
}
