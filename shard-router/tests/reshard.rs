//! Moving slots while writes flow: killed at every step, taken back at every step.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use seawall_shard_router::{
    BoxError, ConfigError, Holding, Holdings, Move, Mover, Outcome, Plan, Progress, Refusal,
    Reshard, ReshardError, ShardId, Slot, Stage, Step, Topology,
};

/// One shard: what it holds by its own account, and rows, in the order in which it took them.
struct Node {
    holdings: Holdings,
    rows: BTreeSet<(Slot, u64)>,
    log: Vec<(Slot, u64)>,
}

/// A cluster in which a few writes come between any two steps.
struct World {
    topology: Topology,
    nodes: BTreeMap<ShardId, Node>,
    /// From where a target has to catch up, by source and target.
    cursors: HashMap<(ShardId, ShardId), usize>,
    journal: Option<Progress>,
    acknowledged: BTreeSet<(Slot, u64)>,
    refused: usize,
    next: u64,
    steps: Vec<String>,
    /// The step before or after which the mover is killed, counted over all its lives.
    kill: Option<(usize, When)>,
    corrupt_once: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Before,
    After,
    /// It was done and the journal was not written.
    Unsaved,
}

#[derive(Clone)]
struct Cluster(Arc<Mutex<World>>);

impl Cluster {
    fn new(topology: &Topology, new: &str) -> Self {
        let node = |id: &str| Node {
            holdings: Holdings::new(topology.epoch(), topology.slots_of(id)),
            rows: BTreeSet::new(),
            log: Vec::new(),
        };
        let ids = topology.shards().iter().map(|shard| shard.id().clone());
        let nodes = ids.chain([new.into()]);
        let world = World {
            topology: topology.clone(),
            nodes: nodes.map(|id| (id.clone(), node(id.as_str()))).collect(),
            cursors: HashMap::new(),
            journal: None,
            acknowledged: BTreeSet::new(),
            refused: 0,
            next: 0,
            steps: Vec::new(),
            kill: None,
            corrupt_once: false,
        };
        Self(Arc::new(Mutex::new(world)))
    }

    fn with<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// Every row that was acknowledged lies with its owner by this topology, who alone takes writes.
    fn assert_at(&self, topology: &Topology) {
        self.with(|world| {
            assert_eq!(world.topology.epoch(), topology.epoch());
            for slot in Slot::all().step_by(5) {
                let takes = |node: &Node| node.holdings.write(slot).is_ok();
                let owners = world.nodes.iter().filter(|(_, node)| takes(node));
                let owners: Vec<_> = owners.map(|(id, _)| id).collect();
                assert_eq!(owners, [topology.owner(slot)]);
            }
            for &(slot, row) in &world.acknowledged {
                let owner = &world.nodes[topology.owner(slot)];
                assert!(owner.rows.contains(&(slot, row)), "{slot} {row}");
            }
        });
    }
}

/// Whether a slot moves with these.
fn slots_of(a_move: &Move) -> impl Fn(&Slot) -> bool {
    |slot| {
        let mut ranges = a_move.ranges().iter();
        ranges.any(|range| range.first() <= *slot && *slot <= range.last())
    }
}

impl World {
    /// A few writes, by routers of which one is an epoch behind.
    fn traffic(&mut self, before: &Topology) {
        for _ in 0..6 {
            self.next += 1;
            let slot = Slot::new((self.next * 10_007 % 16_384) as u16).unwrap();
            for topology in [self.topology.clone(), before.clone()] {
                let node = self.nodes.get_mut(topology.owner(slot)).unwrap();
                match node.holdings.write(slot) {
                    Ok(()) => {
                        let row = (slot, self.next);
                        node.rows.insert(row);
                        node.log.push(row);
                        self.acknowledged.insert(row);
                        break;
                    }
                    Err(_) => self.refused += 1,
                }
            }
        }
        // Others than last time.
        let some = Slot::all().skip(self.next as usize % 211).step_by(211);
        let taken = some.into_iter().all(|slot| {
            let takes = |node: &&Node| node.holdings.write(slot).is_ok();
            self.nodes.values().filter(takes).count() <= 1
        });
        assert!(taken, "two shards take the writes of one slot");
    }

    fn change(
        &mut self,
        id: &ShardId,
        a_move: &Move,
        to: Holding,
        epoch: u64,
    ) -> Result<(), Refusal> {
        let node = self.nodes.get_mut(id).unwrap();
        a_move
            .slots()
            .try_for_each(|slot| node.holdings.change(slot, to, epoch))
    }

