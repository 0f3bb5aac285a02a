//! The log: order, durability, what a crash may and may not do.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use pipeline::data::{Damage, DataError};
use pipeline::log::{AppendError, Log, Position, ReadError, SqliteLog};
use tokio::task::JoinSet;

use crate::{PARTITIONS, crash, fresh, meddle, open, refused};

async fn offsets(log: &SqliteLog, partition: u16) -> Vec<u64> {
    let chunk = log
        .read(partition, Position(0), usize::MAX >> 1)
        .await
        .unwrap();
    chunk.entries.iter().map(|entry| entry.offset).collect()
}

/// The last record that the file marks as acknowledged, read as its format is documented.
fn mark(file: &Path) -> u64 {
    let bytes = std::fs::read(file).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let newest = [0, 4096]
        .into_iter()
        .max_by_key(|slot| number(slot + 24))
        .unwrap();
    number(newest + 32)
}

#[tokio::test]
async fn a_thousand_concurrent_appends_get_offsets_of_their_own_and_are_all_read_in_order() {
    let (_home, data) = fresh();
    let log = data.log();
    let mut appends = JoinSet::new();
    for n in 0..1_000_u64 {
        let log = Arc::clone(log);
        appends.spawn(async move {
            let payload = Bytes::copy_from_slice(&n.to_be_bytes());
            (log.append(n as u16 % PARTITIONS, payload).await.unwrap(), n)
        });
    }
    let mut given = appends.join_all().await;
    given.sort_unstable();
    given.dedup_by_key(|(offset, _)| *offset);
    assert_eq!(given.len(), 1_000);
    let mut read = Vec::new();
    for partition in 0..PARTITIONS {
        let mut from = Position(0);
        loop {
            let chunk = log.read(partition, from, 7).await.unwrap();
            if chunk.entries.is_empty() {
                assert_eq!(chunk.next, from);
                break;
            }
            assert!(chunk.entries.len() <= 7);
            assert!(chunk.entries.is_sorted_by(|a, b| a.offset < b.offset));
            assert!(chunk.entries[0].offset >= from.0);
            from = chunk.next;
            for entry in chunk.entries {
                let n = u64::from_be_bytes(entry.payload[..].try_into().unwrap());
                assert_eq!(n as u16 % PARTITIONS, partition);
                read.push((entry.offset, n));
            }
        }
        assert_eq!(*log.end(partition).borrow(), from);
    }
    read.sort_unstable();
    assert_eq!(read, given);
}

