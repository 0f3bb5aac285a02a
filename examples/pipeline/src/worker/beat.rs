//! When a partition reads. A transaction costs a shard as much for one row as for ten, so records gather for a while,
//! and the partitions of one shard read at the same moments: their batches reach it together and share a commit.
//! Shards take turns, so that they do not all want the processor and the disk at once.
//!
//! No client waits for any of this. Who looks the order up meanwhile is told that it is pending.

use std::time::Duration;

use tokio::time::Instant;

/// The moments at which one partition reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    every: Duration,
    start: Instant,
    /// How far behind the start its shard's first moment lies.
    shift: Duration,
    /// When the last batch was read.
    last: Option<Instant>,
    /// Whether it left more behind.
    full: bool,
}

impl Beat {
    /// Moments this far apart. All partitions have to count from the same start.
    pub(super) fn new(every: Duration, start: Instant) -> Self {
        Self {
            every,
            start,
            shift: Duration::ZERO,
            last: None,
            full: false,
        }
    }

    /// Takes the turn of shard `at` of so many.
    pub(super) fn take_turn(&mut self, at: usize, of: usize) {
        self.shift = self.every.mul_f64(at as f64 / of.max(1) as f64);
    }

    /// A batch was read at this time, and left more behind or not.
    pub(super) fn read(&mut self, at: Instant, full: bool) {
        (self.last, self.full) = (Some(at), full);
    }

    /// Until when records are to gather. Not at all where there is a whole batch already, nor after a rest: a lone
    /// record would wait for nobody.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let rested = self.last.is_none_or(|last| now - last >= self.every);
        if self.full || rested {
            return None;
        }
        let first = self.start + self.shift;
        let into = (now.saturating_duration_since(first).as_nanos() % self.every.as_nanos()) as u64;
        Some(match now < first {
            true => first,
            false => now + (self.every - Duration::from_nanos(into)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(100);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn partitions_of_a_shard_meet_and_shards_take_turns() {
        let start = Instant::now();
        let next = |shard, read, now| {
            let mut beat = Beat::new(EVERY, start);
            beat.take_turn(shard, 10);
            beat.read(start + ms(read), false);
            beat.next(start + ms(now)).map(|next| next - start)
        };
        for (read, now) in [(203, 204), (211, 299), (210, 301)] {
            let expected = if now < 230 { 230 } else { 330 };
            assert_eq!(next(3, read, now), Some(ms(expected)));
        }
        assert_eq!(next(3, 331, 331), Some(ms(430)));
        assert_eq!(next(4, 331, 331), Some(ms(340)));
        assert_eq!(next(9, 1, 2), Some(ms(90)));
    }

    #[test]
    fn a_record_after_a_rest_waits_for_nobody_and_neither_does_a_whole_batch() {
        let start = Instant::now();
        let mut beat = Beat::new(EVERY, start);
        assert_eq!(beat.next(start), None);
        beat.read(start + ms(10), false);
        assert_eq!(beat.next(start + ms(20)), Some(start + ms(100)));
        assert_eq!(beat.next(start + ms(110)), None);
        beat.read(start + ms(110), true);
        assert_eq!(beat.next(start + ms(111)), None);
    }

    #[test]
    fn without_a_distance_nothing_waits() {
        let start = Instant::now();
        let mut beat = Beat::new(Duration::ZERO, start);
        beat.take_turn(1, 2);
        beat.read(start, false);
        assert_eq!(beat.next(start), None);
    }
}
