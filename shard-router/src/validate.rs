//! What a list of shards has to be, whatever it is for.

use std::collections::HashSet;
use std::sync::Arc;

use crate::slot::COUNT;
use crate::{ConfigError, Shard};

/// The shards in the order of their names, if nothing is wrong with them.
pub(crate) fn checked<I: IntoIterator<Item: Into<Shard>>>(
    shards: I,
) -> Result<Arc<[Shard]>, ConfigError> {
    let mut shards: Vec<Shard> = shards.into_iter().map(Into::into).collect();
    if shards.is_empty() {
        return Err(ConfigError::NoShards);
    }
    if shards.len() > COUNT {
        return Err(ConfigError::TooManyShards {
            given: shards.len(),
        });
    }
    if let Some(position) = shards
        .iter()
        .position(|shard| shard.id().as_str().is_empty())
    {
        return Err(ConfigError::EmptyId { position });
    }
    shards.sort_by(|a, b| a.id().cmp(b.id()));
    if let Some(pair) = shards.windows(2).find(|pair| pair[0].id() == pair[1].id()) {
        return Err(ConfigError::DuplicateShard {
            shard: pair[0].id().clone(),
        });
    }
    let mut sum = 0.0;
    for shard in &shards {
        let (id, weight) = (shard.id(), shard.given_weight());
        if !(weight.is_finite() && weight > 0.0) {
            return Err(ConfigError::Weight {
                shard: id.clone(),
                weight,
            });
        }
        sum += weight;
        if !sum.is_finite() {
            return Err(ConfigError::WeightOverflow { shard: id.clone() });
        }
        endpoints_checked(shard)?;
    }
    Ok(shards.into())
}

fn endpoints_checked(shard: &Shard) -> Result<(), ConfigError> {
    let id = || shard.id().clone();
    let (primary, replicas) = shard.addresses();
    if primary.is_empty() {
        return Err(ConfigError::NoPrimary { shard: id() });
    }
    if replicas.len() > usize::from(u16::MAX) {
        return Err(ConfigError::TooManyReplicas {
            shard: id(),
            given: replicas.len(),
        });
    }
    let mut seen = HashSet::from([primary]);
    for endpoint in shard.endpoints().skip(1) {
        if endpoint.address().is_empty() {
            return Err(ConfigError::EmptyAddress {
                shard: id(),
                role: endpoint.role(),
            });
        }
    }
    match replicas
        .iter()
        .find(|replica| !seen.insert(&replica.address))
    {
        Some(twice) => Err(ConfigError::DuplicateAddress {
            shard: id(),
            address: (*twice.address).to_owned(),
        }),
        None => Ok(()),
    }
}
