//! The rules of the read cache, interleaving by interleaving.

use super::load::ELSEWHERE;
use super::*;
use crate::order::{OpId, OrderId};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::StatusCode;
use seawall_shard_router::slot_of;
use tokio::sync::oneshot;

fn query() -> Query {
    Query::Order(OrderId {
        slot: slot_of(b"any"),
        op: OpId([7; 16]),
    })
}

fn loaded(version: u64, body: &'static str) -> Loaded {
    Loaded {
        version,
        answer: Answer {
            status: StatusCode::OK,
            body: Bytes::from_static(body.as_bytes()),
            class: Class::Pending,
        },
    }
}

async fn cached(cache: &ReadCache) -> Option<Bytes> {
    cache
        .get(query(), |_, _| async {
            Err(Arc::new(std::fmt::Error) as LoadError)
        })
        .await
        .ok()
        .map(|a| a.body)
}

#[tokio::test]
async fn a_value_loaded_before_the_commit_and_set_after_the_invalidation_loses() {
    let cache = ReadCache::new(100);
    let (go, wait) = oneshot::channel::<()>();
    let reader = tokio::spawn({
        let cache = cache.clone();
        async move {
            cache
                .get(query(), |_, _| async move {
                    wait.await.expect("the writer says when");
                    Ok(loaded(3, "old"))
                })
                .await
        }
    });
    while cache.hits_and_misses().1 == 0 {
        tokio::task::yield_now().await;
    }
    cache.invalidate(query(), 9);
    go.send(()).expect("the reader waits");
    assert_eq!(
        reader.await.expect("it ends").expect("it loads").body,
        "old"
    );
    assert_eq!(cached(&cache).await, None, "the late value must not stand");
}

#[tokio::test]
async fn who_asks_after_a_commit_does_not_join_a_load_from_before_it() {
    let cache = ReadCache::new(100);
    let (_never, wait) = oneshot::channel::<()>();
    let hung = tokio::spawn({
        let cache = cache.clone();
        async move {
            cache
                .get(query(), |_, _| async move {
                    let _ = wait.await;
                    Ok(loaded(3, "old"))
                })
                .await
        }
    });
    while cache.hits_and_misses().1 == 0 {
        tokio::task::yield_now().await;
    }
    cache.invalidate(query(), 9);
    let fresh = cache
        .get(query(), |_, _| async { Ok(loaded(9, "new")) })
        .await
        .expect("it loads");
    assert_eq!(fresh.body, "new");
    hung.abort();
}

