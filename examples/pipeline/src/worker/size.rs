//! How many records a partition reads for one transaction: more while it is behind, fewer while its shard takes
//! long over them.

use std::time::Duration;

/// The bounds. A row costs a durable transaction seven times as much in twos as in hundreds, and little less in
/// thousands, where a transaction holds its locks for longer.
const FEWEST: usize = 100;
const MOST: usize = 1_000;

/// A batch that took longer is too large for its shard as it is now.
const LONG: Duration = Duration::from_millis(500);

/// The size of a partition's next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchSize(usize);

impl BatchSize {
    /// The fewest, until there is reason for more.
    pub(super) const fn new() -> Self {
        Self(FEWEST)
    }

    pub(super) const fn get(self) -> usize {
        self.0
    }

    /// Learns from a batch of so many records that took so long.
    pub(super) fn learn(&mut self, records: usize, took: Duration) {
        if took > LONG {
            self.0 = (self.0 / 2).max(FEWEST);
        } else if records >= self.0 {
            // It was full, so there is more.
            self.0 = (self.0 * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_while_batches_are_full_and_quick_and_shrinks_while_they_are_slow() {
        let mut size = BatchSize::new();
        let quick = Duration::from_millis(20);
        size.learn(99, quick);
        assert_eq!(size.get(), 100);
        let grown: Vec<usize> = (0..5)
            .map(|_| {
                size.learn(size.get(), quick);
                size.get()
            })
            .collect();
        assert_eq!(grown, [200, 400, 800, 1_000, 1_000]);
        let shrunk: Vec<usize> = (0..5)
            .map(|_| {
                size.learn(1_000, Duration::from_secs(1));
                size.get()
            })
            .collect();
        assert_eq!(shrunk, [500, 250, 125, 100, 100]);
    }
}
