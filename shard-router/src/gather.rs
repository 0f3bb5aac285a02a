//! One question to many shards.

use std::error::Error;
use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;
use tower_service::Service;

use crate::access::Classify;
use crate::{BoxError, Place, ShardId, ShardRouter};

/// How a question goes to many shards.
///
/// # Default
/// All at once, and no deadline.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[must_use]
pub struct Scatter {
    at_once: Option<NonZeroUsize>,
    deadline: Option<Duration>,
}

impl Scatter {
    /// To all at once, without a deadline.
    pub const fn new() -> Self {
        Self {
            at_once: None,
            deadline: None,
        }
    }

    /// To at most so many shards at once; the others wait for one of these to answer.
    pub const fn at_once(mut self, shards: NonZeroUsize) -> Self {
        self.at_once = Some(shards);
        self
    }

    /// How long each shard may take, from when it is asked.
    pub const fn deadline(mut self, each: Duration) -> Self {
        self.deadline = Some(each);
        self
    }
}

/// What many shards said: each has an answer, or a reason why there is none.
#[derive(Debug)]
#[must_use = "it says what is missing"]
pub struct Gathered<T> {
    /// In the order of the shards' names.
    parts: Vec<(ShardId, Result<T, BoxError>)>,
}

impl<T> Gathered<T> {
    /// Whether every shard has answered.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.parts.iter().all(|(_, part)| part.is_ok())
    }

    /// What there is, shard by shard.
    pub fn answers(&self) -> impl Iterator<Item = (&ShardId, &T)> {
        let parts = self.parts.iter();
        parts.filter_map(|(shard, part)| Some((shard, part.as_ref().ok()?)))
    }

    /// What there is not, and why: [`Missed`], a [`RouteError`](crate::RouteError), or the error of
    /// the shard itself.
    pub fn missing(&self) -> impl Iterator<Item = (&ShardId, &BoxError)> {
        let parts = self.parts.iter();
        parts.filter_map(|(shard, part)| Some((shard, part.as_ref().err()?)))
    }

    /// All of it, in the order of the shards' names.
    #[must_use]
    pub fn into_parts(self) -> Vec<(ShardId, Result<T, BoxError>)> {
        self.parts
    }

    /// The answers of all.
    ///
    /// # Errors
    /// The first reason for which one is missing, with its shard.
    pub fn complete(self) -> Result<Vec<(ShardId, T)>, (ShardId, BoxError)> {
        let parts = self.parts.into_iter();
        parts
            .map(|(shard, part)| match part {
                Ok(answer) => Ok((shard, answer)),
                Err(error) => Err((shard, error)),
            })
            .collect()
    }
}

/// A shard did not answer in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Missed {
    /// How long it had.
    pub deadline: Duration,
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {:?}", self.deadline)
    }
}

impl Error for Missed {}

impl<S, K, A> ShardRouter<S, K, A>
where
    S: Send + 'static,
{
    /// Asks every shard of the topology in force for which there is a request, and gathers what
    /// they say. Each goes through its shard's lane like any other request.
    ///
    /// **It never pretends to be complete**: a shard that failed, or did not answer in time, is
    /// listed as missing. One slow shard costs no more than its deadline.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use seawall_shard_router::{BoxError, Endpoint, Key, Scatter, ShardRouter, Topology};
    /// # use tower::service_fn;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// # let router = ShardRouter::new(Topology::slots(["s00", "s01"])?, |_: &Endpoint| {
    /// #     service_fn(async |count: u64| Ok::<_, std::io::Error>(count + 1))
    /// # }).key(|count: &u64| Key::from(*count));
    /// let scatter = Scatter::new().deadline(Duration::from_millis(200));
    /// let counts = router.scatter(scatter, |_shard| Some(20)).await;
    /// let sum: u64 = counts.answers().map(|(_, count)| count).sum();
    /// assert_eq!((sum, counts.is_complete()), (42, true));
    /// # Ok(()) }
    /// ```
    pub async fn scatter<Req>(
        &self,
        scatter: Scatter,
        mut request: impl FnMut(&ShardId) -> Option<Req>,
    ) -> Gathered<S::Response>
    where
        S: Service<Req, Error: Into<BoxError>> + Clone,
        A: Classify<Req>,
    {
        let topology = self.topology().current();
        let shards = topology.shards().iter().map(crate::Shard::id);
        let mut waiting = shards.filter_map(|shard| Some((shard.clone(), request(shard)?)));
        let (mut asked, mut parts) = (FuturesUnordered::new(), Vec::new());
        let at_once = scatter.at_once.map_or(usize::MAX, NonZeroUsize::get);
        loop {
            while asked.len() < at_once
                && let Some((shard, request)) = waiting.next()
            {
                let access = self.access.access(&request);
                let answer = self.send(&Place::Shard(shard.clone()), access, request);
                asked.push(async move {
                    let answer = match scatter.deadline {
                        None => answer.await,
                        Some(deadline) => timeout(deadline, answer)
                            .await
                            .unwrap_or_else(|_| Err(Missed { deadline }.into())),
                    };
                    (shard, answer)
                });
            }
            match asked.next().await {
                Some(part) => parts.push(part),
                None => break,
            }
        }
        parts.sort_by(|(one, _), (other, _)| one.cmp(other));
        Gathered { parts }
    }
}
