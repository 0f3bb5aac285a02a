//! SpaceSaving: the keys that come most often, in bounded memory.

/// Counters for the keys that come most often, by the SpaceSaving algorithm of Metwally, Agrawal
/// and El Abbadi (2005).
///
/// With `m` counters and `n` records: what a key is counted is never less than how often it came,
/// and more by at most `n / m`; so every key that came more than `n / m` times has a counter.
///
/// Counters are kept in the order of their counts, the greatest first, each field in an array of
/// its own. One that counts on goes to the front of those that were equal; so nothing else moves.
/// Where those begin that count least is known, since every newcomer takes one of them; for others
/// a binary search finds it.
#[derive(Debug)]
pub(super) struct Sketch {
    counts: Box<[u32]>,
    /// How much of a count may belong to keys that had the counter before.
    errors: Box<[u32]>,
    hashes: Box<[u64]>,
    /// From a hash to the place of its counter: open addressing, linear probing.
    index: Box<[u16]>,
    /// For each counter, where the index names it.
    homes: Box<[u16]>,
    /// Where the counters begin that count least: `used` where there is none.
    least: usize,
    used: usize,
    total: u32,
}

/// A key by its hash, and how often it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Counted {
    pub(super) hash: u64,
    pub(super) count: u32,
    pub(super) error: u32,
}

const EMPTY: u16 = u16::MAX;

/// Of an index: never all in use, even while a newcomer has one before the counter's last owner lost
/// its own.
fn buckets(counters: usize) -> usize {
    (2 * counters).next_power_of_two().max(4)
}

impl Sketch {
    /// With so many counters: at least one, and fewer than an index can name.
    pub(super) fn new(counters: usize) -> Self {
        Self {
            counts: vec![0; counters].into(),
            errors: vec![0; counters].into(),
            hashes: vec![0; counters].into(),
            index: vec![EMPTY; buckets(counters)].into(),
            homes: vec![0; counters].into(),
            least: 0,
            used: 0,
            total: 0,
        }
    }

    pub(super) fn total(&self) -> u32 {
        self.total
    }

    /// What it takes of memory.
    pub(super) fn bytes(counters: usize) -> usize {
        counters * (4 + 4 + 8 + 2) + buckets(counters) * 2
    }

    /// Counts one more, and says how many there were then at most.
    #[inline]
    pub(super) fn record(&mut self, hash: u64) -> u32 {
        self.total += 1;
        let place = match self.bucket_of(hash) {
            Ok(bucket) => usize::from(self.index[bucket]),
            Err(bucket) if self.used < self.counts.len() => {
                // It counts nothing yet, and so less than all others.
                let place = self.used;
                self.least = place;
                self.used += 1;
                self.hashes[place] = hash;
                self.name(place, bucket);
                place
            }
            Err(bucket) => {
                // The least counted makes room; the newcomer may have come as often.
                let place = self.used - 1;
                let hole = usize::from(self.homes[place]);
                self.hashes[place] = hash;
                self.errors[place] = self.counts[place];
                self.name(place, bucket);
                self.close(hole);
                place
            }
        };
        let count = self.counts[place];
        if place >= self.least {
            let front = self.least;
            self.swap(front, place);
            self.counts[front] = count + 1;
            self.least += 1;
            if self.least == self.used {
                let least = self.counts[self.used - 1];
                self.least = self.counts[..self.used].partition_point(|&other| other > least);
            }
        } else if place == 0 || self.counts[place - 1] > count {
            self.counts[place] = count + 1;
        } else {
            let front = self.counts[..place].partition_point(|&other| other > count);
            self.swap(front, place);
            self.counts[front] = count + 1;
        }
        count + 1
    }

    /// The counters in order, the greatest first.
    pub(super) fn counted(&self) -> impl Iterator<Item = Counted> {
        (0..self.used).map(|place| Counted {
            hash: self.hashes[place],
            count: self.counts[place],
            error: self.errors[place],
        })
    }

    pub(super) fn clear(&mut self) {
        self.counts.fill(0);
        self.errors.fill(0);
        self.index.fill(EMPTY);
        (self.least, self.used, self.total) = (0, 0, 0);
    }

    /// Of two counters of one count.
    fn swap(&mut self, one: usize, other: usize) {
        let (home, far) = (self.homes[one], self.homes[other]);
        self.name(one, usize::from(far));
        self.name(other, usize::from(home));
        self.hashes.swap(one, other);
        self.errors.swap(one, other);
    }

    /// The index has this counter here.
    #[inline]
    fn name(&mut self, place: usize, bucket: usize) {
        self.index[bucket] = place as u16;
        self.homes[place] = bucket as u16;
    }

    /// Where the index has this hash, or would have it.
    fn bucket_of(&self, hash: u64) -> Result<usize, usize> {
        let mask = self.index.len() - 1;
        let mut bucket = hash as usize & mask;
        loop {
            match self.index[bucket] {
                EMPTY => return Err(bucket),
                place if self.hashes[usize::from(place)] == hash => return Ok(bucket),
                _ => bucket = (bucket + 1) & mask,
            }
        }
    }

    /// What this bucket of the index names is there no more: what comes after it moves up to where
    /// it would have been.
    fn close(&mut self, mut hole: usize) {
        let mask = self.index.len() - 1;
        let mut bucket = hole;
        loop {
            bucket = (bucket + 1) & mask;
            let place = self.index[bucket];
            if place == EMPTY {
                break;
            }
            let place = usize::from(place);
            let home = self.hashes[place] as usize & mask;
            // How far it is from home, against how far the hole is from there.
            if (bucket.wrapping_sub(home) & mask) >= (bucket.wrapping_sub(hole) & mask) {
                self.name(place, hole);
                hole = bucket;
            }
        }
        self.index[hole] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Against counting exactly: bounds, order, and that the index finds every counter.
    #[test]
    fn it_counts_at_least_what_came_and_at_most_a_little_more() {
        let mut random = fastrand::Rng::with_seed(7);
        for counters in [1, 2, 3, 17, 64] {
            let (mut sketch, mut exact) = (Sketch::new(counters), HashMap::<u64, u32>::new());
            for n in 1..=20_000_u32 {
                // Hashes that collide in the index.
                let key = u64::from(random.u32(..200).min(random.u32(..200))) << 5;
                let counted = sketch.record(key);
                let came = exact.entry(key).or_default();
                *came += 1;
                assert!(counted >= *came && counted <= *came + n / counters as u32);
            }
            let all: Vec<Counted> = sketch.counted().collect();
            assert!(all.is_sorted_by(|a, b| a.count >= b.count));
            assert_eq!(all.iter().map(|c| c.count).sum::<u32>(), sketch.total());
            let least = all.iter().position(|c| c.count == all[all.len() - 1].count);
            assert_eq!(least, Some(sketch.least));
            for (place, counted) in all.iter().enumerate() {
                let bucket = sketch.bucket_of(counted.hash).expect("it is counted");
                assert_eq!(usize::from(sketch.index[bucket]), place);
                assert_eq!(usize::from(sketch.homes[place]), bucket);
                let came = exact[&counted.hash];
                assert!(counted.count - counted.error <= came && came <= counted.count);
            }
            let indexed = sketch.index.iter().filter(|&&place| place != EMPTY).count();
            assert_eq!(indexed, all.len());
            for (hash, came) in exact {
                let listed = all.iter().any(|counted| counted.hash == hash);
                assert!(listed || came <= 20_000 / counters as u32);
            }
            sketch.clear();
            assert_eq!((sketch.counted().count(), sketch.record(5)), (0, 1));
        }
    }
}
