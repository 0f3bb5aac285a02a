//! Keys that many ask for at once.

mod salt;
mod sketch;

pub use salt::Salt;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::sketch::{Counted, Sketch};
use crate::{ConfigError, Key, telemetry};

/// Finds the keys that make up more than a given share of what is recorded.
///
/// With a share of `phi`, each thread counts in `2 / phi` counters, and begins anew after
/// `100 / phi` records; the window before stays to be looked at. **Every key above the share is
/// found.** A key that is found may be below it by what the counters cannot tell apart, which is at
/// most half of the share and, where some keys are hot, much less.
///
/// For 0.1% that is 60 KiB for each thread up to the number of processors. Nothing is allocated
/// while it records, and keys are kept as hashes only.
///
/// ```
/// # use seawall_shard_router::{Heat, HotKeys};
/// let hot = HotKeys::above(0.001)?;
/// let mut heat = Heat::Cold;
/// for request in 0..10_000_u64 {
///     hot.record(&request.into());
///     heat = hot.record(&"celebrity".into());
/// }
/// assert_eq!(heat, Heat::Hot);                 // so: coalesce its reads, cache them for a moment
/// # Ok::<(), seawall_shard_router::ConfigError>(())
/// ```
///
/// Clones share what they count.
#[derive(Clone)]
pub struct HotKeys {
    shared: Arc<Shared>,
}

struct Shared {
    share: f64,
    /// Records of a window of one thread.
    window: u32,
    /// How often a key has to come in a window to be hot.
    hot: u32,
    stripes: Box<[Stripe]>,
}

/// One for each thread, as far as they go. Apart in memory, so that threads do not share lines.
#[repr(align(128))]
struct Stripe(Mutex<Windows>);

struct Windows {
    now: Sketch,
    before: Past,
}

/// A window that is over.
struct Past {
    total: u32,
    /// Those counted most, in the order of their hashes: as many as can be above the share.
    top: Vec<Counted>,
    /// No other was counted more.
    rest: u32,
    /// A bit for each hash of a key that was hot, so that most need not be looked for.
    filter: [u64; 64],
    hot: u32,
}

/// Whether many ask for a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heat {
    /// It is one among many.
    Cold,
    /// It has just become hot: of one thread, this is told once for each window.
    Kindled,
    /// It makes up more than the share.
    Hot,
}

impl Heat {
    /// Whether it is hot, just now or for some time.
    #[must_use]
    pub fn is_hot(self) -> bool {
        self != Heat::Cold
    }
}

/// A key that is hot.
#[derive(Clone, Copy, PartialEq, Debug)]
#[non_exhaustive]
pub struct HotKey {
    /// The [hash of the key](Key::hash), not the key.
    pub hash: u64,
    /// Its share of what was recorded, at most.
    pub share: f64,
    /// Its share of what was recorded, at least.
    pub at_least: f64,
}

/// What a thread may take of memory.
const MOST_BYTES: usize = 64 << 10;

/// How often a key at the share comes in a window.
const TIMES: f64 = 100.0;

impl HotKeys {
    /// Finds keys that make up more than this share, such as 0.001.
    ///
    /// # Errors
    /// [`ConfigError::HotShare`] unless it is below 1 and at least 1/1024: below that the
    /// counters of a thread would not fit into 64 KiB.
    pub fn above(share: f64) -> Result<Self, ConfigError> {
        Self::in_windows(share, (TIMES / share).min(1e9) as u32)
    }

    /// The same, in windows of so many records of a thread.
    ///
    /// # Errors
    /// As for [`HotKeys::above`], and when a window is so short that a key at the share would come
    /// less than ten times.
    pub fn in_windows(share: f64, records: u32) -> Result<Self, ConfigError> {
        let counters = (2.0 / share).ceil();
        let fits = |counters: usize| bytes(counters) <= MOST_BYTES;
        let is_share = share > 0.0 && share < 1.0 && counters < 10_000.0;
        if !is_share || !fits(counters as usize) || f64::from(records) * share < 10.0 {
            return Err(ConfigError::HotShare { given: share });
        }
        // A power of two, so that a thread finds its own without a division.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.next_power_of_two();
        let stripe = |_| {
            Stripe(Mutex::new(Windows {
                now: Sketch::new(counters as usize),
                before: Past {
                    total: 0,
                    top: Vec::with_capacity(counters as usize / 2),
                    rest: 0,
                    filter: [0; 64],
                    hot: 0,
                },
            }))
        };
        Ok(Self {
            shared: Arc::new(Shared {
                share,
                window: records,
                hot: (f64::from(records) * share).ceil() as u32,
                stripes: (0..threads).map(stripe).collect(),
            }),
        })
    }

