//! The log's tables, and the check that a log found on disk is the one that was acknowledged.

use std::io;
use std::path::PathBuf;

use rusqlite::Connection;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::end::{self, Mark};
use crate::data::{Damage, DataError};
use crate::log::{LogId, Position};
use crate::sqlite::{self, Kind};

/// Offsets are AUTOINCREMENT ids. A plain rowid that was pruned is given out again, below every watermark, and
/// what is appended under it is skipped for ever.
///
/// The index carries the rowid behind its column, so it is ordered by partition and id.
const KIND: Kind = Kind {
    application: 0x5377_4c67, // "SwLg"
    version: 1,
    schema: "
        CREATE TABLE identity(
            log BLOB NOT NULL, partitions INTEGER NOT NULL,
            start INTEGER NOT NULL, chain INTEGER NOT NULL
        ) STRICT;
        CREATE TABLE record(
            id INTEGER PRIMARY KEY AUTOINCREMENT, partition INTEGER NOT NULL,
            payload BLOB NOT NULL, sum INTEGER NOT NULL, chain INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX record_partition ON record(partition);
        CREATE TABLE pruned(partition INTEGER PRIMARY KEY, start INTEGER NOT NULL) STRICT;
        CREATE TABLE committed(partition INTEGER PRIMARY KEY, position INTEGER NOT NULL) STRICT;
    ",
};

/// The two files of a log.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The database.
    pub(crate) db: PathBuf,
    /// The end mark.
    pub(crate) end: PathBuf,
}

/// A record's checksum: what it is and where it stands.
pub(super) fn sum(id: u64, partition: u16, payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&id.to_le_bytes());
    hash.update(&partition.to_le_bytes());
    hash.update(payload);
    hash.digest()
}

/// The chain at a record: it stands for the record and for everything before it.
pub(super) fn link(before: u64, sum: u64) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&before.to_le_bytes());
    both[8..].copy_from_slice(&sum.to_le_bytes());
    xxh3_64(&both)
}

/// The chain before the first record. It differs from log to log, so records cannot wander between them.
fn first_link(log: LogId) -> u64 {
    xxh3_64(&log.0)
}

/// Makes an empty log. The files are durable when this returns, their directory is not.
pub(crate) fn create(files: &Files, log: LogId, partitions: u16) -> Result<(), DataError> {
    let chain = first_link(log);
    let make = || {
        let db = sqlite::create(&files.db, KIND)?;
        db.execute(
            "INSERT INTO identity(log, partitions, start, chain) VALUES(?1, ?2, 0, ?3)",
            (log.0, partitions, chain.cast_signed()),
        )?;
        sqlite::finish(db)
    };
    make().map_err(|why| DataError::sqlite(&files.db, why))?;
    let sync = || std::fs::File::open(&files.db)?.sync_all();
    sync().map_err(|why| DataError::io(&files.db, why))?;
    end::create(&files.end, log, chain).map_err(|why| DataError::io(&files.end, why))
}

/// A log that was read from end to end and found whole.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) files: Files,
    pub(crate) log: LogId,
    /// The last record's id, 0 for none, and the chain there.
    pub(crate) last: u64,
    pub(super) chain: u64,
    pub(super) mark: Mark,
    /// By partition: the position after its newest record, the position before which it was pruned, and the
    /// position that was last committed.
    pub(super) ends: Vec<Position>,
    pub(super) starts: Vec<Position>,
    pub(super) committed: Vec<Position>,
}

impl Checked {
    pub(crate) fn partitions(&self) -> u16 {
        self.ends
            .len()
            .try_into()
            .expect("a log is made with fewer than 65,536 partitions")
    }

    /// The position after the log's last record.
    pub(crate) fn end(&self) -> Position {
        Position(self.last + 1)
    }
}

/// Reads the whole log and changes nothing.
pub(crate) fn check(files: Files, log: LogId, partitions: u16) -> Result<Checked, DataError> {
    let mark = match end::read(&files.end, log) {
        Ok(mark) => mark,
        Err(_) if missing(&files.end) => {
            return Err(DataError::damaged(files.end, Damage::Missing));
        }
        Err(why) => return Err(DataError::damaged(files.end, Damage::Unreadable(why))),
    };
    if missing(&files.db) {
        return Err(DataError::damaged(files.db, Damage::Missing));
    }
    let unreadable = |why| Damage::Unreadable(sqlite::text(why));
    let read = || {
        let db = sqlite::examiner(&files.db).map_err(unreadable)?;
        sqlite::examine(&db, KIND).map_err(Damage::Unreadable)?;
        let mut checked = Checked {
            files: files.clone(),
            log,
            last: 0,
            chain: 0,
            mark,
            ends: vec![Position(0); partitions.into()],
            starts: vec![Position(0); partitions.into()],
            committed: vec![Position(0); partitions.into()],
        };
        checked.identity(&db)?;
        checked.positions(&db).map_err(unreadable)?;
        checked.walk(&db)?;
        Ok(checked)
    };
    read().map_err(|damage| DataError::damaged(&files.db, damage))
}

