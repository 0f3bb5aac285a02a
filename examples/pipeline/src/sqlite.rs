//! What the log and the shards share: how a database is opened, and the threads that read.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Result};
use tokio::sync::oneshot;

/// Reads that may wait for a reader thread; beyond it a read is refused at once.
const WAITING_READS: usize = 4_096;

/// What marks a database as ours and of which kind, in its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// SQLite's `application_id`.
    pub(crate) application: i32,
    /// SQLite's `user_version`: raised when the tables change.
    pub(crate) version: i32,
    /// The statements that make the tables.
    pub(crate) schema: &'static str,
}

/// Makes a new database. It is not durable before its file is synced: who calls this builds aside.
pub(crate) fn create(path: &Path, kind: Kind) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(()))?;
    db.pragma_update(None, "synchronous", "OFF")?;
    db.pragma_update(None, "application_id", kind.application)?;
    db.pragma_update(None, "user_version", kind.version)?;
    db.execute_batch(kind.schema)?;
    Ok(db)
}

/// Ends what [`create`] began: from here on the database writes ahead, and says so in its header.
pub(crate) fn finish(db: Connection) -> Result<()> {
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    db.close().map_err(|(_, why)| why)?;
    if mode == "wal" {
        Ok(())
    } else {
        Err(sqlite_error("the file system allows no WAL"))
    }
}

/// The one connection that writes. A commit returns after the sync.
pub(crate) fn writer(path: &Path, cached_statements: usize) -> Result<Connection> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    db.pragma_update(None, "synchronous", "FULL")?;
    plan_once(&db)?;
    db.set_prepared_statement_cache_capacity(cached_statements);
    // What recovery found in the WAL may so far be in the page cache only. It is made durable before anyone
    // acts on it.
    checkpoint(&db)?;
    Ok(db)
}

/// Moves the WAL into the database, both synced, and empties it where no reader is in the way.
pub(crate) fn checkpoint(db: &Connection) -> Result<()> {
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}

fn reader(path: &Path) -> Result<Connection> {
    let db = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    plan_once(&db)?;
    // A thread keeps a connection to each shard, so each has to stay small.
    db.pragma_update(None, "cache_size", -256)?;
    Ok(db)
}

/// A statement's plan does not hang on what is bound to it. Otherwise SQLite compiles a statement with a range anew for
/// each use, which is a third of what a short read costs.
fn plan_once(db: &Connection) -> Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

/// A connection that changes nothing but a `-shm`, for the checks before a directory is opened.
///
/// Without a WAL the file is read as immutable, or SQLite would put an empty WAL beside it.
pub(crate) fn examiner(path: &Path) -> Result<Connection> {
    let wal = std::fs::metadata(beside(path, "-wal")).map_or(0, |file| file.len());
    let mut uri = "file:".to_owned();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => {
                uri.push(char::from(byte));
            }
            _ => write!(uri, "%{byte:02x}").expect("a string takes what is written"),
        }
    }
    if wal == 0 {
        uri.push_str("?immutable=1");
    }
    let db = Connection::open_with_flags(
        uri,
        OpenFlags::SQLITE_OPEN_READ_ONLY
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI,
    )?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(db)
}

/// Whether a database is of this kind, has its tables and is sound by SQLite's own account; else why not.
pub(crate) fn examine(db: &Connection, kind: Kind) -> std::result::Result<(), String> {
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let application = number("application_id").map_err(text)?;
    if application != kind.application {
        return Err("it is another program's database".to_owned());
    }
    let version = number("user_version").map_err(text)?;
    if version != kind.version {
        return Err(format!(
            "its tables have version {version}, this program reads {}",
            kind.version
        ));
    }
    let expected = Connection::open_in_memory()
        .and_then(|db| {
            db.execute_batch(kind.schema)?;
            tables(&db)
        })
        .map_err(text)?;
    if tables(db).map_err(text)? != expected {
        return Err("its tables are not the ones it was made with".to_owned());
    }
    let verdict: Option<String> = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .optional()
        .map_err(text)?;
    match verdict.as_deref() {
        Some("ok") => Ok(()),
        Some(why) => Err(why.lines().last().unwrap_or("unsound").to_owned()),
        None => Err("SQLite's check said nothing".to_owned()),
    }
}

fn tables(db: &Connection) -> Result<Vec<(String, Option<String>)>> {
    db.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// The file `path` with something appended to its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The error as one line.
pub(crate) fn text(error: rusqlite::Error) -> String {
    error.to_string().replace('\n', " ")
}

fn sqlite_error(why: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
        Some(why.to_owned()),
    )
}

/// Why a read did not run to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotRead {
    /// Too many wait already.
    Full,
    /// The threads are gone.
    Closed,
}

impl NotRead {
    pub(crate) fn why(self) -> String {
        match self {
            Self::Full => "too many reads wait already".to_owned(),
            Self::Closed => "it is closed".to_owned(),
        }
    }
}

/// A few threads that read, each with its own connection to every database it was ever asked for.
#[derive(Debug)]
pub(crate) struct Readers {
    queue: SyncSender<Job>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

enum Job {
    Read(Box<dyn FnOnce(&mut Connections) + Send>),
    Stop,
}

#[derive(Default)]
struct Connections(HashMap<Arc<Path>, Connection>);

impl Connections {
    fn get(&mut self, path: Arc<Path>) -> Result<&mut Connection> {
        match self.0.entry(path) {
            Entry::Occupied(found) => Ok(found.into_mut()),
            Entry::Vacant(free) => {
                let db = reader(free.key())?;
                Ok(free.insert(db))
            }
        }
    }
}

impl Readers {
    /// Starts `count` threads of one name.
    pub(crate) fn start(name: &str, count: usize) -> std::io::Result<Self> {
        let (queue, jobs) = sync_channel(WAITING_READS);
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = (0..count.max(1))
            .map(|_| {
                let jobs = Arc::clone(&jobs);
                std::thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || serve(&jobs))
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            queue,
            threads: Mutex::new(threads),
        })
    }

    /// Runs `read` on a connection to the database at `path`.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        path: Arc<Path>,
        read: impl FnOnce(&mut Connection) -> Result<T> + Send + 'static,
    ) -> std::result::Result<Result<T>, NotRead> {
        let (answer, answered) = oneshot::channel();
        let job = Job::Read(Box::new(move |connections| {
            // Nobody waits for it any more: the caller was dropped.
            if !answer.is_closed() {
                // A failed send has the same reason.
                let _ = answer.send(connections.get(path).and_then(read));
            }
        }));
        self.queue.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => NotRead::Full,
            TrySendError::Disconnected(_) => NotRead::Closed,
        })?;
        answered.await.map_err(|_| NotRead::Closed)
    }

    /// Finishes what was asked before, closes the connections and ends the threads.
    pub(crate) fn close(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for _ in &threads {
            // It fails only when no thread is left to be told.
            let _ = self.queue.send(Job::Stop);
        }
        for thread in threads {
            // A thread that panicked has shown it already, and holds nothing that needs saving.
            let _ = thread.join();
        }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close();
    }
}

fn serve(jobs: &Mutex<Receiver<Job>>) {
    let mut connections = Connections::default();
    loop {
        // One thread waits in the channel, the others for the lock; what comes goes to the one in front.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(Job::Read(read)) => read(&mut connections),
            Ok(Job::Stop) | Err(_) => return,
        }
    }
}
