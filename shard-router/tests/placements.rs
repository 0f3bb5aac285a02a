//! Where placements put keys is a promise for ever: vectors of each, from their origins where
//! there are some, and what moves when members come and go.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use proptest::prelude::*;
use seawall_shard_router::placement::{
    Jump, KeyRange, KeyedSlots, Maglev, Pins, Placement, Ranges, RedisSlots, Regions, Rendezvous,
    Residence, Ring, jump,
};
use seawall_shard_router::{ConfigError, Shard, ShardId, Slot, Topology, Unplaced};

fn keys(count: u32) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|number| format!("tenant-{number}").into_bytes())
}

fn names(count: usize) -> Vec<ShardId> {
    (0..count)
        .map(|number| format!("10.0.1.{number}:80").into())
        .collect()
}

/// The greatest share over the mean.
fn excess(placement: &dyn Placement, members: usize) -> f64 {
    let mut held = HashMap::<ShardId, u32>::new();
    for key in keys(100_000) {
        *held.entry(placement.shard_of(&key).clone()).or_default() += 1;
    }
    f64::from(*held.values().max().unwrap()) / (100_000.0 / members as f64)
}

/// How many of 10,000 keys move, and how many of them between members that stay.
fn moved(before: &dyn Placement, after: &dyn Placement, new: &str) -> (usize, usize) {
    let (mut moved, mut between) = (0, 0);
    for key in keys(10_000) {
        let (from, to) = (before.shard_of(&key), after.shard_of(&key));
        moved += usize::from(from != to);
        between += usize::from(from != to && *to != new);
    }
    (moved, between)
}

/// From the authors' reference: the secret 00 to 0f, and input of the bytes 00, 01, 02 and so on.
#[test]
fn keyed_slots_are_siphash_2_4_as_published() {
    let slots = KeyedSlots::new(std::array::from_fn(|byte| byte as u8));
    let input: Vec<u8> = (0..15).collect();
    for (length, hash) in [(0, 0x726F_DB47_DD0E_0E31_u64), (15, 0xA129_CA61_49BE_45E5)] {
        let slot = slots.slot_of(&input[..length]);
        assert_eq!(u64::from(slot.get()), hash >> 50, "{length} bytes");
        assert_eq!(slots.key(&input[..length]).slot(), slot);
    }
    assert!(
        !format!("{slots:?}").contains('['),
        "the secret is not shown"
    );
}

#[test]
fn redis_slots_are_those_of_the_cluster() {
    for (key, slot) in [
        ("", 0),
        ("123456789", 12_739),
        ("foo", 12_182),
        ("foo{}{bar}", 8_363),
        ("foo{{bar}}zap", 4_015),
        ("{user1000}.following", 3_443),
        ("user1000", 3_443),
        ("foo{bar}{zap}", 5_061),
        ("bar", 5_061),
    ] {
        let found = RedisSlots::slot_of(key.as_bytes());
        assert_eq!(found, Slot::new(slot).unwrap(), "{key}");
        assert_eq!(RedisSlots::key(key.as_bytes()).slot(), found);
    }
    // Without a closing brace, or with nothing inside the first pair, the whole key counts.
    assert_ne!(RedisSlots::slot_of(b"{bar"), RedisSlots::slot_of(b"bar"));
    assert_ne!(RedisSlots::slot_of(b"}{bar"), RedisSlots::slot_of(b"bar"));
    assert_eq!(RedisSlots::slot_of(b"}{bar}"), RedisSlots::slot_of(b"bar"));
}

#[test]
fn jump_is_the_function_of_the_paper() {
    for (hash, buckets, bucket) in [
        (1, 1, 0),
        (42, 57, 43),
        (0xDEAD_10CC, 1, 0),
        (0xDEAD_10CC, 666, 361),
        (256, 1_024, 520),
        (7, 0, 0),
    ] {
        assert_eq!(jump(hash, buckets), bucket, "{hash} of {buckets}");
    }
    assert!(jump(u64::MAX, u32::MAX) < u32::MAX);
}

#[test]
fn jump_moves_only_to_the_member_that_is_appended() {
    let members = names(51);
    let (fifty, more) = (
        Jump::over(&members[..50]).unwrap(),
        Jump::over(&members).unwrap(),
    );
    let (moves, between) = moved(&fifty, &more, members[50].as_str());
    assert_eq!(between, 0);
    assert!((130..270).contains(&moves), "{moves}");
    assert!(excess(&fifty, 50) < 1.1);
}