fn missing(path: &std::path::Path) -> bool {
    matches!(path.metadata(), Err(why) if why.kind() == io::ErrorKind::NotFound)
}

impl Checked {
    fn identity(&mut self, db: &Connection) -> Result<(), Damage> {
        let contradiction = |why: &str| Err(Damage::Contradiction(why.to_owned()));
        let rows = db
            .prepare("SELECT log, partitions, start, chain FROM identity")
            .and_then(|mut select| {
                select
                    .query_map([], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get::<_, i64>(3)?))
                    })?
                    .collect::<rusqlite::Result<Vec<(_, u16, u64, _)>>>()
            })
            .map_err(|why| Damage::Unreadable(sqlite::text(why)))?;
        let [(id, partitions, start, chain)] = *rows else {
            return contradiction("it does not say which log it is");
        };
        if LogId(id) != self.log {
            return contradiction("it is another log than the directory's");
        }
        if partitions != self.partitions() {
            return contradiction("it has another number of partitions than the directory");
        }
        self.last = start;
        self.chain = chain.cast_unsigned();
        Ok(())
    }

    fn positions(&mut self, db: &Connection) -> rusqlite::Result<()> {
        for (sql, positions) in [
            ("SELECT partition, start FROM pruned", &mut self.starts),
            (
                "SELECT partition, position FROM committed",
                &mut self.committed,
            ),
        ] {
            let mut select = db.prepare(sql)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let partition: usize = row.get(0)?;
                if let Some(position) = positions.get_mut(partition) {
                    *position = Position(row.get(1)?);
                }
            }
        }
        self.ends.clone_from(&self.starts);
        Ok(())
    }

    /// Follows the chain from the log's start to its end, past the mark.
    fn walk(&mut self, db: &Connection) -> Result<(), Damage> {
        let mark = self.mark;
        if mark.last < self.last {
            return Err(Damage::Contradiction(format!(
                "it starts after record {}, and the end mark stands at {}",
                self.last, mark.last
            )));
        }
        if mark.last == self.last {
            self.meets(mark)?;
        }
        let unreadable = |why| Damage::Unreadable(sqlite::text(why));
        let mut select = db
            .prepare("SELECT id, partition, payload, sum, chain FROM record ORDER BY id")
            .map_err(unreadable)?;
        let mut rows = select.query([]).map_err(unreadable)?;
        while let Some(row) = rows.next().map_err(unreadable)? {
            let (id, partition, payload, stored, chain) = (|| {
                Ok((
                    row.get::<_, u64>(0)?,
                    row.get::<_, u16>(1)?,
                    row.get_ref(2)?.as_blob()?,
                    row.get::<_, i64>(3)?.cast_unsigned(),
                    row.get::<_, i64>(4)?.cast_unsigned(),
                ))
            })()
            .map_err(unreadable)?;
            let expected = self.last + 1;
            if id != expected {
                return Err(Damage::Record {
                    offset: expected,
                    what: "is missing",
                });
            }
            let damaged = |what| Err(Damage::Record { offset: id, what });
            if stored != sum(id, partition, payload) {
                return damaged("does not match its checksum");
            }
            self.chain = link(self.chain, stored);
            if chain != self.chain {
                return damaged("does not follow from the record before it");
            }
            let Some(end) = self.ends.get_mut(usize::from(partition)) else {
                return damaged("lies in a partition that does not exist");
            };
            *end = Position(id + 1);
            self.last = id;
            if id == mark.last {
                self.meets(mark)?;
            }
        }
        if self.last < mark.last {
            return Err(Damage::BelowMark {
                end: self.last,
                mark: mark.last,
            });
        }
        let given: u64 = db
            .query_row(
                "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'record'",
                [],
                |row| row.get(0),
            )
            .map_err(unreadable)?;
        if given != self.last {
            return Err(Damage::Contradiction(format!(
                "it ends at record {}, and has given out {given}",
                self.last
            )));
        }
        Ok(())
    }

    fn meets(&self, mark: Mark) -> Result<(), Damage> {
        if self.chain == mark.chain {
            return Ok(());
        }
        Err(Damage::Record {
            offset: mark.last,
            what: "is not the one that was acknowledged",
        })
    }
}
