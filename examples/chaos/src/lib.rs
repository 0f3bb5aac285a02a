//! A campaign of failures against the pipeline: kill -9, SIGSTOP, a crash at each step of the write path, a full disk,
//! cut and delayed connections, an older copy of a shard. After each run the books must close.
//!
//! Everything happens from outside: the real program as a process, a load that keeps its own synced record, a proxy
//! between the two, and the program's own checker at the end. A run follows from its seed, as far as processes on a
//! real machine follow from anything: the same strikes at the same moments.

pub mod args;
pub mod disk;
pub mod embedded;
pub mod ground;
pub mod process;
pub mod report;
pub mod services;
pub mod strike;
