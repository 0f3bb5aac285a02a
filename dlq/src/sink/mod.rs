//! Where letters are kept: the two traits, and the words they use.

use std::{fmt, future::Future, sync::Arc, time::SystemTime};

use crate::{Fingerprint, Letter, LetterId, SinkError};

#[cfg(all(feature = "file", unix))]
pub(crate) mod file;
pub(crate) mod flood;
#[cfg(feature = "kafka")]
pub(crate) mod kafka;
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;

/// What became of a letter that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Written {
    /// It is in the sink.
    New,
    /// It was in the sink already: this request has died before, in this generation.
    Repeat,
}

/// Takes letters. Any `Fn(Letter) -> impl Future<Output = Result<Written, SinkError>>` is one, and
/// so is an `Arc` of one.
pub trait Sink: Send + Sync + 'static {
    /// Writes a letter. **`Ok` means that the letter will be there after whatever crash the sink is made
    /// for**: the request is acknowledged on the strength of it.
    ///
    /// Dropping the future leaves open whether the letter is written. Writing it again does no harm.
    ///
    /// # Errors
    ///
    /// If the letter is not known to be written.
    fn write(&self, letter: Letter) -> impl Future<Output = Result<Written, SinkError>> + Send;
}

impl<F, Fut> Sink for F
where
    F: Fn(Letter) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Written, SinkError>> + Send,
{
    fn write(&self, letter: Letter) -> impl Future<Output = Result<Written, SinkError>> + Send {
        self(letter)
    }
}

impl<S: Sink> Sink for Arc<S> {
    fn write(&self, letter: Letter) -> impl Future<Output = Result<Written, SinkError>> + Send {
        S::write(self, letter)
    }
}

/// Lets people work with the letters in a sink.
pub trait Queue: Send + Sync {
    /// How many letters there are, and how long the oldest has been there.
    fn depth(&self) -> impl Future<Output = Result<Depth, SinkError>> + Send;

    /// The letters in `span` that match `filter`, in the order in which they were written: at most
    /// `limit`, and possibly fewer although there are more. What cannot be read is named in
    /// [`Page::unreadable`] and hides no other letter.
    fn list(
        &self,
        filter: &Filter,
        span: &Span,
        limit: usize,
    ) -> impl Future<Output = Result<Page, SinkError>> + Send;

    /// The letter with this id.
    fn get(&self, id: LetterId) -> impl Future<Output = Result<Option<Letter>, SinkError>> + Send;

    /// Removes exactly the letter with this id, and no other generation of the same request. `false`
    /// if it was not there.
    fn remove(&self, id: LetterId) -> impl Future<Output = Result<bool, SinkError>> + Send;
}

impl<Q: Queue> Queue for Arc<Q> {
    fn depth(&self) -> impl Future<Output = Result<Depth, SinkError>> + Send {
        Q::depth(self)
    }

    fn list(
        &self,
        filter: &Filter,
        span: &Span,
        limit: usize,
    ) -> impl Future<Output = Result<Page, SinkError>> + Send {
        Q::list(self, filter, span, limit)
    }

    fn get(&self, id: LetterId) -> impl Future<Output = Result<Option<Letter>, SinkError>> + Send {
        Q::get(self, id)
    }

    fn remove(&self, id: LetterId) -> impl Future<Output = Result<bool, SinkError>> + Send {
        Q::remove(self, id)
    }
}

/// How full a queue of letters is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Depth {
    /// Letters in the queue.
    pub letters: u64,
    /// When the letter died that has been in the queue for the longest.
    pub oldest: Option<SystemTime>,
    /// The place of the letter that was written last, where one ever was.
    pub end: Option<Cursor>,
}

/// A place in a queue, from which [`Queue::list`] goes on. Only the sink that made it can read it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Cursor(Arc<str>);

impl Cursor {
    /// A place that the sink knows by this text.
    pub fn new(place: impl Into<Arc<str>>) -> Self {
        Self(place.into())
    }

    /// The text by which the sink knows the place.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn at(sequence: u64) -> Self {
        Self(sequence.to_string().into())
    }

    fn sequence(&self) -> Option<u64> {
        self.0.parse().ok()
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cursor({})", self.0)
    }
}

/// A part of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Span {
    /// Only what was written after this place.
    pub after: Option<Cursor>,
    /// Only what was written up to this place, the letter there included.
    pub until: Option<Cursor>,
}

impl Span {
    /// The whole queue.
    pub fn all() -> Self {
        Self::default()
    }

    /// The sequence numbers in this span, for sinks that number their letters from 1. A cursor from
    /// elsewhere bounds nothing: a letter may be seen twice, none is passed over.
    pub(crate) fn sequences(&self) -> std::ops::RangeInclusive<u64> {
        let after = self.after.as_ref().and_then(Cursor::sequence).unwrap_or(0);
        let until = self
            .until
            .as_ref()
            .and_then(Cursor::sequence)
            .unwrap_or(u64::MAX);
        after.saturating_add(1)..=until
    }
}

/// Some of the letters of a queue.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The letters.
    pub letters: Vec<Letter>,
    /// What lies among them and cannot be read, whatever the filter: [`SinkError::NotALetter`] or
    /// [`SinkError::Damaged`], which name the place. It stays where it is.
    pub unreadable: Vec<SinkError>,
    /// Where to go on, or `None` at the end of the queue.
    pub next: Option<Cursor>,
}

/// Which letters are meant. One that says nothing means all of them.
///
/// ```
/// use std::time::SystemTime;
/// use seawall_dlq::{Envelope, Failure, Filter, Letter, Origin};
///
/// let envelope = Envelope::new(Origin::log("orders", 3, 17), "payload");
/// let letter = Letter::new(envelope, Failure::new("timeout", "shard 3 is slow"), SystemTime::now());
///
/// assert!(Filter::all().source("orders").class("timeout").matches(&letter));
/// assert!(!Filter::all().source("payments").matches(&letter));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Filter {
    source: Option<Arc<str>>,
    class: Option<Arc<str>>,
    fingerprint: Option<Fingerprint>,
    from: Option<SystemTime>,
    before: Option<SystemTime>,
}

impl Filter {
    /// All letters.
    pub fn all() -> Self {
        Self::default()
    }

    /// Only letters from this topic, stream or kind: see [`Origin::source`](crate::Origin::source).
    #[must_use]
    pub fn source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Only failures of this class.
    #[must_use]
    pub fn class(mut self, class: impl Into<Arc<str>>) -> Self {
        self.class = Some(class.into());
        self
    }

    /// Only failures of this cause.
    #[must_use]
    pub fn fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// Only letters whose last failure was at this time or later.
    #[must_use]
    pub fn failed_from(mut self, from: SystemTime) -> Self {
        self.from = Some(from);
        self
    }

    /// Only letters whose last failure was before this time.
    #[must_use]
    pub fn failed_before(mut self, before: SystemTime) -> Self {
        self.before = Some(before);
        self
    }

    /// Is this letter meant?
    pub fn matches(&self, letter: &Letter) -> bool {
        self.source
            .as_deref()
            .is_none_or(|source| source == letter.origin.source())
            && self
                .class
                .as_deref()
                .is_none_or(|class| class == letter.failure.class)
            && self
                .fingerprint
                .is_none_or(|fingerprint| fingerprint == letter.fingerprint)
            && self.from.is_none_or(|from| letter.last_failure >= from)
            && self
                .before
                .is_none_or(|before| letter.last_failure < before)
    }
}
