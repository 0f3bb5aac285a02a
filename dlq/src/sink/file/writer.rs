//! The one thread that writes: it takes what is waiting, syncs once, and answers all.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::{mpsc, oneshot};

use super::{
    frame::{Body, FIRST, Mark},
    index::{Entry, Index},
    rewrite::Rewrite,
};
use crate::{LetterId, SinkError, Written, telemetry};

/// A batch is closed at so many bytes. What waits longer than that is synced by the next.
const BATCH: usize = 4 << 20;

/// What the writer is asked to do. Whoever asked may have gone away meanwhile: it is done all the same.
#[derive(Debug)]
pub(super) enum Command {
    Write {
        json: Vec<u8>,
        entry: Entry,
        answer: oneshot::Sender<Result<Written, SinkError>>,
    },
    Remove {
        id: LetterId,
        answer: oneshot::Sender<Result<bool, SinkError>>,
    },
}

/// What readers and the writer share. The writer alone changes it, after the change is synced.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) index: Index,
    /// Where the offsets of the index lie. Rewriting puts another file in its place.
    pub(super) file: Arc<File>,
}

impl Shared {
    pub(super) fn new(index: Index, file: File) -> Self {
        Self {
            state: Mutex::new(State {
                index,
                file: Arc::new(file),
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A locked file. It is unlocked by name and not by closing: a child that another thread is just
/// starting holds a copy of every descriptor until it executes its program, and a lock with it.
#[derive(Debug)]
pub(super) struct Lock(pub(super) File);

impl Drop for Lock {
    fn drop(&mut self) {
        // It fails only for what is not locked.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) mark: Mark,
    pub(super) max_letters: usize,
    pub(super) rewrite_over: u64,
    /// Held until the writer ends, so that the file is never open twice.
    pub(super) _lock: Lock,
    /// After a failed sync nobody knows what is on disk: nothing is written any more.
    pub(super) failed: Option<Arc<io::Error>>,
}

/// What is to be done and told when the batch is synced.
enum Staged {
    Insert {
        sequence: u64,
        entry: Entry,
        answer: oneshot::Sender<Result<Written, SinkError>>,
    },
    Repeat {
        answer: oneshot::Sender<Result<Written, SinkError>>,
    },
    Remove {
        id: LetterId,
        answer: oneshot::Sender<Result<bool, SinkError>>,
    },
    Absent {
        answer: oneshot::Sender<Result<bool, SinkError>>,
    },
}

/// Changes that are written and not yet synced.
#[derive(Default)]
struct Batch {
    frames: Vec<u8>,
    staged: Vec<Staged>,
    /// What these changes make of an id: present with this request, or removed.
    changed: HashMap<LetterId, Option<u64>>,
    added: usize,
    removed: usize,
    last: u64,
}

impl Writer {
    /// Works until every handle of the sink is gone and nothing is left to do.
    pub(super) fn run(mut self) {
        while let Some(first) = self.commands.blocking_recv() {
            let mut batch = Batch {
                last: self.mark.last,
                ..Batch::default()
            };
            self.stage(&mut batch, first);
            while batch.frames.len() < BATCH {
                match self.commands.try_recv() {
                    Ok(command) => self.stage(&mut batch, command),
                    Err(_) => break,
                }
            }
            match self.commit(&batch) {
                Ok(()) => self.apply(batch),
                Err(error) => refuse(batch, &error),
            }
            if self.rewrite_is_due() {
                self.rewrite();
            }
        }
        // The last mark: what it protects has been durable all along.
        drop(self.shared.lock().file.sync_data());
    }

    /// Decides a command by what is in the file and in the batch so far.
    fn stage(&self, batch: &mut Batch, command: Command) {
        let state = self.shared.lock();
        let found = |batch: &Batch, id: LetterId| match batch.changed.get(&id) {
            Some(changed) => *changed,
            None => state.index.get(id).map(|entry| entry.request),
        };
        let offset = self.mark.end + batch.frames.len() as u64;
        match command {
            Command::Write {
                json,
                mut entry,
                answer,
            } => match found(batch, entry.id) {
                Some(request) if request == entry.request => {
                    batch.staged.push(Staged::Repeat { answer });
                }
                // Whoever asked may have gone: then nobody waits for the answer.
                Some(_) => drop(answer.send(Err(SinkError::Conflict(entry.id)))),
                None if state.index.len() + batch.added - batch.removed >= self.max_letters => {
                    let capacity = self.max_letters;
                    drop(answer.send(Err(SinkError::Full { capacity })));
                }
                None => {
                    batch.last += 1;
                    let sequence = batch.last;
                    Body::Letter {
                        sequence,
                        json: &json,
                    }
                    .encode(offset, &mut batch.frames);
                    entry.offset = offset;
                    entry.length = self.mark.end + batch.frames.len() as u64 - offset;
                    batch.changed.insert(entry.id, Some(entry.request));
                    batch.added += 1;
                    batch.staged.push(Staged::Insert {
                        sequence,
                        entry,
                        answer,
                    });
                }
            },
            Command::Remove { id, answer } => match found(batch, id) {
                None => batch.staged.push(Staged::Absent { answer }),
                Some(_) => {
                    Body::Removed(id).encode(offset, &mut batch.frames);
                    batch.changed.insert(id, None);
                    batch.removed += 1;
                    batch.staged.push(Staged::Remove { id, answer });
                }
            },
        }
    }

    /// Makes the batch durable: frames, sync, mark. The mark need not be synced before the answer: a
    /// killed process leaves it behind, and where the machine dies with it the frames above the older
    /// mark are valid all the same.
    fn commit(&mut self, batch: &Batch) -> Result<(), Arc<io::Error>> {
        if batch.frames.is_empty() {
            return Ok(());
        }
        if let Some(failed) = &self.failed {
            return Err(Arc::clone(failed));
        }
        let file = Arc::clone(&self.shared.lock().file);
        if let Err(error) = file.write_all_at(&batch.frames, self.mark.end) {
            let error = Arc::new(error);
            // Half a frame must not lie under the next: without it the sink can go on.
            if file.set_len(self.mark.end).is_err() {
                self.failed = Some(Arc::clone(&error));
            }
            return Err(error);
        }
        let mark = Mark {
            count: self.mark.count + 1,
            end: self.mark.end + batch.frames.len() as u64,
            last: batch.last,
        };
        match file
            .sync_data()
            .and_then(|()| file.write_all_at(&mark.encode(), mark.offset()))
        {
            Ok(()) => {
                self.mark = mark;
                Ok(())
            }
            Err(error) => {
                let error = Arc::new(error);
                self.failed = Some(Arc::clone(&error));
                Err(error)
            }
        }
    }

    /// Shows readers what is durable now, and answers.
    fn apply(&self, batch: Batch) {
        let mut state = self.shared.lock();
        for staged in &batch.staged {
            match staged {
                Staged::Insert {
                    sequence, entry, ..
                } => state.index.insert(*sequence, *entry),
                Staged::Remove { id, .. } => state.index.remove(*id),
                Staged::Repeat { .. } | Staged::Absent { .. } => {}
            }
        }
        telemetry::depth(state.index.len());
        drop(state);
        for staged in batch.staged {
            match staged {
                Staged::Insert { answer, .. } => drop(answer.send(Ok(Written::New))),
                Staged::Repeat { answer } => drop(answer.send(Ok(Written::Repeat))),
                Staged::Remove { answer, .. } => drop(answer.send(Ok(true))),
                Staged::Absent { answer } => drop(answer.send(Ok(false))),
            }
        }
    }

    fn rewrite_is_due(&self) -> bool {
        let dead = self.mark.end - FIRST - self.shared.lock().index.live;
        self.failed.is_none() && dead > self.rewrite_over && dead > self.mark.end / 2
    }

    /// Puts a file in place of this one that holds the letters only. Where that fails the old file stays.
    fn rewrite(&mut self) {
        match self.try_rewrite() {
            Ok(()) => {}
            Err(Rewrite::NotBegun(error)) => {
                telemetry::not_rewritten(&error);
                // Not before as much again has been removed.
                self.rewrite_over = self.rewrite_over.saturating_mul(2);
            }
            Err(Rewrite::Unsure(error)) => self.failed = Some(Arc::new(error)),
        }
    }
}

fn refuse(batch: Batch, error: &Arc<io::Error>) {
    for staged in batch.staged {
        let error = SinkError::Io(Arc::clone(error));
        match staged {
            Staged::Insert { answer, .. } | Staged::Repeat { answer } => {
                drop(answer.send(Err(error)));
            }
            Staged::Remove { answer, .. } | Staged::Absent { answer } => {
                drop(answer.send(Err(error)));
            }
        }
    }
}
