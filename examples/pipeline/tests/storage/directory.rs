//! The data directory: made whole, opened by one, and refused untouched when it is not what was written.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use pipeline::data::{Damage, Data, DataError, Settings};
use pipeline::log::{Log, Position};
use pipeline::shard::ShardDb;

use crate::{
    SMALL, apply, batch, bytes_of, crash, dead, fresh, meddle, open, record, refused, serving,
};

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

const FILES: [&str; 6] = [
    "lock",
    "log.db",
    "log.end",
    "meta.json",
    "shard-00.db",
    "shard-01.db",
];

/// A closed directory in which something was ordered, and something died.
async fn used() -> tempfile::TempDir {
    let (home, data, shard, log) = serving(5).await;
    let rows = vec![
        apply(1, &record(1, 1, 5)),
        apply(2, &record(2, 1, 6)),
        dead(3, Some(&record(3, 1, 7)), "unknown-item"),
    ];
    shard.apply(batch(log, 0, 4, rows)).await.unwrap();
    data.close();
    home
}

#[test]
fn a_new_directory_is_made_at_a_path_that_is_not_there_or_empty_and_closes_tidily() {
    let home = tempfile::tempdir().unwrap();
    for path in [home.path().join("deep/er/new"), home.path().join("empty")] {
        if path.ends_with("empty") {
            fs::create_dir(&path).unwrap();
        }
        open(&path).unwrap().close();
        assert_eq!(names(&path), FILES);
        let beside = names(path.parent().unwrap());
        assert!(
            beside.iter().all(|name| !name.starts_with('.')),
            "{beside:?}"
        );
    }
}

#[test]
fn an_empty_directory_keeps_its_permissions() {
    use std::os::unix::fs::PermissionsExt;
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    open(home.path()).unwrap().close();
    assert_eq!(
        fs::metadata(home.path()).unwrap().permissions().mode() & 0o777,
        0o700
    );
}

#[test]
fn a_link_to_an_empty_directory_stands_for_it() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", home.path().join("link")).unwrap();
    open(&home.path().join("link")).unwrap().close();
    assert_eq!(names(&home.path().join("real")), FILES);
}

#[test]
fn settings_come_from_the_directory_when_they_are_not_asked_for() {
    let (home, data) = fresh();
    let id = data.log().id();
    data.close();
    let data = Data::open_or_create(home.path(), Settings::default()).unwrap();
    assert_eq!((data.log().partitions(), data.shards().len()), (4, 2));
    assert_eq!(data.log().id(), id);
}

#[test]
fn other_settings_than_it_was_made_with_are_refused() {
    let (home, data) = fresh();
    data.close();
    let before = bytes_of(home.path());
    for (settings, what) in [
        (
            Settings {
                partitions: Some(5),
                ..SMALL
            },
            "made with 4 partitions, not 5",
        ),
        (
            Settings {
                shards: Some(3),
                ..SMALL
            },
            "made with 2 shards, not 3",
        ),
    ] {
        let why = Data::open_or_create(home.path(), settings)
            .unwrap_err()
            .to_string();
        assert!(why.contains(what), "{why}");
    }
    assert!(bytes_of(home.path()) == before);
}

#[test]
fn no_partitions_or_no_shards_are_refused_before_anything_is_made() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("new");
    for settings in [
        Settings {
            partitions: Some(0),
            ..SMALL
        },
        Settings {
            shards: Some(0),
            ..SMALL
        },
    ] {
        let why = Data::open_or_create(&path, settings).unwrap_err();
        assert!(matches!(why, DataError::BadSettings(_)), "{why}");
    }
    assert!(names(home.path()).is_empty());
}

#[test]
fn a_directory_in_use_is_refused_by_name_until_it_is_closed() {
    let (home, data) = fresh();
    let why = open(home.path()).unwrap_err();
    let DataError::InUse { directory } = &why else {
        panic!("{why}")
    };
    assert_eq!(*directory, home.path().canonicalize().unwrap());
    assert!(
        why.to_string().contains(&directory.display().to_string()),
        "{why}"
    );
    data.close();
    open(home.path()).unwrap();
}

#[test]
fn a_directory_or_file_of_someone_else_is_refused_untouched() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("thesis.txt"), "years of work").unwrap();
    let why = refused(home.path());
    assert!(matches!(why, DataError::NotOurs { .. }), "{why}");
    assert_eq!(names(home.path()), ["thesis.txt"]);
    let why = open(&home.path().join("thesis.txt")).unwrap_err();
    assert!(matches!(why, DataError::NotOurs { .. }), "{why}");
    assert_eq!(
        fs::read(home.path().join("thesis.txt")).unwrap(),
        b"years of work"
    );
}

