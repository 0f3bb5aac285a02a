use arrayvec::ArrayVec;

use super::MemoryScope;
use super::counters::Windows;
use super::held::Held;
use crate::decision::{Charge, Charges, Decision};
use crate::rules::MAX_RULES;
use crate::store::table::{Room, Seen};
use crate::window::Outcome;

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
        let place = table.place(counters.hash(charge.key));
        let seen = table.see(place);
        let room = seen.and_then(|seen| seen.room(charge.terms, now, charge.cost));
        if let Some(mut room) = room {
            // Each way says it by itself: an outcome that may come from two goes through memory once more.
            decision.push(charge.number, marked(charge, room.take()));
            return;
        }
    }
    decide_whole(now, charge, decision);
}

#[cold]
fn decide_whole(now: u64, charge: &Charge<'_, MemoryScope>, decision: &mut Decision) {
    let mut held = charge.scope.counters.hold(charge.key, charge.terms, now);
    decision.push(charge.number, marked(charge, held.admit(now, charge.cost)));
}

/// Nearly always there is room under each rule, in the newest bucket of its key.
fn decide_all(now: u64, charges: &Charges<'_, MemoryScope>, decision: &mut Decision) {
    // All keys are looked for before the first is locked, so that what is not in the cache is fetched at the same
    // time.
    let mut seen: Keys<'_> = ArrayVec::new();
    let mut in_order = true;
    let mut rank = 0;
    for charge in charges.iter() {
        let counters = &charge.scope.counters;
        in_order &= counters.rank >= rank;
        rank = counters.rank;
        seen.push(match &counters.windows {
            Windows::Strict(table) => table.see(table.place(counters.hash(charge.key))),
            Windows::Named(_) => None,
        });
    }
    let mut order: Order = (0..charges.len() as u8).collect();
    if !in_order {
        order.sort_unstable_by_key(|&number| charges.at(number).scope.counters.rank);
    }

    let mut rooms: ArrayVec<Room<'_>, MAX_RULES> = ArrayVec::new();
    for &number in &order {
        let Some(room) = room(now, charges.at(number), seen[usize::from(number)]) else {
            drop(rooms);
            return decide_whole_ones(now, charges, &order, &seen, decision);
        };
        rooms.push(room);
    }
    for (number, charge) in charges.iter().enumerate() {
        let at = if in_order {
            number
        } else {
            place_in(&order, number)
        };
        decision.push(charge.number, marked(&charge, rooms[at].take()));
    }
}

/// In the order of the charges.
type Keys<'a> = ArrayVec<Option<Seen<'a>>, MAX_RULES>;

#[inline]
fn room<'a>(
    now: u64,
    charge: &Charge<'_, MemoryScope>,
    seen: Option<Seen<'a>>,
) -> Option<Room<'a>> {
    seen?.room(charge.terms, now, charge.cost)
}

fn place_in(order: &Order, number: usize) -> usize {
    let mut order = order.iter();
    let place = order.position(|&place| usize::from(place) == number);
    place.expect("each charge has its place in the order")
}

/// What was asked of one rule, whose key stays held until all rules have been asked.
enum Asked<'a> {
    Room(Room<'a>),
    Whole(Held<'a>, Outcome),
}

/// The same if some rule has to look at its key whole: it refuses, or a bucket has ended, or the key is new to it.
#[cold]
fn decide_whole_ones(
    now: u64,
    charges: &Charges<'_, MemoryScope>,
    order: &Order,
    seen: &Keys<'_>,
    decision: &mut Decision,
) {
    let mut asked: ArrayVec<Asked<'_>, MAX_RULES> = ArrayVec::new();
    let mut all_pass = true;
    for &number in order {
        let charge = charges.at(number);
        asked.push(match room(now, charge, seen[usize::from(number)]) {
            Some(room) => Asked::Room(room),
            None => {
                let held = charge.scope.counters.hold(charge.key, charge.terms, now);
                let outcome = held.decide(now, charge.cost);
                all_pass &= charge.lets_pass(&outcome);
                Asked::Whole(held, outcome)
            }
        });
    }
    for (number, charge) in charges.iter().enumerate() {
        let outcome = asked[place_in(order, number)].settle(now, charge.cost, all_pass);
        decision.push(charge.number, marked(&charge, outcome));
    }
}

impl Asked<'_> {
    /// Charges it if all rules let the request pass; else says what would be told for a request that takes nothing,
    /// where the rule itself had room.
    fn settle(&mut self, now: u64, cost: u32, all_pass: bool) -> Outcome {
        match self {
            Self::Room(room) if all_pass => room.take(),
            Self::Room(room) => room.leave(),
            Self::Whole(_, outcome) if !outcome.passes() => *outcome,
            Self::Whole(held, outcome) if all_pass => {
                held.charge(now, cost);
                *outcome
            }
            Self::Whole(held, _) => held.decide(now, 0),
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