/// Members, keys and places from an independent implementation in Python (uhashring 2.4, with its
/// ketama hash).
#[test]
fn the_ketama_ring_is_that_of_others() {
    let ring = Ring::ketama((1..=5).map(|n| format!("10.0.1.{n}:11211"))).unwrap();
    assert_eq!(ring.points(), 800);
    for (position, member) in [(762_113, 5), (2_322_555, 5), (4_398_564, 4)] {
        let found = ring.shard_at(position).as_str().to_owned();
        assert_eq!(found, format!("10.0.1.{member}:11211"), "{position}");
        assert_eq!(ring.shard_at(position - 1), ring.shard_at(position));
    }
    for (key, member) in [
        ("", 4),
        ("a", 3),
        ("tenant-7", 4),
        ("user:1", 5),
        ("foo", 2),
        ("bar", 5),
        ("session/42", 4),
        ("żółw", 4),
    ] {
        let found = ring.shard_of(key.as_bytes());
        assert_eq!(found.as_str(), format!("10.0.1.{member}:11211"), "{key:?}");
    }
}

/// The ring that Envoy's own tests expect for six hosts and a minimum size of 12.
#[test]
fn the_envoy_ring_is_that_of_its_tests() {
    let hosts = (90..=95).map(|port| format!("127.0.0.1:{port}"));
    let ring = Ring::envoy_sized(hosts, 12, 8_388_608).unwrap();
    assert_eq!(ring.points(), 12);
    let expected = [
        (94, 833_437_586_790_550_860),
        (92, 928_266_305_478_181_108),
        (90, 1_033_482_794_131_418_490),
        (95, 3_551_244_743_356_806_947),
        (93, 3_851_675_632_748_031_481),
        (91, 5_583_722_120_771_150_861),
        (91, 6_311_230_543_546_372_928),
        (93, 7_700_377_290_971_790_572),
        (95, 13_144_177_310_400_110_813),
        (92, 13_444_792_449_719_432_967),
        (94, 15_516_499_411_664_133_160),
        (90, 16_117_243_373_044_804_889_u64),
    ];
    let mut after = 0;
    for (port, point) in expected {
        for position in [after, point] {
            let found = ring.shard_at(position).as_str();
            assert_eq!(found, format!("127.0.0.1:{port}"), "{position}");
        }
        after = point + 1;
    }
    assert_eq!(*ring.shard_at(u64::MAX), "127.0.0.1:94");
}

/// The tables that Envoy's own tests expect.
#[test]
fn the_maglev_table_is_that_of_envoys_tests() {
    let table = |maglev: &Maglev, entries: u64| -> Vec<u32> {
        let port = |entry| {
            let (_, port) = maglev.shard_at(entry).as_str().rsplit_once(':').unwrap();
            port.parse::<u32>().unwrap() - 90
        };
        (0..entries).map(port).collect()
    };
    let hosts = (90..=95).rev().map(|port| format!("127.0.0.1:{port}"));
    let six = Maglev::sized(hosts, 7).unwrap();
    assert_eq!(table(&six, 7), [2, 4, 0, 1, 5, 0, 3]);
    let two = [
        Shard::new("127.0.0.1:90"),
        Shard::new("127.0.0.1:91").weight(2.0),
    ];
    let two = Maglev::sized(two, 17).unwrap();
    assert_eq!(
        table(&two, 17),
        [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1]
    );
}

#[test]
fn maglev_is_even_and_moves_a_little_more_than_it_must() {
    let members = names(51);
    let fifty = Maglev::over(members[..50].iter().cloned()).unwrap();
    let more = Maglev::over(members.iter().cloned()).unwrap();
    assert!(excess(&fifty, 50) < 1.1);
    let (moves, _) = moved(&fifty, &more, members[50].as_str());
    assert!((150..500).contains(&moves), "{moves}");
}

