//! Records that wait to be applied, and the ways to divide them. Positions of the pieces always meet, so that
//! nothing lies between them.

use std::collections::VecDeque;

use bytes::Bytes;
use seawall_shard_router::Slot;

use crate::log::{Chunk, Position};
use crate::order::Record;
use crate::stack::UNDECODABLE;

/// Records yet to be applied, continuing from `from`.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) from: Position,
    pub(super) next: Position,
    pub(super) rows: Vec<Pending>,
    /// Times it failed while its shard served others.
    pub(super) failed: u32,
    /// Why its one record is not to be tried (again).
    pub(super) condemned: Option<(&'static str, String)>,
}

/// One record, as it was read.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) offset: u64,
    pub(super) payload: Bytes,
    /// The order, or why there is none in it.
    pub(super) record: Result<Record, String>,
}

impl Part {
    fn new(from: Position, next: Position, rows: Vec<Pending>) -> Self {
        Self {
            from,
            next,
            rows,
            failed: 0,
            condemned: None,
        }
    }

    /// What a partition's chunk consists of: one part, or several around records that cannot even be read.
    pub(super) fn of(
        chunk: &Chunk,
        from: Position,
        partition: u16,
        partitions: u16,
    ) -> VecDeque<Self> {
        let rows = chunk.entries.iter().map(|entry| Pending {
            offset: entry.offset,
            payload: entry.payload.clone(),
            record: decode(&entry.payload, partition, partitions),
        });
        let mut parts = VecDeque::new();
        let mut rest = Some(Self::new(from, chunk.next, rows.collect()));
        while let Some(part) = rest.take() {
            let unread = part
                .rows
                .iter()
                .enumerate()
                .find_map(|(at, row)| Some((at, row.record.as_ref().err()?.clone())));
            let Some((at, reason)) = unread else {
                parts.push_back(part);
                break;
            };
            let (before, mut alone, after) = part.around(at);
            alone.condemned = Some((UNDECODABLE, reason));
            parts.extend(before);
            parts.push_back(alone);
            rest = after;
        }
        parts
    }

    /// Leaves an empty part behind.
    pub(super) fn take(&mut self) -> Self {
        let empty = Self::new(self.from, self.next, Vec::new());
        std::mem::replace(self, empty)
    }

    /// Whether it is one record, and nothing before it.
    pub(super) fn is_alone(&self) -> bool {
        matches!(&self.rows[..], [row] if row.offset == self.from.0)
    }

    /// The part before a row, the row alone, and the part after it.
    pub(super) fn around(mut self, at: usize) -> (Option<Self>, Self, Option<Self>) {
        let after = self.rows.split_off(at + 1);
        let alone = self.rows.split_off(at);
        let offset = alone[0].offset;
        let (here, behind) = (Position(offset), Position(offset + 1));
        let before = (self.from < here).then(|| Self::new(self.from, here, self.rows));
        let rest = (behind < self.next).then(|| Self::new(behind, self.next, after));
        (before, Self::new(here, behind, alone), rest)
    }

    /// The two halves of a part of several rows; a part of one row becomes the way to it and the row alone.
    pub(super) fn halves(mut self) -> Vec<Self> {
        match self.rows.len() {
            0 => vec![self],
            1 => {
                let (before, alone, after) = self.around(0);
                before.into_iter().chain([alone]).chain(after).collect()
            }
            rows => {
                let second = self.rows.split_off(rows / 2);
                let middle = Position(second[0].offset);
                vec![
                    Self::new(self.from, middle, self.rows),
                    Self::new(middle, self.next, second),
                ]
            }
        }
    }
}

fn decode(payload: &[u8], partition: u16, partitions: u16) -> Result<Record, String> {
    let record: Record = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    match Slot::new(record.slot) {
        Some(slot) if slot.get() % partitions == partition => Ok(record),
        _ => Err(format!(
            "slot {} does not belong to partition {partition}",
            record.slot
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(from: u64, offsets: &[u64], next: u64) -> Part {
        let row = |&offset: &u64| Pending {
            offset,
            payload: Bytes::new(),
            record: Err(String::new()),
        };
        Part::new(
            Position(from),
            Position(next),
            offsets.iter().map(row).collect(),
        )
    }

    fn shape(part: &Part) -> (u64, Vec<u64>, u64) {
        (
            part.from.0,
            part.rows.iter().map(|row| row.offset).collect(),
            part.next.0,
        )
    }

    #[test]
    fn parts_around_a_row_meet_without_a_gap() {
        let (before, alone, after) = part(10, &[12, 15, 19], 22).around(1);
        assert_eq!(before.as_ref().map(shape), Some((10, vec![12], 15)));
        assert_eq!(shape(&alone), (15, vec![15], 16));
        assert_eq!(after.as_ref().map(shape), Some((16, vec![19], 22)));
        assert!(alone.is_alone());
    }

    #[test]
    fn a_first_row_behind_a_hole_leaves_an_empty_part_that_moves_the_watermark() {
        let (before, alone, after) = part(10, &[12], 13).around(0);
        assert_eq!(before.as_ref().map(shape), Some((10, vec![], 12)));
        assert_eq!(shape(&alone), (12, vec![12], 13));
        assert!(after.is_none());
    }

    #[test]
    fn halves_cover_the_whole() {
        let shapes: Vec<_> = part(0, &[1, 4, 9], 12).halves().iter().map(shape).collect();
        assert_eq!(shapes, [(0, vec![1], 4), (4, vec![4, 9], 12)]);
        let shapes: Vec<_> = part(0, &[3], 5).halves().iter().map(shape).collect();
        assert_eq!(shapes, [(0, vec![], 3), (3, vec![3], 4), (4, vec![], 5)]);
    }
}
