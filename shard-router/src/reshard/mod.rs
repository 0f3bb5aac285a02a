//! Moving slots while traffic flows, step by step.

mod progress;

pub use progress::{Outcome, Progress, Stage, Step};

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::time::sleep;

use crate::{BoxError, ConfigError, Plan, Topology, telemetry};

/// What moves the data of one kind of shard: the steps on its servers, and a journal.
///
/// Every step may be asked for twice, and says when it is **durably** done. The journal lies where
/// another process finds it when this one is gone: on a shard, or where the topology is kept.
pub trait Mover: Send {
    /// Does a step.
    fn run(&mut self, step: &Step<'_>) -> impl Future<Output = Result<Outcome, BoxError>> + Send;

    /// Keeps how far it is, durably.
    fn save(&mut self, progress: &Progress) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// What was kept last, if anything was.
    fn load(&mut self) -> impl Future<Output = Result<Option<Progress>, BoxError>> + Send;
}

/// Moves the slots of a plan: copies, catches up, verifies, switches reads, freezes and switches
/// writes, and stays reversible until somebody [finishes](Reshard::finish) it.
///
/// At no time do two shards take the writes of a slot, whatever is killed when: the target is opened
/// only after the source is durably frozen, every step of a later epoch outdates the messages of an
/// earlier one, and the way back is a new epoch too. Writes of the moving slots are refused from
/// [`Step::Freeze`] to the publication after [`Step::Open`]; what that lasts is the last catch-up.
///
/// ```no_run
/// # use seawall_shard_router::{BoxError, Mover, Reshard, TopologyHandle};
/// # async fn grow(handle: TopologyHandle, mover: impl Mover) -> Result<(), BoxError> {
/// let current = handle.current();
/// let plan = current.with_shard("s50")?.plan_from(&current);
/// let mut reshard = Reshard::begin(mover, &current, plan).await?;
/// reshard.progress().dry_run().iter().for_each(|step| println!("{step}"));
/// reshard.run().await?;                  // or advance(), one step at a time
/// // Look at it for a day. Then:
/// reshard.finish().await?;               // or roll_back()
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Reshard<M> {
    mover: M,
    progress: Progress,
    pause: Duration,
}

impl<M: Mover> Reshard<M> {
    /// Sets out on a plan. Nothing is done yet, except that the journal knows of it.
    ///
    /// # Errors
    /// [`ReshardError::Plan`] when the plan does not fit the topology, [`ReshardError::Unfinished`]
    /// when the journal holds a move that is not over, and [`ReshardError::Journal`].
    pub async fn begin(mut mover: M, base: &Topology, plan: Plan) -> Result<Self, ReshardError> {
        let progress = Progress::planned(base, plan).map_err(ReshardError::Plan)?;
        if let Some(before) = mover.load().await.map_err(ReshardError::Journal)?
            && !matches!(before.stage(), Stage::Done | Stage::RolledBack)
        {
            return Err(ReshardError::Unfinished(before.stage()));
        }
        mover.save(&progress).await.map_err(ReshardError::Journal)?;
        Ok(Self::of(mover, progress))
    }

    /// Goes on with the move in the journal, whoever began it; `None` where there is none.
    ///
    /// # Errors
    /// [`ReshardError::Journal`].
    pub async fn resume(mut mover: M) -> Result<Option<Self>, ReshardError> {
        let progress = mover.load().await.map_err(ReshardError::Journal)?;
        Ok(progress.map(|progress| Self::of(mover, progress)))
    }

    fn of(mover: M, progress: Progress) -> Self {
        let pause = Duration::from_millis(100);
        Self {
            mover,
            progress,
            pause,
        }
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Takes one step. False when none is left, or a decision is due: [`Stage::Reversible`].
    ///
    /// # Errors
    /// [`ReshardError::Step`] and [`ReshardError::Journal`]. Nothing is lost by either: the same
    /// step is taken again by the next call, here or after [`Reshard::resume`].
    pub async fn advance(&mut self) -> Result<bool, ReshardError> {
        let mut next = self.progress.clone();
        let stage = next.stage();
        if !next.begin() {
            let Some(step) = self.progress.next() else {
                return Ok(false);
            };
            let failed = |source| ReshardError::Step {
                stage,
                step: step.to_string(),
                source,
            };
            let outcome = self.mover.run(&step).await.map_err(failed)?;
            telemetry::moved(stage, &step, outcome);
            if !next.ended(outcome) {
                sleep(self.pause).await;
                return Ok(true);
            }
            if outcome == Outcome::Differs {
                sleep(self.pause).await;
            }
        }
        self.keep(next).await?;
        Ok(true)
    }

    /// Takes steps until none is left or a decision is due.
    ///
    /// # Errors
    /// As for [`Reshard::advance`].
    pub async fn run(&mut self) -> Result<Stage, ReshardError> {
        while self.advance().await? {}
        Ok(self.progress.stage())
    }

    /// The sources let go of what has moved. There is no way back from here but another plan.
    ///
    /// # Errors
    /// [`ReshardError::NotNow`] unless it is reversible, and as for [`Reshard::advance`].
    pub async fn finish(&mut self) -> Result<Stage, ReshardError> {
        let mut next = self.progress.clone();
        if next.finish() {
            self.keep(next).await?;
        } else if !matches!(self.progress.stage(), Stage::Finishing | Stage::Done) {
            return Err(ReshardError::NotNow(self.progress.stage()));
        }
        self.run().await
    }

    /// Takes all of it back: what the targets have written goes back to the sources, and these take
    /// the writes again, at a new epoch.
    ///
    /// # Errors
    /// [`ReshardError::NotNow`] once it is being finished, and as for [`Reshard::advance`].
    pub async fn roll_back(&mut self) -> Result<Stage, ReshardError> {
        let mut next = self.progress.clone();
        if next.roll_back() {
            self.keep(next).await?;
        } else if self.progress.stage() != Stage::RolledBack {
            return Err(ReshardError::NotNow(self.progress.stage()));
        }
        self.run().await
    }

    /// The mover, for whatever else it can do.
    pub fn into_mover(self) -> M {
        self.mover
    }

    async fn keep(&mut self, next: Progress) -> Result<(), ReshardError> {
        let kept = self.mover.save(&next).await;
        kept.map_err(ReshardError::Journal)?;
        self.progress = next;
        Ok(())
    }
}

/// Why a move does not come on. It is where it was, and can be gone on with.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReshardError {
    /// The plan does not fit the topology.
    Plan(ConfigError),
    /// The journal holds another move, which is not over.
    Unfinished(Stage),
    /// That cannot be done at this stage.
    NotNow(Stage),
    /// The journal could not be read or written.
    Journal(BoxError),
    /// A step failed.
    Step {
        /// Where the move stands.
        stage: Stage,
        /// What was to be done.
        step: String,
        /// Why it failed.
        source: BoxError,
    },
}

impl fmt::Display for ReshardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(_) => f.write_str("the plan does not fit the topology"),
            Self::Unfinished(stage) => write!(f, "another move is not over: {stage:?}"),
            Self::NotNow(stage) => write!(f, "not at this stage: {stage:?}"),
            Self::Journal(_) => f.write_str("the journal of the move"),
            Self::Step { stage, step, .. } => write!(f, "{stage:?}: {step}"),
        }
    }
}

impl Error for ReshardError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Plan(error) => Some(error),
            Self::Journal(source) | Self::Step { source, .. } => Some(&**source),
            Self::Unfinished(_) | Self::NotNow(_) => None,
        }
    }
}
