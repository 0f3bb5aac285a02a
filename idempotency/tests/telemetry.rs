//! What the layer tells: outcomes as metrics with bounded labels, and keys as hashes only.
#![cfg(all(feature = "tracing", feature = "metrics"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::{future::ready, time::Duration};

use bytes::Bytes;
use seawall_idempotency::{
    Abandoned, BoxError, Fingerprint, Key, MemoryStore, RecordKey, Store, record::Pending,
};
use support::{Message, On, Trouble, Troubled, call, layer, message};
use test_support::{Observed, observe};
use tokio::time::{advance, sleep};
use tower::{Layer, service_fn};

const SECOND: Duration = Duration::from_secs(1);
const KEEP: Duration = Duration::from_secs(60);

/// The callers' key. It must appear nowhere.
const SECRET: &str = "a-secret-key";

fn key() -> RecordKey {
    RecordKey::new(None, &Key::from(SECRET))
}

/// Does the work in paused time, and checks that nothing says the callers' key.
fn observed(work: impl AsyncFnOnce()) -> Observed {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let seen = observe("seawall_idempotency", || runtime.block_on(work()));
    let told = format!("{seen:?}");
    assert!(!told.contains(SECRET), "{told}");
    // A hash is no label either: there are as many as there are keys.
    let hash = key().to_string();
    assert!(seen.metrics.keys().all(|name| !name.contains(&hash)));
    seen
}

fn outcomes(seen: &Observed) -> Vec<(&str, f64)> {
    let of = |name: &str| name.starts_with("seawall_idempotency_calls_total");
    let metrics = seen.metrics.iter().filter(|(name, _)| of(name));
    metrics
        .map(|(name, value)| {
            let (_, outcome) = name.split_once("outcome=").unwrap();
            (outcome.trim_matches(['"', '}']), *value)
        })
        .collect()
}

#[test]
fn each_outcome_of_a_call_is_counted() {
    let seen = observed(async || {
        let store = Troubled::default();
        let layer = layer(store.clone());
        let mut service = layer.layer(service_fn(|m: Message| async move {
            sleep(SECOND).await;
            match m.payload {
                "panics" => panic!("the handler's own"),
                "undone" => Ok("undone".to_owned()),
                "fails" => Err(BoxError::from("the handler failed")),
                _ => Ok::<_, BoxError>("done".to_owned()),
            }
        }));
        let with = |payload| Message {
            payload,
            ..message(SECRET)
        };
        // executed, replayed twice, another payload
        for payload in ["", "", "", "other"] {
            let _ = call(&mut service, with(payload)).await;
        }
        // undone, then in flight while it runs again
        let undone = Message {
            payload: "undone",
            ..message("u")
        };
        call(&mut service, undone.clone()).await.unwrap();
        let running = support::spawn(service.clone(), undone.clone());
        support::settle().await;
        call(&mut service, undone).await.unwrap_err();
        running.await.unwrap().unwrap();
        // a panic and an error, which are remembered without an answer
        for (key, payload) in [
            ("p", "panics"),
            ("p", "panics"),
            ("f", "fails"),
            ("f", "fails"),
        ] {
            let message = Message {
                payload,
                ..message(key)
            };
            call(&mut service, message).await.unwrap_err();
        }
        // a store that is out
        store.down(true);
        call(&mut service, message("s")).await.unwrap_err();
        store.down(false);
        // abandoned
        let dead = Pending::first(Fingerprint::of([""]), SECOND, KEEP);
        let place = RecordKey::new(None, &Key::from("d"));
        store.claim(&place, dead.encode(), KEEP).await.unwrap();
        advance(4 * SECOND).await;
        call(&mut service, message("d")).await.unwrap_err();
        // not a record
        let place = RecordKey::new(None, &Key::from("x"));
        let foreign = Bytes::from_static(b"foreign");
        store.claim(&place, foreign, KEEP).await.unwrap();
        call(&mut service, message("x")).await.unwrap_err();
    });
    assert_eq!(
        outcomes(&seen),
        [
            ("abandoned", 1.0),
            ("answer_not_kept", 2.0),
            ("executed", 3.0),
            ("in_flight", 1.0),
            ("mismatch", 1.0),
            ("replayed", 2.0),
            ("store_failed", 1.0),
            ("undone", 2.0),
            ("unreadable", 1.0),
        ]
    );
    assert_eq!(seen.metrics["seawall_idempotency_panics_total"], 1.0);
}

