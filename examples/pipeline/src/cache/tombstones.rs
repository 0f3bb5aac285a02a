//! What each read must be at least: out of reach of the capacity that evicts values.
//!
//! A tombstone that an eviction took away would let a late load put back what a commit replaced. So tombstones do not
//! lie among the values; they go when their time is over, and when there are too many. A set that is full gives up its
//! oldest one for a floor: for as long as that one would have stood, nothing of the set that is below its version
//! is kept. A floor is also what some other reads have to reach, which costs them a load and never an old answer.

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::TOMBSTONE;
use crate::shard::Query;

/// Sets of one kind of reads: each has a lock of its own.
const SETS: usize = 32;

/// Kinds of reads. They share no floor: however many orders come, products are cached.
const KINDS: usize = 3;

/// Tombstones that stand for [`TOMBSTONE`], and floors where there are too many of them.
pub(super) struct Tombstones {
    sets: Box<[Mutex<Set>]>,
    hasher: RandomState,
    /// Of one set.
    most: usize,
}

#[derive(Default)]
struct Set {
    standing: HashMap<Query, Stone>,
    /// Each of them once, with the time it was to go at when it was put here. A later one it has in `standing`.
    order: VecDeque<(Query, Instant)>,
    /// What was given up too early.
    floor: Option<Stone>,
}

#[derive(Clone, Copy)]
struct Stone {
    version: u64,
    until: Instant,
}

impl Stone {
    fn stands(&self, now: Instant) -> bool {
        now < self.until
    }

    /// Covers what the other one does as well.
    fn cover(&mut self, other: Self) {
        self.version = self.version.max(other.version);
        self.until = self.until.max(other.until);
    }
}

impl Tombstones {
    /// Room for about so many of each kind.
    pub(super) fn new(most: usize) -> Self {
        Self {
            sets: (0..SETS * KINDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            most: most.div_ceil(SETS).max(1),
        }
    }

    /// From here on the read has to be of this version.
    pub(super) fn leave(&self, query: &Query, version: u64, now: Instant) {
        let stone = Stone {
            version,
            until: now + TOMBSTONE,
        };
        let mut set = self.set(query);
        set.sweep(now);
        if let Some(known) = set.standing.get_mut(query) {
            known.cover(stone);
            return;
        }
        if set.standing.len() >= self.most {
            set.give_one_up(now);
        }
        set.standing.insert(query.clone(), stone);
        set.order.push_back((query.clone(), stone.until));
    }

    /// The lowest version that will do.
    pub(super) fn at_least(&self, query: &Query, now: Instant) -> u64 {
        let set = self.set(query);
        [set.standing.get(query), set.floor.as_ref()]
            .into_iter()
            .flatten()
            .filter(|stone| stone.stands(now))
            .map(|stone| stone.version)
            .max()
            .unwrap_or(0)
    }

    /// How many there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        let sets = self.sets.iter();
        sets.map(|set| set.lock().expect("no panic").standing.len())
            .sum()
    }

    fn set(&self, query: &Query) -> MutexGuard<'_, Set> {
        let kind = match query {
            Query::Order(_) => 0,
            Query::Account(_) => 1,
            Query::Product(_) => 2,
        };
        let hash = self.hasher.hash_one(query) % SETS as u64;
        let set = kind * SETS + usize::try_from(hash).expect("a remainder is small");
        // A set is whole between any two statements that may panic.
        self.sets[set]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    /// Takes away some whose time is over: more than are left at a time, so that they do not pile up.
    fn sweep(&mut self, now: Instant) {
        for _ in 0..2 {
            match self.order.front() {
                Some((_, until)) if *until <= now => {}
                _ => return,
            }
            if let Some((query, _)) = self.order.pop_front() {
                self.renewed_or_gone(query, now);
            }
        }
    }

    /// Puts one whose turn has come back to the end, if it was left again since, or takes it away.
    fn renewed_or_gone(&mut self, query: Query, now: Instant) {
        match self.standing.get(&query) {
            Some(stone) if stone.stands(now) => self.order.push_back((query, stone.until)),
            _ => {
                self.standing.remove(&query);
            }
        }
    }

    /// Makes the floor cover the oldest.
    fn give_one_up(&mut self, now: Instant) {
        let Some((query, _)) = self.order.pop_front() else {
            return;
        };
        let Some(stone) = self.standing.remove(&query) else {
            return;
        };
        match &mut self.floor {
            Some(floor) if floor.stands(now) => floor.cover(stone),
            floor => *floor = Some(stone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::LOAD_DEADLINE;
    use std::time::Duration;

    fn account(n: u32) -> Query {
        Query::Account(format!("user-{n}"))
    }

    #[test]
    fn one_stands_for_longer_than_a_load_and_the_highest_version_counts() {
        let (stones, start) = (Tombstones::new(100), Instant::now());
        stones.leave(&account(1), 7, start);
        stones.leave(&account(1), 5, start);
        let at = |after| stones.at_least(&account(1), start + after);
        assert_eq!(at(LOAD_DEADLINE * 2), 7);
        assert_eq!(at(TOMBSTONE), 0);
        assert_eq!(stones.at_least(&account(2), start), 0);
    }

    #[test]
    fn one_that_is_left_again_stands_from_then_on() {
        let (stones, start) = (Tombstones::new(SETS), Instant::now());
        let half = TOMBSTONE / 2;
        stones.leave(&account(1), 7, start);
        stones.leave(&account(1), 8, start + half);
        // Others come when the first one's time is over.
        for n in 2..40 {
            stones.leave(&account(n), 1, start + TOMBSTONE);
        }
        assert_eq!(stones.at_least(&account(1), start + TOMBSTONE), 8);
    }

    #[test]
    fn of_too_many_none_is_forgotten_and_kinds_do_not_hinder_each_other() {
        let (stones, start) = (Tombstones::new(SETS), Instant::now());
        for n in 0..10_000 {
            stones.leave(&account(n), u64::from(n) + 1, start);
        }
        assert!(stones.len() <= SETS, "{}", stones.len());
        for n in 0..10_000 {
            assert!(
                stones.at_least(&account(n), start + LOAD_DEADLINE * 2) > u64::from(n),
                "{n}"
            );
        }
        let product = Query::Product("product-1".to_owned());
        assert_eq!(stones.at_least(&product, start), 0);
        assert_eq!(stones.at_least(&account(3), start + TOMBSTONE), 0);
    }

    #[test]
    fn those_whose_time_is_over_are_taken_away_however_often_one_is_left_again() {
        let (stones, start) = (Tombstones::new(1_000_000), Instant::now());
        for n in 0..100_000 {
            let now = start + Duration::from_millis(n.into());
            stones.leave(&account(0), 1, now);
            stones.leave(&account(n), 1, now);
        }
        // A thousand a second for ten seconds, and what was not come to yet.
        assert!(stones.len() < 25_000, "{}", stones.len());
    }
}
