//! Where a newer topology comes from: asked for by who was refused, or followed as it changes.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::{BoxError, ConfigError, Topology, TopologyHandle};

/// How a [`TopologyHandle`] fetches the newest topology when a shard has refused a request.
///
/// ```
/// # use std::time::Duration;
/// # use seawall_shard_router::{BoxError, Refresh, Topology, TopologyHandle};
/// let refresh = Refresh::by(|| async {
///     let newest = Topology::slots(["s00", "s01"])?;      // from a file, an etcd, a table
///     Ok::<_, BoxError>(newest)
/// });
/// let handle = TopologyHandle::new(Topology::slots(["s00", "s01"])?).refreshed(refresh);
/// # let _ = handle; Ok::<_, BoxError>(())
/// ```
///
/// # Default
/// A fetch may take two seconds. Where one brought nothing newer, the next begins 100 milliseconds
/// after it at the earliest, however many ask.
#[must_use]
pub struct Refresh {
    fetch: Fetch,
    deadline: Duration,
    pause: Duration,
    /// Held while one fetches.
    fetching: Mutex<Option<Last>>,
    begun: AtomicU64,
}

type Fetch = Box<dyn Fn() -> Fetching + Send + Sync>;
type Fetching = Pin<Box<dyn Future<Output = Result<Topology, BoxError>> + Send>>;

/// How the last fetch ended that brought nothing new.
struct Last {
    number: u64,
    ended: Instant,
    why: Arc<RefreshError>,
}

impl Refresh {
    /// By this closure.
    pub fn by<F, Fut>(fetch: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Topology, BoxError>> + Send + 'static,
    {
        Self {
            fetch: Box::new(move || Box::pin(fetch())),
            deadline: Duration::from_secs(2),
            pause: Duration::from_millis(100),
            fetching: Mutex::new(None),
            begun: AtomicU64::new(0),
        }
    }

    /// How long one fetch may take.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long after a fetch that brought nothing newer the next one waits.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// One fetch for all who wait for it. Dropping it hands the fetch to the next of them.
    pub(crate) async fn run(
        &self,
        handle: &TopologyHandle,
        wanted: u64,
    ) -> Result<(), Arc<RefreshError>> {
        let seen = self.begun.load(Ordering::Acquire);
        let mut last = self.fetching.lock().await;
        if handle.current().epoch() >= wanted {
            return Ok(());
        }
        if let Some(last) = &*last {
            // It began after we asked, or ended just now.
            if last.number > seen || last.ended.elapsed() < self.pause {
                return Err(Arc::clone(&last.why));
            }
        }
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let fetched = match timeout(self.deadline, (self.fetch)()).await {
            Ok(Ok(topology)) => Ok(topology),
            Ok(Err(error)) => Err(RefreshError::Fetch(error)),
            Err(_) => Err(RefreshError::Late(self.deadline)),
        };
        let outcome = fetched.and_then(|topology| {
            let given = topology.epoch();
            match handle.update(topology) {
                Err(ConfigError::StaleEpoch { .. }) | Ok(())
                    if handle.current().epoch() < wanted =>
                {
                    Err(RefreshError::NotNewer { given, wanted })
                }
                // Somebody else put a newer one in force.
                Err(ConfigError::StaleEpoch { .. }) => Ok(()),
                other => other.map_err(RefreshError::Refused),
            }
        });
        outcome.map_err(|why| {
            let why = Arc::new(why);
            crate::telemetry::not_refreshed(&why);
            *last = Some(Last {
                number,
                ended: Instant::now(),
                why: Arc::clone(&why),
            });
            why
        })
    }
}

impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refresh")
            .field("deadline", &self.deadline)
            .field("pause", &self.pause)
            .finish_non_exhaustive()
    }
}

/// Why no newer topology was put in force. The one that was, stays.
#[derive(Debug)]
#[non_exhaustive]
pub enum RefreshError {
    /// The handle was not told where newer topologies come from.
    NoSource,
    /// It could not be fetched.
    Fetch(BoxError),
    /// It was not fetched within this time.
    Late(Duration),
    /// What was fetched is older than what a shard spoke of.
    NotNewer {
        /// The epoch of what was fetched.
        given: u64,
        /// The epoch that was wanted.
        wanted: u64,
    },
    /// It was fetched, and not taken.
    Refused(ConfigError),
}

impl fmt::Display for RefreshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSource => f.write_str("nobody said where a newer topology comes from"),
            Self::Fetch(_) => f.write_str("a newer topology could not be fetched"),
            Self::Late(after) => write!(f, "no newer topology within {after:?}"),
            Self::NotNewer { given, wanted } => {
                write!(f, "fetched epoch {given}, and a shard is at {wanted}")
            }
            Self::Refused(_) => f.write_str("the topology that was fetched was not taken"),
        }
    }
}

impl Error for RefreshError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Fetch(error) => Some(&**error),
            Self::Refused(error) => Some(error),
            Self::NoSource | Self::Late(_) | Self::NotNewer { .. } => None,
        }
    }
}
