use super::*;
use crate::load::{Sent, Told};
use crate::log::{LogId, Position};
use crate::shard::{Lettered, Sums, Tally, Watermark};
use bytes::Bytes;

fn op(n: u8) -> OpId {
    OpId([n; 16])
}

/// Orders of two units each, one after the other.
fn ledger(accepted: &[u8], unknown: &[u8]) -> Ledger {
    let mut ledger = Ledger::default();
    for n in accepted.iter().chain(unknown) {
        ledger.sent(
            op(*n),
            Sent {
                account: "a".into(),
                quantity: 2,
            },
        );
        let body = Bytes::from_static(b"{}");
        let told = Told::Answer {
            status: 202,
            replayed: false,
            body,
        };
        ledger.told(
            op(*n),
            if accepted.contains(n) {
                told
            } else {
                Told::Nothing
            },
        );
    }
    ledger
}

const LOG: LogId = LogId([7; 16]);

fn row(offset: u64, n: u8) -> Decided {
    Decided {
        op: op(n),
        fingerprint: [n; 16],
        account: "a".into(),
        quantity: 2,
        partition: 0,
        offset,
    }
}

/// A log of these orders, one after the other from offset 1, and of nothing in a second partition.
fn log(orders: &[u8]) -> Vec<Partition> {
    let record = |(offset, n): (u64, &u8)| Logged {
        offset,
        order: Some(LoggedOrder {
            op: op(*n),
            fingerprint: [*n; 16],
            account: "a".into(),
            quantity: 2,
        }),
    };
    vec![
        Partition {
            start: Position(0),
            end: Position(orders.len() as u64 + 1),
            records: (1..).zip(orders).map(record).collect(),
        },
        Partition::default(),
    ]
}

/// A shard that has gone through that log, and holds these of its orders.
fn shard(log: &[u8], applied: &[u8], dead: &[u8]) -> Tally {
    let rows = |held: &[u8]| -> Vec<Decided> {
        (1..)
            .zip(log)
            .filter(|(_, n)| held.contains(n))
            .map(|(offset, n)| row(offset, *n))
            .collect()
    };
    let letter = |row: &Decided| Lettered {
        op: Some(row.op),
        partition: 0,
        offset: row.offset,
        class: "poison".into(),
    };
    let mark = Watermark {
        log: LOG,
        epoch: 1,
        position: Position(log.len() as u64 + 1),
    };
    let (applied, dead) = (rows(applied), rows(dead));
    Tally {
        letters: dead.iter().map(letter).collect(),
        accounts: vec![Sums {
            account: "a".into(),
            orders: applied.len() as u64,
            units: 2 * applied.len() as u64,
        }],
        applied,
        dead,
        watermarks: vec![(0, mark)],
    }
}

fn of(ledger: &Ledger, orders: &[u8], shards: Vec<Tally>) -> Accounting {
    let books = Books {
        log: LOG,
        partitions: log(orders),
        shards,
    };
    Accounting::of(ledger, &books)
}

#[test]
fn it_closes_when_every_accepted_order_is_applied_or_dead() {
    let told = ledger(&[1, 2, 3], &[4]);
    let shards = vec![
        shard(&[1, 2, 3, 4], &[1, 4], &[]),
        shard(&[1, 2, 3, 4], &[2], &[3]),
    ];
    let books = of(&told, &[1, 2, 3, 4], shards);
    assert!(books.closed, "{books:?}");
    assert_eq!(
        (books.applied, books.dead_lettered, books.indeterminate),
        (3, 1, 1)
    );
}

/// What must not be, and the shard that has it.
type Case = (&'static [&'static str], Vec<Tally>);

