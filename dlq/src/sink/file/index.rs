//! Which letters are in the file, and where.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::Xxh3;

use sha2::{Digest, Sha256};

use crate::{Letter, LetterId, letter::to_millis};

/// One letter in the file. Its payload stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: LetterId,
    /// Of its frame.
    pub(super) offset: u64,
    /// Of its frame, head included.
    pub(super) length: u64,
    /// Tells a repeat from another request that claims the same origin.
    pub(super) request: u64,
    /// `None` if the letter cannot be read.
    pub(super) last_failure: Option<i64>,
}

/// In both maps the same letters.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) by_sequence: BTreeMap<u64, Entry>,
    by_id: HashMap<LetterId, u64>,
    /// The last sequence number given.
    pub(super) last: u64,
    /// Bytes of the frames of these letters. All others can be left out when the file is rewritten.
    pub(super) live: u64,
}

impl Index {
    /// An empty one, for letters with sequence numbers after this.
    pub(super) fn after(last: u64) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn get(&self, id: LetterId) -> Option<&Entry> {
        self.by_sequence.get(self.by_id.get(&id)?)
    }

    pub(super) fn insert(&mut self, sequence: u64, entry: Entry) {
        self.last = self.last.max(sequence);
        self.live += entry.length;
        self.by_id.insert(entry.id, sequence);
        self.by_sequence.insert(sequence, entry);
    }

    pub(super) fn remove(&mut self, id: LetterId) {
        let sequence = self.by_id.remove(&id);
        if let Some(entry) = sequence.and_then(|sequence| self.by_sequence.remove(&sequence)) {
            self.live -= entry.length;
        }
    }
}

/// A hash of what makes two letters of one id the same request.
pub(super) fn request_hash(letter: &Letter) -> u64 {
    let mut hash = Xxh3::new();
    let key = letter.key.as_ref();
    hash.update(&key.map_or(u64::MAX, |key| key.len() as u64).to_le_bytes());
    hash.update(key.map_or(&[], |key| &key[..]));
    hash.update(&letter.payload);
    hash.digest()
}

impl Entry {
    pub(super) fn new(letter: &Letter, offset: u64, length: u64) -> Self {
        Self {
            id: letter.id(),
            offset,
            length,
            request: request_hash(letter),
            last_failure: Some(to_millis(letter.last_failure)),
        }
    }

    /// What is intact and cannot be understood, as a letter of a later version. It has a place and no name.
    pub(super) fn unreadable(json: &[u8], offset: u64, length: u64) -> Self {
        let digest: [u8; 32] = Sha256::digest(json).into();
        Self {
            id: LetterId::from_bytes(*digest.first_chunk().expect("32 bytes begin with 16")),
            offset,
            length,
            request: 0,
            last_failure: None,
        }
    }
}