#[test]
fn what_a_killed_creation_left_beside_is_built_again() {
    let home = tempfile::tempdir().unwrap();
    let (site, target) = (
        home.path().join(".new.pipeline-building"),
        home.path().join("new"),
    );
    fs::create_dir(&site).unwrap();
    for half in [
        "lock",
        "log.db",
        "log.end",
        "shard-00.db",
        "shard-00.db-journal",
    ] {
        fs::write(site.join(half), "half").unwrap();
    }
    open(&target).unwrap().close();
    assert_eq!(names(&target), FILES);
    assert_eq!(names(home.path()), ["new"]);
}

#[test]
fn a_building_site_with_something_else_in_it_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let site = home.path().join(".new.pipeline-building");
    fs::create_dir(&site).unwrap();
    fs::write(site.join("thesis.txt"), "years of work").unwrap();
    let why = open(&home.path().join("new")).unwrap_err();
    assert!(matches!(why, DataError::NotOurs { .. }), "{why}");
    assert_eq!(fs::read(site.join("thesis.txt")).unwrap(), b"years of work");
    assert!(!home.path().join("new").exists());
}

#[test]
fn two_who_make_the_same_directory_at_once_do_not_meet_in_it() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("new");
    let made: Vec<_> = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&path))).collect();
        makers
            .into_iter()
            .map(|maker| maker.join().unwrap())
            .collect()
    });
    assert_eq!(
        made.iter().filter(|made| made.is_ok()).count(),
        1,
        "{made:?}"
    );
    drop(made);
    open(&path).unwrap();
}

type Harm = fn(&Path);

const HARMS: [(&str, Harm); 4] = [
    ("missing", |file| fs::remove_file(file).unwrap()),
    ("truncated", |file| {
        let bytes = fs::read(file).unwrap();
        fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
    }),
    ("zeroed", |file| {
        let length = fs::read(file).unwrap().len();
        fs::write(file, vec![0; length]).unwrap();
    }),
    ("garbage", |file| {
        let length = fs::read(file).unwrap().len();
        let noise = (0..length)
            .map(|n| (n as u8).wrapping_mul(167) ^ 0x5a)
            .collect::<Vec<_>>();
        fs::write(file, noise).unwrap();
    }),
];

const EACH_FILE: [&str; 5] = [
    "meta.json",
    "log.db",
    "log.end",
    "shard-00.db",
    "shard-01.db",
];

fn is_refused_by_name(directory: &Path, name: &str, how: &str) {
    let why = refused(directory);
    let DataError::Damaged { file, .. } = &why else {
        panic!("{name} {how}: {why}")
    };
    assert!(file.ends_with(name), "{name} {how}: {why}");
    assert!(why.to_string().contains(name), "{name} {how}: {why}");
}

#[tokio::test]
async fn each_file_missing_truncated_zeroed_or_garbage_is_refused_by_name_and_nothing_changes() {
    for name in EACH_FILE {
        for (how, harm) in HARMS {
            let home = used().await;
            harm(&home.path().join(name));
            is_refused_by_name(home.path(), name, how);
        }
    }
}

#[tokio::test]
async fn each_file_damaged_after_a_kill_is_refused_by_name_and_nothing_changes() {
    for name in EACH_FILE {
        for (how, harm) in HARMS {
            let (home, _data, shard, log) = serving(5).await;
            shard
                .apply(batch(log, 0, 4, vec![apply(1, &record(1, 1, 5))]))
                .await
                .unwrap();
            let killed = crash(home.path());
            harm(&killed.path().join(name));
            is_refused_by_name(killed.path(), name, how);
        }
    }
}

#[tokio::test]
async fn a_killed_directory_opens_and_looking_at_it_changes_nothing() {
    let (home, _data, shard, log) = serving(5).await;
    shard
        .apply(batch(log, 0, 4, vec![apply(1, &record(1, 1, 5))]))
        .await
        .unwrap();
    let killed = crash(home.path());
    // One thing is wrong, so that the checks run and the opening does not.
    let end = fs::read(killed.path().join("log.end")).unwrap();
    fs::remove_file(killed.path().join("shard-01.db")).unwrap();
    refused(killed.path());
    fs::copy(
        home.path().join("shard-01.db"),
        killed.path().join("shard-01.db"),
    )
    .unwrap();
    assert_eq!(fs::read(killed.path().join("log.end")).unwrap(), end);
    let data = open(killed.path()).unwrap();
    assert_eq!(
        data.log()
            .read(0, Position(0), 10)
            .await
            .unwrap()
            .entries
            .len(),
        5
    );
    assert_eq!(
        data.shards()[0].tally().await.unwrap(),
        shard.tally().await.unwrap()
    );
}