#[tokio::test]
async fn appends_that_follow_each_other_keep_their_order() {
    let (_home, data) = fresh();
    let mut last = 0;
    for n in 0..20 {
        let offset = data
            .log()
            .append(n % PARTITIONS, Bytes::new())
            .await
            .unwrap();
        assert!(offset > last);
        last = offset;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_a_record_that_is_not_marked() {
    let (home, data) = fresh();
    let file = home.path().join("log.end");
    let log = Arc::clone(data.log());
    let mut appends = JoinSet::new();
    for _ in 0..8 {
        let log = Arc::clone(&log);
        appends.spawn(async move {
            for _ in 0..50 {
                let offset = log.append(0, Bytes::from_static(b"x")).await.unwrap();
                assert!(*log.end(0).borrow() > Position(offset));
            }
        });
    }
    let (mut from, mut seen) = (Position(0), 0);
    let mut end = log.end(0);
    while seen < 400 {
        end.wait_for(|end| *end > from).await.unwrap();
        let chunk = log.read(0, from, 1_000).await.unwrap();
        let marked = mark(&file);
        assert!(chunk.entries.iter().all(|entry| entry.offset <= marked));
        seen += chunk.entries.len();
        from = chunk.next;
    }
    appends.join_all().await;
}

#[tokio::test]
async fn a_record_that_is_committed_and_not_marked_yet_is_not_read() {
    let (home, data) = fresh();
    data.log().append(0, Bytes::new()).await.unwrap();
    // What the database holds between the commit and the mark.
    let sql = "INSERT INTO record VALUES(2, 0, x'00', 0, 0)";
    meddle(&home.path().join("log.db"), sql);
    assert_eq!(offsets(data.log(), 0).await, [1]);
}

#[tokio::test]
async fn a_record_that_was_committed_and_not_marked_is_kept_and_marked_at_the_next_start() {
    let (home, data) = fresh();
    data.log()
        .append(0, Bytes::from_static(b"marked"))
        .await
        .unwrap();
    let before = std::fs::read(home.path().join("log.end")).unwrap();
    data.log()
        .append(0, Bytes::from_static(b"not marked"))
        .await
        .unwrap();
    let killed = crash(home.path());
    std::fs::write(killed.path().join("log.end"), before).unwrap();
    assert_eq!(mark(&killed.path().join("log.end")), 1);

    let data = open(killed.path()).unwrap();
    assert_eq!(mark(&killed.path().join("log.end")), 2);
    assert_eq!(offsets(data.log(), 0).await, [1, 2]);
    assert_eq!(data.log().append(0, Bytes::new()).await.unwrap(), 3);
}

#[tokio::test]
async fn a_torn_write_of_the_mark_leaves_the_mark_before_it() {
    let (home, data) = fresh();
    for _ in 0..3 {
        data.log().append(0, Bytes::new()).await.unwrap();
    }
    let killed = crash(home.path());
    let file = killed.path().join("log.end");
    let mut bytes = std::fs::read(&file).unwrap();
    // Turns 0 and 1 are the new log's; record 3 was marked in turn 4, in the first slot.
    bytes[20..56].fill(0xff);
    std::fs::write(&file, bytes).unwrap();
    let data = open(killed.path()).unwrap();
    assert_eq!(offsets(data.log(), 0).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_flipped_bit_in_the_middle_of_the_wal_after_a_crash_is_refused() {
    let (home, data) = fresh();
    for n in 0..20_u8 {
        data.log()
            .append(0, Bytes::from(vec![n; 100]))
            .await
            .unwrap();
    }
    let killed = crash(home.path());
    let wal = killed.path().join("log.db-wal");
    let mut bytes = std::fs::read(&wal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&wal, &bytes).unwrap();

    let why = refused(killed.path());
    let DataError::Damaged {
        file,
        damage: Damage::BelowMark { end, mark: 20 },
    } = &why
    else {
        panic!("{why}")
    };
    assert!(file.ends_with("log.db") && (1..20).contains(end), "{why}");

    // SQLite itself finds nothing amiss in what is left.
    let db = rusqlite::Connection::open(killed.path().join("log.db")).unwrap();
    let verdict: String = db
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    let left: u64 = db
        .query_row("SELECT count(*) FROM record", [], |row| row.get(0))
        .unwrap();
    assert_eq!((verdict.as_str(), left), ("ok", *end));
}

#[tokio::test]
async fn an_older_copy_of_the_database_under_the_mark_is_refused() {
    let (home, data) = fresh();
    data.log().append(0, Bytes::new()).await.unwrap();
    let older = crash(home.path());
    data.log().append(0, Bytes::new()).await.unwrap();
    let newer = crash(home.path());
    std::fs::copy(newer.path().join("log.end"), older.path().join("log.end")).unwrap();
    let why = refused(older.path());
    let DataError::Damaged { damage, .. } = why else {
        panic!("{why}")
    };
    assert_eq!(damage, Damage::BelowMark { end: 1, mark: 2 });
}

#[tokio::test]
async fn records_that_were_written_again_differently_under_the_mark_are_refused() {
    let (home, data) = fresh();
    data.log()
        .append(0, Bytes::from_static(b"one"))
        .await
        .unwrap();
    let older = crash(home.path());
    data.log()
        .append(0, Bytes::from_static(b"two"))
        .await
        .unwrap();
    let marked = crash(home.path());

    // The older copy goes another way, to the same length.
    let other = open(older.path()).unwrap();
    other
        .log()
        .append(0, Bytes::from_static(b"2nd"))
        .await
        .unwrap();
    other.close();
    std::fs::copy(marked.path().join("log.end"), older.path().join("log.end")).unwrap();
    let why = refused(older.path());
    let DataError::Damaged {
        damage: Damage::Record { offset: 2, .. },
        ..
    } = why
    else {
        panic!("{why}")
    };
}

#[tokio::test]
async fn a_record_changed_moved_or_removed_is_named_at_opening() {
    for (sql, what) in [
        (
            "UPDATE record SET payload = x'00' WHERE id = 3",
            "record 3 does not match its checksum",
        ),
        (
            "UPDATE record SET partition = 1 WHERE id = 3",
            "record 3 does not match its checksum",
        ),
        ("DELETE FROM record WHERE id = 3", "record 3 is missing"),
        (
            "UPDATE record SET chain = 1 WHERE id = 3",
            "record 3 does not follow",
        ),
        (
            "DELETE FROM record WHERE id = 5",
            "ends at record 4, and record 5 was acknowledged",
        ),
        (
            "DELETE FROM record",
            "ends at record 0, and record 5 was acknowledged",
        ),
        ("UPDATE sqlite_sequence SET seq = 9", "has given out 9"),
        ("UPDATE identity SET log = zeroblob(16)", "another log"),
        (
            "UPDATE identity SET partitions = 5",
            "another number of partitions",
        ),
        ("DELETE FROM identity", "does not say which log"),
        ("UPDATE identity SET start = 7", "the end mark stands at 5"),
    ] {
        let (home, data) = fresh();
        for _ in 0..5 {
            data.log()
                .append(0, Bytes::from_static(b"payload"))
                .await
                .unwrap();
        }
        data.close();
        meddle(&home.path().join("log.db"), sql);
        let why = refused(home.path()).to_string();
        assert!(why.contains("log.db") && why.contains(what), "{sql}: {why}");
    }
}

#[tokio::test]
async fn a_record_changed_under_a_running_log_is_not_read() {
    let (home, data) = fresh();
    for _ in 0..3 {
        data.log()
            .append(0, Bytes::from_static(b"payload"))
            .await
            .unwrap();
    }
    meddle(
        &home.path().join("log.db"),
        "UPDATE record SET payload = x'00' WHERE id = 2",
    );
    let why = data.log().read(0, Position(0), 10).await.unwrap_err();
    assert!(
        matches!(
            why,
            ReadError::Damaged {
                partition: 0,
                offset: 2
            }
        ),
        "{why}"
    );
    assert_eq!(
        data.log()
            .read(0, Position(3), 10)
            .await
            .unwrap()
            .entries
            .len(),
        1
    );
}

#[tokio::test]
async fn a_pruned_offset_is_never_given_out_again() {
    let (home, data) = fresh();
    for n in 0..10 {
        data.log().append(n % 2, Bytes::new()).await.unwrap();
    }
    // All that there is: a plain rowid would begin again at 1, below every watermark.
    data.log().prune(Position(1_000)).await.unwrap();
    data.close();
    let data = open(home.path()).unwrap();
    assert_eq!(data.log().append(0, Bytes::new()).await.unwrap(), 11);
    assert_eq!(*data.log().end(1).borrow(), Position(11));
    let chunk = data.log().read(0, Position(10), 10).await.unwrap();
    assert_eq!((chunk.entries[0].offset, chunk.next), (11, Position(12)));
}

#[tokio::test]
async fn a_read_below_what_is_left_of_its_partition_is_refused() {
    let (home, data) = fresh();
    for partition in [0, 0, 1, 0] {
        data.log().append(partition, Bytes::new()).await.unwrap();
    }
    data.log().prune(Position(3)).await.unwrap();
    let why = data.log().read(0, Position(2), 10).await.unwrap_err();
    assert!(matches!(why, ReadError::BelowStart { .. }), "{why}");
    let data = {
        data.close();
        open(home.path()).unwrap()
    };
    let why = data.log().read(0, Position(2), 10).await.unwrap_err();
    let ReadError::BelowStart {
        partition: 0,
        start: Position(3),
    } = why
    else {
        panic!("{why}")
    };
    // Nothing of these is gone.
    assert_eq!(
        data.log().read(0, Position(3), 10).await.unwrap().entries[0].offset,
        4
    );
    assert_eq!(
        data.log().read(1, Position(0), 10).await.unwrap().entries[0].offset,
        3
    );
    assert!(
        data.log()
            .read(2, Position(0), 10)
            .await
            .unwrap()
            .entries
            .is_empty()
    );
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_what_was_taken_is_written() {
    let (home, data) = fresh();
    // An intruder holds the database, so the writer cannot go on.
    let intruder = rusqlite::Connection::open(home.path().join("log.db")).unwrap();
    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut appends = JoinSet::new();
    for _ in 0..10_000 {
        let log = Arc::clone(data.log());
        appends.spawn(async move { log.append(0, Bytes::from_static(b"x")).await });
    }
    let first = appends.join_next().await.unwrap().unwrap();
    assert!(matches!(first, Err(AppendError::Refused(_))), "{first:?}");
    intruder.execute_batch("ROLLBACK").unwrap();
    let mut written = Vec::new();
    while let Some(done) = appends.join_next().await {
        match done.unwrap() {
            Ok(offset) => written.push(offset),
            Err(AppendError::Refused(_)) => {}
            Err(why) => panic!("{why}"),
        }
    }
    written.sort_unstable();
    assert!(written.len() >= 8_192, "{}", written.len());
    assert_eq!(offsets(data.log(), 0).await, written);
}

#[tokio::test]
async fn an_append_that_is_dropped_is_not_taken_back() {
    let (_home, data) = fresh();
    {
        let append = pin!(data.log().append(0, Bytes::from_static(b"dropped")));
        let _ = append.poll(&mut Context::from_waker(Waker::noop()));
    }
    let next = data
        .log()
        .append(0, Bytes::from_static(b"next"))
        .await
        .unwrap();
    assert_eq!(next, 2);
    assert_eq!(offsets(data.log(), 0).await, [1, 2]);
}

#[tokio::test]
async fn a_partition_that_does_not_exist_is_refused() {
    let (_home, data) = fresh();
    let why = data
        .log()
        .append(PARTITIONS, Bytes::new())
        .await
        .unwrap_err();
    assert!(matches!(why, AppendError::Refused(_)), "{why}");
}

#[tokio::test]
async fn committed_positions_survive_a_restart_and_a_closed_log_refuses() {
    let (home, data) = fresh();
    data.log().commit(1, Position(5));
    data.log().commit(1, Position(7));
    data.log().commit(2, Position(3));
    assert_eq!(data.log().committed(1).await.unwrap(), Position(7));
    let log = Arc::clone(data.log());
    log.append(0, Bytes::new()).await.unwrap();
    data.close();
    let why = log.append(0, Bytes::new()).await.unwrap_err();
    assert!(matches!(why, AppendError::Refused(_)), "{why}");
    let why = log.read(0, Position(0), 1).await.unwrap_err();
    assert!(matches!(why, ReadError::Unavailable(_)), "{why}");
    let data = open(home.path()).unwrap();
    for (partition, committed) in (0..).zip([0, 7, 3, 0]) {
        let found = data.log().committed(partition).await.unwrap();
        assert_eq!(found, Position(committed));
    }
}

const FULL: &str = "PIPELINE_TEST_FULL_DISK";

/// The half of the next test that runs in a process whose files may not grow any more.
#[tokio::test]
async fn full_disk_child() {
    let Some(directory) = std::env::var_os(FULL) else {
        return;
    };
    let data = open(Path::new(&directory)).unwrap();
    let mut acknowledged = 0;
    let why = loop {
        match data.log().append(0, Bytes::from(vec![b'x'; 10_000])).await {
            Ok(offset) => acknowledged = offset,
            Err(why) => break why,
        }
    };
    // The write failed in the commit and was not said to be for want of room.
    assert!(matches!(why, AppendError::Unknown(_)), "{why}");
    // What was acknowledged is there, and nothing else is seen.
    assert_eq!(
        offsets(data.log(), 0).await,
        (1..=acknowledged).collect::<Vec<_>>()
    );
    assert!(acknowledged > 0);
    println!("acknowledged {acknowledged};");
}

#[tokio::test]
async fn a_file_that_cannot_grow_fails_appends_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    open(home.path()).unwrap().close();
    let child = Command::new("sh")
        .arg("-c")
        .arg("trap '' XFSZ; ulimit -f 1000; exec \"$0\" --exact log::full_disk_child --nocapture")
        .arg(std::env::current_exe().unwrap())
        .env(FULL, home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
    let (_, rest) = said.split_once("acknowledged ").unwrap();
    let acknowledged: u64 = rest.split_once(';').unwrap().0.parse().unwrap();

    let data = open(home.path()).unwrap();
    let offsets = offsets(data.log(), 0).await;
    assert!(
        offsets.starts_with(&(1..=acknowledged).collect::<Vec<_>>()),
        "{offsets:?}"
    );
    assert!(offsets.len() as u64 <= acknowledged + 1);
    data.log().append(0, Bytes::new()).await.unwrap();
}