#[tokio::test]
async fn identical_reads_that_miss_together_load_once_even_when_the_first_leaves() {
    let cache = ReadCache::new(100);
    let calls = Arc::new(AtomicU64::new(0));
    let (go, wait) = oneshot::channel::<()>();
    let wait = wait.shared();
    let ask = || {
        let (cache, calls, wait) = (cache.clone(), calls.clone(), wait.clone());
        tokio::spawn(async move {
            cache
                .get(query(), move |_, _| async move {
                    calls.fetch_add(1, Ordering::Relaxed);
                    let _ = wait.await;
                    Ok(loaded(1, "one"))
                })
                .await
        })
    };
    let first = ask();
    while calls.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    let rest: Vec<_> = (0..100).map(|_| ask()).collect();
    while cache.hits_and_misses().1 < 101 {
        tokio::task::yield_now().await;
    }
    first.abort();
    go.send(()).expect("the load waits");
    for reader in rest {
        assert_eq!(
            reader.await.expect("it ends").expect("it loads").body,
            "one"
        );
    }
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn of_two_values_the_higher_version_stands_in_either_order() {
    for order in [[1, 2], [2, 1]] {
        let cache = ReadCache::new(100);
        for version in order {
            cache.set(
                query(),
                loaded(version, if version == 2 { "two" } else { "one" }),
            );
        }
        assert_eq!(
            cached(&cache).await.as_deref(),
            Some(&b"two"[..]),
            "{order:?}"
        );
    }
}

#[tokio::test]
async fn a_failed_load_is_not_remembered() {
    let cache = ReadCache::new(100);
    assert_eq!(cached(&cache).await, None);
    assert!(
        cache
            .get(query(), |_, _| async { Ok(loaded(1, "one")) })
            .await
            .is_ok()
    );
}

/// A second level in memory, by the same rules.
#[derive(Default)]
struct Model {
    entries: Mutex<HashMap<Query, (u64, Option<Answer>)>>,
    loading: std::sync::atomic::AtomicBool,
    generation: AtomicU64,
    out: std::sync::atomic::AtomicBool,
}

impl Model {
    fn lease(&self) -> Lease {
        let generation = self.generation.load(Ordering::Relaxed);
        Lease(Bytes::from(generation.to_string()))
    }

    /// It is started again, and knows nothing.
    fn lose(&self) {
        self.entries.lock().expect("no panic").clear();
        self.loading.store(false, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

impl SecondLevel for Model {
    fn get<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Looked> {
        let entries = self.entries.lock().expect("no panic");
        let looked = match entries.get(query) {
            _ if self.out.load(Ordering::Relaxed) => Looked::Unreachable,
            Some((version, Some(answer))) => Looked::Value(Loaded {
                version: *version,
                answer: answer.clone(),
            }),
            found => match self.loading.swap(true, Ordering::Relaxed) {
                true => Looked::Wait,
                false => Looked::Load {
                    at_least: found.map_or(0, |(version, _)| *version),
                    forgetful: self.generation.load(Ordering::Relaxed) > 0,
                    lease: self.lease(),
                },
            },
        };
        std::future::ready(looked).boxed()
    }

    fn set<'a>(
        &'a self,
        query: &'a Query,
        loaded: &'a Loaded,
        lease: Option<&'a Lease>,
    ) -> BoxFuture<'a, ()> {
        let mut entries = self.entries.lock().expect("no panic");
        let entry = entries.entry(query.clone()).or_default();
        let holds = lease.is_none_or(|lease| *lease == self.lease());
        if holds && loaded.version >= entry.0 {
            *entry = (loaded.version, Some(loaded.answer.clone()));
        }
        self.loading.store(false, Ordering::Relaxed);
        std::future::ready(()).boxed()
    }

    fn invalidate<'a>(&'a self, changed: &'a [(Query, u64)]) -> BoxFuture<'a, bool> {
        if self.out.load(Ordering::Relaxed) {
            return std::future::ready(false).boxed();
        }
        let mut entries = self.entries.lock().expect("no panic");
        for (query, version) in changed {
            let entry = entries.entry(query.clone()).or_default();
            if *version > entry.0 {
                *entry = (*version, None);
            }
        }
        std::future::ready(true).boxed()
    }

    fn is_reachable(&self) -> bool {
        !self.out.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn what_one_process_loaded_another_one_finds() {
    let second = Arc::new(Model::default());
    let (one, two) = (
        ReadCache::over(100, second.clone()),
        ReadCache::over(100, second.clone()),
    );
    let first = one.get(query(), |_, _| async { Ok(loaded(3, "three")) });
    assert_eq!(first.await.expect("it loads").body, "three");
    assert_eq!(cached(&two).await.as_deref(), Some(&b"three"[..]));
    // Invalidated by one, it is not answered by the other, as soon as that one's own copy is old.
    assert!(one.invalidate_all(vec![(query(), 4)]).await);
    let asked = one.get(query(), |_, at_least| async move {
        assert_eq!(at_least, 4);
        Ok(loaded(4, "four"))
    });
    assert_eq!(asked.await.expect("it loads").body, "four");
    let third = ReadCache::over(100, second);
    assert_eq!(cached(&third).await.as_deref(), Some(&b"four"[..]));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_another_process_takes_what_that_one_finds() {
    let second = Arc::new(Model::default());
    let looked = second.get(&query()).await;
    assert!(matches!(looked, Looked::Load { at_least: 0, .. }));
    let cache = ReadCache::over(100, second.clone());
    let waiting = tokio::spawn({
        let cache = cache.clone();
        async move { cached(&cache).await }
    });
    tokio::time::sleep(ELSEWHERE * 3).await;
    second.set(&query(), &loaded(1, "one"), None).await;
    assert_eq!(
        waiting.await.expect("it ends").as_deref(),
        Some(&b"one"[..])
    );
    assert_eq!(cache.loads_begun(), 0);
}

#[tokio::test]
async fn what_the_second_level_was_not_told_of_is_to_be_told_again() {
    let second = Arc::new(Model::default());
    let cache = ReadCache::over(100, second.clone());
    second.out.store(true, Ordering::Relaxed);
    assert!(!cache.invalidate_all(vec![(query(), 4)]).await);
    assert!(!cache.is_reachable());
    second.out.store(false, Ordering::Relaxed);
    assert!(cache.invalidate_all(vec![(query(), 4)]).await);
}

#[tokio::test(start_paused = true)]
async fn what_was_loaded_before_the_second_level_lost_its_tombstones_is_not_put_in() {
    let second = Arc::new(Model::default());
    let cache = ReadCache::over(100, second.clone());
    let (go, wait) = oneshot::channel::<()>();
    let reader = tokio::spawn({
        let cache = cache.clone();
        async move {
            let load = |_, _| async move {
                wait.await.expect("the test says when");
                Ok(loaded(3, "old"))
            };
            cache.get(query(), load).await
        }
    });
    while cache.loads_begun() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(second.invalidate(&[(query(), 9)]).await);
    second.lose();
    go.send(()).expect("the reader waits");
    assert!(reader.await.expect("it ends").is_ok());
    // What is put in is put in by a task of its own.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // No replica will do for the next one: it may not have what was forgotten.
    let another = ReadCache::over(100, second);
    let asked = another.get(query(), |_, at_least| async move {
        assert_eq!(at_least, u64::MAX);
        Ok(loaded(9, "new"))
    });
    assert_eq!(asked.await.expect("it loads").body, "new");
}

/// Reads a key that nobody else reads until it is hot.
async fn heated(cache: &ReadCache) {
    for _ in 0..200 {
        read(cache, 0, 1).await;
    }
}

/// Reads as somebody who has seen version `seen`, from a shard that is at version `there`: what is answered, and what
/// the shard was asked for if it was.
async fn read(cache: &ReadCache, seen: u64, there: u64) -> (u64, Option<u64>) {
    let asked = Arc::new(Mutex::new(None));
    let load = {
        let asked = Arc::clone(&asked);
        move |_, at_least| async move {
            *asked.lock().expect("nobody panicked") = Some(at_least);
            Ok(loaded(there, "sums"))
        }
    };
    let found = cache.read(query(), seen, load).await.expect("it loads");
    let asked = *asked.lock().expect("nobody panicked");
    (found.version, asked)
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_that_changes_all_the_time_is_loaded_once_in_a_moment_and_never_older_than_it_may_be()
 {
    let cache = ReadCache::new(100);
    heated(&cache).await;
    let before = cache.loads_begun();
    // A change each millisecond, which the replica that is asked has 100 ms later.
    let begun = Instant::now();
    let mut last = 0;
    for version in 2..2_002_u64 {
        tokio::time::advance(Duration::from_millis(1)).await;
        cache.invalidate(query(), version);
        let (shown, asked) = read(&cache, 0, version.saturating_sub(100).max(1)).await;
        let staleness = u64::try_from(STALENESS.as_millis()).expect("it is short");
        assert!(shown + staleness >= version, "{shown} of {version}");
        assert!(shown >= last, "{shown} after {last}");
        if let Some(asked) = asked.filter(|_| version > 300) {
            // The replica has it: nobody goes to the primary.
            assert!(asked + 100 <= version, "{asked} of {version}");
        }
        last = shown;
    }
    let moments = begun.elapsed().as_millis() / 125;
    let loads = cache.loads_begun() - before;
    println!("figure pipeline/loads-of-a-hot-key-in-two-seconds: {loads}");
    assert!(u128::from(loads) <= moments + 2, "{loads} in {moments}");
}

#[tokio::test(start_paused = true)]
async fn who_says_what_was_seen_is_answered_with_nothing_older_also_where_a_key_is_hot() {
    let cache = ReadCache::new(100);
    heated(&cache).await;
    cache.invalidate(query(), 5);
    assert_eq!(read(&cache, 0, 5).await, (5, Some(5)));
    cache.invalidate(query(), 9);
    // Others are answered with what stood a moment ago.
    assert_eq!(read(&cache, 0, 9).await, (5, None));
    assert_eq!(read(&cache, 5, 9).await, (5, None));
    assert_eq!(read(&cache, 9, 9).await, (9, Some(9)));
    // And with what was found then.
    assert_eq!(read(&cache, 0, 9).await, (9, None));
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_that_was_not_read_for_a_while_is_loaded_with_all_that_is_known() {
    let cache = ReadCache::new(100);
    heated(&cache).await;
    cache.invalidate(query(), 5);
    read(&cache, 0, 5).await;
    cache.invalidate(query(), 9);
    tokio::time::advance(STALENESS).await;
    assert_eq!(read(&cache, 0, 9).await, (9, Some(9)));
}

#[tokio::test(start_paused = true)]
async fn a_key_among_many_is_never_answered_with_what_a_commit_has_replaced() {
    let cache = ReadCache::new(10_000);
    for version in 1..500 {
        for other in 0..30 {
            let query = Query::Account(format!("user:{other}"));
            let load = |_, _| async { Ok(loaded(1, "sums")) };
            cache.read(query, 0, load).await.expect("it loads");
        }
        cache.invalidate(query(), version);
        assert_eq!(read(&cache, 0, version).await, (version, Some(version)));
    }
}