#[tokio::test]
async fn a_log_that_ends_below_a_watermark_is_refused() {
    let (home, data, shard, log) = serving(3).await;
    let younger = crash(home.path());
    for _ in 0..3 {
        data.log().append(0, Bytes::new()).await.unwrap();
    }
    shard.apply(batch(log, 0, 6, vec![])).await.unwrap();
    // The log and its mark are both put back to the same earlier moment: only the shards know.
    let killed = crash(home.path());
    for file in ["log.db", "log.db-wal", "log.end"] {
        fs::copy(younger.path().join(file), killed.path().join(file)).unwrap();
    }
    let why = refused(killed.path());
    let DataError::Damaged { file, damage } = &why else {
        panic!("{why}")
    };
    assert!(file.ends_with("shard-00.db"));
    assert_eq!(
        *damage,
        Damage::BelowWatermark {
            partition: 0,
            watermark: 6,
            end: 4
        }
    );
}

#[tokio::test]
async fn another_log_is_refused() {
    let (one, other) = (used().await, used().await);
    for file in ["log.db", "log.end"] {
        fs::copy(other.path().join(file), one.path().join(file)).unwrap();
    }
    let why = refused(one.path()).to_string();
    assert!(
        why.contains("log.end") && why.contains("another log"),
        "{why}"
    );
    // With its name forged as well, the shards still know whose they are.
    fs::copy(other.path().join("meta.json"), one.path().join("meta.json")).unwrap();
    let why = refused(one.path());
    let DataError::Damaged {
        file,
        damage: Damage::ForeignLog { .. },
    } = &why
    else {
        panic!("{why}")
    };
    assert!(file.ends_with("shard-00.db"));
}

#[tokio::test]
async fn shards_in_each_others_place_are_refused() {
    let home = used().await;
    let [zero, one] = [0, 1].map(|n| home.path().join(format!("shard-0{n}.db")));
    let bytes = [&zero, &one].map(|file| fs::read(file).unwrap());
    fs::write(&zero, &bytes[1]).unwrap();
    fs::write(&one, &bytes[0]).unwrap();
    let why = refused(home.path()).to_string();
    assert!(
        why.contains("shard 1 of 2, in the place of shard 0 of 2"),
        "{why}"
    );
}

#[tokio::test]
async fn a_shard_that_contradicts_itself_is_refused_by_name() {
    for (sql, what) in [
        (
            "UPDATE watermark SET log = zeroblob(16)",
            "it belongs to the log 0000",
        ),
        (
            "UPDATE watermark SET position = 3",
            "1 of its operations lie at or above",
        ),
        (
            "DELETE FROM watermark",
            "3 of its operations lie at or above",
        ),
        (
            "UPDATE watermark SET partition = 4",
            "a watermark for partition 4 of 4",
        ),
        (
            "UPDATE watermark SET position = 99",
            "applied up to 99, and the log ends at 6",
        ),
        (
            "DELETE FROM op WHERE state = 'applied'",
            "its accounts count 2 orders of 11 units",
        ),
        (
            "UPDATE account SET units = units + 1",
            "its operations 2 of 11",
        ),
        (
            "UPDATE product SET price_cents = 0 WHERE id = 'product-9'",
            "differs at product-9",
        ),
        (
            "INSERT INTO product VALUES('product-0', '', 0)",
            "has 1001 products",
        ),
        ("DELETE FROM identity", "does not say which shard"),
        ("DROP TABLE letter", "its tables are not"),
        ("CREATE TABLE extra(a)", "its tables are not"),
        ("PRAGMA user_version = 2", "tables have version 2"),
        ("PRAGMA application_id = 2", "another program's"),
    ] {
        let home = used().await;
        meddle(&home.path().join("shard-00.db"), sql);
        let why = refused(home.path()).to_string();
        assert!(
            why.contains("shard-00.db") && why.contains(what),
            "{sql}: {why}"
        );
    }
}

#[tokio::test]
async fn a_meta_file_that_says_something_else_is_refused() {
    for (from, to, what) in [
        ("\"schema\": 1", "\"schema\": 2", "it has schema 2"),
        ("\"partitions\": 4", "\"partitions\": 0", "no partitions"),
        ("\"shards\"", "\"bards\"", "unknown field"),
        ("\"log\": \"", "\"log\": \"0", "not 32 hex digits"),
    ] {
        let home = used().await;
        let file = home.path().join("meta.json");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace(from, to)).unwrap();
        let before = bytes_of(home.path());
        let why = Data::open_or_create(home.path(), Settings::default())
            .unwrap_err()
            .to_string();
        assert!(why.contains("meta.json") && why.contains(what), "{why}");
        assert!(bytes_of(home.path()) == before);
    }
}
