//! Every interleaving of two callers of one key, in small bounds.
//!
//! The model is the protocol's own code (`look`, `standing`, `Swap`) with a network between it and
//! one record. Each command lies in the network until it is carried out; a caller may stop waiting
//! for a reply at any time, after which its command is a late copy that can be carried out whenever
//! it hurts most, or never. Time passes between any two steps, so that leases run out while their
//! owners work, and a caller may stop for as long as it likes anywhere.
//!
//! What must hold in every state that can be reached:
//!
//! - an attempt is executed at most once;
//! - the record's attempt never goes back, and what was completed stays as it is;
//! - a claim is taken over only when its owner was silent for a whole lease;
//! - once nobody works any more, nothing is pending;
//! - a caller is never turned away by its own claim.
//!
//! Each rule of the protocol can be switched off, and then one of these breaks: the last tests say
//! which. So the model is able to see what the rules are there for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    time::Duration,
};

use bytes::Bytes;
use seawall_idempotency::{
    Fingerprint,
    record::{self, Answer, Found, Owner, Pending, Record, Standing, Swap, Swapped},
};

const LEASE: u64 = 2;
const RETENTION: u64 = 1_000;

/// The rules, each of which can be off.
#[derive(Debug, Clone, Copy)]
struct Rules {
    own_bytes_are_mine: bool,
    renewal_counts: bool,
    release_keeps_the_number: bool,
    unknown_claims_are_released: bool,
    release_takes_an_empty_place: bool,
    unknown_takeovers_are_ended: bool,
    completion_compares: bool,
    completion_knows_a_renewal_on_its_way: bool,
}

const ALL: Rules = Rules {
    own_bytes_are_mine: true,
    renewal_counts: true,
    release_keeps_the_number: true,
    unknown_claims_are_released: true,
    release_takes_an_empty_place: true,
    unknown_takeovers_are_ended: true,
    completion_compares: true,
    completion_knows_a_renewal_on_its_way: true,
};

