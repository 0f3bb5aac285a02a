//! The shards that this process has open.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use seawall_shard_router::ShardId;

use super::shard_id;

/// Shards that were opened, by their ids. There may be more of them as time goes on.
pub struct Opened<D>(Arc<RwLock<BTreeMap<ShardId, Arc<D>>>>);

impl<D> Opened<D> {
    /// The first shards, by number.
    pub fn new(shards: &[Arc<D>]) -> Self {
        let by_id = (0..).map(|n| ShardId::from(shard_id(n)));
        Self(Arc::new(RwLock::new(
            by_id.zip(shards.iter().cloned()).collect(),
        )))
    }

    /// One more.
    pub fn add(&self, id: ShardId, shard: Arc<D>) {
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(id, shard);
    }

    /// One of them.
    pub fn get(&self, id: &ShardId) -> Option<Arc<D>> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(id).cloned()
    }

    /// All of them, by id.
    pub fn all(&self) -> Vec<(ShardId, Arc<D>)> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .map(|(id, shard)| (id.clone(), Arc::clone(shard)))
            .collect()
    }
}

impl<D> Clone for Opened<D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<D> fmt::Debug for Opened<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.all().into_iter().map(|(id, _)| id);
        f.debug_set().entries(ids).finish()
    }
}
