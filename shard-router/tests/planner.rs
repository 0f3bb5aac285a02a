//! Invariants of assignments and plans:
//!
//! 1. every slot has one owner, and no shard of equal weight more than ceil(16384 / N);
//! 2. a new shard takes and a leaving shard gives; no slot moves between two others;
//! 3. shares of unequal weights are met within one slot;
//! 4. the answer depends on the shards and the assignment, never on the order of a list;
//! 5. a plan holds exactly what differs, and leads there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use seawall_shard_router::{SLOTS, Shard, ShardId, Slot, Topology};

fn name(number: usize) -> String {
    format!("s{number:03}")
}

fn moved(old: &Topology, new: &Topology) -> Vec<Slot> {
    Slot::all()
        .filter(|&slot| old.owner(slot) != new.owner(slot))
        .collect()
}

fn most(topology: &Topology) -> u32 {
    topology
        .slot_counts()
        .map(|(_, count)| count)
        .max()
        .unwrap()
}

/// How far the shard is from its share that is furthest, in slots.
fn furthest(topology: &Topology) -> f64 {
    let total: f64 = topology.shards().iter().map(Shard::given_weight).sum();
    let off = topology
        .shards()
        .iter()
        .zip(topology.slot_counts())
        .map(|(shard, (_, count))| {
            (f64::from(count) - f64::from(SLOTS) * shard.given_weight() / total).abs()
        });
    off.fold(0.0, f64::max)
}

#[test]
fn from_one_shard_to_three_hundred_and_back_each_is_balanced_and_only_its_own_slots_move() {
    let mut topology = Topology::slots([name(0)]).unwrap();
    for shards in 2..=300 {
        let grown = topology.with_shard(name(shards - 1)).unwrap();
        let moved = moved(&topology, &grown);
        assert_eq!(
            moved.len(),
            usize::from(SLOTS) / shards,
            "the fewest there can be"
        );
        assert!(
            moved
                .iter()
                .all(|&slot| grown.owner(slot) == name(shards - 1).as_str())
        );
        assert!(most(&grown) as usize <= usize::from(SLOTS).div_ceil(shards));
        topology = grown;
    }
    for shards in (1..300).rev() {
        // From the front, so that the places of all others change.
        let gone = name(299 - shards);
        let shrunk = topology.without_shard(&gone).unwrap();
        assert_eq!(moved(&topology, &shrunk), topology.slots_of(&gone));
        assert!(most(&shrunk) as usize <= usize::from(SLOTS).div_ceil(shards));
        topology = shrunk;
    }
}

#[test]
fn first_assignments_are_balanced_too() {
    for shards in 1..=300 {
        let names = || (0..shards).map(name);
        let bound = usize::from(SLOTS).div_ceil(shards);
        assert!(most(&Topology::slots(names()).unwrap()) as usize <= bound);
        assert!(most(&Topology::round_robin(names()).unwrap()) as usize <= bound);
    }
}

#[test]
fn the_fifty_first_shard_takes_321_slots_from_runs_and_from_a_deal() {
    let names = || (0..50).map(name);
    for topology in [
        Topology::slots(names()).unwrap(),
        Topology::round_robin(names()).unwrap(),
    ] {
        let plan = topology.with_shard("s050").unwrap().plan_from(&topology);
        assert_eq!(plan.slot_count(), 321);
        assert!(plan.moves().iter().all(|a_move| *a_move.to() == "s050"));
        let most = plan.moves().iter().map(|a_move| a_move.slot_count()).max();
        assert_eq!(
            (plan.moves().len(), most),
            (50, Some(7)),
            "each of the 50 gives 6 or 7"
        );
    }
}

#[test]
fn dealing_is_modulo_the_number_of_shards_in_the_order_of_their_names() {
    let topology = Topology::round_robin((0..50).rev().map(name)).unwrap();
    for slot in Slot::all() {
        assert_eq!(
            *topology.owner(slot),
            name(usize::from(slot.get()) % 50).as_str()
        );
    }
}

#[test]
fn a_failover_moves_no_slot() {
    let topology = Topology::slots(["a", "b", "c"]).unwrap();
    let promoted = Shard::new("b").primary("b2").replica("b1");
    let after = topology.with_shard_replaced(promoted).unwrap();
    assert_eq!(after.epoch(), 2);
    let plan = after.plan_from(&topology);
    assert!(plan.is_empty());
    assert_eq!(topology.apply(&plan).unwrap().shard("b"), after.shard("b"));
    assert_eq!(plan.to_string(), "epoch 1 to 2: 0 of 16384 slots move\n");
}

#[derive(Clone, Debug)]
enum Step {
    Add(f64),
    Remove(prop::sample::Index),
    Reweigh(prop::sample::Index, f64),
}

