//! Which letters are in the topic, and where: what its records say, taken in order. No Kafka.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map},
    ops::Bound,
};

use super::record::{Name, Said};
use crate::LetterId;

/// Records that are deleted together.
const WORTH_IT: i64 = 1000;
/// Removals that are written before they are read.
const LOOK_AFTER: usize = 256;

/// Where a record lies among all: by the time of the records, so that letters of several partitions have one order,
/// and within a partition always by offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) millis: i64,
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// What lies there and counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Letter { name: Name, died: i64 },
    Foreign,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    /// What is seen: of each letter one place.
    seen: BTreeMap<Place, Entry>,
    /// Where the requests of each id lie: once each, unless one was written again and to another partition.
    places: HashMap<LetterId, Vec<(u64, Place)>>,
    /// Places whose removal is written and was not read yet.
    doomed: HashSet<Place>,
    partitions: HashMap<i32, Partition>,
}

#[derive(Debug, Default)]
struct Partition {
    /// Where its next record is.
    next: i64,
    /// The latest time of a record before that.
    millis: i64,
    /// All that counts, seen or not, by offset.
    live: BTreeMap<i64, (Place, Entry)>,
    /// Before this everything was said to be deleted.
    tidied: i64,
}

impl Index {
    /// Where to go on reading this partition, of which everything before `low` is gone.
    pub(super) fn next(&mut self, partition: i32, low: i64) -> i64 {
        let of = self.partitions.entry(partition).or_default();
        of.next = of.next.max(low);
        let next = of.next;
        let kept = of.live.split_off(&low);
        for (place, entry) in std::mem::replace(&mut of.live, kept).into_values() {
            self.forget(place, entry);
        }
        next
    }

    /// Takes the next record of a partition.
    pub(super) fn take(&mut self, partition: i32, offset: i64, millis: i64, said: Said) {
        let of = self.partitions.entry(partition).or_default();
        if offset < of.next {
            return;
        }
        of.next = offset + 1;
        of.millis = of.millis.max(millis);
        let place = Place {
            millis: of.millis,
            partition,
            offset,
        };
        let entry = match said {
            Said::Removed(name) => {
                for place in self.places_of(name) {
                    if place.partition == partition
                        && let Some((place, entry)) = self.take_out(partition, place.offset)
                    {
                        self.forget(place, entry);
                    }
                }
                return;
            }
            Said::Foreign => Entry::Foreign,
            Said::Letter { name, died } => {
                let known = self.places_of(name);
                if known.iter().any(|place| place.partition == partition) {
                    return;
                }
                let places = self.places.entry(name.id).or_default();
                places.push((name.request, place));
                let entry = Entry::Letter { name, died };
                // A repeat in another partition is known, so that it can be removed, and is not seen.
                if !known.is_empty() {
                    self.live(partition).insert(offset, (place, entry));
                    return;
                }
                entry
            }
        };
        self.seen.insert(place, entry);
        self.live(partition).insert(offset, (place, entry));
    }

