//! What a shard on PostgreSQL takes while slots move, by its own account: each rule by the run that breaks without it.

use std::collections::BTreeMap;
use std::sync::Arc;

use pipeline::log::{LogId, Position};
use pipeline::order::{OpId, Principal, Record};
use pipeline::reshard::PostgresMover;
use pipeline::services::{Assigned, Places, ShardPlace};
use pipeline::shard::postgres::{Moving, Patience, Side};
use pipeline::shard::{Applied, Batch, Fate, PostgresShard, Query, Row, ShardDb, ShardError};
use seawall_shard_router::{
    Refusal, Reshard, ReshardError, Role, Shard, ShardId, Slot, SlotRange, Stage,
};
use test_support::Postgres;

use crate::common::places::remote::describe;

const LOG: LogId = LogId([7; 16]);

/// Slots 7, 107, 207 ... are of this partition.
const PARTITION: u16 = 7;

fn slot(n: u16) -> Slot {
    Slot::new(n).unwrap()
}

fn order(n: u64, slot: u16) -> Row {
    let op = OpId::derive(&Principal::Anonymous, &n.to_string());
    let record = Record {
        op: op.0,
        slot,
        account: "anonymous".into(),
        item: "product-1".into(),
        quantity: 2,
        fingerprint: [1; 16],
        at_ms: 0,
    };
    Row {
        offset: n,
        fate: Fate::Apply(record),
    }
}

/// Orders by their offsets, each in a slot.
fn batch(epoch: u64, from: u64, slots: &[u16]) -> Arc<Batch> {
    let rows = (from..).zip(slots).map(|(n, slot)| order(n, *slot));
    Arc::new(Batch {
        partition: PARTITION,
        log: LOG,
        epoch,
        from: Position(from),
        next: Position(from + slots.len() as u64),
        rows: rows.collect(),
    })
}

/// One shard that owns all slots, and the database of one that may join.
struct Rig {
    postgres: Postgres,
    replica: Postgres,
    shards: Arc<Assigned>,
    joins: ShardPlace,
}

impl Rig {
    async fn start() -> Self {
        let postgres = Postgres::start().await;
        for shard in ["s00", "s01"] {
            postgres.create_database(shard).await;
        }
        let replica = postgres.replica().await;
        let at = |shard| (postgres.url_of(shard), Some(replica.url_of(shard)));
        let file = describe("redis://nowhere", "nowhere:1", "orders", &[at("s00")]);
        let places = Places::parse(&file).unwrap();
        let shards = Assigned::open(&places, LOG).await.unwrap();
        let (primary, follows) = at("s01");
        let joins = ShardPlace {
            primary,
            replica: follows,
            replicas: Vec::new(),
        };
        Self {
            postgres,
            replica,
            shards,
            joins,
        }
    }

    fn shard(&self, id: &str) -> Arc<PostgresShard> {
        self.shards.opened().get(&ShardId::from(id)).unwrap()
    }

    /// A move of half of the slots to a shard that joins, at its beginning.
    async fn begin(&self) -> Reshard<PostgresMover> {
        let base = self.shards.newest().topology;
        let grown = base.with_shard(Shard::new("s01").primary("s01/primary"));
        let plan = grown.unwrap().plan_from(&base);
        self.shards.join(1, &self.joins).await.unwrap();
        let joined = BTreeMap::from([("s01".to_owned(), self.joins.clone())]);
        let mover = PostgresMover::new(&self.shards, joined).await.unwrap();
        Reshard::begin(mover, &base, plan).await.unwrap()
    }

    async fn rows(&self, shard: &str, slots: &[Slot]) -> usize {
        let slots: Vec<String> = slots.iter().map(|slot| slot.get().to_string()).collect();
        let sql = format!(
            "SELECT count(*) FROM orders.op WHERE slot IN ({})",
            slots.join(",")
        );
        let said = self.postgres.ask_in(shard, &sql).await;
        said.trim().parse().unwrap()
    }
}

fn applied(done: Result<Applied, ShardError>) -> usize {
    done.unwrap().orders.len()
}