#[test]
fn a_call_runs_in_a_span_that_carries_the_hash_of_its_key() {
    let seen = observed(async || {
        let mut service = layer(MemoryStore::with_capacity(10)).layer(service_fn(|_: Message| {
            tracing::info!(target: "seawall_idempotency_tests", "called");
            async {
                sleep(SECOND).await;
                tracing::info!(target: "seawall_idempotency_tests", "goes on");
                Ok::<_, BoxError>("done".to_owned())
            }
        }));
        call(&mut service, message(SECRET)).await.unwrap();
    });
    let told: Vec<_> = seen
        .events
        .iter()
        .filter(|line| line.starts_with("INFO"))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    for line in told {
        assert!(line.contains(&key().to_string()), "{line}");
    }
}

#[test]
fn trouble_is_told_with_the_hash_of_its_key() {
    let seen = observed(async || {
        let store = Troubled::default();
        let mut service = layer(store.clone()).layer(service_fn(|_: Message| async {
            sleep(5 * SECOND).await;
            Ok::<_, BoxError>("done".to_owned())
        }));
        for on in [On::Renew, On::Complete] {
            store.plan(on, Trouble::Refused);
        }
        call(&mut service, message(SECRET)).await.unwrap();
        sleep(SECOND).await;
    });
    let hash = key().to_string();
    assert_eq!(
        seen.count(&["WARN", "the store failed", &hash, "during=\"renew\""]),
        1,
        "{seen:?}"
    );
    assert_eq!(
        seen.count(&["WARN", "the store failed", &hash, "during=\"complete\""]),
        1,
        "{seen:?}"
    );
    let failures: f64 = seen
        .metrics
        .iter()
        .filter(|(name, _)| name.starts_with("seawall_idempotency_store_failures_total"))
        .map(|(_, count)| count)
        .sum();
    assert_eq!(failures, 2.0);
}

#[test]
fn an_attempt_that_takes_over_and_the_one_that_loses_are_told() {
    let seen = observed(async || {
        let memory = MemoryStore::with_capacity(10);
        let cut_off = Troubled::over(memory.clone());
        let first = layer(cut_off.clone()).layer(service_fn(|_: Message| async {
            sleep(20 * SECOND).await;
            Ok::<_, BoxError>("late".to_owned())
        }));
        let first = support::spawn(first, message(SECRET));
        support::settle().await;
        cut_off.down(true);
        sleep(4 * SECOND).await;
        let mut second = layer(memory)
            .abandoned(Abandoned::Reexecute)
            .layer(service_fn(|_: Message| {
                ready(Ok::<_, BoxError>("done".to_owned()))
            }));
        call(&mut second, message(SECRET)).await.unwrap();
        cut_off.down(false);
        assert_eq!(first.await.unwrap().unwrap(), "done");
    });
    let hash = key().to_string();
    assert_eq!(
        seen.count(&["INFO", "another attempt", &hash, "attempt=2"]),
        1,
        "{seen:?}"
    );
    assert_eq!(
        seen.count(&["WARN", "took the key", &hash, "attempt=1"]),
        1,
        "{seen:?}"
    );
    assert_eq!(seen.metrics["seawall_idempotency_claims_lost_total"], 1.0);
}

#[test]
fn what_is_changed_by_hand_is_told() {
    let seen = observed(async || {
        let layer = layer(MemoryStore::with_capacity(10));
        let mut service = layer.layer(service_fn(|_: Message| {
            ready(Ok::<_, BoxError>("done".to_owned()))
        }));
        call(&mut service, message(SECRET)).await.unwrap();
        let _ = layer.records().expire(&key()).await.unwrap();
    });
    let hash = key().to_string();
    assert_eq!(
        seen.count(&["WARN", "by hand", &hash, "what=\"expired\""]),
        1,
        "{seen:?}"
    );
    assert!(
        seen.metrics
            .iter()
            .any(|(name, count)| name.contains("by_hand_total")
                && name.contains("expired")
                && *count == 1.0)
    );
}