#[test]
fn rendezvous_is_pinned() {
    let members = ["a", "b", "c", "d"];
    let equal = Rendezvous::over(members).unwrap();
    let weighed = Rendezvous::over(
        members.map(|name| Shard::new(name).weight(if name == "d" { 3.0 } else { 1.0 })),
    )
    .unwrap();
    let places = |placement: &Rendezvous| -> String {
        let keys = keys(24);
        keys.map(|key| placement.shard_of(&key).as_str().to_owned())
            .collect()
    };
    assert_eq!(places(&equal), EQUAL);
    assert_eq!(places(&weighed), WEIGHED);
}

/// Computed by the specification in Python, with its own XXH3 and logarithm.
const EQUAL: &str = "addddcdadbdbadaaabccadcc";
const WEIGHED: &str = "addddcddddddadaaddccdddc";

#[test]
fn rendezvous_gives_each_its_weight() {
    let members = [("a", 1.0), ("b", 2.0), ("c", 5.0)];
    let weighed = members.map(|(name, weight)| Shard::new(name).weight(weight));
    let placement = Rendezvous::over(weighed).unwrap();
    let mut held = HashMap::<&str, f64>::new();
    for key in keys(80_000) {
        let shard = placement.shard_of(&key);
        let (name, _) = members.iter().find(|(name, _)| *shard == *name).unwrap();
        *held.entry(name).or_default() += 1.0 / 10_000.0;
    }
    for (name, weight) in members {
        assert!(
            (held[name] - weight).abs() < 0.03 * weight,
            "{name}: {held:?}"
        );
    }
}

proptest! {
    #[test]
    fn in_rendezvous_only_the_keys_of_who_changed_move(
        weights in prop::collection::vec(0.1..10.0_f64, 2..20),
        changed in any::<prop::sample::Index>(),
        factor in 0.2..5.0_f64,
    ) {
        let changed = changed.index(weights.len());
        let members = |factor: f64| {
            let weight = |(place, weight): (usize, &f64)| {
                let factor = if place == changed { factor } else { 1.0 };
                Shard::new(format!("s{place:02}")).weight(weight * factor)
            };
            Rendezvous::over(weights.iter().enumerate().map(weight)).unwrap()
        };
        let (before, after) = (members(1.0), members(factor));
        let name = format!("s{changed:02}");
        for key in keys(300) {
            let (from, to) = (before.shard_of(&key), after.shard_of(&key));
            let (gives, gets) = if factor < 1.0 { (from, to) } else { (to, from) };
            prop_assert!(from == to || *gives == name.as_str(), "{gives} {gets}");
        }
    }

    #[test]
    fn the_order_of_a_list_matters_to_jump_alone(
        count in 2..30_usize,
        seed in any::<u64>(),
    ) {
        let members = names(count);
        let mut mixed = members.clone();
        fastrand::Rng::with_seed(seed).shuffle(&mut mixed);
        let rendezvous = [&members, &mixed].map(|list| Rendezvous::over(list.iter().cloned()).unwrap());
        let ketama = [&members, &mixed].map(|list| Ring::ketama(list.iter().cloned()).unwrap());
        let envoy = [&members, &mixed].map(|list| Ring::envoy(list.iter().cloned()).unwrap());
        let maglev = [&members, &mixed].map(|list| Maglev::sized(list.iter().cloned(), 251).unwrap());
        for key in keys(50) {
            prop_assert_eq!(rendezvous[0].shard_of(&key), rendezvous[1].shard_of(&key));
            prop_assert_eq!(ketama[0].shard_of(&key), ketama[1].shard_of(&key));
            prop_assert_eq!(envoy[0].shard_of(&key), envoy[1].shard_of(&key));
            prop_assert_eq!(maglev[0].shard_of(&key), maglev[1].shard_of(&key));
        }
    }

    /// Cut anywhere, given in any order: each key is in the range that a plain search finds.
    #[test]
    fn ranges_hold_every_key_once(
        mut cuts in prop::collection::btree_set(prop::collection::vec(any::<u8>(), 1..4), 0..12),
        keys in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 30),
        seed in any::<u64>(),
    ) {
        let mut bounds = vec![Vec::new()];
        bounds.extend(std::mem::take(&mut cuts));
        let range = |place: usize| match bounds.get(place + 1) {
            Some(end) => KeyRange::new(bounds[place].clone(), end.clone(), format!("s{place}")),
            None => KeyRange::on_from(bounds[place].clone(), format!("s{place}")),
        };
        let mut ranges: Vec<KeyRange> = (0..bounds.len()).map(range).collect();
        fastrand::Rng::with_seed(seed).shuffle(&mut ranges);
        let ranges = Ranges::new(ranges).unwrap();
        for key in keys.iter().chain(&bounds) {
            let place = (0..bounds.len()).rev().find(|&place| &bounds[place] <= key).unwrap();
            let expected = format!("s{place}");
            prop_assert_eq!(ranges.shard_of(key).as_str(), expected);
        }
    }
}

