//! Letters in a file: checksummed, synced before the answer, several at a time.

mod frame;
mod index;
mod options;
mod recover;
mod rewrite;
mod writer;

use std::{
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use tokio::sync::{mpsc, oneshot};

use self::{
    index::Entry,
    recover::read_letter,
    writer::{Command, Shared},
};
pub use self::{options::FileOptions, recover::OpenError};
use crate::{
    Cursor, Depth, Filter, Letter, LetterId, Page, Queue, Sink, SinkError, Span, Written,
    letter::from_millis,
};

/// Letters that one [`Queue::list`] looks at, at most.
const LOOKED_AT: usize = 1000;

/// Keeps letters in a file. Clones share it.
///
/// A letter is reported as written when it has been synced to disk; letters that are written at the
/// same time share one sync. After a crash, whatever kind, every letter that was reported is there: a
/// frame that was torn by the crash is cut off when the file is opened, and **damage to what had been
/// synced is refused with its place, and nothing touched**. A letter that is intact and cannot be understood, as one of a
/// later version, is kept, named when letters are listed, and in nobody's way.
///
/// One sink may have a file open at a time: a lock beside it (`<path>.lock`) sees to that. Removed
/// letters are marked, and the file is rewritten when they take up most of it. In memory each letter
/// takes some 150 bytes; its payload stays in the file.
///
/// Dropping the last clone waits until what is being written is written.
///
/// # Example
///
/// ```
/// use std::time::SystemTime;
/// use seawall_dlq::{Envelope, Failure, FileSink, Letter, Origin, Queue, Sink, Written};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let directory = tempfile::tempdir().unwrap();
/// let path = directory.path().join("orders.dead");
///
/// let sink = FileSink::open(&path).await.unwrap();
/// let envelope = Envelope::new(Origin::log("orders", 3, 17), "payload");
/// let letter = Letter::new(envelope, Failure::new("timeout", "slow"), SystemTime::now());
/// assert_eq!(sink.write(letter.clone()).await.unwrap(), Written::New);
/// drop(sink);
///
/// let sink = FileSink::open(&path).await.unwrap();
/// assert_eq!(sink.get(letter.id()).await.unwrap(), Some(letter));
/// # }
/// ```
#[derive(Clone)]
pub struct FileSink {
    open: Arc<Open>,
}

struct Open {
    path: PathBuf,
    shared: Arc<Shared>,
    max_letter_bytes: usize,
    commands: Option<mpsc::Sender<Command>>,
    writer: Option<JoinHandle<()>>,
}

impl FileSink {
    /// Opens the file at `path`, or makes one, with the default options.
    ///
    /// # Errors
    ///
    /// If it is in use, damaged, not a file of letters, or cannot be read and written.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        Self::options().open(path).await
    }

    /// Options that can be changed before a file is opened.
    pub fn options() -> FileOptions {
        FileOptions::default()
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.open.path
    }
}

impl FileSink {
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, SinkError>>) -> Command,
    ) -> Result<T, SinkError> {
        let (answer, answered) = oneshot::channel();
        let commands = self.open.commands.as_ref().ok_or(SinkError::Closed)?;
        commands
            .send(command(answer))
            .await
            .map_err(|_| SinkError::Closed)?;
        answered.await.map_err(|_| SinkError::Closed)?
    }
}

impl Sink for FileSink {
    async fn write(&self, letter: Letter) -> Result<Written, SinkError> {
        let json = letter.to_json();
        let limit = self.open.max_letter_bytes;
        if json.len() > limit {
            return Err(SinkError::TooLarge {
                id: letter.id(),
                size: json.len(),
                limit,
            });
        }
        // Its place is given by the writer.
        let entry = Entry::new(&letter, 0, 0);
        self.ask(|answer| Command::Write {
            json,
            entry,
            answer,
        })
        .await
    }
}

impl Queue for FileSink {
    async fn depth(&self) -> Result<Depth, SinkError> {
        let state = self.open.shared.lock();
        let mut entries = state.index.by_sequence.values();
        let oldest = entries.find_map(|entry| entry.last_failure);
        Ok(Depth {
            letters: state.index.len() as u64,
            oldest: oldest.and_then(from_millis),
            end: (state.index.last > 0).then(|| Cursor::at(state.index.last)),
        })
    }

    async fn list(&self, filter: &Filter, span: &Span, limit: usize) -> Result<Page, SinkError> {
        let sequences = span.sequences();
        if sequences.is_empty() || limit == 0 {
            return Ok(Page::default());
        }
        let (file, entries) = {
            let state = self.open.shared.lock();
            let entries = state.index.by_sequence.range(sequences).take(LOOKED_AT + 1);
            (
                Arc::clone(&state.file),
                entries.map(|(&s, &e)| (s, e)).collect::<Vec<_>>(),
            )
        };
        let (filter, open) = (filter.clone(), Arc::clone(&self.open));
        blocking(move || {
            let mut page = Page::default();
            let mut last = 0;
            for (looked_at, (sequence, entry)) in entries.into_iter().enumerate() {
                if looked_at == LOOKED_AT || page.letters.len() == limit {
                    page.next = Some(Cursor::at(last));
                    break;
                }
                match open_letter(&open.path, &file, &entry) {
                    Ok(letter) if filter.matches(&letter) => page.letters.push(letter),
                    Ok(_) => {}
                    Err(error @ SinkError::Io(_)) => return Err(error),
                    Err(error) => page.unreadable.push(error),
                }
                last = sequence;
            }
            Ok(page)
        })
        .await
    }

    async fn get(&self, id: LetterId) -> Result<Option<Letter>, SinkError> {
        let found = {
            let state = self.open.shared.lock();
            state
                .index
                .get(id)
                .map(|entry| (Arc::clone(&state.file), *entry))
        };
        let Some((file, entry)) = found else {
            return Ok(None);
        };
        let open = Arc::clone(&self.open);
        blocking(move || open_letter(&open.path, &file, &entry).map(Some)).await
    }

    async fn remove(&self, id: LetterId) -> Result<bool, SinkError> {
        self.ask(|answer| Command::Remove { id, answer }).await
    }
}

fn open_letter(path: &Path, file: &File, entry: &Entry) -> Result<Letter, SinkError> {
    let damaged = || SinkError::Damaged {
        offset: entry.offset,
    };
    let json = read_letter(file, entry)?.ok_or_else(damaged)?;
    Letter::from_json(&json).map_err(|error| SinkError::NotALetter {
        stream: path.display().to_string(),
        entry: format!("at byte {}", entry.offset),
        source: Arc::new(error),
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SinkError> + Send + 'static,
) -> Result<T, SinkError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(SinkError::other)?
}

impl Drop for Open {
    fn drop(&mut self) {
        // Without a sender the writer ends when it has done what was asked of it.
        self.commands = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has answered nothing that it did not do.
            drop(writer.join());
        }
    }
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink")
            .field("path", &self.open.path)
            .field("letters", &self.open.shared.lock().index.len())
            .finish()
    }
}
