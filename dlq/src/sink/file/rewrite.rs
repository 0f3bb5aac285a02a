//! Rewriting: the file without its removed letters, put in place of the old one in one step.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    frame::{self, Body, FIRST, HEAD, Mark},
    index::{Entry, Index},
    recover::read_letter,
    writer::{State, Writer},
};

/// Why a file was not rewritten.
pub(super) enum Rewrite {
    /// The old file is in place and as good as before.
    NotBegun(io::Error),
    /// The new file is in place, and may not be after a crash.
    Unsure(io::Error),
}

impl From<io::Error> for Rewrite {
    fn from(error: io::Error) -> Self {
        Self::NotBegun(error)
    }
}

impl Writer {
    pub(super) fn try_rewrite(&mut self) -> Result<(), Rewrite> {
        let (old, entries) = {
            let state = self.shared.lock();
            let entries: Vec<_> = state
                .index
                .by_sequence
                .iter()
                .map(|(&s, &e)| (s, e))
                .collect();
            (Arc::clone(&state.file), entries)
        };
        let mut index = Index::after(self.mark.last);
        let letters = entries.iter().map(|(sequence, entry)| {
            let json = read_letter(&old, entry)?;
            let json = json.ok_or_else(|| io::Error::other("a letter is damaged"))?;
            Ok((*sequence, *entry, json))
        });
        let beside = beside(&self.path, "rewrite");
        let (file, mark) = build(&beside, self.mark.last, letters, &mut index)?;
        fs::rename(&beside, &self.path)?;
        // From here on the old file is gone, if the directory says so for good.
        sync_directory(&self.path).map_err(Rewrite::Unsure)?;
        self.mark = mark;
        *self.shared.lock() = State {
            index,
            file: Arc::new(file),
        };
        Ok(())
    }
}

/// Writes a whole new file, synced, with these letters in it.
pub(super) fn build(
    path: &Path,
    last: u64,
    letters: impl Iterator<Item = io::Result<(u64, Entry, Vec<u8>)>>,
    index: &mut Index,
) -> io::Result<(File, Mark)> {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)?;
    let mut end = FIRST;
    let mut frame = Vec::new();
    for letter in letters {
        let (sequence, mut entry, json) = letter?;
        frame.clear();
        Body::Letter {
            sequence,
            json: &json,
        }
        .encode(end, &mut frame);
        file.write_all_at(&frame, end)?;
        entry.offset = end;
        entry.length = (HEAD + 8 + json.len()) as u64;
        index.insert(sequence, entry);
        end += entry.length;
    }
    let mark = Mark {
        count: 0,
        end,
        last,
    };
    file.write_all_at(&frame::header(mark), 0)?;
    file.sync_all()?;
    Ok((file, mark))
}

/// The path of a file that belongs to the one at `path`.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

/// Makes a new name in a directory last.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory)?.sync_all()
}
