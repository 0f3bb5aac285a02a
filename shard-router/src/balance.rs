//! Who should own how many slots, and which ones change hands: the planner's arithmetic.
//!
//! Everything here is a function of the assignment and of the shards in the order of their names,
//! so it gives the same answer everywhere. Shares are compared as whole numbers and never as
//! floats: a sum of floats need not come back to 16,384.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::slot::COUNT;

/// Stands in a table of owners for a slot that has none.
pub(crate) const NOBODY: u16 = u16::MAX;

/// The heaviest shard has this weight. A shard lighter by 2^32 counts as lighter by 2^32 exactly,
/// which moves its share by less than a hundred-thousandth of a slot.
const HEAVIEST: f64 = 4_294_967_296.0;

/// The weights of all shards as whole numbers.
#[derive(Debug)]
pub(crate) struct Shares {
    units: Vec<u64>,
    total: u64,
}

impl Shares {
    /// Of weights that are finite and above zero.
    pub(crate) fn new(weights: impl Iterator<Item = f64> + Clone) -> Self {
        let heaviest = weights.clone().fold(0.0, f64::max);
        let units: Vec<u64> = weights
            .map(|weight| ((weight / heaviest * HEAVIEST).round() as u64).max(1))
            .collect();
        let total = units.iter().sum();
        Self { units, total }
    }

    pub(crate) fn len(&self) -> usize {
        self.units.len()
    }

    /// The whole slots in a shard's ideal share, and what is left over (out of `total`).
    fn ideal(&self, shard: usize) -> (u32, u64) {
        let scaled = self.units[shard] * COUNT as u64;
        ((scaled / self.total) as u32, scaled % self.total)
    }

    /// How far above its ideal share a shard is that holds so many slots, in units of
    /// `1 / total` slots. At most 2^14 shards of 2^32 units for 2^14 slots: it fits.
    fn excess(&self, shard: usize, held: u32) -> i64 {
        (u64::from(held) * self.total) as i64 - (self.units[shard] * COUNT as u64) as i64
    }
}

/// How many slots each of `shards` shards holds.
pub(crate) fn held(owners: &[u16; COUNT], shards: usize) -> Vec<u32> {
    let mut held = vec![0; shards];
    for &owner in owners {
        if owner != NOBODY {
            held[usize::from(owner)] += 1;
        }
    }
    held
}

/// Counts that meet every share within one slot, as near to what is held as that allows.
///
/// Each shard gets the whole slots of its share. The slots that are left over go, one each, first
/// to those that hold more than that (each saves a move), then to the largest remainders.
pub(crate) fn targets(shares: &Shares, held: &[u32]) -> Vec<u32> {
    let mut targets: Vec<u32> = (0..shares.len())
        .map(|shard| shares.ideal(shard).0)
        .collect();
    let spare = COUNT - targets.iter().map(|&count| count as usize).sum::<usize>();
    // Remainders sum up to `spare`, so at least as many shards have one.
    let mut order: Vec<usize> = (0..shares.len())
        .filter(|&s| shares.ideal(s).1 > 0)
        .collect();
    order.sort_by_key(|&shard| {
        let (whole, left) = shares.ideal(shard);
        (Reverse(held[shard] > whole), Reverse(left), shard)
    });
    for &shard in &order[..spare] {
        targets[shard] += 1;
    }
    targets
}

/// Counts after one shard (`changed`) came or changed its weight: slots move to it or from it,
/// and between no two others.
pub(crate) fn targets_around(shares: &Shares, held: &[u32], changed: usize) -> Vec<u32> {
    let (whole, left) = shares.ideal(changed);
    let wanted = held[changed].clamp(whole, whole + u32::from(left > 0));
    let mut targets = held.to_vec();
    targets[changed] = wanted;
    if wanted >= held[changed] {
        take(shares, &mut targets, wanted - held[changed], Some(changed));
    } else {
        pour(shares, &mut targets, held[changed] - wanted, Some(changed));
    }
    targets
}

/// Counts after a shard left: the slots it had (those that nobody holds) are shared out, and
/// nothing else moves.
pub(crate) fn targets_without(shares: &Shares, held: &[u32]) -> Vec<u32> {
    let orphans = COUNT as u32 - held.iter().sum::<u32>();
    let mut targets = held.to_vec();
    pour(shares, &mut targets, orphans, None);
    targets
}

/// Takes slots one by one from whoever is furthest above its share.
fn take(shares: &Shares, counts: &mut [u32], slots: u32, except: Option<usize>) {
    let entry = |shard: usize, count: u32| (shares.excess(shard, count), Reverse(shard));
    let mut heap: BinaryHeap<_> = (0..shares.len())
        .filter(|&shard| Some(shard) != except && counts[shard] > 0)
        .map(|shard| entry(shard, counts[shard]))
        .collect();
    for _ in 0..slots {
        let Some((_, Reverse(shard))) = heap.pop() else {
            return;
        };
        counts[shard] -= 1;
        if counts[shard] > 0 {
            heap.push(entry(shard, counts[shard]));
        }
    }
}

/// Gives slots one by one to whoever is furthest below its share.
fn pour(shares: &Shares, counts: &mut [u32], slots: u32, except: Option<usize>) {
    let entry = |shard: usize, count: u32| Reverse((shares.excess(shard, count), shard));
    let mut heap: BinaryHeap<_> = (0..shares.len())
        .filter(|&shard| Some(shard) != except)
        .map(|shard| entry(shard, counts[shard]))
        .collect();
    for _ in 0..slots {
        let Some(Reverse((_, shard))) = heap.pop() else {
            return;
        };
        counts[shard] += 1;
        heap.push(entry(shard, counts[shard]));
    }
}

/// Moves the fewest slots that make every shard hold its target.
///
/// Who holds too many gives up the highest numbered ones. What is free goes in ascending order to
/// those that lack some, in the order of their names, so that it stays in long runs.
pub(crate) fn settle(owners: &mut [u16; COUNT], targets: &[u32]) {
    let mut held = held(owners, targets.len());
    for owner in owners.iter_mut().rev() {
        if *owner != NOBODY && held[usize::from(*owner)] > targets[usize::from(*owner)] {
            held[usize::from(*owner)] -= 1;
            *owner = NOBODY;
        }
    }
    let mut taker = 0;
    for owner in owners.iter_mut().filter(|owner| **owner == NOBODY) {
        while held[taker] >= targets[taker] {
            taker += 1;
        }
        held[taker] += 1;
        *owner = taker as u16;
    }
}
