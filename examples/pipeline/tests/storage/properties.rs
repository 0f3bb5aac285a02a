//! Random histories of a shard against a model of it.
//!
//! 1. Every record that was read is decided: it counts, it is dead, or it has a letter.
//! 2. Nothing counts twice, whatever is sent again and wherever the process stopped.
//! 3. The accounts' sums are the sums over what counts.
//! 4. The watermark is where the model says, and a gap is never jumped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pipeline::log::Position;
use pipeline::order::{OpId, Record};
use pipeline::shard::{Batch, DeadRow, Fate, Row, ShardDb, ShardError};
use proptest::prelude::*;

use crate::homes::{Embedded, Home};
use crate::record;

const SHARED: u16 = 3;

/// A record to append, and to which partition.
#[derive(Clone, Debug)]
struct Sent {
    partition: u16,
    op: u8,
    payload: u8,
    quantity: u32,
    /// 0: the item is unknown. 1: nobody can read it.
    fault: u8,
}

impl Sent {
    fn record(&self) -> Option<Record> {
        let mut record = record(self.op, self.payload, self.quantity);
        match self.fault {
            0 => record.item = "no such thing".to_owned(),
            1 => return None,
            _ => {}
        }
        Some(record)
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Send up to so many records of a partition on from where the shard is, or from some way before.
    Batch {
        partition: u16,
        rows: usize,
        back: usize,
    },
    /// Send a batch that leaves records out.
    Gap { partition: u16 },
    /// Stop and start.
    Restart,
    /// Be killed, and start.
    Kill,
}

fn sent() -> impl Strategy<Value = Sent> {
    (0..SHARED, 0..30_u8, 0..8_u8, 1..100_u32, 0..12_u8).prop_map(
        |(partition, op, payload, quantity, fault)| {
            // Mostly the payload that goes with the operation.
            Sent {
                partition,
                op,
                payload: payload / 7,
                quantity,
                fault,
            }
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SHARED, 0..12_usize, 0..6_usize)
            .prop_map(|(partition, rows, back)| Step::Batch { partition, rows, back }),
        1 => (0..SHARED).prop_map(|partition| Step::Gap { partition }),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
    ]
}

/// What a shard should hold.
#[derive(Default)]
struct Model {
    positions: [u64; SHARED as usize],
    /// Operation to fingerprint, and units where it counts.
    ops: BTreeMap<OpId, ([u8; 16], Option<u32>)>,
    letters: BTreeSet<String>,
}

impl Model {
    /// Decides one record, as the protocol's words have it.
    fn decide(&mut self, partition: u16, offset: u64, record: Option<&Record>) {
        let letter = format!("{partition}-{offset}");
        let Some(record) = record else {
            self.letters.insert(letter);
            return;
        };
        match self.ops.get(&record.op()) {
            Some((fingerprint, _)) if *fingerprint == record.fingerprint => {}
            Some(_) => {
                self.letters.insert(letter);
            }
            None if record.item == "no such thing" => {
                self.letters.insert(letter);
                self.ops.insert(record.op(), (record.fingerprint, None));
            }
            None => {
                self.ops
                    .insert(record.op(), (record.fingerprint, Some(record.quantity)));
            }
        }
    }
}

/// Sends a batch as a worker would: what is poison goes in again as a letter.
async fn send(shard: &impl ShardDb, mut batch: Batch) -> Result<Position, ShardError> {
    loop {
        let why = match shard.apply(Arc::new(batch.clone())).await {
            Ok(done) => return Ok(done.position),
            Err(why) => why,
        };
        let ShardError::Poison { offset, class, .. } = why else {
            return Err(why);
        };
        let row = batch
            .rows
            .iter_mut()
            .find(|row| row.offset == offset)
            .unwrap();
        let Fate::Apply(record) = &row.fate else {
            panic!("a letter is never poison")
        };
        row.fate = died(batch.partition, offset, Some(record.clone()), class);
    }
}

fn died(partition: u16, offset: u64, record: Option<Record>, class: &str) -> Fate {
    Fate::Dead(DeadRow {
        record,
        letter: format!("{partition}-{offset}"),
        class: class.to_owned(),
        body: bytes::Bytes::new(),
    })
}

fn rows(partition: u16, records: &[(u64, Option<Record>)]) -> Vec<Row> {
    let fate = |offset, record: &Option<Record>| match record {
        Some(record) => Fate::Apply(record.clone()),
        None => died(partition, offset, None, "undecodable"),
    };
    records
        .iter()
        .map(|(offset, record)| Row {
            offset: *offset,
            fate: fate(*offset, record),
        })
        .collect()
}

async fn history<H: Home>(all: Vec<Sent>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut home = H::fresh().await;
    let log = home.log();
    let mut partitions: [Vec<(u64, Option<Record>)>; SHARED as usize] = Default::default();
    for sent in &all {
        let record = sent.record();
        let payload = record
            .as_ref()
            .map_or_else(bytes::Bytes::new, Record::encode);
        let offset = home.append(sent.partition, payload).await;
        partitions[usize::from(sent.partition)].push((offset, record));
    }
    let mut model = Model::default();
    for partition in 0..SHARED {
        home.shard().adopt(partition, log, 1).await.unwrap();
    }
    // At the end everything is sent once more, from the start.
    let last = (0..SHARED).map(|partition| Step::Batch {
        partition,
        rows: 1_000,
        back: 1_000,
    });
    for step in steps.into_iter().chain(last) {
        match step {
            Step::Restart | Step::Kill => {
                home = match step {
                    Step::Kill => home.kill().await,
                    _ => home.reopen().await,
                };
                for partition in 0..SHARED {
                    let found = home.shard().adopt(partition, log, 1).await.unwrap();
                    prop_assert_eq!(found.position.0, model.positions[usize::from(partition)]);
                }
            }
            Step::Gap { partition } => {
                let at = model.positions[usize::from(partition)];
                let batch = Batch {
                    partition,
                    log,
                    epoch: 1,
                    from: Position(at + 1),
                    next: Position(at + 2),
                    rows: Vec::new(),
                };
                let why = send(&**home.shard(), batch).await.unwrap_err();
                prop_assert!(
                    matches!(why, ShardError::Gap { watermark } if watermark.0 == at),
                    "{}",
                    why
                );
            }
            Step::Batch {
                partition,
                rows: count,
                back,
            } => {
                let records = &partitions[usize::from(partition)];
                let position = &mut model.positions[usize::from(partition)];
                let reached = records.partition_point(|(offset, _)| offset < position);
                let first = reached.saturating_sub(back);
                let end = (first + count).min(records.len());
                let from = if first == reached {
                    *position
                } else {
                    records[first].0
                };
                let next = if end > first {
                    records[end - 1].0 + 1
                } else {
                    from
                };
                *position = (*position).max(next);
                let expected = *position;
                for (offset, record) in &records[reached.min(end)..end] {
                    model.decide(partition, *offset, record.as_ref());
                }
                let batch = Batch {
                    partition,
                    log,
                    epoch: 1,
                    from: Position(from),
                    next: Position(next),
                    rows: rows(partition, &records[first..end]),
                };
                let at = send(&**home.shard(), batch).await;
                prop_assert_eq!(at.unwrap().0, expected);
            }
        }
    }

    let tally = home.shard().tally().await.unwrap();
    let counting: BTreeMap<_, _> = model
        .ops
        .iter()
        .filter_map(|(op, (_, units))| Some((*op, (*units)?)))
        .collect();
    let died: BTreeSet<_> = model
        .ops
        .iter()
        .filter(|(_, (_, units))| units.is_none())
        .map(|(op, _)| *op)
        .collect();
    let units = counting.values().map(|&n| u64::from(n)).sum::<u64>();
    prop_assert_eq!(tally.sums(), (counting.len() as u64, units));
    prop_assert_eq!(
        tally
            .applied
            .into_iter()
            .map(|row| (row.op, row.quantity))
            .collect::<BTreeMap<_, _>>(),
        counting
    );
    prop_assert_eq!(
        tally
            .dead
            .into_iter()
            .map(|row| row.op)
            .collect::<BTreeSet<_>>(),
        died
    );
    let letters = home
        .shard()
        .letters_page(String::new(), 10_000)
        .await
        .unwrap();
    let letters: BTreeSet<_> = letters.into_iter().map(|letter| letter.id).collect();
    prop_assert_eq!(letters, model.letters);
    for record in partitions
        .iter()
        .flatten()
        .filter_map(|(_, record)| record.as_ref())
    {
        prop_assert!(model.ops.contains_key(&record.op()));
    }
    Ok(())
}

fn explore<H: Home>(all: Vec<Sent>, steps: Vec<Step>) -> Result<(), TestCaseError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(history::<H>(all, steps))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_and_nothing_counts_twice(
        all in prop::collection::vec(sent(), 1..120),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        explore::<Embedded>(all, steps)?;
    }
}

#[cfg(feature = "services")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_and_nothing_counts_twice_on_postgres(
        all in prop::collection::vec(sent(), 1..120),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        explore::<crate::homes::Postgres>(all, steps)?;
    }
}
