//! Shards and their endpoints.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a shard. Cheap to clone; ordered as text, and that order is the order of shards.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", from = "String"))]
pub struct ShardId(Arc<str>);

impl ShardId {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl From<&str> for ShardId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for ShardId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<&ShardId> for ShardId {
    fn from(id: &ShardId) -> Self {
        id.clone()
    }
}

impl From<ShardId> for String {
    fn from(id: ShardId) -> String {
        (*id.0).to_owned()
    }
}

impl Borrow<str> for ShardId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ShardId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for ShardId {
    fn eq(&self, other: &str) -> bool {
        &*self.0 == other
    }
}

impl PartialEq<&str> for ShardId {
    fn eq(&self, other: &&str) -> bool {
        &*self.0 == *other
    }
}

/// What an endpoint is to its shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// The one that takes writes.
    Primary,
    /// A copy that serves reads, numbered from 0 in the order in which the shard lists them.
    Replica(u16),
}

impl Role {
    /// Whether it takes writes.
    #[must_use]
    pub const fn is_primary(self) -> bool {
        matches!(self, Role::Primary)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Role::Primary => f.write_str("primary"),
            Role::Replica(number) => write!(f, "replica {number}"),
        }
    }
}

/// One server of one shard: what the factory of a router makes a service for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Endpoint {
    shard: ShardId,
    role: Role,
    address: Arc<str>,
    zone: Option<Arc<str>>,
}

impl Endpoint {
    /// The shard it serves.
    #[must_use]
    pub fn shard(&self) -> &ShardId {
        &self.shard
    }

    /// What it is to that shard.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Where it is: whatever the topology says and the factory understands. A primary for which
    /// nothing was said has the name of its shard.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The zone it is in, where the topology says so.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Whether a service made for one fits the other: the place in the list of replicas may
    /// change, what is served and where it lies may not.
    pub(crate) fn is_served_like(&self, other: &Endpoint) -> bool {
        self.shard == other.shard
            && self.address == other.address
            && self.role.is_primary() == other.role.is_primary()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} at {}", self.shard, self.role, self.address)
    }
}

/// A shard as a topology lists it: its name, its share of the slots, its primary and replicas.
///
/// A name alone is a shard of weight 1 with one endpoint, so plain strings do where nothing else
/// is to be said. What is wrong in one is reported when the topology is made.
///
/// ```
/// # use seawall_shard_router::{Shard, Topology};
/// let topology = Topology::slots([
///     Shard::new("s00").primary("10.0.0.1:5432").replica("10.0.0.2:5432"),
///     Shard::new("s01").primary("10.0.0.3:5432").weight(3.0),
/// ])?;
/// assert_eq!(topology.slots_of("s01").len(), 3 * topology.slots_of("s00").len());
/// # Ok::<(), seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(
    feature = "serde",
    serde(
        into = "crate::stored::StoredShard",
        from = "crate::stored::StoredShard"
    )
)]
#[must_use]
pub struct Shard {
    id: ShardId,
    weight: f64,
    /// Empty means that it is missing, which the topology refuses.
    primary: Arc<str>,
    replicas: Vec<Replica>,
}

/// Where a replica is.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Replica {
    pub(crate) address: Arc<str>,
    pub(crate) zone: Option<Arc<str>>,
}

impl Shard {
    /// A shard of weight 1 whose only endpoint is its primary, with the name as its address.
    pub fn new(id: impl Into<ShardId>) -> Self {
        let id = id.into();
        Self {
            primary: Arc::clone(&id.0),
            id,
            weight: 1.0,
            replicas: Vec::new(),
        }
    }

    /// Its share of the slots, against the weights of the others.
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Where its primary is.
    pub fn primary(mut self, address: impl Into<Arc<str>>) -> Self {
        self.primary = address.into();
        self
    }

    /// One more replica, and where it is.
    pub fn replica(mut self, address: impl Into<Arc<str>>) -> Self {
        self.replicas.push(Replica {
            address: address.into(),
            zone: None,
        });
        self
    }

    /// One more replica, in a zone by which a router may prefer it.
    ///
    /// ```
    /// # use seawall_shard_router::Shard;
    /// let shard = Shard::new("s00").primary("10.0.0.1").replica_in("eu-1a", "10.0.0.2");
    /// assert_eq!(shard.endpoints().nth(1).and_then(|e| e.zone().map(str::to_owned)), Some("eu-1a".into()));
    /// ```
    pub fn replica_in(mut self, zone: impl Into<Arc<str>>, address: impl Into<Arc<str>>) -> Self {
        self.replicas.push(Replica {
            address: address.into(),
            zone: Some(zone.into()),
        });
        self
    }

    /// More replicas, and where they are.
    pub fn replicas<A: Into<Arc<str>>>(self, addresses: impl IntoIterator<Item = A>) -> Self {
        addresses.into_iter().fold(self, Self::replica)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &ShardId {
        &self.id
    }

    /// Its share, as it was given.
    #[must_use]
    pub fn given_weight(&self) -> f64 {
        self.weight
    }

    /// Its endpoints: the primary, then the replicas in order.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let endpoint = |role, address: &Arc<str>, zone: Option<&Arc<str>>| Endpoint {
            shard: self.id.clone(),
            role,
            address: Arc::clone(address),
            zone: zone.cloned(),
        };
        // A topology holds no shard with more replicas than a `u16` counts.
        let replicas = self.replicas.iter().zip(0_u16..);
        let replicas = replicas.map(move |(replica, number)| {
            endpoint(
                Role::Replica(number),
                &replica.address,
                replica.zone.as_ref(),
            )
        });
        std::iter::once(endpoint(Role::Primary, &self.primary, None)).chain(replicas)
    }

    /// Without its replicas.
    pub(crate) fn alone(&self) -> Self {
        Self {
            replicas: Vec::new(),
            ..self.clone()
        }
    }

    pub(crate) fn addresses(&self) -> (&str, &[Replica]) {
        (&self.primary, &self.replicas)
    }
}

impl From<&str> for Shard {
    fn from(id: &str) -> Self {
        Self::new(id)
    }
}

impl From<String> for Shard {
    fn from(id: String) -> Self {
        Self::new(id)
    }
}

impl From<ShardId> for Shard {
    fn from(id: ShardId) -> Self {
        Self::new(id)
    }
}