    /// Some of what `from` took since, in the slots of the move. How much is left.
    fn catch_up(&mut self, from: &ShardId, to: &ShardId, a_move: &Move) -> u64 {
        let slots = slots_of(a_move);
        let cursor = self.cursors.entry((from.clone(), to.clone())).or_default();
        let log = &self.nodes[from].log;
        let some = log[*cursor..].iter().copied().take(40);
        let some: Vec<_> = some.collect();
        *cursor += some.len();
        let left = (log.len() - *cursor) as u64;
        let rows = some.into_iter().filter(|(slot, _)| slots(slot));
        self.nodes.get_mut(to).unwrap().rows.extend(rows);
        left
    }

    fn rows_of(&self, id: &ShardId, a_move: &Move) -> Vec<(Slot, u64)> {
        let slots = slots_of(a_move);
        let rows = self.nodes[id].rows.iter().copied();
        rows.filter(|(slot, _)| slots(slot)).collect()
    }

    fn run(&mut self, step: &Step<'_>) -> Result<Outcome, BoxError> {
        match step {
            Step::Copy(m) => {
                let rows = self.rows_of(m.from(), m);
                let at = self.nodes[m.from()].log.len();
                self.nodes.get_mut(m.to()).unwrap().rows.extend(rows);
                self.cursors.insert((m.from().clone(), m.to().clone()), at);
            }
            Step::CatchUp(m) => {
                return Ok(Outcome::Behind(self.catch_up(m.from(), m.to(), m)));
            }
            Step::Verify(m) => {
                while self.catch_up(m.from(), m.to(), m) > 0 {}
                let differs = std::mem::take(&mut self.corrupt_once);
                if differs || self.rows_of(m.from(), m) != self.rows_of(m.to(), m) {
                    return Ok(Outcome::Differs);
                }
            }
            Step::Publish(topology) => self.topology = topology.clone(),
            Step::Freeze(m, epoch) => self.change(m.from(), m, Holding::Frozen, *epoch)?,
            Step::Open(m, epoch) => {
                let behind = self.nodes[m.to()].log.len();
                let cursor = (m.to().clone(), m.from().clone());
                self.cursors.entry(cursor).or_insert(behind);
                self.change(m.to(), m, Holding::Owned, *epoch)?;
            }
            Step::Follow(m) => drop(self.catch_up(m.to(), m.from(), m)),
            Step::Release(m, epoch) => {
                self.change(m.from(), m, Holding::Away, *epoch)?;
                self.delete(m.from(), m);
            }
            Step::Fence(m, epoch) => self.change(m.to(), m, Holding::Away, *epoch)?,
            Step::CatchUpBack(m) => {
                return Ok(Outcome::Behind(self.catch_up(m.to(), m.from(), m)));
            }
            Step::Reopen(m, epoch) => self.change(m.from(), m, Holding::Owned, *epoch)?,
            Step::Discard(m) => self.delete(m.to(), m),
            other => return Err(format!("not known: {other}").into()),
        }
        Ok(Outcome::Done)
    }

    fn delete(&mut self, id: &ShardId, a_move: &Move) {
        let slots = slots_of(a_move);
        let node = self.nodes.get_mut(id).unwrap();
        node.rows.retain(|(slot, _)| !slots(slot));
    }
}

impl Mover for Cluster {
    async fn run(&mut self, step: &Step<'_>) -> Result<Outcome, BoxError> {
        self.with(|world| {
            let before = world.topology.clone();
            world.traffic(&before);
            let number = world.steps.len();
            world.steps.push(step.to_string());
            if world.kill == Some((number, When::Before)) {
                return Err("killed".into());
            }
            let outcome = world.run(step)?;
            world.traffic(&before);
            if world.kill == Some((number, When::After)) {
                return Err("killed".into());
            }
            Ok(outcome)
        })
    }

    async fn save(&mut self, progress: &Progress) -> Result<(), BoxError> {
        self.with(|world| {
            let number = world.steps.len();
            if world
                .kill
                .is_some_and(|(at, when)| when == When::Unsaved && at + 1 == number)
            {
                world.kill = None;
                return Err("killed".into());
            }
            world.journal = Some(progress.clone());
            Ok(())
        })
    }

    async fn load(&mut self) -> Result<Option<Progress>, BoxError> {
        Ok(self.with(|world| world.journal.clone()))
    }
}

fn base() -> Topology {
    Topology::slots(["a", "b", "c"]).unwrap()
}

fn plan() -> Plan {
    base().with_shard("d").unwrap().plan_from(&base())
}