    /// Counts one request for a key, and says whether the key is hot.
    #[inline]
    pub fn record(&self, key: &Key<'_>) -> Heat {
        self.record_hash(key.hash())
    }

    /// [`HotKeys::record`] for a key whose hash is known.
    #[inline]
    pub fn record_hash(&self, hash: u64) -> Heat {
        let shared = &*self.shared;
        let mut windows = shared.stripes[stripe() & (shared.stripes.len() - 1)].lock();
        let count = windows.now.record(hash);
        let heat = if count == shared.hot {
            telemetry::kindled(hash);
            Heat::Kindled
        } else if count > shared.hot || windows.before.was_hot(hash) {
            Heat::Hot
        } else {
            Heat::Cold
        };
        if windows.now.total() >= shared.window {
            windows.turn(shared.hot);
        }
        heat
    }

    /// The keys that are above the share, the hottest first: over the last whole window of each
    /// thread, or over the present one where there has been none yet.
    #[must_use]
    pub fn top(&self) -> Vec<HotKey> {
        let past: Vec<Past> = self.shared.stripes.iter().map(Stripe::past).collect();
        let total: f64 = past.iter().map(|past| f64::from(past.total)).sum();
        // Where a thread does not list a key, it may have counted as much as its least listed.
        let rest: u64 = past.iter().map(|past| u64::from(past.rest)).sum();
        let mut sums = HashMap::<u64, (u64, u64)>::new();
        for past in &past {
            for counted in &past.top {
                let (most, least) = sums.entry(counted.hash).or_insert((rest, 0));
                *most += u64::from(counted.count - past.rest);
                *least += u64::from(counted.count - counted.error);
            }
        }
        let hot = |(hash, (most, least)): (u64, (u64, u64))| HotKey {
            hash,
            share: most as f64 / total,
            at_least: least as f64 / total,
        };
        let mut top: Vec<HotKey> = sums.into_iter().map(hot).collect();
        top.retain(|key| key.share > self.shared.share);
        top.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.hash.cmp(&b.hash)));
        top
    }

    /// What one thread's counters take of memory, in bytes.
    #[must_use]
    pub fn bytes_per_thread(&self) -> usize {
        bytes((2.0 / self.shared.share).ceil() as usize)
    }
}

fn bytes(counters: usize) -> usize {
    let past = counters / 2 * size_of::<Counted>();
    Sketch::bytes(counters) + past + size_of::<Stripe>()
}

impl Stripe {
    fn lock(&self) -> MutexGuard<'_, Windows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn past(&self) -> Past {
        let windows = self.lock();
        let before = &windows.before;
        if before.total > 0 {
            return Past {
                total: before.total,
                top: before.top.clone(),
                rest: before.rest,
                filter: [0; 64],
                hot: before.hot,
            };
        }
        Past {
            total: windows.now.total(),
            top: windows.now.counted().collect(),
            rest: 0,
            filter: [0; 64],
            hot: 0,
        }
    }
}

impl Windows {
    /// The present window is over.
    fn turn(&mut self, hot: u32) {
        let before = &mut self.before;
        let kept = before.top.capacity();
        before.top.clear();
        before.top.extend(self.now.counted().take(kept));
        before.rest = self.now.counted().nth(kept).map_or(0, |next| next.count);
        before.total = self.now.total();
        before.hot = hot;
        before.filter = [0; 64];
        for counted in before.top.iter().filter(|counted| counted.count >= hot) {
            let bit = counted.hash >> 52;
            before.filter[(bit >> 6) as usize] |= 1 << (bit & 63);
        }
        before.top.sort_unstable_by_key(|counted| counted.hash);
        self.now.clear();
    }
}

impl Past {
    #[inline]
    fn was_hot(&self, hash: u64) -> bool {
        let bit = hash >> 52;
        if self.filter[(bit >> 6) as usize] & (1 << (bit & 63)) == 0 {
            return false;
        }
        let found = self.top.binary_search_by_key(&hash, |counted| counted.hash);
        found.is_ok_and(|place| self.top[place].count >= self.hot)
    }
}

/// A number for this thread.
#[inline]
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    STRIPE.with(|stripe| {
        if stripe.get() == usize::MAX {
            stripe.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        stripe.get()
    })
}

impl fmt::Debug for HotKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HotKeys")
            .field("share", &self.shared.share)
            .field("window", &self.shared.window)
            .finish_non_exhaustive()
    }
}