#[test]
fn each_way_to_be_wrong_is_told_by_its_name() {
    let told = ledger(&[1, 2], &[]);
    let right = || shard(&[1, 2], &[1, 2], &[]);
    let changed = |change: &dyn Fn(&mut Tally)| {
        let mut shard = right();
        change(&mut shard);
        vec![shard]
    };
    let cases: Vec<Case> = vec![
        (&["lost", "skipped"], vec![shard(&[1, 2], &[1], &[])]),
        (&["applied twice"], vec![right(), shard(&[1, 2], &[2], &[])]),
        (&["applied twice"], vec![shard(&[1, 2], &[1, 2], &[2])]),
        (
            &["applied twice"],
            changed(&|shard| (shard.accounts[0].orders, shard.accounts[0].units) = (3, 6)),
        ),
        (&[], changed(&|shard| shard.accounts[0].units = 3)),
        (
            &[],
            changed(&|shard| shard.accounts[0].account = "b".into()),
        ),
        (
            &["altered", "unfounded"],
            changed(&|shard| {
                shard.applied[0].quantity = 3;
                shard.accounts[0].units += 1;
            }),
        ),
        (
            &["unfounded", "skipped"],
            changed(&|shard| shard.applied[0].fingerprint = [9; 16]),
        ),
        (
            &["unfounded"],
            changed(&|shard| shard.applied[0].offset = 0),
        ),
        (
            &["unlettered"],
            changed(&|shard| {
                let dead = shard.applied.remove(1);
                shard.dead.push(dead);
                shard.accounts[0] = Sums {
                    account: "a".into(),
                    orders: 1,
                    units: 2,
                };
            }),
        ),
        (
            &["wrong watermarks"],
            changed(&|shard| shard.watermarks[0].1.log = LogId([0; 16])),
        ),
        (
            &["wrong watermarks"],
            changed(&|shard| shard.watermarks[0].1.position = Position(9)),
        ),
        // Not drained, and the row above it.
        (
            &["wrong watermarks"],
            changed(&|shard| shard.watermarks[0].1.position = Position(2)),
        ),
        (
            &["wrong watermarks"],
            changed(&|shard| shard.watermarks.clear()),
        ),
    ];
    assert!(of(&told, &[1, 2], vec![right()]).closed);
    for (n, (names, shards)) in cases.into_iter().enumerate() {
        let found = of(&told, &[1, 2], shards);
        assert!(!found.closed, "case {n}: {found:?}");
        let mut names = names.to_vec();
        names.sort_unstable();
        let mut told: Vec<_> = found
            .faults()
            .iter()
            .filter(|f| f.1 > 0)
            .map(|f| f.0)
            .collect();
        told.sort_unstable();
        assert_eq!(told, names, "case {n}: {found:?}");
    }
}

#[test]
fn what_nobody_sent_is_a_phantom_and_what_lies_the_wrong_way_round_is_out_of_order() {
    let told = ledger(&[1, 2], &[]);
    let phantom = of(&told, &[1, 2, 9], vec![shard(&[1, 2, 9], &[1, 2, 9], &[])]);
    assert_eq!((phantom.phantom, phantom.closed), (1, false));
    let turned = of(&told, &[2, 1], vec![shard(&[2, 1], &[1, 2], &[])]);
    assert_eq!((turned.out_of_order, turned.closed), (1, false));
}

#[test]
fn a_record_that_no_client_knows_of_is_skipped_all_the_same_and_one_above_the_watermark_is_not() {
    let told = ledger(&[1], &[2]);
    let skipped = of(&told, &[1, 2], vec![shard(&[1, 2], &[1], &[])]);
    assert_eq!((skipped.lost, skipped.skipped), (0, 1));
    let mut behind = shard(&[1, 2], &[1], &[]);
    behind.watermarks[0].1.position = Position(2);
    let behind = of(&told, &[1, 2], vec![behind]);
    assert_eq!((behind.skipped, behind.drained), (0, false));
}

#[test]
fn a_key_that_was_used_again_needs_a_letter_of_its_own() {
    let told = ledger(&[1], &[]);
    let mut held = shard(&[1, 1], &[1], &[]);
    held.applied.truncate(1);
    (held.accounts[0].orders, held.accounts[0].units) = (1, 2);
    let mut books = Books {
        log: LOG,
        partitions: log(&[1, 1]),
        shards: vec![held],
    };
    assert!(Accounting::of(&told, &books).closed, "a repeat");
    let reused = books.partitions[0].records[1].order.as_mut();
    reused.expect("it is an order").fingerprint = [8; 16];
    assert_eq!(Accounting::of(&told, &books).skipped, 1);
    books.shards[0].letters.push(Lettered {
        op: Some(op(1)),
        partition: 0,
        offset: 2,
        class: "key-reuse".into(),
    });
    assert!(Accounting::of(&told, &books).closed);
}

#[test]
fn orders_that_were_under_way_together_may_lie_in_either_order() {
    let mut told = Ledger::default();
    for n in [1, 2] {
        told.sent(
            op(n),
            Sent {
                account: "a".into(),
                quantity: 2,
            },
        );
    }
    for n in [1, 2] {
        let body = Bytes::new();
        told.told(
            op(n),
            Told::Answer {
                status: 202,
                replayed: false,
                body,
            },
        );
    }
    assert!(of(&told, &[2, 1], vec![shard(&[2, 1], &[1, 2], &[])]).closed);
}