#[test]
fn members_that_are_none_are_refused() {
    assert_eq!(Jump::over([""; 0]).unwrap_err(), ConfigError::NoShards);
    assert_eq!(
        Jump::over(["a", ""]).unwrap_err(),
        ConfigError::EmptyId { position: 1 }
    );
    assert_eq!(
        Rendezvous::over(["a", "a"]).unwrap_err(),
        ConfigError::DuplicateShard { shard: "a".into() }
    );
    let heavy = |weight| Rendezvous::over([Shard::new("a").weight(weight)]).unwrap_err();
    assert!(matches!(heavy(f64::NAN), ConfigError::Weight { .. }));
    assert!(matches!(heavy(0.0), ConfigError::Weight { .. }));
    for size in [0, 1, 4, 65_536, 5_000_029] {
        let refused = Maglev::sized(["a", "b"], size).unwrap_err();
        assert_eq!(refused, ConfigError::TableSize { size });
    }
    assert_eq!(
        Maglev::sized(["a", "b", "c"], 2).unwrap_err(),
        ConfigError::TableSize { size: 2 }
    );
    let light = [Shard::new("a").weight(1e-9), Shard::new("b")];
    let refused = Ring::ketama(light).unwrap_err();
    assert!(matches!(refused, ConfigError::Weight { shard, .. } if shard == "a"));
    for (smallest, largest) in [(0, 1), (2, 1), (1, 8_388_609)] {
        let refused = Ring::envoy_sized(["a"], smallest, largest).unwrap_err();
        assert_eq!(refused, ConfigError::RingSize { smallest, largest });
    }
}

#[test]
fn empty_and_huge_keys_have_a_place() {
    let huge = vec![0xA5; 4 << 20];
    let members = names(7);
    let all: [Box<dyn Placement>; 5] = [
        Box::new(Jump::over(&members).unwrap()),
        Box::new(Rendezvous::over(members.clone()).unwrap()),
        Box::new(Ring::ketama(members.clone()).unwrap()),
        Box::new(Ring::envoy(members.clone()).unwrap()),
        Box::new(Maglev::sized(members.clone(), 251).unwrap()),
    ];
    for placement in &all {
        for key in [b"".as_slice(), &huge] {
            assert!(members.contains(placement.shard_of(key)));
        }
    }
    for slot in [
        RedisSlots::slot_of(&huge),
        KeyedSlots::new([0; 16]).slot_of(&huge),
    ] {
        assert!(slot.get() < seawall_shard_router::SLOTS);
    }
}

#[test]
fn ranges_with_gaps_overlaps_or_nothing_inside_say_where() {
    let refused = |ranges: Vec<KeyRange>| Ranges::new(ranges).unwrap_err();
    let bytes = |text: &str| text.as_bytes().to_vec();
    assert_eq!(refused(vec![]), ConfigError::NoShards);
    assert_eq!(
        refused(vec![KeyRange::on_from("b", "s0")]),
        ConfigError::KeyGap {
            from: bytes(""),
            to: Some(bytes("b"))
        }
    );
    assert_eq!(
        refused(vec![
            KeyRange::new("", "k", "s0"),
            KeyRange::new("k", "x", "s1")
        ]),
        ConfigError::KeyGap {
            from: bytes("x"),
            to: None
        }
    );
    let overlap = refused(vec![
        KeyRange::new("", "m", "s0"),
        KeyRange::on_from("k", "s1"),
    ]);
    assert_eq!(
        overlap.to_string(),
        r#"keys from "k" on were given to shard "s1" and are "s0"'s already"#
    );
    for (from, to) in [("m", "k"), ("m", "m"), ("", "")] {
        let range = KeyRange::new(from, to, "s0");
        let (from, to) = (bytes(from), bytes(to));
        assert_eq!(refused(vec![range]), ConfigError::KeyRange { from, to });
    }
    assert_eq!(
        refused(vec![KeyRange::on_from("", "")]),
        ConfigError::EmptyId { position: 0 }
    );
}

