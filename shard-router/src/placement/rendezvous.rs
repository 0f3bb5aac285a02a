//! Rendezvous: every member bids for the key, and the highest bid wins.

use xxhash_rust::xxh3::xxh3_64;

use super::{Placement, members};
use crate::{ConfigError, Shard, ShardId};

/// Weighted rendezvous hashing: nothing is kept but the list, whose order does not matter.
///
/// A member that leaves moves only its own keys, and one that comes or gets heavier only takes
/// keys. The price is one look at each member for each key.
///
/// # Specification, version 1
/// With `k` the XXH3-64 of the key and `m` that of the member's name, its bid is
/// `weight / -ln(u)`, where `u = ((mix(k ^ m) >> 11) + 0.5) / 2^53`. The highest bid wins; of equal
/// ones, the member whose name comes first. `mix` is the finalizer of MurmurHash3:
/// ```text
/// x ^= x >> 33;  x *= 0xff51afd7ed558ccd;  x ^= x >> 33;  x *= 0xc4ceb9fe1a85ec53;  x ^= x >> 33
/// ```
/// The logarithm is computed from additions, multiplications and divisions of doubles alone, so it
/// is the same everywhere.
///
/// ```
/// # use seawall_shard_router::{Shard, placement::Rendezvous};
/// let light = Rendezvous::over(["a", "b", "c"].map(Shard::new))?;
/// let heavy = Rendezvous::over([Shard::new("a"), Shard::new("b"), Shard::new("c").weight(2.0)])?;
/// let (before, after) = (light.shard_of(b"tenant-7"), heavy.shard_of(b"tenant-7"));
/// assert!(after == before || *after == "c");
/// # Ok::<(), seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// Name, hash of the name, weight.
    members: Box<[(ShardId, u64, f64)]>,
    equal: bool,
}

impl Rendezvous {
    /// Over these members.
    ///
    /// # Errors
    /// [`ConfigError`]: no member, an empty name, two of one name, a weight that is none.
    pub fn over<I: IntoIterator<Item: Into<Shard>>>(members: I) -> Result<Self, ConfigError> {
        let members = members::weighed(members)?;
        let heaviest = members
            .iter()
            .fold(0.0_f64, |most, &(_, weight)| most.max(weight));
        let equal = members.iter().all(|&(_, weight)| weight == heaviest);
        // Divided by the heaviest, so that no bid overflows.
        let members = members.into_iter().map(|(id, weight)| {
            let hash = xxh3_64(id.as_str().as_bytes());
            (id, hash, weight / heaviest)
        });
        Ok(Self {
            members: members.collect(),
            equal,
        })
    }

    /// The member on which a key lies.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> &ShardId {
        let key = xxh3_64(key);
        let mut best = (&self.members[0].0, -1.0);
        for (id, hash, weight) in &self.members {
            let drawn = (mix(key ^ hash) >> 11) as f64;
            // Of equal weights the bids are in the order of what was drawn.
            let bid = if self.equal {
                drawn
            } else {
                weight / -ln((drawn + 0.5) / 9_007_199_254_740_992.0)
            };
            if bid > best.1 {
                best = (id, bid);
            }
        }
        best.0
    }
}

impl Placement for Rendezvous {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        Rendezvous::shard_of(self, key)
    }
}

fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    x ^= x >> 33;
    x = x.wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    x ^ (x >> 33)
}

/// The natural logarithm of a number above 0 and up to 1, not smaller than 2^-54: with `x = m * 2^e`
/// and `m` within a factor of the square root of 2 of 1, it is `e ln 2 + 2 atanh((m - 1) / (m + 1))`.
fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i32) - 1_023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1_023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    let mut sum = 0.0;
    for n in (0..12).rev() {
        sum = sum * square + 1.0 / f64::from(2 * n + 1);
    }
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * t * sum
}

#[cfg(test)]
mod tests {
    use super::ln;

    #[test]
    fn the_logarithm_is_one() {
        let mut x = 1.0;
        while x > 1e-16 {
            let close = (ln(x) - f64::ln(x)).abs();
            assert!(close <= 1e-14 * (1.0 + f64::ln(x).abs()), "{x}: {close}");
            x *= 0.93;
        }
    }
}