fn after() -> Topology {
    let grown = base().with_shard("d").unwrap();
    grown.at_epoch(3).unwrap()
}

async fn begun() -> (Cluster, Reshard<Cluster>) {
    let cluster = Cluster::new(&base(), "d");
    cluster.with(|world| (0..50).for_each(|_| world.traffic(&base())));
    let reshard = Reshard::begin(cluster.clone(), &base(), plan())
        .await
        .unwrap();
    (cluster, reshard)
}

/// Goes on after a kill, as another process would, until it can be decided on.
async fn to_reversible(cluster: &Cluster, mut reshard: Reshard<Cluster>) -> Reshard<Cluster> {
    for _ in 0..10 {
        match reshard.run().await {
            Ok(stage) => {
                assert_eq!(stage, Stage::Reversible);
                return reshard;
            }
            Err(_) => reshard = Reshard::resume(cluster.clone()).await.unwrap().unwrap(),
        }
    }
    panic!("it does not come on");
}

#[tokio::test(start_paused = true)]
async fn a_shard_joins_while_writes_flow() {
    let (cluster, mut reshard) = begun().await;
    let dry = reshard.progress().dry_run();
    let mut stages = vec![reshard.progress().stage()];
    while reshard.advance().await.unwrap() {
        let stage = reshard.progress().stage();
        if stages.last() != Some(&stage) {
            stages.push(stage);
        }
    }
    let expected = [
        Stage::Planned,
        Stage::Copying,
        Stage::CatchingUp,
        Stage::Verified,
        Stage::ReadsSwitched,
        Stage::WritesFrozen,
        Stage::WritesSwitched,
        Stage::Reversible,
    ];
    assert_eq!(stages, expected);
    cluster.assert_at(&after());
    assert_eq!(reshard.finish().await.unwrap(), Stage::Done);
    cluster.assert_at(&after());
    cluster.with(|world| {
        assert!(world.refused > 0, "writes came while they were frozen");
        let moved = |slot: &Slot| base().owner(*slot) != after().owner(*slot);
        for (id, node) in world.nodes.iter().filter(|(id, _)| **id != "d") {
            assert!(
                !node.rows.iter().any(|(slot, _)| moved(slot)),
                "{id} holds on"
            );
        }
        // What was foretold is what was done, catching up apart, which takes as long as it takes.
        let lasting = |step: &String| !step.starts_with("catch up") && !step.starts_with("release");
        let done: Vec<_> = world.steps.iter().filter(|step| lasting(step)).collect();
        let told: Vec<_> = dry.iter().filter(|step| lasting(step)).collect();
        assert_eq!(done, told);
    });
    assert!(matches!(
        reshard.roll_back().await,
        Err(ReshardError::NotNow(Stage::Done))
    ));
}

#[tokio::test(start_paused = true)]
async fn killed_at_every_step_another_process_goes_on() {
    let (cluster, reshard) = begun().await;
    to_reversible(&cluster, reshard).await;
    let steps = cluster.with(|world| world.steps.len());
    let mut broken = 0;
    for at in 0..steps {
        for when in [When::Before, When::After, When::Unsaved] {
            let (cluster, reshard) = begun().await;
            cluster.with(|world| world.kill = Some((at, when)));
            let mut reshard = to_reversible(&cluster, reshard).await;
            cluster.assert_at(&after());
            broken += usize::from(reshard.finish().await.unwrap() != Stage::Done);
            cluster.assert_at(&after());
        }
    }
    println!("figure shard-router/reshard-kills-broken: {broken}");
    assert_eq!(broken, 0);
}