#[test]
fn pins_come_first_and_name_shards_that_there_are() {
    let topology = Topology::slots(["s0", "s1"]).unwrap();
    let pin = |key: &'static str, shard: &str| (key, ShardId::from(shard));
    let refused =
        |pins: Vec<(&'static str, ShardId)>| Pins::new(topology.shards(), pins).unwrap_err();
    assert_eq!(
        refused(vec![pin("a", "x")]),
        ConfigError::UnknownShard { shard: "x".into() }
    );
    assert_eq!(
        refused(vec![pin("a", "s0"), pin("a", "s1")]),
        ConfigError::DuplicatePin {
            position: 1,
            owner: "s0".into(),
            other: "s1".into()
        }
    );
    let pins = Pins::new(topology.shards(), [pin("a", "s1"), pin("", "s0")]).unwrap();
    assert_eq!(pins.place(b"a"), Ok("s1".into()));
    assert_eq!(pins.place(b"b"), Err(Unplaced::NoPin));
    let both = pins.or(topology.clone());
    assert_eq!(*both.shard_of(b""), "s0");
    assert_eq!(both.shard_of(b"b"), topology.shard_of("b"));
}

#[test]
fn data_never_leaves_its_region_and_a_pin_does_not_move_it_out() {
    let eu = ["eu0", "eu1", "eu2"].map(ShardId::from);
    let us = ["us0", "us1"].map(ShardId::from);
    let all: Vec<Shard> = eu.iter().chain(&us).map(Shard::new).collect();
    let pins = [("tenant-1", "eu2".into()), ("tenant-2", "us1".into())];
    let regions = Regions::new([
        ("eu", eu.to_vec(), Jump::over(&eu).unwrap()),
        ("us", us.to_vec(), Jump::over(&us).unwrap()),
    ])
    .unwrap()
    .pinned(Pins::new(&all, pins).unwrap());
    for key in keys(1_000).skip(3) {
        let place = |residence| regions.place(residence, &key).unwrap();
        assert!(eu.contains(&place(Residence::In("eu"))));
        assert!(us.contains(&place(Residence::In("us"))));
        assert_eq!(
            place(Residence::Near(&["mars", "us", "eu"])),
            place(Residence::In("us"))
        );
        assert_eq!(place(Residence::Near(&[])), place(Residence::In("eu")));
    }
    let place = |residence, key: &[u8]| regions.place(residence, key);
    assert_eq!(place(Residence::In("eu"), b"tenant-1"), Ok("eu2".into()));
    assert_eq!(
        place(Residence::Near(&["eu"]), b"tenant-2"),
        Ok("us1".into())
    );
    assert_eq!(
        place(Residence::In("eu"), b"tenant-2"),
        Err(Unplaced::Residency {
            region: "eu".into(),
            shard: "us1".into()
        })
    );
    assert_eq!(
        place(Residence::In("mars"), b"tenant-1"),
        Err(Unplaced::NoRegion {
            region: "mars".into()
        })
    );

    let one =
        |name: &'static str, shards: &[ShardId]| (name, shards.to_vec(), Jump::over(&eu).unwrap());
    let refused = |regions| Regions::new::<&str>(regions).unwrap_err();
    assert_eq!(refused(vec![]), ConfigError::NoShards);
    assert!(matches!(
        refused(vec![one("eu", &[])]),
        ConfigError::EmptyRegion { .. }
    ));
    let twice = vec![one("eu", &eu), one("eu", &us)];
    assert_eq!(
        refused(twice),
        ConfigError::DuplicateRegion {
            region: "eu".into()
        }
    );
    let shared = vec![one("eu", &eu), one("us", &eu)];
    assert_eq!(
        refused(shared),
        ConfigError::DuplicateShard {
            shard: "eu0".into()
        }
    );
    // A region whose own placement leads out of it is caught when it is asked.
    let wrong = Regions::new([one("us", &us)]).unwrap();
    let out = wrong.place(Residence::In("us"), b"tenant-9");
    assert!(matches!(out, Err(Unplaced::Residency { .. })), "{out:?}");
}
