//! The data directory: one log and its shards, opened together or not at all.
//!
//! ```text
//! meta.json     what the directory is: its log's id, how many partitions and shards
//! log.db        the log; log.end marks how far it was acknowledged
//! shard-NN.db   the shards
//! lock          held while a process has the directory open
//! ```
//!
//! A new directory is built beside its place and renamed, so there is never half of one. An old one is checked
//! whole before anything in it is written: what is damaged is refused as it lies, for people to look at.

mod create;
mod error;
mod meta;

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::meta::Meta;
use crate::log::{self, Log, SqliteLog};
use crate::shard::{self, SqliteShard};
use crate::sqlite::Readers;

pub use self::error::{Damage, DataError};
pub use crate::shard::{PRODUCTS, Product, product};

/// What a data directory should be.
///
/// # Default
///
/// Whatever it is; a new one gets 100 partitions and 50 shards. Two threads read the shards.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Partitions of the log, or as many as the directory has.
    pub partitions: Option<u16>,
    /// Shards, or as many as the directory has.
    pub shards: Option<u16>,
    /// Threads that read the shards, for all of them together.
    pub readers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            partitions: None,
            shards: None,
            readers: 2,
        }
    }
}

const PARTITIONS: u16 = 100;
const SHARDS: u16 = 50;

/// An open data directory. Nobody else can open it while this lives.
#[derive(Debug)]
pub struct Data {
    directory: PathBuf,
    log: Arc<SqliteLog>,
    shards: Vec<Arc<SqliteShard>>,
    readers: Arc<Readers>,
    /// Unlocked last, when the threads are gone.
    _lock: Lock,
}

/// Where what lies.
#[derive(Clone, Debug)]
struct Layout(PathBuf);

impl Layout {
    fn meta(&self) -> PathBuf {
        self.0.join("meta.json")
    }

    fn log(&self) -> log::Files {
        log::Files {
            db: self.0.join("log.db"),
            end: self.0.join("log.end"),
        }
    }

    fn shard(&self, shard: u16) -> PathBuf {
        self.0.join(format!("shard-{shard:02}.db"))
    }

    fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}

impl Data {
    /// Opens the directory, or makes it where there is none, or an empty one.
    ///
    /// It reads everything that is there, so it takes a while with a long log: call it where blocking is allowed.
    ///
    /// # Errors
    ///
    /// [`DataError`], with nothing changed in a directory that was there before.
    pub fn open_or_create(
        directory: impl AsRef<Path>,
        settings: Settings,
    ) -> Result<Self, DataError> {
        if settings.partitions == Some(0) {
            return Err(DataError::BadSettings("a log has at least one partition"));
        }
        if settings.shards == Some(0) {
            return Err(DataError::BadSettings("there is at least one shard"));
        }
        let directory = directory.as_ref();
        // A link to a directory stands for it, in the rename above all.
        let (layout, lock) = match directory.canonicalize() {
            Ok(found) if is_empty(&found)? => create(found, settings)?,
            Ok(found) => {
                let layout = Layout(found);
                let lock = take(&layout)?;
                (layout, lock)
            }
            Err(why) if why.kind() == ErrorKind::NotFound => {
                create(directory.to_owned(), settings)?
            }
            Err(why) => return Err(DataError::io(directory, why)),
        };
        open(layout, lock, settings)
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The log.
    pub fn log(&self) -> &Arc<SqliteLog> {
        &self.log
    }

    /// The shards, by number.
    pub fn shards(&self) -> &[Arc<SqliteShard>] {
        &self.shards
    }

    /// Finishes what was asked of the log and the shards, brings their files up to date, ends their threads and
    /// unlocks the directory. Whoever still holds a part of it is refused from then on. Dropping does the
    /// same.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        self.readers.close();
        // All are told before the first is waited for: they sync at the same time.
        self.shards.iter().for_each(|shard| shard.stop());
        self.log.close();
        self.shards.iter().for_each(|shard| shard.close());
    }
}

fn is_empty(directory: &Path) -> Result<bool, DataError> {
    match std::fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(why) if why.kind() == ErrorKind::NotADirectory => Err(DataError::NotOurs {
            directory: directory.to_owned(),
        }),
        Err(why) => Err(DataError::io(directory, why)),
    }
}

fn create(directory: PathBuf, settings: Settings) -> Result<(Layout, Lock), DataError> {
    let meta = Meta::new(
        settings.partitions.unwrap_or(PARTITIONS),
        settings.shards.unwrap_or(SHARDS),
    )?;
    let lock = create::build(&directory, &meta)?;
    let found = directory
        .canonicalize()
        .map_err(|why| DataError::io(&directory, why))?;
    Ok((Layout(found), lock))
}

/// Locks a directory that has something in it, if that is ours.
fn take(layout: &Layout) -> Result<Lock, DataError> {
    if !layout.meta().exists() {
        return Err(if layout.log().db.exists() || layout.log().end.exists() {
            DataError::damaged(layout.meta(), Damage::Missing)
        } else {
            DataError::NotOurs {
                directory: layout.0.clone(),
            }
        });
    }
    lock(&layout.lock(), &layout.0)
}

/// A file that is locked. It is unlocked by name and not by closing: a child that another thread is just
/// starting holds a copy of every descriptor until it executes its program.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // It fails only for what is not locked.
        let _ = self.0.unlock();
    }
}

/// Locks a file for as long as it is open. The kernel unlocks it when the process ends, however it ends.
fn lock(path: &Path, directory: &Path) -> Result<Lock, DataError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|why| DataError::io(path, why))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(DataError::InUse {
            directory: directory.to_owned(),
        }),
        Err(TryLockError::Error(why)) => Err(DataError::io(path, why)),
    }
}

/// Every check first, and only then the first write.
fn open(layout: Layout, lock: Lock, settings: Settings) -> Result<Data, DataError> {
    let meta = Meta::read(&layout.meta())?;
    for (setting, asked, made_with) in [
        ("partitions", settings.partitions, meta.partitions),
        ("shards", settings.shards, meta.shards),
    ] {
        if let Some(asked) = asked
            && asked != made_with
        {
            let directory = layout.0;
            return Err(DataError::OtherSettings {
                directory,
                setting,
                asked,
                made_with,
            });
        }
    }
    let log = log::check(layout.log(), meta.log(), meta.partitions)?;
    let shards = (0..meta.shards)
        .map(|shard| {
            let identity = shard::Identity {
                log: meta.log(),
                shard,
                shards: meta.shards,
            };
            shard::check(layout.shard(shard), identity, meta.partitions, log.end())
        })
        .collect::<Result<Vec<_>, _>>()?;

    let readers = Readers::start("shard-reader", settings.readers)
        .map_err(|why| DataError::io(&layout.0, why))?;
    let readers = Arc::new(readers);
    let log = Arc::new(SqliteLog::open(log)?);
    let shards = shards
        .into_iter()
        .map(|checked| SqliteShard::open(checked, Arc::clone(&readers)).map(Arc::new))
        .collect::<Result<_, _>>()?;
    debug_assert_eq!(log.partitions(), meta.partitions, "the check compares them");
    Ok(Data {
        directory: layout.0,
        log,
        shards,
        readers,
        _lock: lock,
    })
}
