//! The terms by which the keys of a shard go: few, so that a key's head has a byte for them.
//!
//! Words are read without the lock of the shard, by whoever has locked an entry of that number: while an entry has a
//! number, the number means the same.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::window::Terms;

/// Numbers there are, of which 0 is none and the last is [`ASK`].
const NUMBERS: usize = 256;
/// The number of no terms: the cold record has to be asked.
pub(super) const ASK: usize = NUMBERS - 1;
/// Words to all terms of a shard.
pub(super) const TERMS: usize = NUMBERS * WORDS;
const WORDS: usize = 2;

/// How many entries go by each number, under the lock of their shard.
pub(super) struct Known {
    users: Vec<u32>,
}

impl Known {
    pub(super) fn new() -> Self {
        // A decision allocates nothing, the first by its terms no more than others.
        let users = Vec::with_capacity(NUMBERS);
        Self { users }
    }

    /// The terms of a number, as words.
    #[inline]
    pub(super) fn at(terms: &[AtomicU64; TERMS], number: usize) -> [u64; WORDS] {
        let word = |which: usize| terms[number % NUMBERS * WORDS + which].load(Relaxed);
        [word(0), word(1)]
    }

    /// The number of these terms, for one more entry; [`ASK`] if there are too many others.
    pub(super) fn enter(&mut self, terms: Terms, all: &[AtomicU64; TERMS]) -> usize {
        let words = words_of(terms);
        let mut unused = None;
        for (place, users) in self.users.iter_mut().enumerate() {
            if *users == 0 {
                unused = unused.or(Some(place));
            } else if Self::at(all, place + 1) == words {
                *users += 1;
                return place + 1;
            }
        }
        let number = unused.unwrap_or(self.users.len()) + 1;
        if number == ASK {
            return ASK;
        }
        for (which, word) in words.into_iter().enumerate() {
            all[number * WORDS + which].store(word, Relaxed);
        }
        match self.users.get_mut(number - 1) {
            Some(users) => *users = 1,
            None => self.users.push(1),
        }
        number
    }

    /// One entry less goes by this number.
    pub(super) fn leave(&mut self, number: usize) {
        let place = number.checked_sub(1);
        if let Some(users) = place.and_then(|place| self.users.get_mut(place)) {
            *users -= 1;
        }
    }
}

#[inline]
pub(super) const fn words_of(terms: Terms) -> [u64; WORDS] {
    [
        (terms.limit as u64) << 32 | terms.version as u64,
        terms.width,
    ]
}

pub(super) const fn terms_of(words: [u64; WORDS]) -> Terms {
    Terms {
        version: words[0] as u32,
        limit: (words[0] >> 32) as u32,
        width: words[1],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(limit: u32) -> Terms {
        Terms {
            version: 1,
            limit,
            width: 10,
        }
    }

    #[test]
    fn a_number_means_the_same_while_an_entry_goes_by_it() {
        let all = [const { AtomicU64::new(0) }; TERMS];
        let mut known = Known::new();
        let first = known.enter(terms(1), &all);
        assert_eq!(known.enter(terms(1), &all), first);
        let second = known.enter(terms(2), &all);
        assert_ne!(first, second);
        known.leave(first);
        assert_ne!(known.enter(terms(3), &all), first);
        assert_eq!(terms_of(Known::at(&all, first)), terms(1));
        known.leave(first);
        assert_eq!(known.enter(terms(4), &all), first);
        assert_eq!(terms_of(Known::at(&all, first)), terms(4));
        assert_eq!(terms_of(Known::at(&all, second)), terms(2));
    }

    #[test]
    fn those_for_whom_there_is_no_number_are_told_to_ask() {
        let all = [const { AtomicU64::new(0) }; TERMS];
        let mut known = Known::new();
        for limit in 1..ASK as u32 {
            assert_eq!(known.enter(terms(limit), &all), limit as usize);
        }
        assert_eq!(known.enter(terms(1_000), &all), ASK);
        known.leave(ASK);
        known.leave(7);
        assert_eq!(known.enter(terms(1_000), &all), 7);
        assert_eq!(known.enter(terms(6), &all), 6);
        // No terms are zero, so nothing goes by a number that is none.
        assert_eq!((Known::at(&all, 0), Known::at(&all, ASK)), ([0; 2], [0; 2]));
    }
}
