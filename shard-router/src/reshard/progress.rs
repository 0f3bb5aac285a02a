//! How far a move of slots is: the next step, and what follows from how it ended. No I/O.

use std::fmt;

use crate::{ConfigError, Move, Plan, Topology};

/// Where a move of slots stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Stage {
    /// Nothing has been done.
    Planned,
    /// The targets take a first copy.
    Copying,
    /// The targets take what was written meanwhile, and are compared with the sources.
    CatchingUp,
    /// The copies are equal, and follow. Nobody uses them yet.
    Verified,
    /// Plain reads go to the targets. The sources are being frozen, and the last writes copied.
    ReadsSwitched,
    /// Nobody takes writes of these slots. The targets are being opened.
    WritesFrozen,
    /// Writes go to the targets. The sources begin to follow them.
    WritesSwitched,
    /// The sources follow the targets, so that all of it can still be taken back.
    Reversible,
    /// The sources let go of what has moved.
    Finishing,
    /// The slots have moved, and the sources hold them no more.
    Done,
    /// It is being taken back.
    RollingBack,
    /// Everything is where it was, at a later epoch where others had heard of the move.
    RolledBack,
}

/// Something to do, so that the move comes on. **Each may be asked for again** after it was done,
/// when the answer was lost: it must then do nothing and say the same.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Step<'a> {
    /// Copies the slots from the source to the target, everything that belongs together in one
    /// snapshot, and remembers from where to catch up.
    Copy(&'a Move),
    /// Takes to the target what the source has written since. Ends with [`Outcome::Behind`].
    CatchUp(&'a Move),
    /// Compares target and source. Ends with [`Outcome::Done`] when they are equal as of one point,
    /// else with [`Outcome::Differs`].
    Verify(&'a Move),
    /// Puts a topology in force for all routers.
    Publish(Topology),
    /// The source takes no more writes of the slots, by this epoch. Done when that is durable.
    Freeze(&'a Move, u64),
    /// The target takes the writes of the slots, by this epoch.
    Open(&'a Move, u64),
    /// From now on the source follows the target.
    Follow(&'a Move),
    /// The source lets go of the slots and deletes them. Done only after every server of the target
    /// was seen to have all that the source has of them: the one that serves now, which may be
    /// another than the one that was copied to, and every replica that could be promoted.
    Release(&'a Move, u64),
    /// The target takes no writes of the slots by any epoch before this one. Done when that is
    /// durable.
    Fence(&'a Move, u64),
    /// Takes back to the source what the target has written, if it ever did. Ends with
    /// [`Outcome::Behind`].
    CatchUpBack(&'a Move),
    /// The source takes the writes again, by this epoch.
    Reopen(&'a Move, u64),
    /// The target deletes its copy. Done only after every server of the source was seen to have what
    /// the target took.
    Discard(&'a Move),
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It has caught up to so many writes.
    Behind(u64),
    /// The copies differ.
    Differs,
}

/// How far a move is: what is kept durably, so that another process can go on with it.
#[derive(Clone, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Progress {
    base: Topology,
    plan: Plan,
    stage: Stage,
    /// How many steps of this stage are done.
    done: usize,
    /// Where a rollback set out from.
    back_from: Option<Stage>,
    /// How many writes may be missing when reads switch.
    close: u64,
}

/// What the steps of one stage are, one for each move.
type Each = for<'a> fn(&'a Move, u64) -> Step<'a>;

/// Writes that may be missing when reads switch.
const CLOSE: u64 = 100;

impl Progress {
    /// A plan of which nothing is done: what [`Reshard::begin`](crate::Reshard::begin) sets out
    /// with, for [`dry_run`](Self::dry_run).
    ///
    /// # Errors
    /// As for [`Topology::apply`], and [`ConfigError::LastEpoch`] where no epochs are left.
    pub fn planned(base: &Topology, plan: Plan) -> Result<Self, ConfigError> {
        Self::new(base.clone(), plan, CLOSE)
    }

    pub(crate) fn new(base: Topology, plan: Plan, close: u64) -> Result<Self, ConfigError> {
        base.apply(&plan)?;
        // Three epochs are to come: reads, writes, and the way back.
        if base.epoch() > u64::MAX - 3 {
            return Err(ConfigError::LastEpoch);
        }
        Ok(Self {
            base,
            plan,
            stage: Stage::Planned,
            done: 0,
            back_from: None,
            close,
        })
    }

    /// Where it stands.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Where a rollback set out from, if there is one.
    #[must_use]
    pub fn rolled_back_from(&self) -> Option<Stage> {
        self.back_from
    }

    /// What moves.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The topology it set out from.
    #[must_use]
    pub fn base(&self) -> &Topology {
        &self.base
    }

    /// How many steps of its stage are done, and how many there are.
    #[must_use]
    pub fn steps(&self) -> (usize, usize) {
        (self.done, self.len_of_stage())
    }

    /// The epoch by which reads move, that by which writes do, and that of the way back.
    fn epochs(&self) -> (u64, u64, u64) {
        let base = self.base.epoch();
        (base + 1, base + 2, base + 3)
    }

    /// What is to be done next. Nothing when it is over, and nothing in
    /// [`Stage::Reversible`], where someone has to decide.
    #[must_use]
    pub fn next(&self) -> Option<Step<'_>> {
        let moves = self.plan.moves();
        let step = |phases: &[Each], epoch| {
            let (phase, a_move) = (self.done / moves.len(), self.done % moves.len());
            phases.get(phase).map(|each| each(&moves[a_move], epoch))
        };
        let (_, writes, back) = self.epochs();
        match self.stage {
            Stage::Planned | Stage::Reversible | Stage::Done | Stage::RolledBack => None,
            Stage::Verified => Some(Step::Publish(self.reads())),
            _ if self.is_last_of(Stage::WritesFrozen) => Some(Step::Publish(self.writes())),
            Stage::RollingBack => match self.done.checked_sub(self.publishes_back_at()) {
                Some(0) => Some(Step::Publish(self.back())),
                Some(after) => Some(Step::Discard(&moves[after - 1])),
                None => step(&BACK, back),
            },
            _ if moves.is_empty() => None,
            stage => step(phases(stage), writes),
        }
    }

    fn is_last_of(&self, stage: Stage) -> bool {
        self.stage == stage && self.done == phases(stage).len() * self.plan.moves().len()
    }

    /// In a rollback that others have heard of, what comes before they are told.
    fn publishes_back_at(&self) -> usize {
        BACK.len() * self.plan.moves().len()
    }

    fn len_of_stage(&self) -> usize {
        let moves = self.plan.moves().len();
        match self.stage {
            Stage::Planned | Stage::Reversible | Stage::Done | Stage::RolledBack => 0,
            Stage::Verified => 1,
            Stage::WritesFrozen => phases(Stage::WritesFrozen).len() * moves + 1,
            Stage::RollingBack => self.publishes_back_at() + 1 + moves,
            stage => phases(stage).len() * moves,
        }
    }

    /// The step that was next has ended so. False when it has to be done again.
    pub(crate) fn ended(&mut self, outcome: Outcome) -> bool {
        let is_frozen = self.stage == Stage::ReadsSwitched || self.stage == Stage::RollingBack;
        match outcome {
            Outcome::Done => {}
            // While writes flow there is always a last one; when they are frozen there is none.
            Outcome::Behind(behind) if behind <= if is_frozen { 0 } else { self.close } => {}
            Outcome::Behind(_) => return false,
            // Once more from the first look at what was written since.
            Outcome::Differs => {
                self.done = 0;
                return true;
            }
        }
        self.done += 1;
        if self.done >= self.len_of_stage() {
            self.enter(match self.stage {
                Stage::Copying => Stage::CatchingUp,
                Stage::CatchingUp => Stage::Verified,
                Stage::Verified => Stage::ReadsSwitched,
                Stage::ReadsSwitched => Stage::WritesFrozen,
                Stage::WritesFrozen => Stage::WritesSwitched,
                Stage::WritesSwitched => Stage::Reversible,
                Stage::Finishing => Stage::Done,
                Stage::RollingBack => Stage::RolledBack,
                stage => stage,
            });
        }
        true
    }

    /// Begins what needs no step before it. False when it does not stand there.
    pub(crate) fn begin(&mut self) -> bool {
        let is_planned = self.stage == Stage::Planned;
        if is_planned {
            self.enter(Stage::Copying);
        }
        is_planned
    }

    pub(crate) fn finish(&mut self) -> bool {
        let is_reversible = self.stage == Stage::Reversible;
        if is_reversible {
            self.enter(Stage::Finishing);
        }
        is_reversible
    }

    pub(crate) fn roll_back(&mut self) -> bool {
        match self.stage {
            Stage::Finishing | Stage::Done | Stage::RolledBack => false,
            Stage::RollingBack => true,
            Stage::Planned => {
                self.enter(Stage::RolledBack);
                true
            }
            from => {
                self.back_from = Some(from);
                self.enter(Stage::RollingBack);
                // Before a topology was published nobody but the targets has anything to forget.
                if matches!(from, Stage::Copying | Stage::CatchingUp) {
                    self.done = self.publishes_back_at() + 1;
                }
                true
            }
        }
    }

    /// A stage with nothing to do is passed at once.
    fn enter(&mut self, stage: Stage) {
        (self.stage, self.done) = (stage, 0);
        let next = match stage {
            Stage::Copying => Stage::CatchingUp,
            Stage::CatchingUp => Stage::Verified,
            Stage::ReadsSwitched => Stage::WritesFrozen,
            Stage::WritesSwitched => Stage::Reversible,
            Stage::Finishing => Stage::Done,
            _ => return,
        };
        if self.plan.moves().is_empty() {
            self.enter(next);
        }
    }

    fn reads(&self) -> Topology {
        self.base
            .reading_ahead(&self.plan)
            .expect("the plan was applied to its base before")
    }

    fn writes(&self) -> Topology {
        let (_, writes, _) = self.epochs();
        let after = self.base.apply(&self.plan);
        after
            .map(|after| after.numbered(writes))
            .expect("the plan was applied to its base before")
    }

    fn back(&self) -> Topology {
        let (_, _, back) = self.epochs();
        self.base.clone().numbered(back)
    }

    /// All steps that are left until the move can be decided on, for people to read.
    #[must_use]
    pub fn dry_run(&self) -> Vec<String> {
        let (mut rest, mut steps) = (self.clone(), Vec::new());
        rest.begin();
        while let Some(step) = rest.next() {
            steps.push(step.to_string());
            rest.ended(Outcome::Done);
        }
        steps
    }
}

const BACK: [Each; 3] = [
    |a_move, epoch| Step::Fence(a_move, epoch),
    |a_move, _| Step::CatchUpBack(a_move),
    |a_move, epoch| Step::Reopen(a_move, epoch),
];

fn phases(stage: Stage) -> &'static [Each] {
    match stage {
        Stage::Copying => &[|a_move, _| Step::Copy(a_move)],
        Stage::CatchingUp => &[
            |a_move, _| Step::CatchUp(a_move),
            |a_move, _| Step::Verify(a_move),
        ],
        Stage::ReadsSwitched => &[
            |a_move, epoch| Step::Freeze(a_move, epoch),
            |a_move, _| Step::CatchUp(a_move),
        ],
        Stage::WritesFrozen => &[|a_move, epoch| Step::Open(a_move, epoch)],
        Stage::WritesSwitched => &[|a_move, _| Step::Follow(a_move)],
        Stage::Finishing => &[|a_move, epoch| Step::Release(a_move, epoch)],
        _ => &[],
    }
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut of = |what: &str, a_move: &Move| {
            let (from, to, count) = (a_move.from(), a_move.to(), a_move.slot_count());
            write!(f, "{what} {count} slots from {from} to {to}")
        };
        match self {
            Step::Copy(a_move) => of("copy", a_move),
            Step::CatchUp(a_move) => of("catch up on", a_move),
            Step::Verify(a_move) => of("verify", a_move),
            Step::Freeze(a_move, _) => of("freeze at the source", a_move),
            Step::Open(a_move, _) => of("open at the target", a_move),
            Step::Follow(a_move) => of("follow back", a_move),
            Step::Release(a_move, _) => of("release at the source", a_move),
            Step::Fence(a_move, _) => of("fence at the target", a_move),
            Step::CatchUpBack(a_move) => of("catch up back on", a_move),
            Step::Reopen(a_move, _) => of("open again at the source", a_move),
            Step::Discard(a_move) => of("discard at the target", a_move),
            Step::Publish(topology) => {
                let reads = topology.reads_elsewhere().count();
                let what = if reads > 0 { "reads" } else { "writes" };
                write!(f, "switch {what} with epoch {}", topology.epoch())
            }
        }
    }
}
