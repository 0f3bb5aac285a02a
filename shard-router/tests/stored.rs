//! The written forms of topologies and plans.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use seawall_shard_router::{Plan, Shard, Slot, Topology};
use serde_json::{Value, json};

fn topology() -> Topology {
    let shards = [
        Shard::new("a")
            .primary("10.0.0.1:5432")
            .replica("10.0.0.2:5432"),
        "b".into(),
    ];
    Topology::slots(shards).unwrap()
}

#[test]
fn a_topology_is_readable_and_comes_back_as_it_was() {
    let written = serde_json::to_value(topology()).unwrap();
    let expected = json!({
        "version": 1,
        "epoch": 1,
        "shards": [
            { "id": "a", "weight": 1.0, "primary": "10.0.0.1:5432", "replicas": ["10.0.0.2:5432"] },
            { "id": "b", "weight": 1.0, "primary": "b", "replicas": [] },
        ],
        "slots": [
            { "shard": "a", "slots": ["0-8191"] },
            { "shard": "b", "slots": ["8192-16383"] },
        ],
    });
    assert_eq!(written, expected);
    assert_eq!(
        serde_json::from_value::<Topology>(written).unwrap(),
        topology()
    );
    let dealt = Topology::round_robin((0..50).map(|n| format!("s{n}"))).unwrap();
    let text = serde_json::to_string(&dealt).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&text).unwrap(), dealt);
}

#[test]
fn a_plan_comes_back_as_it_was_and_still_fits() {
    let grown = topology().with_shard("c").unwrap();
    let plan = grown.plan_from(&topology());
    let text = serde_json::to_string(&plan).unwrap();
    let read: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!(read, plan);
    assert_eq!(topology().apply(&read).unwrap(), grown);
}

/// What it says about a written topology in which one thing was changed.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    let mut written = serde_json::to_value(topology()).unwrap();
    change(&mut written);
    serde_json::from_value::<Topology>(written)
        .unwrap_err()
        .to_string()
}

#[test]
fn a_topology_from_a_file_is_checked_like_any_other() {
    for (why, error) in [
        (
            "no primary",
            refused(|t| drop(t["shards"][0].as_object_mut().unwrap().remove("primary"))),
        ),
        (
            "has the address",
            refused(|t| t["shards"][0]["replicas"][0] = "10.0.0.1:5432".into()),
        ),
        (
            "two shards \"b\"",
            refused(|t| t["shards"][0]["id"] = "b".into()),
        ),
        (
            "weight must be",
            refused(|t| t["shards"][1]["weight"] = 0.into()),
        ),
        (
            "no shard \"z\"",
            refused(|t| t["slots"][1]["shard"] = "z".into()),
        ),
        (
            "slot 100 belongs to no shard",
            refused(|t| t["slots"][0]["slots"][0] = "0-99".into()),
        ),
        (
            "is \"a\"'s already",
            refused(|t| t["slots"][1]["slots"][0] = "8000-16383".into()),
        ),
        (
            "is no slot",
            refused(|t| t["slots"][1]["slots"][0] = "8192-16384".into()),
        ),
        (
            "ends before it begins",
            refused(|t| t["slots"][0]["slots"][0] = "9-0".into()),
        ),
        ("one shard at least", refused(|t| t["shards"] = json!([]))),
        ("unknown field", refused(|t| t["shard"] = json!([]))),
    ] {
        assert!(error.contains(why), "{why}: {error}");
    }
}

#[test]
fn a_plan_from_a_file_is_not_believed() {
    let grown = topology().with_shard("c").unwrap();
    let mut written = serde_json::to_value(grown.plan_from(&topology())).unwrap();
    written["moves"][0]["to"] = "d".into();
    let plan: Plan = serde_json::from_value(written.clone()).unwrap();
    assert!(
        topology()
            .apply(&plan)
            .unwrap_err()
            .to_string()
            .contains("no shard \"d\"")
    );
    written["to_epoch"] = 0.into();
    let plan: Plan = serde_json::from_value(written).unwrap();
    assert!(
        topology()
            .apply(&plan)
            .unwrap_err()
            .to_string()
            .contains("not newer")
    );
}

#[test]
fn a_slot_is_its_number() {
    assert_eq!(serde_json::to_value(Slot::new(42)).unwrap(), json!(42));
    assert!(serde_json::from_value::<Slot>(json!(16_384)).is_err());
}

#[test]
fn zones_and_reads_that_have_moved_come_back_too() {
    let shard = Shard::new("a").replica_in("eu-1a", "a0").replica("a1");
    let topology = Topology::slots([shard, "b".into()]).unwrap();
    let plan = topology.with_shard("c").unwrap().plan_from(&topology);
    let moving = topology.reading_ahead(&plan).unwrap();
    let written = serde_json::to_value(&moving).unwrap();
    assert_eq!(
        written["shards"][0]["replicas"],
        json!([{ "address": "a0", "zone": "eu-1a" }, "a1"])
    );
    assert_eq!(written["reads"][0]["shard"], "c");
    let read: Topology = serde_json::from_value(written).unwrap();
    assert!(read == moving);
    assert_eq!(read.reads_elsewhere().count(), plan.slot_count());
}

#[test]
fn a_form_of_the_future_is_refused_and_one_without_a_version_is_the_first() {
    let error = refused(|t| t["version"] = 2.into());
    assert_eq!(error, "written in version 2, and 1 is the newest known");
    let mut written = serde_json::to_value(topology()).unwrap();
    written.as_object_mut().unwrap().remove("version");
    assert!(serde_json::from_value::<Topology>(written).unwrap() == topology());
    let error = refused(|t| t["reads"] = json!([{ "shard": "z", "slots": ["0"] }]));
    assert_eq!(error, "there is no shard \"z\"");
}
