//! Topologies that are followed as they change: a watch channel, a file, a closure.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::{BoxError, Topology, TopologyHandle};

/// Where topologies come from, one after the other.
pub trait Source: Send {
    /// Waits for the next one; `None` when there will be no more.
    ///
    /// An error is reported, and it is asked again. It must wait then too.
    fn next(&mut self) -> Next<'_>;
}

/// The next topology of a [`Source`]. Boxed, as it is asked for rarely, and so that what follows a
/// source can be spawned whatever the source is.
pub type Next<'a> = Pin<Box<dyn Future<Output = Result<Option<Topology>, BoxError>> + Send + 'a>>;

impl Source for watch::Receiver<Topology> {
    fn next(&mut self) -> Next<'_> {
        Box::pin(async {
            match self.changed().await {
                Ok(()) => Ok(Some(self.borrow_and_update().clone())),
                Err(_) => Ok(None),
            }
        })
    }
}

/// A closure that is asked every so often: see [`every()`].
#[derive(Debug)]
pub struct Every<F> {
    period: Duration,
    fetch: F,
}

/// Topologies from a closure that is asked each `period` anew.
pub fn every<F, Fut>(period: Duration, fetch: F) -> Every<F>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<Topology, BoxError>> + Send,
{
    Every { period, fetch }
}

impl<F, Fut> Source for Every<F>
where
    F: FnMut() -> Fut + Send,
    Fut: Future<Output = Result<Topology, BoxError>> + Send,
{
    fn next(&mut self) -> Next<'_> {
        Box::pin(async {
            sleep(self.period).await;
            (self.fetch)().await.map(Some)
        })
    }
}

/// A file that is read every so often: see [`file()`].
#[derive(Debug)]
pub struct File<P> {
    path: PathBuf,
    period: Duration,
    parse: P,
    last: Vec<u8>,
}

/// Topologies from a file that is read each `period` anew, and parsed when its bytes differ.
///
/// Write it under another name and rename it, so that nobody reads half of it. A file that cannot
/// be read or parsed is an error, and the topology in force stays.
pub fn file<P>(path: impl Into<PathBuf>, period: Duration, parse: P) -> File<P>
where
    P: FnMut(&[u8]) -> Result<Topology, BoxError> + Send,
{
    File {
        path: path.into(),
        period,
        parse,
        last: Vec::new(),
    }
}

impl<P> Source for File<P>
where
    P: FnMut(&[u8]) -> Result<Topology, BoxError> + Send,
{
    fn next(&mut self) -> Next<'_> {
        Box::pin(async {
            loop {
                sleep(self.period).await;
                let path = self.path.clone();
                let bytes = tokio::task::spawn_blocking(move || std::fs::read(path)).await??;
                if bytes != self.last {
                    self.last = bytes;
                    return (self.parse)(&self.last).map(Some);
                }
            }
        })
    }
}

impl TopologyHandle {
    /// Puts each topology of a source in force, until the source ends. Spawn it.
    ///
    /// What could not be fetched, or was older than the one in force, goes to `failed`; the
    /// topology in force stays.
    ///
    /// ```
    /// # use seawall_shard_router::{BoxError, ConfigError, Topology, TopologyHandle};
    /// # use tokio::sync::watch;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let first = Topology::slots(["s00", "s01"])?;
    /// let (publish, topologies) = watch::channel(first.clone());
    /// let handle = TopologyHandle::new(first.clone());
    /// let following = handle.clone();
    /// let task = tokio::spawn(async move { following.follow(topologies, |_| ()).await });
    ///
    /// publish.send(first.with_shard("s02")?)?;
    /// drop(publish);
    /// task.await?;
    /// assert_eq!(handle.current().epoch(), 2);
    /// # Ok(()) }
    /// ```
    pub async fn follow(&self, mut source: impl Source, mut failed: impl FnMut(BoxError) + Send) {
        loop {
            match source.next().await {
                Ok(Some(topology)) => {
                    if let Err(error) = self.update(topology) {
                        failed(error.into());
                    }
                }
                Ok(None) => return,
                Err(error) => failed(error),
            }
        }
    }
}