#[tokio::test(start_paused = true)]
async fn taken_back_at_every_step_everything_is_where_it_was() {
    let (cluster, reshard) = begun().await;
    to_reversible(&cluster, reshard).await;
    let steps = cluster.with(|world| world.steps.len());
    for at in 0..=steps {
        for when in [When::Before, When::After] {
            let (cluster, mut reshard) = begun().await;
            cluster.with(|world| world.kill = Some((at, when)));
            let stopped = reshard.run().await;
            assert_eq!(stopped.is_err(), at < steps);
            // And the way back is killed at its second step.
            cluster.with(|world| world.kill = Some((world.steps.len() + 1, when)));
            let mut reshard = Reshard::resume(cluster.clone()).await.unwrap().unwrap();
            drop(reshard.roll_back().await);
            let mut reshard = Reshard::resume(cluster.clone()).await.unwrap().unwrap();
            assert_eq!(reshard.roll_back().await.unwrap(), Stage::RolledBack);
            let heard = cluster.with(|world| world.topology.epoch()) > 1;
            let expected = if heard {
                base().at_epoch(4).unwrap()
            } else {
                base()
            };
            cluster.assert_at(&expected);
            cluster.with(|world| assert!(world.nodes["d"].rows.is_empty()));
            // The journal is free for the next.
            Reshard::begin(cluster.clone(), &expected, {
                expected.with_shard("d").unwrap().plan_from(&expected)
            })
            .await
            .unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn copies_that_differ_are_caught_up_on_again_before_anyone_reads_them() {
    let (cluster, mut reshard) = begun().await;
    cluster.with(|world| world.corrupt_once = true);
    reshard.run().await.unwrap();
    let verified = cluster.with(|world| {
        let steps = world.steps.iter();
        steps.filter(|step| step.starts_with("verify")).count()
    });
    assert_eq!(verified, 4, "three moves, and the first of them twice");
    cluster.assert_at(&after());
}

#[tokio::test(start_paused = true)]
async fn a_shard_leaves_the_same_way() {
    let cluster = Cluster::new(&base(), "unused");
    cluster.with(|world| (0..50).for_each(|_| world.traffic(&base())));
    let shrunk = base().without_shard("b").unwrap();
    let plan = shrunk.plan_from(&base());
    let mut reshard = Reshard::begin(cluster.clone(), &base(), plan)
        .await
        .unwrap();
    reshard.run().await.unwrap();
    reshard.finish().await.unwrap();
    cluster.assert_at(&shrunk.at_epoch(3).unwrap());
    cluster.with(|world| assert!(world.nodes["b"].rows.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_moves_nothing_only_publishes() {
    let cluster = Cluster::new(&base(), "unused");
    let same = base().with_shard_replaced("b".into()).unwrap();
    let plan = same.plan_from(&base());
    let mut reshard = Reshard::begin(cluster.clone(), &base(), plan)
        .await
        .unwrap();
    assert_eq!(reshard.run().await.unwrap(), Stage::Reversible);
    assert_eq!(reshard.finish().await.unwrap(), Stage::Done);
    assert_eq!(cluster.with(|world| world.topology.epoch()), 3);
}

#[tokio::test(start_paused = true)]
async fn plans_and_moments_that_do_not_fit_are_refused() {
    let (cluster, mut reshard) = begun().await;
    let again = Reshard::begin(cluster.clone(), &base(), plan()).await;
    assert!(matches!(
        again,
        Err(ReshardError::Unfinished(Stage::Planned))
    ));
    let other = Cluster::new(&base(), "d");
    let stale = Reshard::begin(other, &base().at_epoch(2).unwrap(), plan()).await;
    assert!(matches!(
        stale,
        Err(ReshardError::Plan(ConfigError::PlanEpoch {
            plan: 1,
            topology: 2
        }))
    ));
    assert!(matches!(
        reshard.finish().await,
        Err(ReshardError::NotNow(Stage::Planned))
    ));
    assert_eq!(reshard.roll_back().await.unwrap(), Stage::RolledBack);
    assert!(cluster.with(|world| world.steps.is_empty()));
}

#[test]
fn holdings_take_no_change_of_the_past_and_no_write_before_they_are_confirmed() {
    let slot = Slot::new(7).unwrap();
    let mut shard = Holdings::new(3, [slot]);
    assert_eq!(shard.get(slot), (Holding::Owned, 3));
    let stale = |given, epoch| Err(Refusal::StaleEpoch { given, epoch });
    assert_eq!(shard.change(slot, Holding::Frozen, 3), stale(3, 3));
    shard.change(slot, Holding::Frozen, 5).unwrap();
    shard.change(slot, Holding::Frozen, 5).unwrap();
    assert_eq!(shard.change(slot, Holding::Owned, 5), stale(5, 5));
    assert_eq!(shard.change(slot, Holding::Owned, 4), stale(4, 5));
    shard.change(slot, Holding::Owned, 6).unwrap();
    shard.promoted();
    assert_eq!(
        shard.write(slot),
        Err(Refusal::Unconfirmed { slot, epoch: 6 })
    );
    assert_eq!(shard.confirm(5, [(slot, Holding::Owned)]), stale(5, 6));
    shard.confirm(7, [(slot, Holding::Away)]).unwrap();
    assert_eq!(shard.write(slot), Err(Refusal::Moved { slot, epoch: 7 }));
    let other = Slot::new(8).unwrap();
    assert_eq!(
        shard.write(other),
        Err(Refusal::Moved {
            slot: other,
            epoch: 7
        })
    );
}
