//! What a list of members has to be.

use crate::{ConfigError, Shard, ShardId};

/// In the order in which they were given.
pub(super) fn listed<I: IntoIterator<Item: Into<ShardId>>>(
    members: I,
) -> Result<Box<[ShardId]>, ConfigError> {
    let members: Box<[ShardId]> = members.into_iter().map(Into::into).collect();
    crate::validate::checked(members.iter().map(Shard::new))?;
    Ok(members)
}

/// In the order of their names, with their weights.
pub(super) fn weighed<I: IntoIterator<Item: Into<Shard>>>(
    members: I,
) -> Result<Box<[(ShardId, f64)]>, ConfigError> {
    let shards = crate::validate::checked(members)?;
    let member = |shard: &Shard| (shard.id().clone(), shard.given_weight());
    Ok(shards.iter().map(member).collect())
}
