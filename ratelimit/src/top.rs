use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use siphasher::sip::SipHasher13;

use crate::error::ConfigError;
use crate::key::Key;

/// Who is refused most: counts the refusals of a layer by rule and key, in bounded memory.
///
/// It remembers the *hash* of a key, so that what it tells may go into a log. To know whether it speaks of a
/// certain key, compare with [`KeyHash::of`].
///
/// With n entries, every key with more than an n-th part of all refusals is among them, and no
/// count is too low; [`RefusedKey::at_most_over`] says by how much it may be too high (the SpaceSaving algorithm
/// of Metwally, Agrawal and El Abbadi).
///
/// ```
/// use seawall_ratelimit::{Key, KeyHash, MemoryStore, Quota, RateLimitLayer, Rule, TopRefused};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let top = TopRefused::new(100);
/// let limits = RateLimitLayer::new(MemoryStore::with_capacity(1_000))
///     .rule(Rule::new("user", Quota::per_minute(1)).key(|user: &u64| (*user).into()))
///     .top_refused(&top)
///     .checker();
/// for user in [1, 2, 2, 2, 1, 3] {
///     let _ = limits.check(&user).await;
/// }
/// let most = &top.list()[0];
/// assert_eq!((most.rule(), most.count()), ("user", 2));
/// assert_eq!(most.key(), KeyHash::of(Key::from(2)));
/// # }
/// ```
#[derive(Clone)]
pub struct TopRefused {
    shared: Arc<Mutex<Counts>>,
}

struct Counts {
    capacity: usize,
    /// Where the count of a rule and key is.
    places: HashMap<(Cow<'static, str>, KeyHash), usize>,
    list: Vec<RefusedKey>,
}

/// One key, and how often it was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedKey {
    rule: Cow<'static, str>,
    key: KeyHash,
    count: u64,
    over: u64,
}

impl RefusedKey {
    /// The name of the rule that refused.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Whom.
    #[must_use]
    pub const fn key(&self) -> KeyHash {
        self.key
    }

    /// How often; never too low.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// By how much the count may be too high, since another key had the entry before.
    #[must_use]
    pub const fn at_most_over(&self) -> u64 {
        self.over
    }
}

/// What is told of a key: 64 bits that are the same in each process. Shown as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash(u64);

impl KeyHash {
    /// The hash of a key, as the rule finds it in requests.
    #[must_use]
    pub fn of(key: Key<'_>) -> Self {
        let hasher = SipHasher13::new_with_keys(u64::from(key.kind()), key.as_bytes().len() as u64);
        Self(hasher.hash(key.as_bytes()))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({self})")
    }
}

impl TopRefused {
    /// Of so many entries: some hundreds at most, since all are looked at for each refusal of a key that has none.
    ///
    /// # Panics
    ///
    /// When there is no entry.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        match Self::try_new(entries) {
            Ok(top) => top,
            Err(error) => panic!("{error}"),
        }
    }

    /// [`new`](TopRefused::new) for a number from outside the code.
    ///
    /// # Errors
    ///
    /// When it is zero.
    pub fn try_new(entries: usize) -> Result<Self, ConfigError> {
        if entries == 0 {
            return Err(ConfigError::ZeroCapacity);
        }
        Ok(Self {
            shared: Arc::new(Mutex::new(Counts {
                capacity: entries,
                places: HashMap::new(),
                list: Vec::new(),
            })),
        })
    }

    /// The keys there are, the most refused first.
    #[must_use]
    pub fn list(&self) -> Vec<RefusedKey> {
        let mut list = self.with(|counts| counts.list.clone());
        list.sort_by_key(|refused| std::cmp::Reverse(refused.count));
        list
    }

    /// Begins anew, and gives what there was: to count by the hour, for one.
    #[must_use]
    pub fn take(&self) -> Vec<RefusedKey> {
        let mut list = self.with(|counts| {
            counts.places.clear();
            std::mem::take(&mut counts.list)
        });
        list.sort_by_key(|refused| std::cmp::Reverse(refused.count));
        list
    }

    pub(crate) fn count(&self, rule: Cow<'static, str>, key: Key<'_>) {
        let key = KeyHash::of(key);
        self.with(|counts| counts.count(rule, key));
    }

    fn with<T>(&self, work: impl FnOnce(&mut Counts) -> T) -> T {
        work(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Counts {
    fn count(&mut self, rule: Cow<'static, str>, key: KeyHash) {
        let name = (rule, key);
        if let Some(&at) = self.places.get(&name) {
            self.list[at].count += 1;
            return;
        }
        let (at, before) = if self.list.len() < self.capacity {
            (self.list.len(), 0)
        } else {
            let least = self.list.iter().enumerate();
            let least = least.min_by_key(|(_, refused)| refused.count);
            let (at, least) = least.expect("there is at least one entry");
            self.places.remove(&(least.rule.clone(), least.key));
            (at, least.count)
        };
        // Whoever comes in may have been here before, with as many as whoever goes.
        let refused = RefusedKey {
            rule: name.0.clone(),
            key,
            count: before + 1,
            over: before,
        };
        match self.list.get_mut(at) {
            Some(place) => *place = refused,
            None => self.list.push(refused),
        }
        self.places.insert(name, at);
    }
}

impl fmt::Debug for TopRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TopRefused").field(&self.list()).finish()
    }
}
