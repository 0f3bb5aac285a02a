//! The level of the read cache that processes share.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::Loaded;
use crate::shard::Query;

/// Says in which generation of a level a load was begun. A level that has lost what it was told begins another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease(pub(super) Bytes);

/// What a look into the second level found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// An answer.
    Value(Loaded),
    /// None. Who asked is to load it, at this version or a higher one.
    Load {
        /// The lowest version that will do.
        at_least: u64,
        /// Whether higher ones may have been forgotten lately, so that only the shard's primary can be believed.
        forgetful: bool,
        /// What is to be shown with the answer.
        lease: Lease,
    },
    /// None yet: another process loads it.
    Wait,
    /// It does not say.
    Unreachable,
}

/// A level of the read cache that processes share.
///
/// It keeps versions as the first level does: a lower one never replaces a higher one, and at the same version a value
/// replaces a tombstone and never the other way round.
pub trait SecondLevel: Send + Sync {
    /// Looks for an answer. Of those who ask while there is none, one at a time is told to load it.
    fn get<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Looked>;

    /// Puts in an answer, if it can. What was loaded before the level lost what it was told is no answer any more: its
    /// lease says so. Without one it is what did not come from a shard.
    fn set<'a>(
        &'a self,
        query: &'a Query,
        loaded: &'a Loaded,
        lease: Option<&'a Lease>,
    ) -> BoxFuture<'a, ()>;

    /// Leaves tombstones: nothing below these versions is answered from then on. Whether all of them stand.
    fn invalidate<'a>(&'a self, changed: &'a [(Query, u64)]) -> BoxFuture<'a, bool>;

    /// Whether it answers, as far as is known without asking.
    fn is_reachable(&self) -> bool;
}
