//! Which operations a shard may hold: a Bloom filter in memory, in front of its table.
//!
//! Each order asks its shard whether its operation was decided before, and for nearly all of them it was not. The
//! filter says so at once, without a thread that reads. It never denies what is committed: an operation is noted before
//! its transaction ends, and those of earlier runs before the shard is open. What it affirms, the table has to confirm.

use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{Connection, Result};

use crate::order::OpId;

/// The logarithm of its size in bits: 2 MiB. Of a million operations that are not there it takes one in four hundred
/// for known, of five million one in four; with many more it only costs the reads that it would have spared.
const BITS: u32 = 24;

/// The operations that a shard may hold.
#[derive(Debug)]
pub(super) struct Known {
    words: Box<[AtomicU64]>,
}

impl Known {
    /// The operations in the shard's table.
    pub(super) fn of(db: &Connection) -> Result<Self> {
        let known = Self {
            words: (0..1 << (BITS - 6)).map(|_| AtomicU64::new(0)).collect(),
        };
        let mut select = db.prepare("SELECT op FROM op")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            known.note(OpId(row.get(0)?));
        }
        Ok(known)
    }

    /// Notes an operation. Before its commit, so that whoever learns of that finds it.
    pub(super) fn note(&self, op: OpId) {
        for (word, bit) in places(op) {
            self.words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Whether the operation may be there; `false` is certain.
    pub(super) fn may_hold(&self, op: OpId) -> bool {
        places(op).all(|(word, bit)| self.words[word].load(Ordering::Relaxed) & bit != 0)
    }
}

/// An id is a digest, so four parts of it are four hashes.
fn places(OpId(id): OpId) -> impl Iterator<Item = (usize, u64)> {
    let (parts, _) = id.as_chunks::<4>();
    let bits: [u32; 4] = std::array::from_fn(|at| u32::from_le_bytes(parts[at]) >> (32 - BITS));
    bits.into_iter()
        .map(|bit| ((bit >> 6) as usize, 1 << (bit & 63)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Principal;

    fn op(n: u32) -> OpId {
        OpId::derive(&Principal::Anonymous, &n.to_string())
    }

    #[test]
    fn what_is_noted_is_never_denied_and_little_else_is_affirmed() {
        let db = Connection::open_in_memory().expect("memory");
        db.execute_batch("CREATE TABLE op(op BLOB NOT NULL)")
            .expect("a table");
        for n in 0..1_000 {
            db.execute("INSERT INTO op VALUES(?1)", [op(n).0])
                .expect("a row");
        }
        let known = Known::of(&db).expect("a table of operations");
        (1_000..100_000).for_each(|n| known.note(op(n)));
        assert!((0..100_000).all(|n| known.may_hold(op(n))));
        let false_alarms = (100_000..200_000).filter(|n| known.may_hold(op(*n)));
        // Four bits each: (400,000 / 2^24)^4 is about one in three million.
        assert!(false_alarms.count() < 10);
    }
}
