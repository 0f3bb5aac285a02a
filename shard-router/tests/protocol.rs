//! The rules by which a slot moves, explored: one slot, a source and a target of two servers each,
//! writes that any router may send to either at any time, messages that arrive late and again, a
//! failover of either side, and a way back. In every state that can be reached:
//!
//! 1. no two shards take writes of the slot;
//! 2. whoever takes them has every write that was acknowledged before, except those that a failover
//!    lost on the shard that took them (its replication is asynchronous);
//! 3. every such write is somewhere.
//!
//! What a shard decides is decided by [`Holdings`] itself. Each rule that is left out has a run that
//! breaks one of the three.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use seawall_shard_router::{Holding, Holdings, Slot};

fn slot() -> Slot {
    Slot::new(7).unwrap()
}

/// Which rule is left out, if any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Without {
    Nothing,
    CheckInTransaction,
    DurableFreezeBeforeOpening,
    ConfirmationOnPromotion,
    NewEpochForTheWayBack,
    FenceBeforeReopening,
    CopyOnReplicasBeforeRelease,
    CatchUpAfterFreezing,
    CatchUpBackBeforeReopening,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Server {
    holdings: Holdings,
    /// A bit for each write.
    data: u8,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Shard {
    primary: Server,
    /// Gone once it was promoted.
    replica: Option<Server>,
    /// The writes it took itself, and not as a copy.
    took: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum Stage {
    Planned,
    Copied,
    Freezing,
    Frozen,
    CaughtUp,
    Opening,
    Switched,
    Released,
    Fencing,
    Fenced,
    CaughtUpBack,
    Reopening,
    Reopened,
    Discarded,
}

const SOURCE: usize = 0;
const TARGET: usize = 1;
const WRITES: u8 = 2;

/// Epochs: of the start, of the move, of the way back.
const START: u64 = 1;
const MOVE: u64 = 2;
const BACK: u64 = 3;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    shards: [Shard; 2],
    stage: Stage,
    /// How far the move was when it was taken back: messages of the way there may still arrive.
    reached: Stage,
    written: u8,
    acknowledged: u8,
    lost: u8,
    /// A write of the source that was checked and is not applied yet.
    checked: Option<u8>,
    /// A confirmation on its way.
    confirming: Option<(usize, u64, Holding)>,
}

impl World {
    fn new() -> Self {
        let shard = |owned: Option<Slot>| {
            let server = Server {
                holdings: Holdings::new(START, owned),
                data: 0,
            };
            Shard {
                replica: Some(server.clone()),
                primary: server,
                took: 0,
            }
        };
        Self {
            shards: [shard(Some(slot())), shard(None)],
            stage: Stage::Planned,
            reached: Stage::Planned,
            written: 0,
            acknowledged: 0,
            lost: 0,
            checked: None,
            confirming: None,
        }
    }

    fn takes_writes(&self, side: usize) -> bool {
        self.shards[side].primary.holdings.write(slot()).is_ok()
    }

    fn broken(&self) -> Option<&'static str> {
        let kept = self.acknowledged & !self.lost;
        let data = [SOURCE, TARGET].map(|side| self.shards[side].primary.data);
        if self.takes_writes(SOURCE) && self.takes_writes(TARGET) {
            return Some("two owners");
        }
        for side in [SOURCE, TARGET] {
            if self.takes_writes(side) && kept & !data[side] != 0 {
                return Some("an owner that lacks a write");
            }
        }
        (kept & !(data[SOURCE] | data[TARGET]) != 0).then_some("a write that is nowhere")
    }

    /// What whoever keeps the move says of a shard.
    fn view(&self, side: usize) -> (u64, Holding) {
        use Stage::*;
        match (side, self.stage) {
            (SOURCE, Planned | Copied) => (START, Holding::Owned),
            (SOURCE, Released) => (MOVE, Holding::Away),
            (SOURCE, Freezing | Frozen | CaughtUp | Opening | Switched) => (MOVE, Holding::Frozen),
            (SOURCE, Fencing | Fenced | CaughtUpBack) => (MOVE, Holding::Frozen),
            (SOURCE, _) => (BACK, Holding::Owned),
            (_, Planned | Copied) => (START, Holding::Away),
            (_, Freezing | Frozen | CaughtUp) => (MOVE, Holding::Away),
            (_, Opening | Switched | Released) => (MOVE, Holding::Owned),
            (_, _) => (BACK, Holding::Away),
        }
    }

    fn acknowledge(&mut self, side: usize, write: u8) {
        self.shards[side].primary.data |= write;
        self.shards[side].took |= write;
        self.acknowledged |= write;
    }

    /// Everything that may happen next.
    fn next(&self, without: Without) -> Vec<(&'static str, World)> {
        use Stage::*;
        let mut all = Vec::new();
        let mut may = |name: &'static str, change: &dyn Fn(&mut World) -> bool| {
            let mut world = self.clone();
            if change(&mut world) && world != *self {
                all.push((name, world));
            }
        };

        for side in [SOURCE, TARGET] {
            may("a write", &|w| {
                let is_taken = w.written < WRITES && w.takes_writes(side);
                if is_taken {
                    let write = 1 << w.written;
                    w.written += 1;
                    w.acknowledge(side, write);
                }
                is_taken
            });
            may("replication", &|w| {
                let shard = &mut w.shards[side];
                shard.replica.is_some() && {
                    shard.replica = Some(shard.primary.clone());
                    true
                }
            });
            may("a failover", &|w| {
                let shard = &mut w.shards[side];
                let Some(mut replica) = shard.replica.take() else {
                    return false;
                };
                w.lost |= shard.took & shard.primary.data & !replica.data;
                if without != Without::ConfirmationOnPromotion {
                    replica.holdings.promoted();
                }
                shard.primary = replica;
                if side == SOURCE {
                    w.checked = None;
                }
                true
            });
            may("it asks what it holds", &|w| {
                let (epoch, holding) = w.view(side);
                w.confirming = Some((side, epoch, holding));
                // Only a shard that was promoted asks.
                w.shards[side].replica.is_none()
            });
        }
        may("it is told what it holds", &|w| {
            let Some((side, epoch, holding)) = w.confirming.take() else {
                return false;
            };
            // What was copied before comes again from the other side, which has it until it is
            // released: the copy may have been made on the server that is gone.
            if side == TARGET && w.stage != Released {
                w.shards[TARGET].primary.data |= w.shards[SOURCE].primary.data;
            }
            if side == SOURCE && (CaughtUpBack..=Reopened).contains(&w.stage) {
                w.shards[SOURCE].primary.data |= w.shards[TARGET].primary.data;
            }
            let holdings = &mut w.shards[side].primary.holdings;
            drop(holdings.confirm(epoch, [(slot(), holding)]));
            true
        });
        if without == Without::CheckInTransaction {
            may("a write is checked", &|w| {
                let is_taken = w.checked.is_none() && w.written < WRITES && w.takes_writes(SOURCE);
                if is_taken {
                    w.checked = Some(1 << w.written);
                    w.written += 1;
                }
                is_taken
            });
            may("a write is applied", &|w| {
                let write = w.checked.take();
                write.is_some_and(|write| {
                    w.acknowledge(SOURCE, write);
                    true
                })
            });
        }

        // Steps of the one who moves it. He may be killed between any two, and go on.
        may("copy", &|w| {
            w.shards[TARGET].primary.data |= w.shards[SOURCE].primary.data;
            w.step(Planned, Copied)
        });
        may("send freeze", &|w| w.step(Copied, Freezing));
        may("catch up", &|w| {
            if without != Without::CatchUpAfterFreezing {
                w.shards[TARGET].primary.data |= w.shards[SOURCE].primary.data;
            }
            w.step(Frozen, CaughtUp)
        });
        if without == Without::DurableFreezeBeforeOpening {
            may("does not wait for the freeze", &|w| {
                w.shards[TARGET].primary.data |= w.shards[SOURCE].primary.data;
                w.step(Freezing, CaughtUp)
            });
        }
        may("send open", &|w| w.step(CaughtUp, Opening));
        // Only when every server of the other side has it: the one that serves now too, which may be
        // another than the one that was copied to.
        let lets_go = |w: &mut World, side: usize| {
            let copy = w.shards[side].primary.data;
            let has = |server: &Server| copy & !server.data == 0;
            let other = &w.shards[1 - side];
            let copied = has(&other.primary) && other.replica.as_ref().is_none_or(has);
            w.shards[side].primary.data = 0;
            copied || without == Without::CopyOnReplicasBeforeRelease
        };
        may("release", &|w| {
            let may = lets_go(w, SOURCE);
            let holdings = &mut w.shards[SOURCE].primary.holdings;
            let gone = holdings.change(slot(), Holding::Away, MOVE).is_ok();
            may && gone && w.step(Switched, Released)
        });
        may("discard", &|w| {
            lets_go(w, TARGET) && w.step(Reopened, Discarded)
        });
        may("take back", &|w| {
            let may = (Freezing..=Switched).contains(&w.stage);
            w.reached = w.stage;
            w.stage = match without {
                Without::NewEpochForTheWayBack | Without::FenceBeforeReopening => CaughtUpBack,
                _ => Fencing,
            };
            may
        });
        may("catch up back", &|w| {
            if without != Without::CatchUpBackBeforeReopening {
                w.shards[SOURCE].primary.data |= w.shards[TARGET].primary.data;
            }
            w.step(Fenced, CaughtUpBack)
        });
        may("send reopen", &|w| w.step(CaughtUpBack, Reopening));

        // Messages. Once sent, each may arrive at any later time, and again.
        let furthest = self.stage.min(Released).max(self.reached);
        let is_back = self.stage >= Fencing;
        let sent = if is_back { self.reached } else { furthest };
        if sent >= Freezing {
            may("freeze arrives", &|w| {
                let holdings = &mut w.shards[SOURCE].primary.holdings;
                let done = holdings.change(slot(), Holding::Frozen, MOVE).is_ok();
                if done && w.stage == Freezing {
                    w.stage = Frozen;
                }
                done
            });
        }
        if sent >= Opening {
            may("open arrives", &|w| {
                let holdings = &mut w.shards[TARGET].primary.holdings;
                let done = holdings.change(slot(), Holding::Owned, MOVE).is_ok();
                if done && w.stage == Opening {
                    w.stage = Switched;
                }
                done
            });
        }
        if is_back && self.stage >= Fencing && without != Without::FenceBeforeReopening {
            may("fence arrives", &|w| {
                let holdings = &mut w.shards[TARGET].primary.holdings;
                let done = holdings.change(slot(), Holding::Away, BACK).is_ok();
                if done && w.stage == Fencing {
                    w.stage = Fenced;
                }
                done && without != Without::NewEpochForTheWayBack
            });
        }
        if is_back && self.stage >= Reopening {
            may("reopen arrives", &|w| {
                let holdings = &mut w.shards[SOURCE].primary.holdings;
                let done = if without == Without::NewEpochForTheWayBack {
                    // As if the freeze had never been: nothing tells the target.
                    holdings.confirm(MOVE, [(slot(), Holding::Owned)]).is_ok()
                } else {
                    holdings.change(slot(), Holding::Owned, BACK).is_ok()
                };
                if done && w.stage == Reopening {
                    w.stage = Reopened;
                }
                done
            });
        }
        all
    }

    fn step(&mut self, from: Stage, to: Stage) -> bool {
        let is_there = self.stage == from;
        if is_there {
            self.stage = to;
        }
        is_there
    }
}

