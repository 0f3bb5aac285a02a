//! Regions: where data has to stay, and where it would rather be.

use std::collections::{BTreeMap, HashSet};

use super::{Pins, Placement};
use crate::{ConfigError, ShardId, Unplaced};

/// What is asked of the place of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Residence<'a> {
    /// Its data stays in this region. A hard rule: where there is no such region, it is refused.
    In(&'a str),
    /// Its data may lie anywhere, and would be near in the first of these regions that there is.
    /// Where there is none of them, it lies in the default region.
    Near(&'a [&'a str]),
}

/// Regions, each with its shards and a placement over them; and pins that go before.
///
/// # Specification, version 1
/// A key that is pinned lies where it is pinned; with [`Residence::In`], only if that shard is one
/// of the region. Every other key lies where the placement of its region says: with
/// [`Residence::In`] of that region, with [`Residence::Near`] of the first region listed there that
/// exists, or of the default one. **The residence is part of the key's identity**: whoever reads has
/// to ask with the one it was written with.
///
/// ```
/// # use seawall_shard_router::{ShardId, Unplaced};
/// # use seawall_shard_router::placement::{Jump, Pins, Regions, Residence};
/// let eu = ["eu0", "eu1"].map(ShardId::from);
/// let us = ["us0", "us1", "us2"].map(ShardId::from);
/// let regions = Regions::new([
///     ("eu", eu.to_vec(), Jump::over(&eu)?),
///     ("us", us.to_vec(), Jump::over(&us)?),
/// ])?;
/// let place = |residence| regions.place(residence, b"tenant-7");
/// assert!(place(Residence::In("eu"))?.as_str().starts_with("eu"));
/// assert_eq!(place(Residence::In("cn")), Err(Unplaced::NoRegion { region: "cn".into() }));
/// assert_eq!(place(Residence::Near(&["ca", "us"])), place(Residence::In("us")));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Regions<P> {
    regions: BTreeMap<String, Region<P>>,
    default: String,
    pins: Pins,
}

#[derive(Clone, Debug)]
struct Region<P> {
    shards: HashSet<ShardId>,
    placement: P,
}

impl<P: Placement> Regions<P> {
    /// Of these regions: a name, all shards that are in it, and the placement of its keys. The first
    /// is the default for keys that may lie anywhere and are near to none.
    ///
    /// # Errors
    /// [`ConfigError::NoShards`] without a region, [`ConfigError::DuplicateRegion`],
    /// [`ConfigError::EmptyRegion`], and [`ConfigError::DuplicateShard`] for one that is in two.
    pub fn new<N: Into<String>>(
        regions: impl IntoIterator<Item = (N, Vec<ShardId>, P)>,
    ) -> Result<Self, ConfigError> {
        let (mut known, mut default, mut seen) = (BTreeMap::new(), None, HashSet::new());
        for (name, shards, placement) in regions {
            let region: String = name.into();
            if shards.is_empty() {
                return Err(ConfigError::EmptyRegion { region });
            }
            if let Some(twice) = shards.iter().find(|shard| !seen.insert((*shard).clone())) {
                let shard = twice.clone();
                return Err(ConfigError::DuplicateShard { shard });
            }
            default.get_or_insert_with(|| region.clone());
            let shards = shards.into_iter().collect();
            let before = known.insert(region.clone(), Region { shards, placement });
            if before.is_some() {
                return Err(ConfigError::DuplicateRegion { region });
            }
        }
        Ok(Self {
            regions: known,
            default: default.ok_or(ConfigError::NoShards)?,
            pins: Pins::default(),
        })
    }

    /// With keys that are pinned, inside their region.
    #[must_use]
    pub fn pinned(mut self, pins: Pins) -> Self {
        self.pins = pins;
        self
    }

    /// The shard of a key whose data resides so.
    ///
    /// # Errors
    /// [`Unplaced::NoRegion`], and [`Unplaced::Residency`] for a key that is pinned to a shard of
    /// another region, or that the region's own placement puts outside of it.
    pub fn place(&self, residence: Residence<'_>, key: &[u8]) -> Result<ShardId, Unplaced> {
        let name = match residence {
            Residence::In(region) => region,
            Residence::Near(regions) => {
                let mut near = regions.iter().copied();
                let near = near.find(|region| self.regions.contains_key(*region));
                near.unwrap_or(&self.default)
            }
        };
        let region = self.regions.get(name).ok_or_else(|| Unplaced::NoRegion {
            region: name.to_owned(),
        })?;
        let pin = self.pins.get(key);
        let shard = pin.unwrap_or_else(|| region.placement.shard_of(key));
        let is_free = pin.is_some() && matches!(residence, Residence::Near(_));
        if is_free || region.shards.contains(shard) {
            return Ok(shard.clone());
        }
        Err(Unplaced::Residency {
            region: name.to_owned(),
            shard: shard.clone(),
        })
    }
}