/// How much may happen in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Bounds {
    ticks: u8,
    /// How often a caller may stop waiting for a reply.
    lost: u8,
    renewals: u8,
    releases: u8,
    /// How often each caller may begin.
    begins: [u8; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Command {
    Claim(Pending),
    Remaining,
    Swap(Swap),
    /// A release that leaves an empty place empty, for the rule that is off.
    SwapFound(Swap),
    /// Completion without a comparison, for the rule that is off.
    Write(Bytes),
    /// Renewal that changes nothing but the time, for the rule that is off.
    Touch(Bytes),
    /// Release by deletion, for the rule that is off.
    Delete(Vec<Bytes>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Reply {
    Claim(Option<Bytes>),
    Remaining(Option<u64>),
    Swap(Swapped),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Caller {
    Idle,
    Claiming {
        mine: Pending,
        again: bool,
    },
    Looking {
        mine: Pending,
        found: Bytes,
        other: Pending,
    },
    Taking {
        mine: Pending,
        found: Bytes,
        again: bool,
    },
    Settling {
        end: Command,
    },
    Running {
        current: Pending,
        on_its_way: bool,
        waiting: bool,
    },
    Ending {
        end: Command,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Message {
    /// Who waits for the reply, if anybody does.
    from: Option<usize>,
    command: Command,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    record: Option<(Bytes, u64)>,
    network: Vec<Message>,
    callers: [Caller; 2],
    executed: Vec<u64>,
    owners: u8,
    left: Bounds,
}

type Broken = &'static str;

impl World {
    fn new(bounds: Bounds) -> Self {
        Self {
            now: 0,
            record: None,
            network: Vec::new(),
            callers: [Caller::Idle, Caller::Idle],
            executed: Vec::new(),
            owners: 0,
            left: bounds,
        }
    }

    fn send(&mut self, caller: usize, command: Command) {
        self.network.push(Message {
            from: Some(caller),
            command,
        });
    }

    fn attempt(&self) -> Option<u64> {
        self.record
            .as_ref()
            .map(|(bytes, _)| match Record::decode(bytes.clone()).unwrap() {
                Record::Pending(Pending { attempt, .. }) | Record::Released { attempt } => attempt,
                Record::Completed(completed) => completed.attempt,
            })
    }

    fn completed(&self) -> Option<&Bytes> {
        let (bytes, _) = self.record.as_ref()?;
        matches!(Record::decode(bytes.clone()), Ok(Record::Completed(_))).then_some(bytes)
    }

    /// Every world that one step leads to, or what that step broke.
    fn next(&self, rules: Rules) -> Vec<Result<World, Broken>> {
        let mut worlds = Vec::new();
        if self.left.ticks > 0 {
            let mut world = self.clone();
            world.left.ticks -= 1;
            world.now += 1;
            worlds.push(world);
        }
        for caller in 0..2 {
            self.acts(caller, rules, &mut worlds);
        }
        let delivered = (0..self.network.len()).map(|message| self.delivers(message, rules));
        let worlds = worlds.into_iter().map(Ok).chain(delivered);
        worlds
            .map(|world| world.and_then(|world| world.check(self)))
            .collect()
    }

    fn delivers(&self, message: usize, rules: Rules) -> Result<World, Broken> {
        let mut world = self.clone();
        let Message { from, command } = world.network.remove(message);
        let reply = world.carry_out(&command)?;
        if let Some(caller) = from {
            world.receive(caller, reply, rules)?;
        }
        Ok(world)
    }

    /// What a caller may do by itself.
    fn acts(&self, caller: usize, rules: Rules, worlds: &mut Vec<World>) {
        let waits = self
            .network
            .iter()
            .position(|message| message.from == Some(caller));
        if let Some(message) = waits
            && self.left.lost > 0
        {
            let mut world = self.clone();
            world.left.lost -= 1;
            world.network[message].from = None;
            world.stops_waiting(caller, rules);
            worlds.push(world);
        }
        match &self.callers[caller] {
            Caller::Idle if self.left.begins[caller] > 0 => {
                let mut world = self.clone();
                world.left.begins[caller] -= 1;
                world.owners += 1;
                let mine = Pending {
                    owner: Owner::from_bytes([world.owners; 24]),
                    ..Pending::first(Fingerprint::NONE, ticks(LEASE), ticks(RETENTION))
                };
                world.send(caller, Command::Claim(mine.clone()));
                world.callers[caller] = Caller::Claiming { mine, again: false };
                worlds.push(world);
            }
            Caller::Running {
                current,
                on_its_way,
                waiting,
            } => {
                if !waiting && self.left.renewals > 0 {
                    let mut world = self.clone();
                    world.left.renewals -= 1;
                    world.send(caller, renew(current, rules));
                    world.callers[caller] = Caller::Running {
                        current: current.clone(),
                        on_its_way: true,
                        waiting: true,
                    };
                    worlds.push(world);
                }
                let mut held = vec![current.clone()];
                if *on_its_way && rules.completion_knows_a_renewal_on_its_way {
                    held.push(current.beat());
                }
                let mut world = self.clone();
                world.ends(caller, complete(&held, rules));
                worlds.push(world);
                if self.left.releases > 0 {
                    let mut world = self.clone();
                    world.left.releases -= 1;
                    world.ends(caller, release(&held, rules));
                    worlds.push(world);
                }
            }
            _ => {}
        }
    }

    fn ends(&mut self, caller: usize, end: Command) {
        // A renewal that is still waited for is left to itself.
        for message in &mut self.network {
            if message.from == Some(caller) {
                message.from = None;
            }
        }
        self.send(caller, end.clone());
        self.callers[caller] = Caller::Ending { end };
    }

    fn stops_waiting(&mut self, caller: usize, rules: Rules) {
        let next = match self.callers[caller].clone() {
            Caller::Claiming { mine, again: false } => {
                self.send(caller, Command::Claim(mine.clone()));
                Caller::Claiming { mine, again: true }
            }
            Caller::Claiming { mine, again: true } => {
                if rules.unknown_claims_are_released {
                    let end = settle(&mine, rules);
                    self.send(caller, end.clone());
                    Caller::Settling { end }
                } else {
                    Caller::Idle
                }
            }
            Caller::Looking { .. } => Caller::Idle,
            Caller::Taking {
                mine,
                found,
                again: false,
            } => {
                self.send(caller, Command::Swap(Swap::take(found.clone(), &mine)));
                Caller::Taking {
                    mine,
                    found,
                    again: true,
                }
            }
            Caller::Taking {
                mine,
                found,
                again: true,
            } => {
                if rules.unknown_takeovers_are_ended {
                    let end = Command::Swap(Swap::untake(found, &mine));
                    self.send(caller, end.clone());
                    Caller::Settling { end }
                } else {
                    Caller::Idle
                }
            }
            Caller::Running { current, .. } => Caller::Running {
                current,
                on_its_way: true,
                waiting: false,
            },
            Caller::Settling { end } => {
                self.send(caller, end.clone());
                Caller::Settling { end }
            }
            Caller::Ending { end } => {
                self.send(caller, end.clone());
                Caller::Ending { end }
            }
            Caller::Idle => unreachable!("nobody waits"),
        };
        self.callers[caller] = next;
    }

    fn carry_out(&mut self, command: &Command) -> Result<Reply, Broken> {
        let current = self.record.as_ref().map(|(bytes, _)| bytes.clone());
        Ok(match command {
            Command::Claim(mine) => {
                if current.is_none() {
                    self.record = Some((mine.encode(), self.now));
                }
                Reply::Claim(current)
            }
            Command::Remaining => Reply::Remaining(
                self.record
                    .as_ref()
                    .map(|(_, since)| RETENTION - (self.now - since)),
            ),
            Command::Swap(swap) => {
                let swapped = swap.judge(current.as_ref());
                if swapped == Swapped::Applied {
                    self.takes_over_only_the_silent(swap.to())?;
                    self.record = Some((swap.to().clone(), self.now));
                }
                Reply::Swap(swapped)
            }
            Command::SwapFound(_) if current.is_none() => Reply::Swap(Swapped::Lost(None)),
            Command::SwapFound(swap) => return self.carry_out(&Command::Swap(swap.clone())),
            Command::Write(bytes) => {
                self.record = Some((bytes.clone(), self.now));
                Reply::Swap(Swapped::Applied)
            }
            Command::Touch(bytes) => match &mut self.record {
                Some((current, since)) if current == bytes => {
                    *since = self.now;
                    Reply::Swap(Swapped::Applied)
                }
                _ => Reply::Swap(Swapped::Lost(current)),
            },
            Command::Delete(held) => {
                if current.as_ref().is_none_or(|bytes| held.contains(bytes)) {
                    self.record = None;
                }
                Reply::Swap(Swapped::Applied)
            }
        })
    }

    fn takes_over_only_the_silent(&self, to: &Bytes) -> Result<(), Broken> {
        let pending = |bytes: &Bytes| match Record::decode(bytes.clone()) {
            Ok(Record::Pending(pending)) => Some(pending),
            _ => None,
        };
        if let Some((from, since)) = &self.record
            && let (Some(from), Some(to)) = (pending(from), pending(to))
            && from.owner != to.owner
            && self.now - since < LEASE
        {
            return Err("a claim was taken over within its lease");
        }
        Ok(())
    }

    fn receive(&mut self, caller: usize, reply: Reply, rules: Rules) -> Result<(), Broken> {
        let next = match (self.callers[caller].clone(), reply) {
            (Caller::Claiming { mine, .. }, Reply::Claim(None)) => self.runs(mine),
            (Caller::Claiming { mine, .. }, Reply::Claim(Some(found))) => {
                match record::look(&mine, found.clone()).unwrap() {
                    Found::Mine if rules.own_bytes_are_mine => self.runs(mine),
                    Found::Mine => return Err("a caller was turned away by its own claim"),
                    Found::Free { attempt } => self.takes(caller, mine.after(attempt), found),
                    Found::Pending(other) => {
                        self.send(caller, Command::Remaining);
                        Caller::Looking { mine, found, other }
                    }
                    Found::Done(_) | Found::Mismatch => Caller::Idle,
                }
            }
            (Caller::Looking { mine, found, other }, Reply::Remaining(Some(left))) => {
                match other.standing(ticks(left), Duration::MAX) {
                    Standing::Abandoned => self.takes(caller, mine.after(other.attempt), found),
                    _ => Caller::Idle,
                }
            }
            (Caller::Looking { .. }, Reply::Remaining(None)) => Caller::Idle,
            (Caller::Taking { mine, .. }, Reply::Swap(Swapped::Applied | Swapped::Already)) => {
                self.runs(mine)
            }
            (Caller::Taking { .. }, Reply::Swap(Swapped::Lost(_))) => Caller::Idle,
            (Caller::Running { current, .. }, Reply::Swap(swapped)) => {
                let renewed = !matches!(swapped, Swapped::Lost(_));
                let current = if renewed {
                    beat(&current, rules)
                } else {
                    current
                };
                Caller::Running {
                    current,
                    on_its_way: false,
                    waiting: false,
                }
            }
            (Caller::Settling { .. } | Caller::Ending { .. }, Reply::Swap(_)) => Caller::Idle,
            (caller, reply) => unreachable!("{caller:?} got {reply:?}"),
        };
        self.callers[caller] = next;
        Ok(())
    }

    fn runs(&mut self, current: Pending) -> Caller {
        self.executed.push(current.attempt);
        self.executed.sort_unstable();
        Caller::Running {
            current,
            on_its_way: false,
            waiting: false,
        }
    }

    fn takes(&mut self, caller: usize, mine: Pending, found: Bytes) -> Caller {
        self.send(caller, Command::Swap(Swap::take(found.clone(), &mine)));
        Caller::Taking {
            mine,
            found,
            again: false,
        }
    }

    fn check(self, before: &World) -> Result<World, Broken> {
        if self.executed.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("an attempt was executed twice");
        }
        if let Some(completed) = before.completed()
            && self.completed() != Some(completed)
        {
            return Err("a stored answer was overwritten");
        }
        if self.attempt() < before.attempt() {
            return Err("the attempt went back");
        }
        let idle = self.callers.iter().all(|caller| *caller == Caller::Idle);
        let pending = self.record.as_ref().is_some_and(|(bytes, _)| {
            matches!(Record::decode(bytes.clone()), Ok(Record::Pending(_)))
        });
        if idle && self.network.is_empty() && pending {
            return Err("a claim stands that nobody works for");
        }
        Ok(self)
    }
}

fn ticks(ticks: u64) -> Duration {
    Duration::from_millis(ticks)
}

fn beat(current: &Pending, rules: Rules) -> Pending {
    if rules.renewal_counts {
        current.beat()
    } else {
        current.clone()
    }
}

fn renew(current: &Pending, rules: Rules) -> Command {
    if rules.renewal_counts {
        Command::Swap(Swap::renew(current))
    } else {
        Command::Touch(current.encode())
    }
}

fn complete(held: &[Pending], rules: Rules) -> Command {
    let swap = Swap::complete(held, Answer::Whole(Bytes::from_static(b"done")));
    if rules.completion_compares {
        Command::Swap(swap)
    } else {
        Command::Write(swap.to().clone())
    }
}

fn release(held: &[Pending], rules: Rules) -> Command {
    if rules.release_keeps_the_number {
        Command::Swap(Swap::release(held))
    } else {
        Command::Delete(held.iter().map(Pending::encode).collect())
    }
}

fn settle(mine: &Pending, rules: Rules) -> Command {
    match release(std::slice::from_ref(mine), rules) {
        Command::Swap(swap) if !rules.release_takes_an_empty_place => Command::SwapFound(swap),
        release => release,
    }
}

/// Explores everything, or until `wanted` breaks. Says how many states there are, and what breaks; a
/// broken state is not explored further.
fn explore(bounds: Bounds, rules: Rules, wanted: Option<Broken>) -> (usize, BTreeSet<Broken>) {
    let order = BuildHasherDefault::<DefaultHasher>::default();
    let mut seen = HashSet::new();
    let mut broken = BTreeSet::new();
    let mut todo = vec![World::new(bounds)];
    while let Some(world) = todo.pop() {
        if wanted.is_some_and(|wanted| broken.contains(wanted)) {
            break;
        }
        for next in world.next(rules) {
            let mut next = match next {
                Ok(next) => next,
                Err(what) => {
                    broken.insert(what);
                    continue;
                }
            };
            // The network has no order.
            next.network
                .sort_by_cached_key(|message| order.hash_one(message));
            if seen.insert(next.clone()) {
                todo.push(next);
            }
        }
    }
    (seen.len(), broken)
}

/// One call each, and many troubles.
const ONCE: Bounds = Bounds {
    ticks: 3,
    lost: 2,
    renewals: 1,
    releases: 1,
    begins: [1, 1],
};
/// A caller that comes back.
const AGAIN: Bounds = Bounds {
    ticks: 2,
    lost: 1,
    renewals: 1,
    releases: 1,
    begins: [2, 1],
};
/// Both come back: attempts up to the fourth.
const OFTEN: Bounds = Bounds {
    ticks: 2,
    lost: 0,
    renewals: 1,
    releases: 2,
    begins: [2, 2],
};

#[test]
fn two_callers_execute_each_attempt_once_and_nothing_stale_is_written() {
    for bounds in [ONCE, AGAIN, OFTEN] {
        let (states, broken) = explore(bounds, ALL, None);
        println!("{states} states: {bounds:?}");
        assert_eq!(broken, BTreeSet::new(), "{bounds:?}");
    }
}

#[track_caller]
fn breaks(bounds: Bounds, rules: Rules, what: Broken) {
    let (_, broken) = explore(bounds, rules, Some(what));
    assert!(broken.contains(what), "{broken:?}");
}

#[test]
fn without_knowing_its_own_bytes_a_caller_turns_itself_away() {
    let rules = Rules {
        own_bytes_are_mine: false,
        ..ALL
    };
    breaks(ONCE, rules, "a caller was turned away by its own claim");
}

#[test]
fn without_a_counted_heartbeat_a_takeover_prepared_before_it_still_matches() {
    let rules = Rules {
        renewal_counts: false,
        ..ALL
    };
    breaks(ONCE, rules, "a claim was taken over within its lease");
}

#[test]
fn without_a_kept_number_the_attempts_start_again() {
    let rules = Rules {
        release_keeps_the_number: false,
        ..ALL
    };
    breaks(OFTEN, rules, "the attempt went back");
}

#[test]
fn without_a_followed_up_release_a_late_copy_stands_for_nobody() {
    let rules = Rules {
        unknown_claims_are_released: false,
        ..ALL
    };
    breaks(ONCE, rules, "a claim stands that nobody works for");
}

#[test]
fn without_a_release_in_an_empty_place_a_late_copy_stands_for_nobody() {
    let rules = Rules {
        release_takes_an_empty_place: false,
        ..ALL
    };
    breaks(ONCE, rules, "a claim stands that nobody works for");
}

#[test]
fn without_an_end_to_unknown_takeovers_a_late_copy_stands_for_nobody() {
    let rules = Rules {
        unknown_takeovers_are_ended: false,
        ..ALL
    };
    breaks(ONCE, rules, "a claim stands that nobody works for");
}

#[test]
fn without_a_comparison_a_stale_owner_overwrites_the_answer() {
    let rules = Rules {
        completion_compares: false,
        ..ALL
    };
    breaks(ONCE, rules, "a stored answer was overwritten");
    breaks(ONCE, rules, "the attempt went back");
}

#[test]
fn without_both_forms_of_its_claim_an_owner_loses_to_its_own_renewal() {
    let rules = Rules {
        completion_knows_a_renewal_on_its_way: false,
        ..ALL
    };
    breaks(ONCE, rules, "a claim stands that nobody works for");
}
