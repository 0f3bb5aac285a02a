//! The storage, on real files: what is acknowledged stays, what is refused leaves no trace.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod directory;
mod homes;
mod log;
mod properties;
mod shard;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use pipeline::data::{Data, DataError, Settings};
use pipeline::log::{Log, LogId, Position};
use pipeline::order::Record;
use pipeline::shard::{Batch, DeadRow, Fate, Row, ShardDb, SqliteShard};
use tempfile::TempDir;

const PARTITIONS: u16 = 4;
const SHARDS: u16 = 2;
const SMALL: Settings = Settings {
    partitions: Some(PARTITIONS),
    shards: Some(SHARDS),
    readers: 2,
};

fn fresh() -> (TempDir, Data) {
    let home = tempfile::tempdir().unwrap();
    let data = open(home.path()).unwrap();
    (home, data)
}

fn open(directory: &Path) -> Result<Data, DataError> {
    Data::open_or_create(directory, SMALL)
}

/// What a kill would leave at this moment. Another process copies: to close a file of SQLite's in this one
/// would take its locks away.
fn crash(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut from = directory.as_os_str().to_owned();
    from.push("/.");
    let done = Command::new("cp")
        .arg("-r")
        .arg(from)
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(done.success());
    for entry in std::fs::read_dir(copy.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().ends_with("-shm") {
            std::fs::remove_file(path).unwrap();
        }
    }
    copy
}

/// Every file but those that may change when a directory is looked at.
fn bytes_of(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name != "lock" && !name.ends_with("-shm")
        })
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

/// Opens what must be refused, and shows that nothing in it was touched.
fn refused(directory: &Path) -> DataError {
    let before = bytes_of(directory);
    let why = open(directory).unwrap_err();
    assert!(bytes_of(directory) == before, "refused, and changed: {why}");
    assert_eq!(why.to_string().lines().count(), 1, "{why}");
    why
}

/// Changes a database behind the program's back.
fn meddle(file: &Path, sql: &str) {
    let db = rusqlite::Connection::open(file).unwrap();
    db.execute_batch(sql).unwrap();
    db.close().unwrap();
}

/// An order of which everything follows from three small numbers.
fn record(op: u8, payload: u8, quantity: u32) -> Record {
    Record {
        op: [op; 16],
        slot: 0,
        account: format!("user:{}", op % 3),
        item: "product-7".to_owned(),
        quantity,
        fingerprint: [payload; 16],
        at_ms: 1_700_000_000_000,
    }
}

fn apply(offset: u64, record: &Record) -> Row {
    Row {
        offset,
        fate: Fate::Apply(record.clone()),
    }
}

fn dead(offset: u64, record: Option<&Record>, class: &str) -> Row {
    let dead = DeadRow {
        record: record.cloned(),
        letter: format!("0-{offset:04}"),
        class: class.to_owned(),
        body: Bytes::from_static(b"why it died"),
    };
    Row {
        offset,
        fate: Fate::Dead(dead),
    }
}

fn batch(log: LogId, from: u64, next: u64, rows: Vec<Row>) -> Arc<Batch> {
    Arc::new(Batch {
        partition: 0,
        log,
        epoch: 1,
        from: Position(from),
        next: Position(next),
        rows,
    })
}

/// A directory whose log has `records` records, and whose first shard serves partition 0.
async fn serving(records: u64) -> (TempDir, Data, Arc<SqliteShard>, LogId) {
    let (home, data) = fresh();
    for _ in 0..records {
        data.log()
            .append(0, Bytes::from_static(b"{}"))
            .await
            .unwrap();
    }
    let (shard, log) = (Arc::clone(&data.shards()[0]), data.log().id());
    shard.adopt(0, log, 1).await.unwrap();
    (home, data, shard, log)
}
