//! A shard: what one transaction decides, and what it refuses whole.

use std::sync::Arc;

use pipeline::data::{Data, Settings};
use pipeline::log::{LogId, Position};
use pipeline::shard::{
    Applied, Batch, Document, Query, ShardDb, ShardError, State, Tally, Versioned,
};
use seawall_shard_router::Role;

use crate::homes::{Home, on_each_home};
use crate::{apply, batch, dead, record, serving};

async fn account(shard: &impl ShardDb, id: &str) -> (u64, u64, u64) {
    let found = shard
        .read(Role::Primary, Query::Account(id.to_owned()))
        .await
        .unwrap();
    match found.document {
        Some(Document::Account { orders, units }) => (orders, units, found.version),
        None => (0, 0, found.version),
        other => panic!("{other:?}"),
    }
}

async fn watermark(shard: &impl ShardDb, log: LogId) -> u64 {
    shard.adopt(0, log, 1).await.unwrap().position.0
}

/// Shows that nothing came of what was refused.
async fn untouched(shard: &impl ShardDb, log: LogId, at: u64) {
    let tally = shard.tally().await.unwrap();
    let nothing = Tally {
        watermarks: tally.watermarks.clone(),
        ..Tally::default()
    };
    assert_eq!(tally, nothing);
    assert_eq!(watermark(shard, log).await, at);
}

async fn a_batch_is_applied_and_its_orders_accounts_and_versions_are_read<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let (a, b, c) = (record(1, 1, 5), record(4, 1, 6), record(2, 1, 7));
    let rows = vec![apply(2, &a), apply(5, &b), apply(7, &c)];
    let done = shard.apply(batch(log, 0, 9, rows)).await.unwrap();
    let orders = [(&a, 2), (&b, 5), (&c, 7)].map(|(r, at)| (r.op(), at, r.account.clone()));
    let expected = Applied {
        orders: orders.to_vec(),
        dead: 0,
        repeats: 0,
        position: Position(9),
    };
    assert_eq!(done, expected);

    assert_eq!(account(&**shard, "user:1").await, (2, 11, 6));
    assert_eq!(account(&**shard, "user:2").await, (1, 7, 8));
    assert_eq!(account(&**shard, "user:9").await, (0, 0, 0));
    let found = shard
        .read(Role::Replica(1), Query::Order(b.order_id().unwrap()))
        .await
        .unwrap();
    let document = Document::Order {
        state: State::Applied,
        class: None,
        fingerprint: [1; 16],
        item: "product-7".to_owned(),
        quantity: 6,
    };
    assert_eq!(
        found,
        Versioned {
            version: 6,
            document: Some(document)
        }
    );
    // The right operation in a slot that somebody made up is nobody's order.
    let mut elsewhere = b.order_id().unwrap();
    elsewhere.slot = seawall_shard_router::slot_of(b"elsewhere");
    let forged = shard
        .read(Role::Primary, Query::Order(elsewhere))
        .await
        .unwrap();
    assert_eq!(forged.document, None);
    let none = shard
        .read(
            Role::Primary,
            Query::Order(record(9, 1, 1).order_id().unwrap()),
        )
        .await
        .unwrap();
    assert_eq!(
        none,
        Versioned {
            version: 0,
            document: None
        }
    );
    let product = shard
        .read(Role::Primary, Query::Product("product-1000".into()))
        .await
        .unwrap();
    let known = pipeline::data::product(1_000);
    let document = Document::Product {
        name: known.name,
        price_cents: known.price_cents,
    };
    assert_eq!(product.document, Some(document));
    assert!(product.version > none.version);
    let none = shard
        .read(Role::Primary, Query::Product("product-1001".into()))
        .await
        .unwrap();
    assert_eq!(none.document, None);
}

async fn a_batch_behind_a_gap_is_refused_and_the_watermark_told<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    shard.apply(batch(log, 0, 3, vec![])).await.unwrap();
    // As after a failover to a replica that lagged: what lies from 3 to 5 would be lost.
    let why = shard
        .apply(batch(log, 5, 7, vec![apply(5, &record(1, 1, 1))]))
        .await
        .unwrap_err();
    let ShardError::Gap {
        watermark: Position(3),
    } = why
    else {
        panic!("{why}")
    };
    untouched(&**shard, log, 3).await;
}

