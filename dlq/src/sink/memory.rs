//! Letters in memory: for tests, and where a restart may forget them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    ConfigError, Cursor, Depth, Filter, Letter, LetterId, Page, Queue, Sink, SinkError, Span,
    Written, error::in_code, telemetry,
};

/// Keeps letters in memory, up to a capacity. Clones share them.
///
/// **A restart loses them.** A full sink refuses letters and drops none.
#[derive(Clone)]
pub struct MemorySink {
    capacity: usize,
    letters: Arc<Mutex<Letters>>,
}

/// In both maps the same letters.
#[derive(Default)]
struct Letters {
    by_sequence: BTreeMap<u64, Letter>,
    by_id: HashMap<LetterId, u64>,
    /// The last sequence number given. The first is 1, so that 0 is before all of them.
    last: u64,
}

impl MemorySink {
    /// Room for so many letters.
    ///
    /// # Panics
    ///
    /// If `capacity` is zero.
    pub fn with_capacity(capacity: usize) -> Self {
        in_code!(Self::try_with_capacity(capacity))
    }

    /// [`with_capacity`](Self::with_capacity) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If `capacity` is zero.
    pub fn try_with_capacity(capacity: usize) -> Result<Self, ConfigError> {
        if capacity == 0 {
            return Err(ConfigError::new(
                "a sink needs room for at least one letter",
            ));
        }
        Ok(Self {
            capacity,
            letters: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        // Nothing panics between two changes that belong together.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, letter: Letter) -> Result<Written, SinkError> {
        let id = letter.id();
        let mut letters = self.lock();
        if let Some(found) = letters
            .by_id
            .get(&id)
            .and_then(|at| letters.by_sequence.get(at))
        {
            return match found.same_request(&letter) {
                true => Ok(Written::Repeat),
                false => Err(SinkError::Conflict(id)),
            };
        }
        if letters.by_id.len() >= self.capacity {
            return Err(SinkError::Full {
                capacity: self.capacity,
            });
        }
        letters.last += 1;
        let sequence = letters.last;
        letters.by_id.insert(id, sequence);
        letters.by_sequence.insert(sequence, letter);
        telemetry::depth(letters.by_id.len());
        Ok(Written::New)
    }
}

impl Sink for MemorySink {
    async fn write(&self, letter: Letter) -> Result<Written, SinkError> {
        self.add(letter)
    }
}

impl Queue for MemorySink {
    async fn depth(&self) -> Result<Depth, SinkError> {
        let letters = self.lock();
        let oldest = letters
            .by_sequence
            .first_key_value()
            .map(|(_, letter)| letter.last_failure);
        let end = (letters.last > 0).then(|| Cursor::at(letters.last));
        Ok(Depth {
            letters: letters.by_id.len() as u64,
            oldest,
            end,
        })
    }

    async fn list(&self, filter: &Filter, span: &Span, limit: usize) -> Result<Page, SinkError> {
        let letters = self.lock();
        let mut page = Page::default();
        let span = span.sequences();
        // A map panics at a range that ends before it starts.
        if span.is_empty() {
            return Ok(page);
        }
        for (sequence, letter) in letters.by_sequence.range(span) {
            if page.letters.len() == limit {
                page.next = Some(Cursor::at(sequence - 1));
                break;
            }
            if filter.matches(letter) {
                page.letters.push(letter.clone());
            }
        }
        Ok(page)
    }

    async fn get(&self, id: LetterId) -> Result<Option<Letter>, SinkError> {
        let letters = self.lock();
        Ok(letters
            .by_id
            .get(&id)
            .and_then(|at| letters.by_sequence.get(at))
            .cloned())
    }

    async fn remove(&self, id: LetterId) -> Result<bool, SinkError> {
        let mut letters = self.lock();
        let Some(sequence) = letters.by_id.remove(&id) else {
            return Ok(false);
        };
        letters.by_sequence.remove(&sequence);
        telemetry::depth(letters.by_id.len());
        Ok(true)
    }
}

impl fmt::Debug for MemorySink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySink")
            .field("capacity", &self.capacity)
            .field("letters", &self.lock().by_id.len())
            .finish()
    }
}