#[tokio::test]
async fn a_batch_with_a_frozen_slot_is_refused_whole_and_one_without_is_taken() {
    let rig = Rig::start().await;
    let shard = rig.shard("s00");
    shard.adopt(PARTITION, LOG, 1).await.unwrap();
    assert_eq!(applied(shard.apply(batch(1, 0, &[7, 107])).await), 2);
    let side = Side::of(&shard, "s00").await.unwrap();
    side.close(&Moving::new([slot(7)]), "frozen", 3)
        .await
        .unwrap();

    // Routed under the assignment of before: refused with all that is in it.
    let stale = shard.apply(batch(1, 2, &[107])).await;
    assert!(
        matches!(stale, Err(ShardError::StaleEpoch { current: 3 })),
        "{stale:?}"
    );
    assert!(shard.adopt(PARTITION, LOG, 2).await.is_err());
    shard.adopt(PARTITION, LOG, 3).await.unwrap();
    let refused = shard.apply(batch(3, 2, &[107, 7])).await;
    let Err(ShardError::Refused(Refusal::Frozen {
        slot: frozen,
        epoch: 3,
    })) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(frozen, slot(7));
    assert_eq!(shard.tally().await.unwrap().applied.len(), 2);
    assert_eq!(applied(shard.apply(batch(3, 2, &[107])).await), 1);
}

#[tokio::test]
async fn freezing_waits_for_a_batch_under_way_and_a_late_message_opens_nothing() {
    let rig = Rig::start().await;
    let shard = rig.shard("s00");
    shard.adopt(PARTITION, LOG, 1).await.unwrap();
    let moving = Moving::new([slot(7)]);
    // Whichever comes first, what was answered is copied by who freezes first and reads then.
    let side = Side::of(&shard, "s00").await.unwrap();
    let (taken, closed) = tokio::join!(
        shard.apply(batch(1, 0, &[7])),
        side.close(&moving, "frozen", 3)
    );
    closed.unwrap();
    let rows = rig.rows("s00", &[slot(7)]).await;
    assert_eq!(rows, usize::from(taken.is_ok()));

    assert!(side.close(&moving, "owned", 3).await.is_err());
    drop(side);
    let side = Side::of(&shard, "s00").await.unwrap();
    assert!(side.open(&side, &moving, 2).await.is_err());
    drop(side);
    // The way back is a new epoch.
    let side = Side::of(&shard, "s00").await.unwrap();
    side.open(&side, &moving, 4).await.unwrap();
    shard.adopt(PARTITION, LOG, 4).await.unwrap();
    assert!(shard.apply(batch(4, rows as u64, &[7])).await.is_ok());
}

#[tokio::test]
async fn the_target_goes_on_from_the_lower_watermark_and_what_came_along_is_not_applied_again() {
    let rig = Rig::start().await;
    let source = rig.shard("s00");
    rig.shards.join(1, &rig.joins).await.unwrap();
    let target = rig.shard("s01");
    source.adopt(PARTITION, LOG, 1).await.unwrap();
    target.adopt(PARTITION, LOG, 1).await.unwrap();
    assert_eq!(applied(source.apply(batch(1, 0, &[7; 10])).await), 10);
    // It serves the partition already, and is elsewhere in it.
    for (mark, lower) in [(4, 4), (15, 10)] {
        let elsewhere = Batch {
            next: Position(mark),
            ..Batch::clone(&batch(1, 0, &[]))
        };
        target.apply(Arc::new(elsewhere)).await.unwrap();
        let sides = [("s00", &source), ("s01", &target)];
        let [from, to] = sides.map(|(name, shard)| Side::of(shard, name));
        let (from, to) = (from.await.unwrap(), to.await.unwrap());
        let moving = Moving::new([slot(7)]);
        let epoch = 3 + mark;
        from.close(&moving, "frozen", epoch).await.unwrap();
        from.copy_to(&to, &moving, true).await.unwrap();
        assert!(from.equals(&to, &moving).await.unwrap());
        to.open(&from, &moving, epoch).await.unwrap();
        let mark = target.adopt(PARTITION, LOG, epoch).await.unwrap();
        assert_eq!(mark.position, Position(lower));
        let again = target
            .apply(batch(epoch, lower, &vec![7; 10 - lower as usize]))
            .await;
        assert_eq!(applied(again), 0);
        let tally = target.tally().await.unwrap();
        assert_eq!((tally.applied.len(), tally.sums()), (10, (10, 20)));
        // Back to where it was, for the other case.
        to.close(&moving, "away", epoch + 1).await.unwrap();
        to.delete(&moving).await.unwrap();
        assert_eq!(target.tally().await.unwrap().sums(), (0, 0));
        from.open(&to, &moving, epoch + 1).await.unwrap();
        rig.postgres
            .ask_in(
                "s01",
                "UPDATE orders.watermark SET epoch = 1; UPDATE orders.state SET epoch = 1",
            )
            .await;
        target.adopt(PARTITION, LOG, 1).await.unwrap();
    }
}