fn step(weight: impl Strategy<Value = f64> + Clone) -> impl Strategy<Value = Step> {
    prop_oneof![
        weight.clone().prop_map(Step::Add),
        any::<prop::sample::Index>().prop_map(Step::Remove),
        (any::<prop::sample::Index>(), weight)
            .prop_map(|(which, weight)| Step::Reweigh(which, weight)),
    ]
}

/// Takes a step and checks that nothing moved but from or to the shard that it is about.
fn take(topology: &Topology, step: &Step, fresh: usize) -> Topology {
    let pick = |which: &prop::sample::Index| which.get(topology.shards()).id().clone();
    let (after, about): (Topology, ShardId) = match step {
        Step::Add(weight) => {
            let shard = Shard::new(name(fresh)).weight(*weight);
            (topology.with_shard(shard).unwrap(), name(fresh).into())
        }
        Step::Remove(_) if topology.shards().len() == 1 => return topology.clone(),
        Step::Remove(which) => {
            let gone = pick(which);
            (topology.without_shard(&gone).unwrap(), gone)
        }
        Step::Reweigh(which, weight) => {
            let shard = pick(which);
            let anew = Shard::new(&shard).weight(*weight);
            (topology.with_shard_replaced(anew).unwrap(), shard)
        }
    };
    let moved = moved(topology, &after);
    for &slot in &moved {
        let (from, to) = (topology.owner(slot), after.owner(slot));
        assert!(
            *from == about || *to == about,
            "{slot} moved from {from} to {to}: {step:?}"
        );
    }
    let plan = after.plan_from(topology);
    assert_eq!(plan.slot_count(), moved.len());
    assert_eq!(topology.apply(&plan).unwrap(), after);
    after
}

#[test]
fn over_a_thousand_random_steps_no_other_key_moves() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = prop::collection::vec(step(Just(1.0)), 1_000);
    let steps = steps.new_tree(&mut runner).unwrap().current();
    let mut topology = Topology::slots((0..20).map(name)).unwrap();
    for (number, step) in steps.iter().enumerate() {
        topology = take(&topology, step, 100 + number);
        let shards = topology.shards().len();
        assert!(most(&topology) as usize <= usize::from(SLOTS).div_ceil(shards));
    }
    println!("figure shard-router/random-steps-move-others: 0");
}

fn weights(count: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<f64>> {
    let weight = prop_oneof![
        Just(1.0),
        0.1..10.0_f64,
        (-300..300_i32).prop_map(|e| 10_f64.powi(e))
    ];
    prop::collection::vec(weight, count)
}

fn weighed(weights: &[f64]) -> Vec<Shard> {
    weights
        .iter()
        .enumerate()
        .map(|(n, weight)| Shard::new(name(n)).weight(*weight))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn weights_are_met_within_one_slot(weights in weights(1..80)) {
        let topology = Topology::slots(weighed(&weights)).unwrap();
        prop_assert!(furthest(&topology) <= 1.0 + 1e-5, "{} off", furthest(&topology));
    }

    #[test]
    fn the_order_of_a_list_does_not_matter(
        shuffled in weights(1..40).prop_map(|weights| weighed(&weights)).prop_shuffle(),
        step in step(0.5..4.0_f64),
    ) {
        let mut sorted = shuffled.clone();
        sorted.sort_by(|a, b| a.id().cmp(b.id()));
        let (one, other) = (Topology::slots(shuffled).unwrap(), Topology::slots(sorted).unwrap());
        prop_assert_eq!(&one, &other);
        prop_assert_eq!(take(&one, &step, 900), take(&other, &step, 900));
    }

    #[test]
    fn weighted_steps_move_only_their_own_and_a_rebalance_meets_every_share_again(
        weights in prop::collection::vec(0.5..4.0_f64, 1..40),
        steps in prop::collection::vec(step(0.5..4.0_f64), 1..60),
    ) {
        let mut topology = Topology::slots(weighed(&weights)).unwrap();
        for (number, step) in steps.iter().enumerate() {
            topology = take(&topology, step, 100 + number);
        }
        let drift = furthest(&topology);
        prop_assert!(drift < 2.0, "{drift} off");
        let balanced = topology.rebalanced().unwrap();
        prop_assert!(furthest(&balanced) <= 1.0 + 1e-5);
        if drift <= 1.0 - 1e-5 {
            prop_assert_eq!(moved(&topology, &balanced).len(), 0, "nothing was to be mended");
        }
    }

    #[test]
    fn any_two_assignments_have_a_plan_between_them(old in weights(1..20), new in weights(1..20)) {
        let old = Topology::slots(weighed(&old)).unwrap();
        let new = Topology::slots(weighed(&new)).unwrap().at_epoch(2).unwrap();
        let plan = new.plan_from(&old);
        prop_assert_eq!(plan.slot_count(), moved(&old, &new).len());
        prop_assert!(plan.moves().iter().all(|a_move| a_move.from() != a_move.to()));
        prop_assert_eq!(old.apply(&plan).unwrap(), new);
    }
}
