//! Rings: members own the arcs that end at their points.

use md5::{Digest, Md5};
use xxhash_rust::xxh64::xxh64;

use super::{Placement, members};
use crate::{ConfigError, Shard, ShardId};

/// A ring of points, compatible with ketama or with Envoy, whose keys then lie where those put
/// them. Members are named by what is hashed there: usually `address:port`.
///
/// ```
/// # use seawall_shard_router::placement::Ring;
/// let ring = Ring::ketama(["10.0.1.1:11211", "10.0.1.2:11211"])?;
/// assert_eq!(ring.points(), 320);
/// assert_eq!(*ring.shard_of(b"tenant-7"), "10.0.1.1:11211");
/// # Ok::<(), seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ring {
    /// In ascending order, with the place of the member.
    points: Box<[(u64, u16)]>,
    members: Box<[ShardId]>,
    hash: Hash,
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Md5,
    Xxh64,
}

/// What Envoy calls so where nothing is configured.
const SMALLEST: u64 = 1_024;
const LARGEST: u64 = 8 * 1_024 * 1_024;

impl Ring {
    /// As libketama builds it, for memcached.
    ///
    /// # Specification, version 1
    /// Each of N members has `floor(share * 40 * N)` labels `"name-i"`, with i from 0 and its share
    /// of all weights; the share and the product are rounded to single precision, as libketama does.
    /// The MD5 of a label gives four points: its bytes as four little-endian numbers of 32 bits. A
    /// key's position is the first of those four numbers of its own MD5, and it lies with the first
    /// point at or after that, or the lowest point of all when there is none. Equal points: the
    /// member whose name comes first (where libketama leaves it open).
    ///
    /// # Errors
    /// [`ConfigError`]: no member, an empty name, two of one name, a weight that is none; or one so
    /// light that it has no point: [`ConfigError::Weight`].
    pub fn ketama<I: IntoIterator<Item: Into<Shard>>>(members: I) -> Result<Self, ConfigError> {
        let members = members::weighed(members)?;
        let total = members.iter().map(|&(_, weight)| weight).sum::<f64>() as f32;
        let count = members.len() as f32;
        let mut points = Vec::new();
        for (place, (id, weight)) in (0..).zip(&members) {
            let share = *weight as f32 / total;
            let labels = ((f64::from(share) * 40.0 * f64::from(count)) as f32).floor() as u32;
            if labels == 0 {
                let (shard, weight) = (id.clone(), *weight);
                return Err(ConfigError::Weight { shard, weight });
            }
            for label in 0..labels {
                let digest = Md5::digest(format!("{id}-{label}"));
                points.extend((0..4).map(|part| (md5_part(&digest, part), place)));
            }
        }
        Ok(Self::of(points, members, Hash::Md5))
    }

    /// As Envoy's ring hash builds it with its default sizes: 1,024 to 8,388,608 points.
    ///
    /// # Errors
    /// As for [`Ring::envoy_sized`].
    pub fn envoy<I: IntoIterator<Item: Into<Shard>>>(members: I) -> Result<Self, ConfigError> {
        Self::envoy_sized(members, SMALLEST, LARGEST)
    }

    /// As Envoy's ring hash builds it, with `minimum_ring_size` and `maximum_ring_size`.
    ///
    /// # Specification, version 1
    /// With weights as shares of their sum and `w` the least of them, the ring is scaled to
    /// `min(ceil(w * minimum) / w, maximum)`. Member by member, each in turn has labels `"name_i"`,
    /// with i from 0, as long as there are fewer points than the scale times the shares of all so
    /// far. The XXH64 (seed 0) of a label is its point. A key's position is its XXH64, and it lies
    /// with the first point at or after that, or the lowest of all when there is none.
    ///
    /// Members are taken in the order of their names, so that their order in the list does not
    /// matter; Envoy takes them in the order in which it learns of them. With equal weights that is
    /// the same ring; with others it may differ in a label or two.
    ///
    /// # Errors
    /// As for [`Ring::ketama`], and [`ConfigError::RingSize`] when the smallest size is 0, above the
    /// largest, or the largest is above Envoy's own limit of 8,388,608.
    pub fn envoy_sized<I: IntoIterator<Item: Into<Shard>>>(
        members: I,
        smallest: u64,
        largest: u64,
    ) -> Result<Self, ConfigError> {
        if smallest == 0 || smallest > largest || largest > LARGEST {
            return Err(ConfigError::RingSize { smallest, largest });
        }
        let members = members::weighed(members)?;
        let total: f64 = members.iter().map(|&(_, weight)| weight).sum();
        let shares = || members.iter().map(|&(_, weight)| weight / total);
        let least = shares().fold(f64::INFINITY, f64::min);
        let scale = ((least * smallest as f64).ceil() / least).min(largest as f64);
        let (mut points, mut wanted) = (Vec::new(), 0.0);
        for ((place, (id, weight)), share) in (0..).zip(&members).zip(shares()) {
            wanted += scale * share;
            let before = points.len();
            while (points.len() as f64) < wanted {
                let label = format!("{id}_{}", points.len() - before);
                points.push((xxh64(label.as_bytes(), 0), place));
            }
            if points.len() == before {
                let (shard, weight) = (id.clone(), *weight);
                return Err(ConfigError::Weight { shard, weight });
            }
        }
        Ok(Self::of(points, members, Hash::Xxh64))
    }

    fn of(mut points: Vec<(u64, u16)>, members: Box<[(ShardId, f64)]>, hash: Hash) -> Self {
        points.sort_unstable();
        Self {
            points: points.into(),
            members: members.into_iter().map(|(id, _)| id).collect(),
            hash,
        }
    }

    /// The member on which a key lies.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> &ShardId {
        self.shard_at(match self.hash {
            Hash::Md5 => md5_part(&Md5::digest(key), 0),
            Hash::Xxh64 => xxh64(key, 0),
        })
    }

    /// The member at a position of the ring, for a hash that was computed elsewhere.
    #[must_use]
    pub fn shard_at(&self, position: u64) -> &ShardId {
        let next = self.points.partition_point(|&(point, _)| point < position);
        let (_, member) = self.points.get(next).unwrap_or(&self.points[0]);
        &self.members[usize::from(*member)]
    }

    /// How many points it has.
    #[must_use]
    pub fn points(&self) -> usize {
        self.points.len()
    }
}

impl Placement for Ring {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        Ring::shard_of(self, key)
    }
}

fn md5_part(digest: &[u8], part: usize) -> u64 {
    let bytes = &digest[4 * part..4 * part + 4];
    bytes
        .iter()
        .rev()
        .fold(0, |sum, &byte| (sum << 8) | u64::from(byte))
}