/// Every state that can be reached, or the shortest run to one that is broken.
fn explore(without: Without) -> Result<HashMap<Stage, usize>, (&'static str, Vec<&'static str>)> {
    let mut seen = HashMap::from([(World::new(), None::<(World, &'static str)>)]);
    let mut frontier = vec![World::new()];
    while !frontier.is_empty() {
        let mut found = Vec::new();
        for world in &frontier {
            if let Some(why) = world.broken() {
                let (mut run, mut at) = (Vec::new(), world);
                while let Some((before, name)) = &seen[at] {
                    run.push(*name);
                    at = before;
                }
                run.reverse();
                return Err((why, run));
            }
            for (name, next) in world.next(without) {
                if !seen.contains_key(&next) {
                    seen.insert(next.clone(), Some((world.clone(), name)));
                    found.push(next);
                }
            }
        }
        frontier = found;
    }
    let mut stages = HashMap::new();
    for world in seen.keys() {
        *stages.entry(world.stage).or_default() += 1;
    }
    Ok(stages)
}

#[test]
fn in_no_state_that_can_be_reached_do_two_own_a_slot_or_is_a_write_missing() {
    let stages = match explore(Without::Nothing) {
        Ok(stages) => stages,
        Err((why, run)) => panic!("{why}: {run:?}"),
    };
    for stage in [Stage::Released, Stage::Discarded] {
        assert!(stages.contains_key(&stage), "{stage:?} is never reached");
    }
    let states: usize = stages.values().sum();
    println!("figure shard-router/reshard-states: {states}");
    println!("figure shard-router/reshard-broken-states: 0");
    assert!(states > 1_000, "{states}");
}

fn breaks(without: Without, how: &str) {
    match explore(without) {
        Ok(stages) => panic!(
            "nothing breaks in {} states",
            stages.values().sum::<usize>()
        ),
        Err((why, run)) => {
            println!("{without:?}: {why}: {run:?}");
            assert_eq!(why, how, "{run:?}");
        }
    }
}

#[test]
fn a_write_that_is_checked_outside_of_its_transaction_is_applied_after_the_freeze() {
    breaks(Without::CheckInTransaction, "an owner that lacks a write");
}

#[test]
fn a_target_that_opens_before_the_freeze_is_durable_makes_two_owners() {
    breaks(Without::DurableFreezeBeforeOpening, "two owners");
}

#[test]
fn a_replica_that_missed_the_freeze_and_is_promoted_makes_two_owners() {
    breaks(Without::ConfirmationOnPromotion, "two owners");
}

#[test]
fn a_way_back_by_the_same_epoch_is_overtaken_by_a_late_open() {
    breaks(Without::NewEpochForTheWayBack, "two owners");
}

#[test]
fn a_target_that_is_not_fenced_opens_by_a_late_message_after_the_way_back() {
    breaks(Without::FenceBeforeReopening, "two owners");
}

#[test]
fn a_source_that_deletes_before_the_targets_replicas_have_the_copy_loses_writes() {
    breaks(
        Without::CopyOnReplicasBeforeRelease,
        "a write that is nowhere",
    );
}

#[test]
fn a_target_that_opens_without_the_last_writes_lacks_them() {
    breaks(Without::CatchUpAfterFreezing, "an owner that lacks a write");
}

#[test]
fn a_source_that_reopens_without_the_targets_writes_lacks_them() {
    breaks(
        Without::CatchUpBackBeforeReopening,
        "an owner that lacks a write",
    );
}

/// Operations and their effects, copied one after the other while a write comes in between, and
/// caught up on from where the second copy was made: the write's effect came along, and its row did
/// not. Sent again, it is applied twice. From where the first was made, it is applied twice at once.
#[test]
fn rows_and_effects_that_are_copied_apart_apply_a_write_twice() {
    #[derive(Clone, Copy, Default, PartialEq, Debug)]
    struct Copied {
        row: bool,
        effect: u32,
    }
    let source_before = Copied::default();
    let source_after = Copied {
        row: true,
        effect: 1,
    };
    let apply = |shard: &mut Copied| {
        if !shard.row {
            (shard.row, shard.effect) = (true, shard.effect + 1);
        }
    };
    let mut broken = 0;
    // The write comes before, between, or after the copies of rows and of effects.
    for (rows, effects, one_snapshot) in [
        (source_after, source_after, true),
        (source_before, source_after, false),
        (source_before, source_before, true),
    ] {
        for repeated in [false, true] {
            let mut target = Copied {
                row: rows.row,
                effect: effects.effect,
            };
            // Catching up from the first copy sends the write again, unless both had it; the client
            // may send it again as well.
            apply(&mut target);
            if repeated {
                apply(&mut target);
            }
            assert_eq!(target == source_after, one_snapshot);
            broken += usize::from(target.effect != 1);
        }
    }
    assert_eq!(broken, 2);
}
