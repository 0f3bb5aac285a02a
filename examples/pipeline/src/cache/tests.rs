//! The rules of the read cache, interleaving by interleaving.

use super::*;
use crate::order::{OpId, OrderId};
use seawall_shard_router::slot_of;
use tokio::sync::oneshot;

fn query() -> Query {
    Query::Order(OrderId {
        slot: slot_of(b"any"),
        op: OpId([7; 16]),
    })
}

fn loaded(version: u64, body: &'static str) -> Loaded {
    let keep = Duration::from_secs(60);
    Loaded {
        version,
        answer: Answer {
            status: StatusCode::OK,
            body: Bytes::from_static(body.as_bytes()),
            keep,
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
