//! How a file is kept, and the way to open it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
    thread,
};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::mpsc;

use super::{
    FileSink, Open, OpenError,
    frame::Mark,
    index::Index,
    recover::{Recovered, recover},
    rewrite::{beside, build, sync_directory},
    writer::{Lock, Shared, Writer},
};
use crate::{ConfigError, error::in_code, telemetry};

/// Commands that may wait for the writer. Who comes later waits for a place.
const WAITING: usize = 1024;

/// How a file of letters is kept.
///
/// # Default
///
/// At most a million letters of at most 16 MiB; rewritten when removed letters take up more than
/// 1 MiB, and more than half of the file.
#[derive(Debug, Clone)]
#[must_use = "options do nothing until a file is opened"]
pub struct FileOptions {
    max_letters: usize,
    max_letter_bytes: usize,
    rewrite_over: u64,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            max_letters: 1_000_000,
            max_letter_bytes: 16 << 20,
            rewrite_over: 1 << 20,
        }
    }
}

impl FileOptions {
    /// How many letters the file may hold. A full sink refuses letters and drops none.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_letters(self, letters: usize) -> Self {
        in_code!(self.try_max_letters(letters))
    }

    /// [`max_letters`](Self::max_letters) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn try_max_letters(mut self, letters: usize) -> Result<Self, ConfigError> {
        if letters == 0 {
            return Err(ConfigError::new(
                "a sink needs room for at least one letter",
            ));
        }
        self.max_letters = letters;
        Ok(self)
    }

    /// How large a letter may be, in bytes of its JSON form (a third more than the payload).
    ///
    /// # Panics
    ///
    /// If it is over 1 GiB.
    pub fn max_letter_bytes(self, bytes: usize) -> Self {
        in_code!(self.try_max_letter_bytes(bytes))
    }

    /// [`max_letter_bytes`](Self::max_letter_bytes) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is over 1 GiB.
    pub fn try_max_letter_bytes(mut self, bytes: usize) -> Result<Self, ConfigError> {
        if bytes > 1 << 30 {
            return Err(ConfigError::new(
                "a letter in a file may have 1 GiB at most",
            ));
        }
        self.max_letter_bytes = bytes;
        Ok(self)
    }

    /// How many bytes removed letters may take up before the file is rewritten without them, if they
    /// are also more than half of it.
    pub fn rewrite_over(mut self, bytes: u64) -> Self {
        self.rewrite_over = bytes;
        self
    }

    /// Opens the file at `path`, or makes one.
    ///
    /// # Errors
    ///
    /// If it is in use, damaged, not a file of letters, or cannot be read and written.
    pub async fn open(self, path: impl Into<PathBuf>) -> Result<FileSink, OpenError> {
        let path = path.into();
        let opened = tokio::task::spawn_blocking(move || self.open_blocking(path)).await;
        opened.unwrap_or_else(|error| Err(OpenError::Io(io::Error::other(error))))
    }

    fn open_blocking(self, path: PathBuf) -> Result<FileSink, OpenError> {
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(beside(&path, "lock"))?;
        let lock = match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Lock(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::InUse),
            Err(error) => return Err(OpenError::Io(error.into())),
        };
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Made beside and renamed, so that a crash leaves a whole file or none.
                let beside = beside(&path, "rewrite");
                let (file, _) = build(&beside, 0, std::iter::empty(), &mut Index::default())?;
                fs::rename(&beside, &path)?;
                sync_directory(&path)?;
                file
            }
            Err(error) => return Err(error.into()),
        };
        let Recovered {
            index,
            mut mark,
            end,
        } = recover(&file)?;
        // All of it can be trusted: only now is anything changed.
        if file.metadata()?.len() > end {
            file.set_len(end)?;
        }
        if mark.end < end {
            // Written and perhaps not synced: it will be told of as written, so it has to be.
            file.sync_all()?;
            mark = Mark {
                count: mark.count + 1,
                end,
                last: index.last,
            };
            file.write_all_at(&mark.encode(), mark.offset())?;
        }
        match fs::remove_file(beside(&path, "rewrite")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }

        telemetry::depth(index.len());
        let shared = Arc::new(Shared::new(index, file));
        let (commands, waiting) = mpsc::channel(WAITING);
        let writer = Writer {
            path: path.clone(),
            shared: Arc::clone(&shared),
            commands: waiting,
            mark,
            max_letters: self.max_letters,
            rewrite_over: self.rewrite_over,
            _lock: lock,
            failed: None,
        };
        let writer = thread::Builder::new()
            .name("seawall-dlq".into())
            .spawn(|| writer.run())?;
        Ok(FileSink {
            open: Arc::new(Open {
                path,
                shared,
                max_letter_bytes: self.max_letter_bytes,
                commands: Some(commands),
                writer: Some(writer),
            }),
        })
    }
}