async fn rows_below_the_watermark_are_skipped_and_it_never_goes_back<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let (a, b) = (record(1, 1, 5), record(2, 1, 6));
    shard
        .apply(batch(log, 0, 5, vec![apply(2, &a)]))
        .await
        .unwrap();
    // A worker that started over sends the same again, cut differently.
    let again = shard
        .apply(batch(log, 0, 3, vec![apply(2, &a)]))
        .await
        .unwrap();
    assert_eq!(
        (again.orders.len(), again.repeats, again.position),
        (0, 1, Position(5))
    );
    let over = shard
        .apply(batch(log, 1, 9, vec![apply(2, &a), apply(6, &b)]))
        .await
        .unwrap();
    assert_eq!(
        (over.orders.len(), over.repeats, over.position),
        (1, 1, Position(9))
    );
    assert_eq!(shard.tally().await.unwrap().sums().1, 11);
}

async fn a_row_below_the_watermark_is_skipped_where_its_operation_is_no_longer_kept<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let a = record(1, 1, 5);
    shard
        .apply(batch(log, 0, 3, vec![apply(2, &a)]))
        .await
        .unwrap();
    home.meddle("DELETE FROM op").await;
    let done = shard
        .apply(batch(log, 0, 3, vec![apply(2, &a)]))
        .await
        .unwrap();
    assert_eq!((done.orders.len(), done.repeats), (0, 1));
    assert_eq!(account(&**shard, "user:1").await, (1, 5, 3));
}

async fn a_batch_of_another_epoch_is_refused_whole<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    shard.adopt(0, log, 4).await.unwrap();
    for epoch in [3, 5] {
        let rows = vec![
            apply(1, &record(1, 1, 1)),
            dead(2, Some(&record(2, 1, 1)), "late"),
        ];
        let stale = Batch {
            epoch,
            ..Arc::unwrap_or_clone(batch(log, 0, 3, rows))
        };
        let why = shard.apply(Arc::new(stale)).await.unwrap_err();
        let ShardError::StaleEpoch { current: 4 } = why else {
            panic!("{why}")
        };
    }
    let why = shard.adopt(0, log, 3).await.unwrap_err();
    let ShardError::StaleEpoch { current: 4 } = why else {
        panic!("{why}")
    };
    assert_eq!(shard.tally().await.unwrap().applied, []);
    assert_eq!(shard.adopt(0, log, 4).await.unwrap().position, Position(0));
}

async fn an_epoch_that_goes_up_keeps_the_position<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    shard.apply(batch(log, 0, 6, vec![])).await.unwrap();
    let given = shard.adopt(0, log, 2).await.unwrap();
    assert_eq!((given.epoch, given.position), (2, Position(6)));
    let why = shard.apply(batch(log, 6, 7, vec![])).await.unwrap_err();
    let ShardError::StaleEpoch { current: 2 } = why else {
        panic!("{why}")
    };
}

async fn a_partition_that_was_not_given_and_another_log_are_refused<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let rows = vec![apply(1, &record(1, 1, 1))];
    let other = Batch {
        partition: 1,
        ..Arc::unwrap_or_clone(batch(log, 0, 3, rows.clone()))
    };
    let why = shard.apply(Arc::new(other)).await.unwrap_err();
    let ShardError::NotAssigned { partition: 1 } = why else {
        panic!("{why}")
    };
    let foreign = LogId([7; 16]);
    let why = shard.apply(batch(foreign, 0, 3, rows)).await.unwrap_err();
    let ShardError::ForeignLog = why else {
        panic!("{why}")
    };
    let why = shard.adopt(0, foreign, 9).await.unwrap_err();
    let ShardError::ForeignLog = why else {
        panic!("{why}")
    };
    // Not even where there is no watermark yet.
    let why = shard.adopt(3, foreign, 9).await.unwrap_err();
    let ShardError::ForeignLog = why else {
        panic!("{why}")
    };
    untouched(&**shard, log, 0).await;
}

