//! Slots by a hash that nobody can aim.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::slot::SHIFT;
use crate::{Key, Slot};

/// Slots by SipHash-2-4 under a secret key, for keys that are chosen by people you do not trust.
///
/// The plain hash is public: whoever chooses keys freely can make a million of them that lie in
/// one slot, and so on one shard. Under a secret key they cannot. **The key is part of the data**:
/// whoever places or finds a row needs the same one, for ever. Another key moves everything.
///
/// # Specification, version 1
/// The slot is the upper 14 bits of SipHash-2-4 (64 bits out) of the canonical bytes, under the 16
/// bytes of the key.
///
/// ```
/// # use seawall_shard_router::{Endpoint, ShardRouter, Topology, placement::KeyedSlots};
/// # use tower::service_fn;
/// # struct Query { tenant: String }
/// let slots = KeyedSlots::new([7; 16]);                  // from where your secrets are
/// let router = ShardRouter::new(Topology::slots(["s0", "s1"])?, |endpoint: &Endpoint| {
///     let shard = endpoint.shard().clone();
///     service_fn(move |_: Query| std::future::ready(Ok::<_, std::io::Error>(shard.clone())))
/// })
/// .key(move |query: &Query| slots.key(query.tenant.as_bytes()));
/// # let _ = router; Ok::<_, seawall_shard_router::ConfigError>(())
/// ```
#[derive(Clone, Copy)]
pub struct KeyedSlots {
    key: [u8; 16],
}

impl KeyedSlots {
    /// Under this secret.
    #[must_use]
    pub const fn new(secret: [u8; 16]) -> Self {
        Self { key: secret }
    }

    /// The slot of the canonical bytes of a key.
    #[must_use]
    pub fn slot_of(&self, canonical: &[u8]) -> Slot {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(canonical);
        Slot::from_index((hasher.finish() >> SHIFT) as usize)
    }

    /// What to route a request by that has this key.
    #[must_use]
    pub fn key(&self, canonical: &[u8]) -> Key<'static> {
        Key::placed(self.slot_of(canonical))
    }
}

/// Never shows the secret.
impl fmt::Debug for KeyedSlots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedSlots").finish_non_exhaustive()
    }
}
