//! The end mark: how far the log was acknowledged, kept outside the database.
//!
//! SQLite ends its recovery at the first frame of a WAL that is damaged, and drops what follows without a word:
//! to SQLite that is what a crash looks like. Only someone who remembers how far the log went can tell the
//! two apart. The mark has two slots that are written in turn, so that a crash in the middle of a write
//! leaves the one before.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use crate::log::LogId;

/// Each slot has a block of its own, so that a torn write cannot reach the other.
const BLOCK: u64 = 4_096;
const SLOT: usize = 56;
const MAGIC: &[u8; 8] = b"swlogend";

/// The last acknowledged record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How often the mark was written: the higher of two slots holds.
    pub(crate) turn: u64,
    /// The record's id, 0 for none.
    pub(crate) last: u64,
    /// The chain at that record.
    pub(crate) chain: u64,
}

impl Mark {
    fn encode(self, log: LogId) -> [u8; SLOT] {
        let mut slot = [0; SLOT];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..24].copy_from_slice(&log.0);
        slot[24..32].copy_from_slice(&self.turn.to_le_bytes());
        slot[32..40].copy_from_slice(&self.last.to_le_bytes());
        slot[40..48].copy_from_slice(&self.chain.to_le_bytes());
        let sum = xxh3_64(&slot[..48]);
        slot[48..].copy_from_slice(&sum.to_le_bytes());
        slot
    }

    fn decode(slot: &[u8; SLOT]) -> Option<(LogId, Self)> {
        let number = |at: usize| {
            u64::from_le_bytes(*slot[at..].first_chunk().expect("a slot holds six numbers"))
        };
        if &slot[..8] != MAGIC || xxh3_64(&slot[..48]) != number(48) {
            return None;
        }
        let log = LogId(*slot[8..].first_chunk().expect("a slot holds the log's id"));
        Some((
            log,
            Self {
                turn: number(24),
                last: number(32),
                chain: number(40),
            },
        ))
    }

    /// Where this turn is written.
    fn place(self) -> u64 {
        (self.turn % 2) * BLOCK
    }
}

/// Makes the file, with both slots at the log's beginning.
pub(crate) fn create(path: &Path, log: LogId, chain: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.set_len(2 * BLOCK)?;
    for turn in [0, 1] {
        let mark = Mark {
            turn,
            last: 0,
            chain,
        };
        file.write_all_at(&mark.encode(log), mark.place())?;
    }
    file.sync_all()
}

/// Reads the newest mark, or says why there is none that can be trusted.
pub(crate) fn read(path: &Path, log: LogId) -> Result<Mark, String> {
    let file = File::open(path).map_err(|why| why.to_string())?;
    let length = file.metadata().map_err(|why| why.to_string())?.len();
    if length != 2 * BLOCK {
        return Err(format!(
            "it is {length} bytes long, an end mark has {}",
            2 * BLOCK
        ));
    }
    let mut newest: Option<Mark> = None;
    for place in [0, BLOCK] {
        let mut slot = [0; SLOT];
        file.read_exact_at(&mut slot, place)
            .map_err(|why| why.to_string())?;
        let Some((of, mark)) = Mark::decode(&slot) else {
            continue;
        };
        if of != log {
            return Err("it is the end mark of another log".to_owned());
        }
        if newest.is_none_or(|known| known.turn < mark.turn) {
            newest = Some(mark);
        }
    }
    newest.ok_or_else(|| "neither of its two marks matches its checksum".to_owned())
}

/// The open file, to which each group of appends writes its end.
#[derive(Debug)]
pub(crate) struct EndFile {
    file: File,
    log: LogId,
    mark: Mark,
}

impl EndFile {
    pub(crate) fn open(path: &Path, log: LogId, mark: Mark) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Self { file, log, mark })
    }

    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Writes and syncs a new mark. After a failure the next one goes to the same slot, so the last good mark
    /// stays.
    pub(crate) fn advance(&mut self, last: u64, chain: u64) -> io::Result<()> {
        let mark = Mark {
            turn: self.mark.turn + 1,
            last,
            chain,
        };
        self.file
            .write_all_at(&mark.encode(self.log), mark.place())?;
        self.file.sync_data()?;
        self.mark = mark;
        Ok(())
    }
}
