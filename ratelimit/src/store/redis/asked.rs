//! One rule of one request, as the server is asked about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest, Sha256};

use super::batch::Refund;
use super::outage::LocalRule;
use crate::decision::Charge;
use crate::error::StoreError;
use crate::key::Key;
use crate::policy::Policy;
use crate::window::{Terms, WindowKind};

/// Letters of a hash.
const KEY_LETTERS: usize = 21;

/// What a [`RedisStore`](super::RedisStore) keeps for one rule.
#[derive(Clone, Debug)]
pub struct RedisScope {
    pub(super) rule: Arc<ScopedRule>,
}

#[derive(Debug)]
pub(super) struct ScopedRule {
    policy: Policy,
    /// `{prefix}`, to be followed by the hash of a key.
    stem: String,
    /// Fed with the rule's name, the length of that, and the kind of its window.
    hasher: Sha256,
    /// How many of its keys are new.
    pub(super) news: News,
    /// The rule for when Redis is out.
    pub(super) local: Option<LocalRule>,
}

impl RedisScope {
    pub(super) fn new(prefix: &str, policy: &Policy, local: Option<LocalRule>) -> Self {
        let name = policy.name();
        let mut hasher = Sha256::new();
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update([number_of(policy.window())]);
        Self {
            rule: Arc::new(ScopedRule {
                stem: format!("{{{prefix}}}"),
                hasher,
                news: News::default(),
                local,
                policy: policy.clone(),
            }),
        }
    }
}

/// What part of the keys of the last batches had no record, of 256. It decides only what the server tries first.
#[derive(Debug, Default)]
pub(super) struct News(AtomicU32);

impl News {
    pub(super) fn are_likely(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 128
    }

    /// Of so many keys, so many were new.
    pub(super) fn note(&self, keys: u32, new: u32) {
        let (before, now) = (self.0.load(Ordering::Relaxed), 256 * new / keys.max(1));
        self.0.store((7 * before + now) / 8, Ordering::Relaxed);
    }
}

/// As the script knows it.
pub(super) const fn number_of(kind: WindowKind) -> u8 {
    match kind {
        WindowKind::Sliding => 0,
        WindowKind::Log => 1,
        WindowKind::Counter => 2,
        WindowKind::Gcra => 3,
    }
}

impl ScopedRule {
    fn hash(&self, key: Key<'_>) -> [u8; 16] {
        let mut hasher = self.hasher.clone();
        hasher.update([key.kind()]);
        hasher.update(key.as_bytes());
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize()[..16]);
        half
    }
}

/// One rule of one request, kept until Redis has answered.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) number: u8,
    pub(super) rule: Arc<ScopedRule>,
    pub(super) hash: [u8; 16],
    pub(super) cost: u32,
    pub(super) terms: Terms,
    pub(super) shadow: bool,
}

impl Asked {
    pub(super) fn of(charge: &Charge<'_, RedisScope>) -> Self {
        Self {
            number: charge.number,
            rule: Arc::clone(&charge.scope.rule),
            hash: charge.scope.rule.hash(charge.key),
            cost: charge.cost,
            terms: charge.terms,
            shadow: charge.is_shadow(),
        }
    }

    /// How its rule counts.
    pub(super) fn kind(&self) -> WindowKind {
        self.rule.policy.window()
    }

    /// 126 bits of the hash, so that a key of the usual prefix has no more than 30 letters: from 31 on the server
    /// takes a larger block for each, and about a sixth longer.
    pub(super) fn write_key(&self, into: &mut Vec<u8>) {
        const LETTERS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        into.extend_from_slice(self.rule.stem.as_bytes());
        let hash = u128::from_le_bytes(self.hash);
        let letter = |place: usize| LETTERS[(hash >> (6 * place)) as usize & 63];
        into.extend_from_slice(&std::array::from_fn::<u8, KEY_LETTERS, _>(letter));
    }

    pub(super) fn refund(&self, charged: u64, units: u32) -> Refund {
        let mut key = Vec::new();
        self.write_key(&mut key);
        Refund {
            key,
            terms: self.terms,
            kind: self.kind(),
            charged,
            units,
        }
    }

    pub(super) fn foreign(&self) -> StoreError {
        StoreError::ForeignValue {
            rule: self.rule.policy.shared_name(),
        }
    }
}
