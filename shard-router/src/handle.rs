//! The topology in force, and who follows it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use arc_swap::ArcSwap;

use crate::discovered::Found;
use crate::{ConfigError, Discovered, Plan, Refresh, RefreshError, Topology};

/// The topology in force. Clones share it; routers made from it follow every update.
///
/// Reading never waits for an update. An update returns when all routers follow the new topology:
/// each request that is called afterwards is routed by it.
///
/// ```
/// # use seawall_shard_router::{ConfigError, Topology, TopologyHandle};
/// let topology = Topology::slots(["s00", "s01"])?;
/// let handle = TopologyHandle::new(topology.clone());
/// handle.update(topology.with_shard("s02")?)?;
/// assert_eq!(handle.current().epoch(), 2);
///
/// // Epochs only go up.
/// let stale = handle.update(topology);
/// assert_eq!(stale, Err(ConfigError::StaleEpoch { current: 2, given: 1 }));
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Clone)]
pub struct TopologyHandle {
    shared: Arc<Shared>,
}

struct Shared {
    current: ArcSwap<Topology>,
    /// Held while an update goes round, so that all followers see all updates in one order.
    followers: Mutex<Followers>,
    refresh: OnceLock<Refresh>,
}

#[derive(Default)]
struct Followers {
    all: Vec<Weak<dyn Follow>>,
    /// Takes the place of the replicas that topologies list.
    found: Option<Found>,
}

/// Something that is told of each new topology.
pub(crate) trait Follow: Send + Sync {
    fn follow(&self, topology: &Arc<Topology>);
}

impl TopologyHandle {
    /// Puts a first topology in force.
    #[must_use]
    pub fn new(topology: Topology) -> Self {
        let current = ArcSwap::from_pointee(topology);
        Self {
            shared: Arc::new(Shared {
                current,
                followers: Mutex::default(),
                refresh: OnceLock::new(),
            }),
        }
    }

    /// The topology in force: a snapshot that stays as it is, whatever comes after.
    #[must_use]
    pub fn current(&self) -> Arc<Topology> {
        self.shared.current.load_full()
    }

    /// Puts a newer topology in force.
    ///
    /// Requests that were called before keep the endpoint that was chosen for them. Services of
    /// endpoints that stay are kept; those that are no longer listed serve what they were given
    /// and are dropped after the last of it. The factories of the routers run in here, for new
    /// endpoints; one that makes an update or a router of this handle itself waits for ever.
    ///
    /// # Errors
    /// [`ConfigError::StaleEpoch`] unless its epoch is greater than that of the one in force. The
    /// very same topology again is no error, and changes nothing.
    pub fn update(&self, topology: Topology) -> Result<(), ConfigError> {
        self.replace(&mut self.followers(), topology)
    }

    /// From now on the replicas of all shards are these, and what topologies list counts no more:
    /// for replicas that come and go by themselves, as a discovery tells.
    ///
    /// The epoch stays, as no slot moves and no primary changes. Services of replicas that stay are
    /// kept. One that lies where the primary does is left out, and so is one of a shard that the
    /// topology does not have, until it does.
    ///
    /// ```
    /// # use seawall_shard_router::{ConfigError, Discovered, Shard, Topology, TopologyHandle};
    /// let handle = TopologyHandle::new(Topology::slots([Shard::new("s00").primary("10.0.0.1")])?);
    /// handle.set_replicas([Discovered::new("s00", "10.0.0.7")?.zone("eu-1a")])?;
    /// assert_eq!(handle.current().endpoints().count(), 2);
    /// assert_eq!(handle.current().epoch(), 1);
    /// # Ok::<(), ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError::TooManyReplicas`] when a shard has more than 65,535.
    pub fn set_replicas(
        &self,
        replicas: impl IntoIterator<Item = Discovered>,
    ) -> Result<(), ConfigError> {
        let found = Found::new(replicas)?;
        let mut followers = self.followers();
        let current = self.current();
        let topology = found.in_place(&current);
        followers.found = Some(found);
        if topology != *current {
            self.put_in_force(&mut followers, topology);
        }
        Ok(())
    }

    /// Says where a newer topology comes from when a shard has refused a request.
    ///
    /// # Panics
    /// When that was said before.
    #[must_use]
    pub fn refreshed(self, by: Refresh) -> Self {
        let set = self.shared.refresh.set(by);
        assert!(set.is_ok(), "where newer topologies come from was said");
        self
    }

    /// Fetches the newest topology, unless one of at least this epoch is in force. Whoever asks
    /// meanwhile waits for the same fetch.
    ///
    /// # Errors
    /// [`RefreshError`] when none of that epoch is in force afterwards.
    pub async fn refresh(&self, epoch: u64) -> Result<(), Arc<RefreshError>> {
        if self.current().epoch() >= epoch {
            return Ok(());
        }
        match self.shared.refresh.get() {
            Some(refresh) => refresh.run(self, epoch).await,
            None => Err(Arc::new(RefreshError::NoSource)),
        }
    }

    pub(crate) fn refreshes(&self) -> bool {
        self.shared.refresh.get().is_some()
    }

    /// Whether it can fetch, and what a shard speaks of is newer than what is in force.
    pub(crate) fn is_behind(&self, epoch: u64) -> bool {
        self.refreshes() && self.shared.current.load().epoch() < epoch
    }

    /// Applies a plan to the topology in force.
    ///
    /// # Errors
    /// As for [`Topology::apply`].
    pub fn apply(&self, plan: &Plan) -> Result<(), ConfigError> {
        let mut followers = self.followers();
        let next = self.current().apply(plan)?;
        self.replace(&mut followers, next)
    }

    fn replace(&self, followers: &mut Followers, topology: Topology) -> Result<(), ConfigError> {
        let topology = match &followers.found {
            Some(found) => found.in_place(&topology),
            None => topology,
        };
        let current = self.current();
        if topology.epoch() <= current.epoch() {
            let (current_epoch, given) = (current.epoch(), topology.epoch());
            return if topology == *current {
                Ok(())
            } else {
                Err(ConfigError::StaleEpoch {
                    current: current_epoch,
                    given,
                })
            };
        }
        self.put_in_force(followers, topology);
        Ok(())
    }

    fn put_in_force(&self, followers: &mut Followers, topology: Topology) {
        let topology = Arc::new(topology);
        self.shared.current.store(Arc::clone(&topology));
        followers.all.retain(|follower| match follower.upgrade() {
            Some(follower) => {
                follower.follow(&topology);
                true
            }
            None => false,
        });
    }

    /// Makes a follower from the topology in force; no update comes in between.
    pub(crate) fn attach<F: Follow + 'static>(
        &self,
        make: impl FnOnce(Arc<Topology>) -> F,
    ) -> Arc<F> {
        let mut followers = self.followers();
        let follower = Arc::new(make(self.current()));
        let weak: Weak<F> = Arc::downgrade(&follower);
        followers.all.retain(|follower| follower.strong_count() > 0);
        followers.all.push(weak);
        follower
    }

    fn followers(&self) -> MutexGuard<'_, Followers> {
        // A factory that panicked left followers that are whole: one of them may lag behind, and
        // catches up with the next update.
        self.shared
            .followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Topology> for TopologyHandle {
    fn from(topology: Topology) -> Self {
        Self::new(topology)
    }
}

impl From<&TopologyHandle> for TopologyHandle {
    fn from(handle: &TopologyHandle) -> Self {
        handle.clone()
    }
}

impl fmt::Debug for TopologyHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TopologyHandle")
            .field(&self.shared.current.load())
            .finish()
    }
}