#[tokio::test]
async fn the_source_deletes_only_when_the_replica_of_the_target_has_the_copy() {
    let rig = Rig::start().await;
    let source = rig.shard("s00");
    source.adopt(PARTITION, LOG, 1).await.unwrap();
    let slots: Vec<u16> = (0..160).map(|n| 7 + 100 * n).collect();
    assert_eq!(applied(source.apply(batch(1, 0, &slots)).await), 160);
    let mut moving = rig.begin().await;
    let moved: Vec<Slot> = moving.progress().plan().moves()[0].slots().collect();
    assert_eq!(moving.run().await.unwrap(), Stage::Reversible);
    let here = rig.rows("s00", &moved).await;
    assert!((40..120).contains(&here), "{here}");
    assert_eq!(rig.rows("s01", &moved).await, here);
    // A copy does not count, nor its share of an account of many shards.
    let tallies = [rig.shard("s00"), rig.shard("s01")].map(|shard| async move {
        let tally = shard.tally().await.unwrap();
        assert_eq!(tally.sums().0, tally.applied.len() as u64);
        tally.applied.len()
    });
    let [left, came] = tallies;
    assert_eq!((left.await, came.await), (160 - here, here));

    rig.replica.kill();
    let refused = moving.finish().await;
    assert!(
        matches!(refused, Err(ReshardError::Step { .. })),
        "{refused:?}"
    );
    assert_eq!(rig.rows("s00", &moved).await, here);
    rig.replica.restart().await;
    assert_eq!(moving.finish().await.unwrap(), Stage::Done);
    assert_eq!(rig.rows("s00", &moved).await, 0);
    assert_eq!(rig.shard("s01").tally().await.unwrap().applied.len(), here);

    // Who asks the source all the same is told that it is not there, instead of nothing.
    let gone = slots
        .iter()
        .position(|slot| moved.iter().any(|moved| moved.get() == *slot));
    let gone = match &order(gone.unwrap() as u64, slots[gone.unwrap()]).fate {
        Fate::Apply(record) => record.order_id().unwrap(),
        Fate::Dead(_) => unreachable!(),
    };
    let read = |shard: Arc<PostgresShard>| async move {
        shard.read(Role::Primary, Query::Order(gone)).await
    };
    let refused = read(rig.shard("s00")).await;
    assert!(
        matches!(refused, Err(ShardError::Refused(Refusal::Moved { .. }))),
        "{refused:?}"
    );
    assert!(read(rig.shard("s01")).await.unwrap().document.is_some());
}

#[tokio::test]
async fn a_promoted_shard_takes_nothing_before_its_slots_are_confirmed() {
    let rig = Rig::start().await;
    let shard = rig.shard("s00");
    shard.adopt(PARTITION, LOG, 1).await.unwrap();
    assert_eq!(applied(shard.apply(batch(1, 0, &[7])).await), 1);
    rig.replica.caught_up(rig.postgres.position().await).await;
    rig.postgres.kill();
    rig.replica.promote().await;
    let promoted = async {
        loop {
            // The connections of before are noticed by their use.
            match shard.apply(batch(1, 1, &[7])).await {
                Err(ShardError::Unavailable(why)) if why.contains("promoted") => break,
                Err(ShardError::Unavailable(_)) => {}
                other => panic!("it took {other:?}"),
            }
        }
    };
    let patience = std::time::Duration::from_secs(60);
    tokio::time::timeout(patience, promoted).await.unwrap();
    assert!(shard.adopt(PARTITION, LOG, 1).await.is_err());
    let looked = async {
        loop {
            if let Ok(looked) = shard.look("any", 0, Patience::Write).await {
                return looked;
            }
        }
    };
    let looked = tokio::time::timeout(patience, looked).await.unwrap();
    assert!(!looked.is_confirmed);

    // It had missed that a slot was frozen.
    let leaving = SlotRange::new(slot(7), slot(7)).unwrap();
    shard.confirm(&[leaving], 3).await.unwrap();
    assert!(
        shard
            .look("any", 0, Patience::Write)
            .await
            .unwrap()
            .is_confirmed
    );
    shard.adopt(PARTITION, LOG, 1).await.unwrap();
    let refused = shard.apply(batch(1, 1, &[7])).await;
    assert!(
        matches!(refused, Err(ShardError::Refused(Refusal::Frozen { .. }))),
        "{refused:?}"
    );
    assert_eq!(applied(shard.apply(batch(1, 1, &[107])).await), 1);
}