async fn a_batch_that_contradicts_itself_is_refused<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let row = |offset, op| apply(offset, &record(op, 1, 1));
    for bad in [
        batch(log, 0, 3, vec![row(2, 1), row(1, 2)]),
        batch(log, 0, 3, vec![row(1, 1), row(1, 2)]),
        batch(log, 0, 3, vec![row(3, 1)]),
        batch(log, 2, 3, vec![row(1, 1)]),
        batch(log, 3, 2, vec![]),
    ] {
        let why = shard.apply(bad).await.unwrap_err();
        assert!(matches!(why, ShardError::BadBatch(_)), "{why}");
    }
    untouched(&**shard, log, 0).await;
}

async fn one_operation_twice_in_a_batch_counts_once<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let a = record(1, 1, 5);
    let rows = vec![apply(1, &a), apply(2, &a), apply(4, &a)];
    let done = shard.apply(batch(log, 0, 5, rows)).await.unwrap();
    assert_eq!(done.orders, [(a.op(), 1, a.account.clone())]);
    assert_eq!(done.repeats, 2);
    assert_eq!(account(&**shard, "user:1").await, (1, 5, 2));
}

async fn one_operation_in_two_batches_counts_once<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let a = record(1, 1, 5);
    shard
        .apply(batch(log, 0, 3, vec![apply(1, &a)]))
        .await
        .unwrap();
    let done = shard
        .apply(batch(log, 3, 5, vec![apply(4, &a)]))
        .await
        .unwrap();
    assert_eq!(
        (done.orders.len(), done.repeats, done.position),
        (0, 1, Position(5))
    );
    assert_eq!(account(&**shard, "user:1").await, (1, 5, 2));
}

async fn an_operation_with_another_payload_is_key_reuse_and_never_silence<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let (a, reuse) = (record(1, 1, 5), record(1, 2, 900));
    shard
        .apply(batch(log, 0, 2, vec![apply(1, &a)]))
        .await
        .unwrap();
    let rows = vec![apply(2, &record(2, 1, 1)), apply(3, &reuse)];
    let why = shard.apply(batch(log, 2, 4, rows)).await.unwrap_err();
    let ShardError::Poison {
        offset: 3,
        class: "key-reuse",
        ..
    } = why
    else {
        panic!("{why}")
    };
    // The whole batch rolled back; the row goes in again as a letter.
    let applied = shard.tally().await.unwrap().applied;
    assert_eq!(
        applied
            .iter()
            .map(|row| (row.op, row.quantity))
            .collect::<Vec<_>>(),
        [(a.op(), 5)]
    );
    let rows = vec![
        apply(2, &record(2, 1, 1)),
        dead(3, Some(&reuse), "key-reuse"),
    ];
    let done = shard.apply(batch(log, 2, 4, rows)).await.unwrap();
    assert_eq!((done.orders.len(), done.dead), (1, 1));
    let found = shard
        .read(Role::Primary, Query::Order(a.order_id().unwrap()))
        .await
        .unwrap();
    let Some(Document::Order {
        state: State::Applied,
        quantity: 5,
        ..
    }) = found.document
    else {
        panic!("{found:?}")
    };
    assert_eq!(shard.tally().await.unwrap().dead, []);
    assert_eq!(shard.letters().await.unwrap(), 1);
}

async fn key_reuse_within_a_batch_is_found_too<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let rows = vec![apply(1, &record(1, 1, 5)), apply(2, &record(1, 2, 5))];
    let why = shard.apply(batch(log, 0, 3, rows)).await.unwrap_err();
    let ShardError::Poison {
        offset: 2,
        class: "key-reuse",
        ..
    } = why
    else {
        panic!("{why}")
    };
    untouched(&**shard, log, 0).await;
}

async fn an_unknown_item_is_poison_and_rolls_its_batch_back<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let mut poison = record(2, 1, 5);
    poison.item = "product-0".to_owned();
    let rows = vec![apply(1, &record(1, 1, 5)), apply(2, &poison)];
    let why = shard.apply(batch(log, 0, 3, rows)).await.unwrap_err();
    let ShardError::Poison {
        offset: 2,
        class: "unknown-item",
        ..
    } = why
    else {
        panic!("{why}")
    };
    untouched(&**shard, log, 0).await;
}

