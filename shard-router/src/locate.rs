//! From a request to the place that serves it.

use std::error::Error;
use std::fmt;

use crate::{Key, ShardId, Slot};

/// Where a request is to go: to whoever owns a slot, or to a shard by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// To the shard that owns this slot.
    Slot(Slot),
    /// To this shard, whatever it owns.
    Shard(ShardId),
}

/// Says where a request goes. Closures from `&Req` to a [`Key`] implement it; see
/// [`ShardRouter::key`](crate::ShardRouter::key) and
/// [`ShardRouter::placed_by`](crate::ShardRouter::placed_by).
pub trait Locate<Req> {
    /// Where this request goes.
    ///
    /// # Errors
    /// [`Unplaced`] when no shard may serve it.
    fn locate(&self, request: &Req) -> Result<Place, Unplaced>;
}

impl<Req, F> Locate<Req> for F
where
    F: for<'a> Fn(&'a Req) -> Key<'a>,
{
    #[inline]
    fn locate(&self, request: &Req) -> Result<Place, Unplaced> {
        Ok(Place::Slot(self(request).slot()))
    }
}

/// Goes by the shard that a closure names: what
/// [`ShardRouter::placed_by`](crate::ShardRouter::placed_by) makes of it.
#[derive(Clone, Copy)]
pub struct PlacedBy<F>(pub(crate) F);

impl<Req, F> Locate<Req> for PlacedBy<F>
where
    F: Fn(&Req) -> Result<ShardId, Unplaced>,
{
    #[inline]
    fn locate(&self, request: &Req) -> Result<Place, Unplaced> {
        (self.0)(request).map(Place::Shard)
    }
}

impl<F> fmt::Debug for PlacedBy<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlacedBy")
    }
}

/// Why no shard may serve a key.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unplaced {
    /// Nobody is pinned to this key.
    NoPin,
    /// The placement has no such region, and data never leaves its own.
    NoRegion {
        /// The region, as the request names it.
        region: String,
    },
    /// The key is pinned to a shard outside of the region in which its data has to stay.
    Residency {
        /// The region.
        region: String,
        /// The shard.
        shard: ShardId,
    },
}

impl fmt::Display for Unplaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPin => f.write_str("the key is pinned to no shard"),
            Self::NoRegion { region } => write!(f, "there is no region {region:?}"),
            Self::Residency { region, shard } => {
                write!(
                    f,
                    "the key is pinned to shard {shard:?}, which is not in region {region:?}"
                )
            }
        }
    }
}

impl Error for Unplaced {}
