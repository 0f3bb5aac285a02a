use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::error::ConfigError;
use crate::quota::Quota;
use crate::window::{Terms, WindowKind};

/// The part of a rule that a store needs: its name, and the quota that holds now.
///
/// Clones share the quota: when it is changed through [`Quotas`], all of them say the new one.
#[derive(Clone, Debug)]
pub struct Policy {
    name: Cow<'static, str>,
    quota: Arc<LiveQuota>,
    window: WindowKind,
    shadow: bool,
}

impl Policy {
    pub(crate) fn new(name: Cow<'static, str>, quota: Quota) -> Self {
        Self {
            name,
            quota: Arc::new(LiveQuota::new(quota, 0)),
            window: WindowKind::Sliding,
            shadow: false,
        }
    }

    pub(crate) fn with_window(self, window: WindowKind) -> Self {
        Self { window, ..self }
    }

    /// The same policy with a quota of its own.
    pub(crate) fn with_version(self, version: u32) -> Self {
        Self {
            quota: Arc::new(LiveQuota::new(self.quota(), version)),
            ..self
        }
    }

    pub(crate) fn in_shadow(self) -> Self {
        Self {
            shadow: true,
            ..self
        }
    }

    /// The rule's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The quota that holds now for whoever has none of their own.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota.read().quota()
    }

    /// The version of that quota.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.quota.read().terms.version
    }

    /// The quota in the units of the arithmetic.
    #[must_use]
    #[inline]
    pub fn terms(&self) -> Terms {
        self.quota.read().terms
    }

    /// How the rule counts.
    #[must_use]
    pub const fn window(&self) -> WindowKind {
        self.window
    }

    /// Whether the rule only counts, and refuses nobody.
    #[must_use]
    pub const fn is_shadow(&self) -> bool {
        self.shadow
    }

    pub(crate) fn shared_name(&self) -> Cow<'static, str> {
        self.name.clone()
    }

    /// How often the quota was changed.
    #[cfg(feature = "http")]
    pub(crate) fn changes(&self) -> u64 {
        self.quota.changes.load(Ordering::Relaxed) / 2
    }
}

/// Changes the quotas of a layer's rules while it is at work. Made by
/// [`RateLimitLayer::quotas`](crate::RateLimitLayer::quotas); clones change the same rules.
///
/// Nothing that was consumed is forgotten: what counts of it in the new window is held against the new limit. A
/// longer window cannot know what the shorter one had already dropped.
///
/// ```
/// use seawall_ratelimit::{MemoryStore, Quota, RateLimitLayer, Rule};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let layer = RateLimitLayer::new(MemoryStore::with_capacity(10))
///     .rule(Rule::new("all", Quota::per_minute(1)));
/// let (quotas, all) = (layer.quotas(), layer.checker());
///
/// assert!(all.check(&()).await.is_ok());
/// assert!(all.check(&()).await.is_err());
/// assert_eq!(quotas.set("all", Quota::per_minute(2)), Ok(1));
/// assert!(all.check(&()).await.is_ok());
/// assert!(all.check(&()).await.is_err());
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Quotas {
    pub(crate) policies: Arc<[Policy]>,
}

impl Quotas {
    /// Gives a rule another quota, under the version after its present one, and says which that is.
    ///
    /// Where several processes share their counters, the highest version that has been seen for a key decides on all
    /// of them; so let each process be told the version by [`set_version`](Quotas::set_version), or change
    /// all of them.
    ///
    /// # Errors
    ///
    /// When the layer has no rule of that name.
    pub fn set(&self, rule: &str, quota: Quota) -> Result<u32, ConfigError> {
        Ok(self.policy(rule)?.quota.change(|version| {
            let version = version.saturating_add(1);
            Some((quota, version))
        }))
    }

    /// Gives a rule the quota of this version, unless it has that of a later one already. Says which
    /// version holds.
    ///
    /// # Errors
    ///
    /// When the layer has no rule of that name.
    pub fn set_version(&self, rule: &str, quota: Quota, version: u32) -> Result<u32, ConfigError> {
        Ok(self
            .policy(rule)?
            .quota
            .change(|present| (version >= present).then_some((quota, version))))
    }

    /// The quota of a rule, and its version.
    ///
    /// # Errors
    ///
    /// When the layer has no rule of that name.
    pub fn get(&self, rule: &str) -> Result<(Quota, u32), ConfigError> {
        let now = self.policy(rule)?.quota.read();
        Ok((now.quota(), now.terms.version))
    }

    fn policy(&self, rule: &str) -> Result<&Policy, ConfigError> {
        let mut policies = self.policies.iter();
        policies
            .find(|policy| policy.name() == rule)
            .ok_or_else(|| ConfigError::UnknownRule(rule.to_owned()))
    }
}

#[derive(Clone, Copy)]
struct Snapshot {
    terms: Terms,
    window_nanos: u64,
}

impl Snapshot {
    /// Made when it is asked for: a decision goes by the terms alone.
    fn quota(self) -> Quota {
        Quota::of(self.terms.limit, Duration::from_nanos(self.window_nanos))
    }
}

/// A quota that can change under its readers, who never wait for one another: three words, and a
/// number that is odd while they are being written. Who reads the same even number before and after the
/// words has words that belong together.
struct LiveQuota {
    changes: AtomicU64,
    limit_and_version: AtomicU64,
    window_nanos: AtomicU64,
    width: AtomicU64,
    writing: Mutex<()>,
}

impl LiveQuota {
    fn new(quota: Quota, version: u32) -> Self {
        let [limit_and_version, window_nanos, width] = words(quota, version).map(AtomicU64::new);
        Self {
            changes: AtomicU64::new(0),
            limit_and_version,
            window_nanos,
            width,
            writing: Mutex::new(()),
        }
    }

    #[inline]
    fn read(&self) -> Snapshot {
        loop {
            let before = self.changes.load(Ordering::Acquire);
            let limit_and_version = self.limit_and_version.load(Ordering::Relaxed);
            let window_nanos = self.window_nanos.load(Ordering::Relaxed);
            let width = self.width.load(Ordering::Relaxed);
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.changes.load(Ordering::Relaxed) == before {
                let terms = Terms {
                    version: limit_and_version as u32,
                    limit: (limit_and_version >> 32) as u32,
                    width,
                };
                return Snapshot {
                    terms,
                    window_nanos,
                };
            }
            std::hint::spin_loop();
        }
    }

    /// Changes to what is made of the present version; says which version holds then.
    fn change(&self, next: impl FnOnce(u32) -> Option<(Quota, u32)>) -> u32 {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.read().terms.version;
        let Some((quota, version)) = next(present) else {
            return present;
        };
        let [limit_and_version, window_nanos, width] = words(quota, version);
        let changes = self.changes.load(Ordering::Relaxed);
        self.changes.store(changes + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.limit_and_version
            .store(limit_and_version, Ordering::Relaxed);
        self.window_nanos.store(window_nanos, Ordering::Relaxed);
        self.width.store(width, Ordering::Relaxed);
        self.changes.store(changes + 2, Ordering::Release);
        version
    }
}

fn words(quota: Quota, version: u32) -> [u64; 3] {
    let nanos = u64::try_from(quota.window().as_nanos());
    [
        u64::from(quota.limit()) << 32 | u64::from(version),
        nanos.expect("a quota's window fits, by its upper bound"),
        Terms::new(quota, version).width,
    ]
}

impl fmt::Debug for LiveQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = self.read();
        f.debug_struct("LiveQuota")
            .field("quota", &now.quota())
            .field("version", &now.terms.version)
            .finish()
    }
}