    /// Everything before this offset is read: there may be nothing there.
    pub(super) fn passed(&mut self, partition: i32, offset: i64) {
        let of = self.partitions.entry(partition).or_default();
        of.next = of.next.max(offset);
    }

    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }

    pub(super) fn range(
        &self,
        places: (Bound<Place>, Bound<Place>),
    ) -> btree_map::Range<'_, Place, Entry> {
        self.seen.range(places)
    }

    pub(super) fn first(&self) -> Option<&Entry> {
        self.seen.first_key_value().map(|(_, entry)| entry)
    }

    pub(super) fn last(&self) -> Option<Place> {
        self.seen.last_key_value().map(|(place, _)| *place)
    }

    /// The request with this id that died first, and all its places. One whose removal is written is not found.
    pub(super) fn find(&self, id: LetterId) -> Option<(Name, Vec<Place>)> {
        let places = self.places.get(&id)?.iter();
        let places = places.filter(|(_, place)| !self.doomed.contains(place));
        let (request, _) = *places.min_by_key(|(_, place)| *place)?;
        let name = Name { id, request };
        Some((name, self.places_of(name)))
    }

    /// The removal of what lies there is written.
    pub(super) fn doom(&mut self, place: Place) {
        let live = self.live(place.partition);
        if live.contains_key(&place.offset) {
            self.doomed.insert(place);
        }
    }

    /// Whether so much was removed that it is worth looking at what the brokers can delete.
    pub(super) fn is_worth_a_look(&self) -> bool {
        self.doomed.len() >= LOOK_AFTER || self.doomed.len() >= self.seen.len()
    }

    /// In the order in which they were found; the first is the one that is seen.
    pub(super) fn places_of(&self, name: Name) -> Vec<Place> {
        let places = self.places.get(&name.id).into_iter().flatten();
        places
            .filter(|(request, _)| *request == name.request)
            .map(|(_, place)| *place)
            .collect()
    }

    /// For each partition the offset before which nothing counts any more.
    pub(super) fn floors(&self) -> Vec<(i32, i64)> {
        let floor = |(partition, of): (&i32, &Partition)| {
            let first = of.live.first_key_value().map(|(offset, _)| *offset);
            (*partition, first.unwrap_or(of.next))
        };
        self.partitions.iter().map(floor).collect()
    }

    /// The floors, when they have risen by enough to be worth the brokers' while, or a partition is empty.
    pub(super) fn worth_tidying(&mut self) -> Option<Vec<(i32, i64)>> {
        let floors = self.floors();
        let risen = floors.iter().any(|(partition, floor)| {
            let of = &self.partitions[partition];
            *floor >= of.tidied + WORTH_IT || (of.live.is_empty() && *floor > of.tidied)
        });
        if !risen {
            return None;
        }
        for (partition, floor) in &floors {
            if let Some(of) = self.partitions.get_mut(partition) {
                of.tidied = *floor;
            }
        }
        Some(floors)
    }

    fn live(&mut self, partition: i32) -> &mut BTreeMap<i64, (Place, Entry)> {
        &mut self.partitions.entry(partition).or_default().live
    }

    fn take_out(&mut self, partition: i32, offset: i64) -> Option<(Place, Entry)> {
        self.live(partition).remove(&offset)
    }

    /// What is not live any more. Another place of the same letter is seen instead.
    fn forget(&mut self, place: Place, entry: Entry) {
        self.seen.remove(&place);
        self.doomed.remove(&place);
        let Entry::Letter { name, .. } = entry else {
            return;
        };
        if let Some(places) = self.places.get_mut(&name.id) {
            places.retain(|(_, known)| *known != place);
            if places.is_empty() {
                self.places.remove(&name.id);
            }
        }
        if let Some(next) = self.places_of(name).first() {
            self.seen.entry(*next).or_insert(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: u8, request: u64) -> Name {
        Name {
            id: LetterId::from_bytes([id; 16]),
            request,
        }
    }

    fn letter(id: u8, request: u64) -> Said {
        Said::Letter {
            name: name(id, request),
            died: 1,
        }
    }

    fn seen(index: &Index) -> Vec<(i32, i64)> {
        index
            .seen
            .keys()
            .map(|place| (place.partition, place.offset))
            .collect()
    }

    #[test]
    fn a_letter_that_is_there_twice_is_seen_once() {
        let mut index = Index::default();
        index.take(0, 0, 5, letter(1, 1));
        index.take(0, 1, 6, letter(1, 1));
        index.take(1, 0, 7, letter(1, 1));
        assert_eq!(seen(&index), [(0, 0)]);
        // Removed where it was seen, it is still to be removed where it was not.
        index.take(0, 2, 8, Said::Removed(name(1, 1)));
        assert_eq!(seen(&index), [(1, 0)]);
        index.take(1, 1, 9, Said::Removed(name(1, 1)));
        assert_eq!((seen(&index), index.find(name(1, 1).id)), (vec![], None));
    }

    #[test]
    fn a_letter_written_after_its_removal_is_another() {
        let mut index = Index::default();
        index.take(0, 0, 5, letter(1, 1));
        index.take(0, 1, 6, Said::Removed(name(1, 1)));
        index.take(0, 2, 7, letter(1, 1));
        assert_eq!(seen(&index), [(0, 2)]);
    }

    #[test]
    fn two_requests_of_one_id_are_two_letters_and_the_first_is_found_first() {
        let mut index = Index::default();
        index.take(0, 0, 5, letter(1, 1));
        index.take(0, 1, 6, letter(1, 2));
        assert_eq!(index.len(), 2);
        let (found, places) = index.find(name(1, 1).id).unwrap();
        assert_eq!((found, places.len()), (name(1, 1), 1));
        index.take(0, 2, 7, Said::Removed(name(1, 1)));
        assert_eq!(index.find(name(1, 1).id).unwrap().0, name(1, 2));
    }

    #[test]
    fn what_is_removed_is_not_found_before_its_removal_is_read() {
        let mut index = Index::default();
        index.take(0, 0, 5, letter(1, 1));
        let (_, places) = index.find(name(1, 1).id).unwrap();
        index.doom(places[0]);
        assert_eq!(index.find(name(1, 1).id), None);
        assert!(index.is_worth_a_look());
        index.take(0, 1, 6, Said::Removed(name(1, 1)));
        index.doom(places[0]);
        // The same letter again is another.
        index.take(0, 2, 7, letter(1, 1));
        assert_eq!(index.find(name(1, 1).id).unwrap().1[0].offset, 2);
    }

    #[test]
    fn clocks_that_go_back_do_not_turn_the_order_of_a_partition() {
        let mut index = Index::default();
        for (offset, millis) in [(0, 50), (1, 40), (2, 60)] {
            index.take(0, offset, millis, letter(u8::try_from(offset).unwrap(), 0));
        }
        index.take(1, 0, 45, letter(9, 0));
        assert_eq!(seen(&index), [(1, 0), (0, 0), (0, 1), (0, 2)]);
    }

    #[test]
    fn nothing_counts_below_the_floor() {
        let mut index = Index::default();
        index.take(0, 0, 1, letter(1, 1));
        index.take(0, 1, 2, letter(2, 1));
        index.take(0, 2, 3, Said::Removed(name(1, 1)));
        assert_eq!(index.floors(), [(0, 1)]);
        index.take(0, 3, 4, Said::Removed(name(2, 1)));
        assert_eq!(index.floors(), [(0, 4)]);
        index.take(0, 4, 5, Said::Foreign);
        assert_eq!(index.floors(), [(0, 4)]);
        assert_eq!(index.next(0, 6), 6);
        assert_eq!((index.len(), index.floors()), (0, vec![(0, 6)]));
    }
}
