use std::hint::black_box;

use arrayvec::ArrayVec;

use super::MemoryScope;
use super::counters::Windows;
use super::held::Held;
use crate::decision::{Charge, Charges, Decision};
use crate::rules::MAX_RULES;
use crate::store::table::{InPlace, Place, Room, Seen, Table};
use crate::window::{Outcome, SlidingWindow};

/// One after the other in the order of their ranks, so that those who decide never wait for each other in a circle.
type Order = ArrayVec<u8, MAX_RULES>;

#[inline]
pub(super) fn decide(now: u64, charges: &Charges<'_, MemoryScope>, decision: &mut Decision) {
    match charges.only() {
        Some(charge) => decide_one(now, charge, decision),
        None => decide_all(now, charges, decision),
    }
    decision.charged_at(now);
}

#[inline]
fn decide_one(now: u64, charge: &Charge<'_, MemoryScope>, decision: &mut Decision) {
    let counters = &*charge.scope.counters;
    if let Windows::Strict(table) = &counters.windows {
        let Some(seen) = table.see(table.place(counters.hash(charge.key))) else {
            return decide_whole(now, charge, decision);
        };
        // Each way says it by itself: an outcome that may come from several goes through memory once more.
        match seen.room(charge.terms, now, charge.cost) {
            Some(mut room) => {
                let outcome = room.take(charge.terms, now, charge.cost);
                decision.push(charge.number, marked(charge, outcome));
            }
            None => decide_in_place(now, charge, seen, decision),
        }
        return;
    }
    decide_whole(now, charge, decision);
}

/// There is no room, or nothing is asked for, or the clock was read before the newest bucket began.
#[inline(never)]
fn decide_in_place(
    now: u64,
    charge: &Charge<'_, MemoryScope>,
    seen: Seen<'_>,
    decision: &mut Decision,
) {
    let Some((mut entry, mut window)) = seen.in_place(charge.terms, now) else {
        return decide_whole(now, charge, decision);
    };
    let outcome = window.admit(now, charge.cost);
    if outcome.passes() && charge.cost > 0 {
        entry.put(&window);
    }
    decision.push(charge.number, marked(charge, outcome));
}

#[cold]
fn decide_whole(now: u64, charge: &Charge<'_, MemoryScope>, decision: &mut Decision) {
    let mut held = charge.scope.counters.hold(charge.key, charge.terms, now);
    decision.push(charge.number, marked(charge, held.admit(now, charge.cost)));
}

/// Nearly always there is room under each rule, in the newest bucket of its key.
fn decide_all<'a>(now: u64, charges: &Charges<'a, MemoryScope>, decision: &mut Decision) {
    // What is not in the cache is fetched at the same time, and only then the first is locked.
    let mut places: ArrayVec<Option<(&'a Table, Place)>, MAX_RULES> = ArrayVec::new();
    let mut in_order = true;
    let mut rank = 0;
    for charge in charges.as_slice() {
        let counters = &charge.scope.counters;
        in_order &= counters.rank >= rank;
        rank = counters.rank;
        places.push(match &counters.windows {
            Windows::Strict(table) => {
                let place = table.place(counters.hash(charge.key));
                black_box(table.glance(place));
                Some((table, place))
            }
            Windows::Named(_) => None,
        });
    }
    let mut keys: Keys<'_> = ArrayVec::new();
    for place in places {
        keys.push(place.and_then(|(table, place)| table.see(place)));
    }
    if !in_order {
        return decide_each(now, charges, &keys, decision);
    }

    let mut rooms: ArrayVec<Room<'_>, MAX_RULES> = ArrayVec::new();
    for (charge, key) in charges.as_slice().iter().zip(&keys) {
        let Some(room) = key.and_then(|seen| seen.room(charge.terms, now, charge.cost)) else {
            drop(rooms);
            return decide_each(now, charges, &keys, decision);
        };
        rooms.push(room);
    }
    for (charge, room) in charges.as_slice().iter().zip(&mut rooms) {
        let outcome = room.take(charge.terms, now, charge.cost);
        decision.push(charge.number, marked(charge, outcome));
    }
}

/// In the order of the charges.
type Keys<'a> = ArrayVec<Option<Seen<'a>>, MAX_RULES>;

/// The same if some rule has to do more: it refuses, or its key is new to it, or counts otherwise.
#[inline(never)]
fn decide_each(
    now: u64,
    charges: &Charges<'_, MemoryScope>,
    keys: &Keys<'_>,
    decision: &mut Decision,
) {
    let mut order: Order = (0..charges.len() as u8).collect();
    order.sort_unstable_by_key(|&number| charges.at(number).scope.counters.rank);
    let mut asked: ArrayVec<Asked<'_>, MAX_RULES> = ArrayVec::new();
    let mut all_pass = true;
    for &number in &order {
        let charge = charges.at(number);
        let (asked_now, passes) = Asked::of(now, charge, keys[usize::from(number)]);
        asked.push(asked_now);
        all_pass &= passes;
    }
    for (number, charge) in charges.as_slice().iter().enumerate() {
        let place = order.iter().position(|&place| usize::from(place) == number);
        let asked = &mut asked[place.expect("each charge has its place in the order")];
        let outcome = asked.settle(now, charge, all_pass);
        decision.push(charge.number, marked(charge, outcome));
    }
}

/// What was asked of one rule, whose key stays held until all rules have been asked.
enum Asked<'a> {
    Room(Room<'a>),
    InPlace(InPlace<'a>, SlidingWindow, Outcome),
    Whole(Held<'a>, Outcome),
}

impl<'a> Asked<'a> {
    /// Whether it lets the request pass, too.
    fn of(now: u64, charge: &Charge<'a, MemoryScope>, seen: Option<Seen<'a>>) -> (Self, bool) {
        if let Some(room) = seen.and_then(|seen| seen.room(charge.terms, now, charge.cost)) {
            return (Self::Room(room), true);
        }
        if let Some((entry, window)) = seen.and_then(|seen| seen.in_place(charge.terms, now)) {
            let outcome = window.decide(now, charge.cost);
            let passes = charge.lets_pass(&outcome);
            return (Self::InPlace(entry, window, outcome), passes);
        }
        let held = charge.scope.counters.hold(charge.key, charge.terms, now);
        let outcome = held.decide(now, charge.cost);
        (Self::Whole(held, outcome), charge.lets_pass(&outcome))
    }

    /// Charges it if all rules let the request pass; else says what would be told for a request that takes nothing,
    /// where the rule itself had room.
    fn settle(&mut self, now: u64, charge: &Charge<'_, MemoryScope>, all_pass: bool) -> Outcome {
        let cost = charge.cost;
        match self {
            Self::Room(room) if all_pass => room.take(charge.terms, now, cost),
            Self::Room(room) => room.leave(charge.terms, now),
            Self::InPlace(.., outcome) | Self::Whole(_, outcome) if !outcome.passes() => *outcome,
            Self::InPlace(_, window, _) if !all_pass => window.decide(now, 0),
            Self::Whole(held, _) if !all_pass => held.decide(now, 0),
            Self::InPlace(entry, window, outcome) => {
                if cost > 0 {
                    window.charge(now, cost);
                    entry.put(window);
                }
                *outcome
            }
            Self::Whole(held, outcome) => {
                held.charge(now, cost);
                *outcome
            }
        }
    }
}

#[inline]
fn marked(charge: &Charge<'_, MemoryScope>, outcome: Outcome) -> Outcome {
    let outcome = outcome.in_window_of(charge.terms);
    match charge.is_shadow() {
        true => outcome.in_shadow(),
        false => outcome,
    }
}