async fn a_batch_that_is_refused_leaves_those_that_shared_its_transaction_alone<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let mut poison = record(200, 1, 5);
    poison.item = "nothing".to_owned();
    // Two clients that do not wait for each other: their batches meet in one group.
    shard.adopt(1, log, 1).await.unwrap();
    let other = |batch: Arc<Batch>| {
        Arc::new(Batch {
            partition: 1,
            ..Arc::unwrap_or_clone(batch)
        })
    };
    shard.apply(batch(log, 0, 1, vec![])).await.unwrap();
    tokio::join!(
        async {
            for n in 1..9 {
                let rows = vec![apply(n, &record(n as u8, 1, 1))];
                shard.apply(batch(log, n, n + 1, rows)).await.unwrap();
            }
        },
        async {
            for _ in 0..8 {
                let rows = vec![apply(1, &record(100, 1, 1)), apply(2, &poison)];
                let refused = shard.apply(other(batch(log, 0, 3, rows))).await;
                assert!(matches!(refused, Err(ShardError::Poison { offset: 2, .. })));
            }
        },
    );
    let tally = shard.tally().await.unwrap();
    assert_eq!((tally.applied.len(), tally.sums()), (8, (8, 8)));
    assert_eq!(shard.adopt(1, log, 1).await.unwrap().position, Position(0));
}

async fn a_poison_row_is_dead_with_its_letter_and_a_duplicate_is_not_applied_beside_it<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let a = record(1, 1, 5);
    let done = shard
        .apply(batch(log, 0, 2, vec![dead(1, Some(&a), "unknown-item")]))
        .await
        .unwrap();
    assert_eq!((done.orders.len(), done.dead, done.repeats), (0, 1, 0));
    // The duplicate further on, as an order and as another death.
    let rows = vec![apply(3, &a), dead(4, Some(&a), "unknown-item")];
    let done = shard.apply(batch(log, 2, 5, rows)).await.unwrap();
    assert_eq!((done.orders.len(), done.dead, done.repeats), (0, 0, 2));
    let tally = shard.tally().await.unwrap();
    assert_eq!((tally.applied.len(), tally.dead.len()), (0, 1));
    assert_eq!(tally.dead[0].op, a.op());
    let [letter] = &tally.letters[..] else {
        panic!("{:?}", tally.letters);
    };
    assert_eq!(
        (letter.op, letter.offset, &*letter.class),
        (Some(a.op()), 1, "unknown-item")
    );
    assert_eq!(account(&**shard, "user:1").await, (0, 0, 0));
    let found = shard
        .read(Role::Primary, Query::Order(a.order_id().unwrap()))
        .await
        .unwrap();
    let Some(Document::Order {
        state: State::Dead,
        class: Some(class),
        ..
    }) = found.document
    else {
        panic!("{found:?}")
    };
    assert_eq!((class.as_str(), found.version), ("unknown-item", 2));
}

async fn a_death_after_the_order_counted_is_a_repeat<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let a = record(1, 1, 5);
    let rows = vec![apply(1, &a), dead(2, Some(&a), "unknown-item")];
    let done = shard.apply(batch(log, 0, 3, rows)).await.unwrap();
    assert_eq!((done.orders.len(), done.dead, done.repeats), (1, 0, 1));
    assert_eq!(shard.letters().await.unwrap(), 0);
}

async fn what_cannot_be_read_is_a_letter_only_and_one_letter_however_often<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let done = shard
        .apply(batch(log, 0, 3, vec![dead(2, None, "undecodable")]))
        .await
        .unwrap();
    assert_eq!((done.dead, done.repeats), (1, 0));
    let mut again = Arc::unwrap_or_clone(batch(log, 3, 5, vec![dead(4, None, "undecodable")]));
    if let pipeline::shard::Fate::Dead(row) = &mut again.rows[0].fate {
        row.letter = "0-0002".to_owned();
    }
    let done = shard.apply(Arc::new(again)).await.unwrap();
    assert_eq!((done.dead, done.repeats), (0, 1));
    let letters = shard.letters_page(String::new(), 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].id.as_str(), letters[0].offset), ("0-0002", 2));
    assert_eq!(
        (letters[0].class.as_str(), &letters[0].body[..]),
        ("undecodable", &b"why it died"[..])
    );
    assert!(
        shard
            .letters_page("0-0002".to_owned(), 10)
            .await
            .unwrap()
            .is_empty()
    );
    let tally = shard.tally().await.unwrap();
    assert!(tally.applied.is_empty() && tally.dead.is_empty());
}

