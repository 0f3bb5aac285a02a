//! What operators see of keys and do to them, through the checker of a layer.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::time::Duration;

use seawall_ratelimit::{
    Apply, Checker, Key, KeyHash, MemoryStore, OperateError, Quota, RateLimitError, RateLimitLayer,
    Rule, TopRefused, WindowKind,
};
use tokio::time::advance;

const KINDS: [WindowKind; 4] = [
    WindowKind::Sliding,
    WindowKind::Log,
    WindowKind::Counter,
    WindowKind::Gcra,
];

fn by_user(kind: WindowKind) -> Checker<MemoryStore, impl Apply<u64>> {
    RateLimitLayer::new(MemoryStore::with_capacity(100))
        .rule(
            Rule::new("user", Quota::per_minute(3))
                .key(|user: &u64| (*user).into())
                .window(kind),
        )
        .rule(Rule::new("all", Quota::per_hour(1_000)))
        .checker()
}

async fn left(limits: &Checker<MemoryStore, impl Apply<u64>>, user: u64) -> u32 {
    let standing = limits.peek("user", Key::from(user)).await.unwrap();
    standing.outcome().remaining()
}

#[tokio::test(start_paused = true)]
async fn to_peek_changes_nothing() {
    for kind in KINDS {
        let limits = by_user(kind);
        limits.check(&7).await.unwrap();
        for _ in 0..5 {
            assert_eq!(left(&limits, 7).await, 2, "{kind:?}");
            assert_eq!(left(&limits, 8).await, 3);
        }
        let all = limits.peek("all", Key::EVERYONE).await.unwrap();
        assert_eq!(
            (all.outcome().limit(), all.outcome().remaining()),
            (1_000, 999)
        );
        assert_eq!(all.blocked_for(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn to_reset_one_key_leaves_the_others() {
    for kind in KINDS {
        let limits = by_user(kind);
        for user in [7, 7, 7, 8] {
            limits.check(&user).await.unwrap();
        }
        limits.reset("user", Key::from(7)).await.unwrap();
        assert_eq!(
            [left(&limits, 7).await, left(&limits, 8).await],
            [3, 2],
            "{kind:?}"
        );
        limits.check(&7).await.unwrap();
        assert_eq!(left(&limits, 7).await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_blocked_is_told_for_how_long() {
    for kind in KINDS {
        let limits = by_user(kind);
        let hour = Duration::from_secs(3_600);
        limits.check(&7).await.unwrap();
        limits.block("user", Key::from(7), hour).await.unwrap();
        limits.block("user", Key::from(9), hour).await.unwrap();
        advance(hour / 4).await;
        for user in [7, 9] {
            let Err(RateLimitError::Refused(refused)) = limits.check(&user).await else {
                panic!("{kind:?}: it is blocked");
            };
            assert_eq!(refused.retry_after(), Some(hour * 3 / 4));
            let standing = limits.peek("user", Key::from(user)).await.unwrap();
            assert_eq!(standing.blocked_for(), Some(hour * 3 / 4));
            // A reset is no pardon.
            limits.reset("user", Key::from(user)).await.unwrap();
            assert!(limits.check(&user).await.is_err());
        }
        limits.check(&8).await.unwrap();
        limits.unblock("user", Key::from(7)).await.unwrap();
        limits.check(&7).await.unwrap();
        assert!(limits.check(&9).await.is_err());
        advance(hour).await;
        limits.check(&9).await.unwrap();
        // Whom nobody knows can be unblocked too.
        limits.unblock("user", Key::from(10)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_is_not_there_is_an_error() {
    let limits = by_user(WindowKind::Sliding);
    let unknown = limits.peek("users", Key::from(7)).await;
    assert!(matches!(unknown, Err(OperateError::UnknownRule(name)) if name == "users"));
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_most_is_known_by_a_hash() {
    let top = TopRefused::new(4);
    let layer = RateLimitLayer::new(MemoryStore::with_capacity(10_000))
        .rule(Rule::new("user", Quota::per_minute(1)).key(|user: &u64| (*user).into()))
        .rule(Rule::new("planned", Quota::per_minute(1)).shadow())
        .top_refused(&top);
    let (limits, others) = (layer.checker(), layer.checker());
    assert!(top.list().is_empty());
    // One of each stranger passes and one is refused; two of ours come again and again.
    for stranger in 100..300_u64 {
        for user in [1, stranger, 2, stranger, 1] {
            let _ = limits.check(&user).await;
            if user == 1 {
                let _ = others.check(&user).await;
            }
        }
    }
    let list = top.list();
    assert_eq!(list.len(), 4);
    let hashes: Vec<_> = list.iter().map(|refused| refused.key()).collect();
    assert_eq!(
        hashes[..2],
        [KeyHash::of(Key::from(1)), KeyHash::of(Key::from(2))]
    );
    let truly = [799, 199];
    for (refused, truly) in list.iter().zip(truly) {
        assert_eq!(refused.rule(), "user");
        assert!(refused.count() >= truly);
        assert!(refused.count() - refused.at_most_over() <= truly);
    }
    assert_eq!(list[0].key().to_string().len(), 16);
    assert_eq!(top.take(), list);
    assert!(top.list().is_empty());
}

#[test]
fn keys_of_different_kinds_have_different_hashes() {
    let seven = 7_u64.to_le_bytes();
    let hashes = [
        Key::EVERYONE,
        Key::from(""),
        Key::from(7),
        Key::from(seven.as_slice()),
        Key::from("seven"),
    ]
    .map(KeyHash::of);
    for (n, hash) in hashes.iter().enumerate() {
        assert!(!hashes[..n].contains(hash));
    }
}
