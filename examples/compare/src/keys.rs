//! Keys, drawn before anything is timed and the same in every run.

use std::sync::OnceLock;

use fastrand::Rng;

/// Keys in the tables in memory.
pub(crate) const MANY: usize = 1_000_000;
/// Keys on Redis, where they are drawn unevenly.
pub(crate) const FEWER: usize = 100_000;

/// A power of two, so that taking a draw costs next to nothing.
const DRAWS: usize = 1 << 21;

/// Keys in the order in which they come.
pub(crate) struct Draws(Vec<u32>);

impl Draws {
    /// Rank `k` of `keys` is drawn in proportion to `k ^ -0.99`. What is popular lies scattered.
    fn zipf(keys: usize) -> Self {
        let mut sums: Vec<f64> = Vec::with_capacity(keys);
        let mut sum = 0.0;
        for rank in 1..=keys {
            sum += (rank as f64).powf(-0.99);
            sums.push(sum);
        }
        let mut random = Rng::with_seed(0x5ea_0a11);
        let draw = || {
            let at = random.f64() * sum;
            let rank = sums.partition_point(|&sum| sum < at).min(keys - 1);
            // A prime that divides none of the numbers of keys: each rank has a key of its own.
            (rank * 7_919 % keys) as u32
        };
        Self(std::iter::repeat_with(draw).take(DRAWS).collect())
    }

    /// Each key as often as any other.
    fn even(keys: usize) -> Self {
        let mut random = Rng::with_seed(0xe0e0);
        let draw = || random.u32(..keys as u32);
        Self(std::iter::repeat_with(draw).take(DRAWS).collect())
    }

    /// The key of the call with this number; after the last draw they come again.
    #[inline]
    pub(crate) fn at(&self, number: u64) -> usize {
        self.0[number as usize & (self.0.len() - 1)] as usize
    }
}

/// Zipf(0.99) over [`MANY`] keys.
pub(crate) fn zipf_many() -> &'static Draws {
    static DRAWN: OnceLock<Draws> = OnceLock::new();
    DRAWN.get_or_init(|| Draws::zipf(MANY))
}

/// Zipf(0.99) over [`FEWER`] keys.
pub(crate) fn zipf_fewer() -> &'static Draws {
    static DRAWN: OnceLock<Draws> = OnceLock::new();
    DRAWN.get_or_init(|| Draws::zipf(FEWER))
}

/// Evenly from [`MANY`] keys.
pub(crate) fn even_many() -> &'static Draws {
    static DRAWN: OnceLock<Draws> = OnceLock::new();
    DRAWN.get_or_init(|| Draws::even(MANY))
}

/// One key, always.
pub(crate) fn hot() -> &'static Draws {
    static DRAWN: OnceLock<Draws> = OnceLock::new();
    DRAWN.get_or_init(|| Draws(vec![7]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_popular_key_of_a_zipf_draw_has_its_share() {
        let draws = zipf_fewer();
        let most = (0..DRAWS as u64)
            .filter(|&number| draws.at(number) == 0)
            .count();
        let expected = DRAWS as f64 / (1..=FEWER).map(|k| (k as f64).powf(-0.99)).sum::<f64>();
        assert!(
            (most as f64 / expected - 1.0).abs() < 0.02,
            "{most} of {expected}"
        );
    }

    #[test]
    fn draws_stay_within_the_keys_and_come_again() {
        for draws in [zipf_fewer(), hot()] {
            let all = 0..draws.0.len() as u64;
            assert!(all.clone().all(|number| draws.at(number) < FEWER));
            assert_eq!(draws.at(0), draws.at(all.end));
        }
    }
}
