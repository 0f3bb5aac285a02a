//! Maglev: a table that members fill in turn.

use xxhash_rust::xxh64::xxh64;

use super::{Placement, members};
use crate::{ConfigError, Shard, ShardId};

/// A Maglev table, compatible with Envoy's. Members are named by what is hashed there: usually
/// `address:port`.
///
/// A member that comes or goes moves a little more than its own keys.
///
/// # Specification, version 1
/// The table has a prime number of entries, 65,537 by default. Members are taken in the order of
/// their names. With `n` entries, a member prefers the entries
/// `(XXH64(name, seed 0) + j * (1 + XXH64(name, seed 1) mod (n - 1))) mod n` for j = 0, 1, 2, and
/// so on. Rounds are counted from 1; in round `r`, each member for which `r * weight` has reached
/// its target takes the first entry of its list that is free, and its target, first 0, grows by the
/// greatest weight. Weights are shares of their sum. It ends when the table is full. A key lies
/// with the entry `XXH64(key, seed 0) mod n`.
///
/// ```
/// # use seawall_shard_router::placement::Maglev;
/// let maglev = Maglev::over(["10.0.1.1:80", "10.0.1.2:80", "10.0.1.3:80"])?;
/// let shard = maglev.shard_of(b"tenant-7");
/// assert!(shard.as_str().starts_with("10.0.1."));
/// # Ok::<(), seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Maglev {
    table: Box<[u16]>,
    members: Box<[ShardId]>,
}

/// Envoy's default, and what the paper calls the small size.
const ENTRIES: usize = 65_537;

const FREE: u16 = u16::MAX;

impl Maglev {
    /// Over these members, with 65,537 entries.
    ///
    /// # Errors
    /// As for [`Maglev::sized`].
    pub fn over<I: IntoIterator<Item: Into<Shard>>>(members: I) -> Result<Self, ConfigError> {
        Self::sized(members, ENTRIES)
    }

    /// Over these members, with so many entries: Envoy's `table_size`.
    ///
    /// # Errors
    /// [`ConfigError`]: no member, an empty name, two of one name, a weight that is none;
    /// [`ConfigError::TableSize`] unless the size is a prime, not below the number of members and
    /// at most 5,000,011, as in Envoy. However light a member is, it has one entry.
    pub fn sized<I: IntoIterator<Item: Into<Shard>>>(
        members: I,
        entries: usize,
    ) -> Result<Self, ConfigError> {
        let members = members::weighed(members)?;
        if !is_prime(entries) || entries > 5_000_011 || entries < members.len() {
            return Err(ConfigError::TableSize { size: entries });
        }
        let mut table = vec![FREE; entries].into_boxed_slice();
        fill(&mut table, &members);
        let members = members.into_iter().map(|(id, _)| id).collect();
        Ok(Self { table, members })
    }

    /// The member on which a key lies.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> &ShardId {
        self.shard_at(xxh64(key, 0))
    }

    /// The member for a hash that was computed elsewhere.
    #[must_use]
    pub fn shard_at(&self, hash: u64) -> &ShardId {
        let entry = self.table[(hash % self.table.len() as u64) as usize];
        &self.members[usize::from(entry)]
    }
}

fn fill(table: &mut [u16], members: &[(ShardId, f64)]) {
    let entries = table.len() as u64;
    let total: f64 = members.iter().map(|&(_, weight)| weight).sum();
    let greatest = members
        .iter()
        .fold(0.0_f64, |most, &(_, weight)| most.max(weight / total));
    struct Filler {
        place: u16,
        next: u64,
        skip: u64,
        weight: f64,
        target: f64,
    }
    let filler = |(place, (id, weight)): (u16, &(ShardId, f64))| Filler {
        place,
        next: xxh64(id.as_str().as_bytes(), 0) % entries,
        skip: xxh64(id.as_str().as_bytes(), 1) % (entries - 1) + 1,
        weight: weight / total,
        target: 0.0,
    };
    let mut fillers: Vec<Filler> = (0..).zip(members).map(filler).collect();
    let mut free = table.len();
    for round in 1_u32.. {
        for filler in &mut fillers {
            if free == 0 {
                return;
            }
            if f64::from(round) * filler.weight < filler.target {
                continue;
            }
            filler.target += greatest;
            // A step that is no multiple of a prime comes by every entry.
            while table[filler.next as usize] != FREE {
                filler.next = (filler.next + filler.skip) % entries;
            }
            table[filler.next as usize] = filler.place;
            filler.next = (filler.next + filler.skip) % entries;
            free -= 1;
        }
    }
}

fn is_prime(number: usize) -> bool {
    let mut divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number >= 2 && divisors.all(|divisor| !number.is_multiple_of(divisor))
}

impl Placement for Maglev {
    fn shard_of(&self, key: &[u8]) -> &ShardId {
        Maglev::shard_of(self, key)
    }
}

impl std::fmt::Debug for Maglev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maglev")
            .field("entries", &self.table.len())
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}
