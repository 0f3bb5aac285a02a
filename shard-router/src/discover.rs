//! Replicas from a [`tower::discover::Discover`].

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use tower::discover::{Change, Discover};

use crate::{BoxError, Discovered, TopologyHandle};

impl TopologyHandle {
    /// Keeps the [replicas](TopologyHandle::set_replicas) of all shards at what a
    /// [`Discover`] has found, until it ends. Spawn it.
    ///
    /// Keys are the discovery's own; what it inserts under one says which shard it is a replica of
    /// and where it lies. Changes that are there at once are put in force at once. When the
    /// discovery has ended or failed, what it had found last stays.
    ///
    /// ```
    /// # use futures_util::stream;
    /// # use seawall_shard_router::{BoxError, Discovered, Shard, Topology, TopologyHandle};
    /// # use tower::discover::Change;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let handle = TopologyHandle::new(Topology::slots([Shard::new("s00").primary("10.0.0.1")])?);
    /// let changes = stream::iter([
    ///     Ok::<_, BoxError>(Change::Insert("pod-7", Discovered::new("s00", "10.0.0.7")?)),
    ///     Ok(Change::Insert("pod-8", Discovered::new("s00", "10.0.0.8")?)),
    ///     Ok(Change::Remove("pod-7")),
    /// ]);
    /// handle.discover(changes).await?;
    /// let addresses: Vec<_> = handle.current().endpoints().map(|e| e.address().to_owned()).collect();
    /// assert_eq!(addresses, ["10.0.0.1", "10.0.0.8"]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The discovery's own, which ends it; or that of
    /// [`set_replicas`](TopologyHandle::set_replicas).
    pub async fn discover<D>(&self, discover: D) -> Result<(), BoxError>
    where
        D: Discover<Service = Discovered, Error: Into<BoxError>>,
    {
        let mut discover = pin!(discover);
        let mut found: Vec<(D::Key, Discovered)> = Vec::new();
        loop {
            let mut changed = false;
            let ended = poll_fn(|cx| {
                loop {
                    match discover.as_mut().poll_discover(cx) {
                        Poll::Ready(Some(Ok(Change::Insert(key, replica)))) => {
                            found.retain(|(other, _)| *other != key);
                            found.push((key, replica));
                        }
                        Poll::Ready(Some(Ok(Change::Remove(key)))) => {
                            found.retain(|(other, _)| *other != key);
                        }
                        Poll::Ready(Some(Err(error))) => {
                            return Poll::Ready(Some(Err(error.into())));
                        }
                        Poll::Ready(None) => return Poll::Ready(Some(Ok(()))),
                        Poll::Pending if changed => return Poll::Ready(None),
                        Poll::Pending => return Poll::Pending,
                    }
                    changed = true;
                }
            })
            .await;
            if changed {
                self.set_replicas(found.iter().map(|(_, replica)| replica.clone()))?;
            }
            if let Some(outcome) = ended {
                return outcome;
            }
        }
    }
}
