//! Whatever is wrong with a topology, a plan or a setting is said with its coordinates.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use seawall_shard_router::{
    Bulkhead, ConfigError, Endpoint, Role, SLOTS, Shard, ShardId, ShardRouter, Slot, SlotRange,
    Topology, TopologyHandle,
};

fn id(name: &str) -> ShardId {
    name.into()
}

fn slot(number: u16) -> Slot {
    Slot::new(number).unwrap()
}

fn range(text: &str) -> SlotRange {
    text.parse().unwrap()
}

fn refused<I: IntoIterator<Item: Into<Shard>>>(shards: I) -> ConfigError {
    Topology::slots(shards).unwrap_err()
}

#[test]
fn no_shards() {
    assert_eq!(refused([""; 0]), ConfigError::NoShards);
    let last = Topology::slots(["a"]).unwrap().without_shard("a");
    assert_eq!(last.unwrap_err(), ConfigError::NoShards);
}

#[test]
fn more_shards_than_slots() {
    let many = |count: u32| (0..count).map(|n| format!("s{n:05}"));
    assert_eq!(
        refused(many(16_385)),
        ConfigError::TooManyShards { given: 16_385 }
    );
    let full = Topology::slots(many(16_384)).unwrap();
    assert!(full.slot_counts().all(|(_, count)| count == 1));
    assert_eq!(
        full.with_shard("x").unwrap_err(),
        ConfigError::TooManyShards { given: 16_385 }
    );
}

#[test]
fn names() {
    assert_eq!(refused(["a", ""]), ConfigError::EmptyId { position: 1 });
    assert_eq!(
        refused(["b", "a", "b"]),
        ConfigError::DuplicateShard { shard: id("b") }
    );
    let again = Topology::slots(["a"]).unwrap().with_shard("a");
    assert_eq!(
        again.unwrap_err(),
        ConfigError::DuplicateShard { shard: id("a") }
    );
    let topology = Topology::slots(["a", "b"]).unwrap();
    let unknown = ConfigError::UnknownShard { shard: id("c") };
    assert_eq!(topology.without_shard("c").unwrap_err(), unknown);
    assert_eq!(
        topology.with_shard_replaced(Shard::new("c")).unwrap_err(),
        unknown
    );
}

#[test]
fn weights() {
    for weight in [0.0, -0.0, -1.0, f64::INFINITY, f64::NEG_INFINITY] {
        let error = refused([Shard::new("a"), Shard::new("b").weight(weight)]);
        assert_eq!(
            error,
            ConfigError::Weight {
                shard: id("b"),
                weight
            }
        );
    }
    let nan = refused([Shard::new("a").weight(f64::NAN)]);
    assert!(
        matches!(nan, ConfigError::Weight { shard, weight } if shard == "a" && weight.is_nan())
    );
    let huge = ["a", "b", "c"].map(|name| Shard::new(name).weight(f64::MAX / 2.0));
    assert_eq!(
        refused(huge),
        ConfigError::WeightOverflow { shard: id("c") }
    );
    let uneven = [Shard::new("a"), Shard::new("b").weight(2.0)];
    let error = Topology::round_robin(uneven).unwrap_err();
    assert_eq!(error, ConfigError::UnequalWeights { shard: id("b") });
}

#[test]
fn weights_at_the_ends_of_their_range_still_share_out_all_slots() {
    let shards = [f64::MIN_POSITIVE, 5e-324, f64::MAX / 2.0, 1.0];
    let shards = shards.iter().zip(["a", "b", "c", "d"]);
    let topology = Topology::slots(shards.map(|(w, name)| Shard::new(name).weight(*w))).unwrap();
    assert_eq!(topology.slots_of("c").len(), usize::from(SLOTS));
}

#[test]
fn endpoints() {
    let shard = || Shard::new("a").primary("one");
    assert_eq!(
        refused([shard().primary("")]),
        ConfigError::NoPrimary { shard: id("a") }
    );
    assert_eq!(
        refused([shard().replica("two").replica("")]),
        ConfigError::EmptyAddress {
            shard: id("a"),
            role: Role::Replica(1)
        }
    );
    for twice in [shard().replica("one"), shard().replicas(["two", "two"])] {
        let error = refused([twice]);
        assert!(matches!(error, ConfigError::DuplicateAddress { shard, .. } if shard == "a"));
    }
    let crowd = shard().replicas((0..65_536).map(|n| n.to_string()));
    assert_eq!(
        refused([crowd]),
        ConfigError::TooManyReplicas {
            shard: id("a"),
            given: 65_536
        }
    );
}