async fn a_batch_without_rows_moves_the_watermark<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    let done = shard.apply(batch(log, 0, 8, vec![])).await.unwrap();
    assert_eq!(
        done,
        Applied {
            position: Position(8),
            ..Applied::default()
        }
    );
    assert_eq!(watermark(&**shard, log).await, 8);
}

async fn what_was_applied_is_there_after_a_restart<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    shard
        .apply(batch(log, 0, 5, vec![apply(1, &record(1, 1, 5))]))
        .await
        .unwrap();
    let before = shard.tally().await.unwrap();
    let home = home.reopen().await;
    assert_eq!(home.shard().tally().await.unwrap(), before);
    assert_eq!(watermark(&**home.shard(), log).await, 5);
}

async fn an_application_that_is_dropped_is_not_taken_back<H: Home>() {
    let home = H::serving(9).await;
    let (shard, log) = (home.shard(), home.log());
    {
        let work = std::pin::pin!(shard.apply(batch(log, 0, 5, vec![apply(1, &record(1, 1, 5))])));
        let waker = std::task::Waker::noop();
        let _ = work.poll(&mut std::task::Context::from_waker(waker));
    }
    // The same again finds it done.
    let done = shard
        .apply(batch(log, 0, 5, vec![apply(1, &record(1, 1, 5))]))
        .await
        .unwrap();
    assert_eq!((done.orders.len(), done.repeats), (0, 1));
}

#[tokio::test]
async fn one_reader_serves_fifty_shards() {
    let home = tempfile::tempdir().unwrap();
    let settings = Settings {
        partitions: Some(50),
        shards: Some(50),
        readers: 1,
    };
    let data = Data::open_or_create(home.path(), settings).unwrap();
    for shard in data.shards() {
        let query = Query::Product("product-1".to_owned());
        assert!(
            shard
                .read(Role::Primary, query)
                .await
                .unwrap()
                .document
                .is_some()
        );
    }
}

#[tokio::test]
async fn a_closed_shard_refuses() {
    let (_home, data, shard, log) = serving(9).await;
    data.close();
    let why = shard.apply(batch(log, 0, 6, vec![])).await.unwrap_err();
    assert!(why.is_transient(), "{why}");
    let why = shard.tally().await.unwrap_err();
    assert!(why.is_transient(), "{why}");
}

on_each_home! {
    a_batch_is_applied_and_its_orders_accounts_and_versions_are_read,
    a_batch_behind_a_gap_is_refused_and_the_watermark_told,
    rows_below_the_watermark_are_skipped_and_it_never_goes_back,
    a_row_below_the_watermark_is_skipped_where_its_operation_is_no_longer_kept,
    a_batch_of_another_epoch_is_refused_whole,
    an_epoch_that_goes_up_keeps_the_position,
    a_partition_that_was_not_given_and_another_log_are_refused,
    a_batch_that_contradicts_itself_is_refused,
    one_operation_twice_in_a_batch_counts_once,
    one_operation_in_two_batches_counts_once,
    an_operation_with_another_payload_is_key_reuse_and_never_silence,
    key_reuse_within_a_batch_is_found_too,
    an_unknown_item_is_poison_and_rolls_its_batch_back,
    a_batch_that_is_refused_leaves_those_that_shared_its_transaction_alone,
    a_poison_row_is_dead_with_its_letter_and_a_duplicate_is_not_applied_beside_it,
    a_death_after_the_order_counted_is_a_repeat,
    what_cannot_be_read_is_a_letter_only_and_one_letter_however_often,
    a_batch_without_rows_moves_the_watermark,
    what_was_applied_is_there_after_a_restart,
    an_application_that_is_dropped_is_not_taken_back,
}
