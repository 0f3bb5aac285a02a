//! What a request does to its shard, and so which endpoints may serve it.

/// What a request does to its shard.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Access {
    /// It writes: the primary of its shard serves it, and nobody else ever does.
    Write,
    /// It reads, and may see a copy that lags: a replica serves it, or the primary where the shard
    /// has none that is near enough.
    Read,
    /// It reads and must see everything up to this position: a replica that is known to have
    /// applied it, or the primary.
    ReadYourWrites(Position),
}

/// How far an endpoint has applied the writes of its shard.
///
/// The unit is the shard's own: an offset of its log, an LSN. All that counts is that it grows
/// with every write and means the same on the primary and on its replicas. A write's position goes
/// to the client as its token; its later reads carry it in [`Access::ReadYourWrites`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(pub u64);

/// Says what a request does. Closures from `&Req` to [`Access`] implement it.
pub trait Classify<Req> {
    /// What this request does to its shard.
    fn access(&self, request: &Req) -> Access;
}

impl<Req, F: Fn(&Req) -> Access> Classify<Req> for F {
    fn access(&self, request: &Req) -> Access {
        self(request)
    }
}

/// Takes every request for a write, which is right wherever nothing else was said.
#[derive(Clone, Copy, Debug, Default)]
pub struct WritesOnly;

impl<Req> Classify<Req> for WritesOnly {
    fn access(&self, _: &Req) -> Access {
        Access::Write
    }
}
