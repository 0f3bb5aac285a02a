//! Who claims a key.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// The name of one attempt at a claim, unlike any other anywhere: 128 random bits of the process
/// and a count within it.
///
/// Two attempts with one name could take each other's claim for their own, so the random bits come
/// from the system, through the seeds of the standard library's hash maps.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner([u8; Self::LEN]);

impl Owner {
    pub(super) const LEN: usize = 24;

    /// A name that was not given before.
    pub fn fresh() -> Self {
        static PROCESS: OnceLock<[u8; 16]> = OnceLock::new();
        static COUNT: AtomicU64 = AtomicU64::new(0);

        let process = PROCESS.get_or_init(|| {
            let seeded = RandomState::new();
            let halves = [seeded.hash_one(0_u8), seeded.hash_one(1_u8)].map(u64::to_be_bytes);
            let mut process = [0; 16];
            process[..8].copy_from_slice(&halves[0]);
            process[8..].copy_from_slice(&halves[1]);
            process
        });
        let mut owner = [0; Self::LEN];
        owner[..16].copy_from_slice(process);
        owner[16..].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        Self(owner)
    }

    /// A name that is known already, as in a test or from a stored record.
    pub const fn from_bytes(owner: [u8; Self::LEN]) -> Self {
        Self(owner)
    }

    /// The name itself.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(")")
    }
}