#[test]
fn an_assignment_from_outside() {
    let assigned = |ranges: &[(&str, &str)]| {
        let ranges = ranges.iter().map(|&(text, shard)| (range(text), id(shard)));
        Topology::assigned(9, ["a", "b"], ranges)
    };
    let good = assigned(&[("0-99", "b"), ("100-16383", "a")]).unwrap();
    assert_eq!((good.epoch(), good.slots_of("b").len()), (9, 100));
    let gap = assigned(&[("0-99", "b"), ("101-16383", "a")]);
    assert_eq!(gap.unwrap_err(), ConfigError::Gap { slot: slot(100) });
    let overlap = assigned(&[("0-99", "b"), ("99-16383", "a")]);
    let (owner, other) = (id("b"), id("a"));
    assert_eq!(
        overlap.unwrap_err(),
        ConfigError::Overlap {
            slot: slot(99),
            owner,
            other
        }
    );
    let unknown = assigned(&[("0-16383", "c")]);
    assert_eq!(
        unknown.unwrap_err(),
        ConfigError::UnknownShard { shard: id("c") }
    );
    let inverted = SlotRange::new(slot(5), slot(4));
    let (first, last) = (slot(5), slot(4));
    assert_eq!(
        inverted.unwrap_err(),
        ConfigError::InvertedRange { first, last }
    );
}

#[test]
fn epochs_only_go_up() {
    let topology = Topology::slots(["a", "b"]).unwrap();
    let stale = |given| ConfigError::StaleEpoch { current: 1, given };
    assert_eq!(topology.clone().at_epoch(1).unwrap_err(), stale(1));
    assert_eq!(topology.clone().at_epoch(0).unwrap_err(), stale(0));
    let last = topology.clone().at_epoch(u64::MAX).unwrap();
    assert_eq!(last.with_shard("c").unwrap_err(), ConfigError::LastEpoch);
    assert_eq!(last.without_shard("b").unwrap_err(), ConfigError::LastEpoch);

    let handle = TopologyHandle::new(topology.clone());
    assert_eq!(
        handle.update(topology.clone()),
        Ok(()),
        "the same again changes nothing"
    );
    let (one, other) = (
        topology.with_shard("c").unwrap(),
        topology.with_shard("d").unwrap(),
    );
    handle.update(one.clone()).unwrap();
    let error = ConfigError::StaleEpoch {
        current: 2,
        given: 2,
    };
    assert_eq!(
        handle.update(other),
        Err(error),
        "two assignments of one epoch"
    );
    let error = ConfigError::StaleEpoch {
        current: 2,
        given: 1,
    };
    assert_eq!(handle.update(topology), Err(error));
    assert_eq!(*handle.current(), one);
}

#[test]
fn a_plan_fits_one_epoch_and_one_assignment() {
    let topology = Topology::slots(["a", "b"]).unwrap();
    let grown = topology.with_shard("c").unwrap();
    let plan = grown.plan_from(&topology);
    assert_eq!(topology.apply(&plan), Ok(grown.clone()));
    let other_epoch = ConfigError::PlanEpoch {
        plan: 1,
        topology: 2,
    };
    assert_eq!(grown.apply(&plan), Err(other_epoch.clone()));

    let handle = TopologyHandle::new(topology);
    handle.apply(&plan).unwrap();
    assert_eq!(handle.apply(&plan), Err(other_epoch));

    // The same epoch, and yet another assignment.
    let dealt = Topology::round_robin(["a", "b"]).unwrap();
    let error = dealt.apply(&plan).unwrap_err();
    assert!(
        matches!(error, ConfigError::PlanOwner { plan, owner, .. } if plan == "a" && owner == "b")
    );
}

#[test]
fn going_back_is_a_new_epoch() {
    let topology = Topology::slots(["a", "b"]).unwrap();
    let grown = topology.with_shard("c").unwrap();
    let back = topology.plan_from(&grown);
    assert_eq!((back.from_epoch(), back.to_epoch()), (2, 3));
    let restored = grown.apply(&back).unwrap();
    assert!(Slot::all().all(|slot| restored.owner(slot) == topology.owner(slot)));
}

#[test]
fn settings() {
    let given = usize::MAX;
    assert_eq!(
        Bulkhead::try_concurrency(0),
        Err(ConfigError::Concurrency { given: 0 })
    );
    assert_eq!(
        Bulkhead::try_concurrency(given),
        Err(ConfigError::Concurrency { given })
    );
    assert_eq!(Bulkhead::try_concurrency(64), Ok(Bulkhead::default()));
    let router = || ShardRouter::new(Topology::slots(["a"]).unwrap(), |_: &Endpoint| ());
    assert_eq!(router().try_cap(0).unwrap_err(), ConfigError::Cap);
    assert!(router().try_cap(1).is_ok());
}

#[test]
#[should_panic(expected = "a concurrency of zero")]
fn a_bulkhead_that_lets_nobody_in_panics_where_it_is_written() {
    let _ = Bulkhead::concurrency(0);
}

#[test]
#[should_panic(expected = "a cap of zero")]
fn a_cap_of_zero_panics_where_it_is_written() {
    let _ = ShardRouter::new(Topology::slots(["a"]).unwrap(), |_: &Endpoint| ()).cap(0);
}
