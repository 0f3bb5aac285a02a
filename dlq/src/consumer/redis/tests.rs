//! The scripts one by one on a real Redis, each sent twice.

use std::{sync::Arc, time::Duration};

use ::redis::AsyncCommands;
use test_support::Redis;

use super::{
    group::{BEGINNING, Group, is_final},
    server::Server,
    settle::{Settlement, Start},
};
use crate::Message;

const HOUR: Duration = Duration::from_secs(3600);

async fn group(server: &Redis, consumer: &str) -> Group {
    let client = ::redis::Client::open(server.url()).unwrap();
    let group = Group::new(
        &Server::One(client),
        "{orders}",
        "workers",
        consumer.to_owned(),
    )
    .await
    .unwrap();
    group.join(true).await.unwrap();
    group
}

/// Adds messages and lets this consumer read them.
async fn read(server: &Redis, group: &Group, payloads: &[&str]) -> Vec<Message> {
    for payload in payloads {
        server
            .ask(&["XADD", "{orders}", "*", "payload", payload])
            .await;
    }
    let (_, read) = group.read(None, payloads.len()).await;
    read.unwrap()
}

/// Claims until all has been looked at.
async fn claim(group: &Group, in_order: bool) -> Vec<Arc<str>> {
    let (mut from, mut claimed) = (Arc::from(BEGINNING), Vec::new());
    loop {
        let (next, ids) = group.claim(&from, HOUR, 10, in_order).await.unwrap();
        claimed.extend(ids);
        if &*next == BEGINNING {
            return claimed;
        }
        from = next;
    }
}

async fn marks(server: &Redis, id: &str) -> String {
    server.ask(&["HGET", "{orders}:workers:starts", id]).await
}

/// With a counter alone, three replies that were lost condemned a message that never ran.
#[tokio::test]
async fn a_start_that_is_sent_twice_counts_once() {
    let server = Redis::start().await;
    let group = group(&server, "a").await;
    let id = read(&server, &group, &["x"]).await[0].id.clone();
    for _ in 0..5 {
        let start = group.start(&id, "mark", 3, false).await.unwrap();
        assert!(matches!(start, Start::Run(_)), "{start:?}");
    }
    assert_eq!(marks(&server, &id).await, "1 mark");
    for mark in ["second", "third"] {
        assert!(matches!(
            group.start(&id, mark, 3, false).await.unwrap(),
            Start::Run(_)
        ));
    }
    // The third is under way, and stays so; a fourth is one too many.
    assert!(matches!(
        group.start(&id, "third", 3, false).await.unwrap(),
        Start::Run(_)
    ));
    let start = group.start(&id, "fourth", 3, false).await.unwrap();
    assert!(matches!(start, Start::Poison(_, 3)), "{start:?}");
    assert_eq!(marks(&server, &id).await, "3 third");
}

#[tokio::test]
async fn a_mark_is_taken_back_once_and_only_by_whoever_set_it() {
    let server = Redis::start().await;
    let group = group(&server, "a").await;
    let id = read(&server, &group, &["x"]).await[0].id.clone();
    group.start(&id, "first", 3, false).await.unwrap();
    group.start(&id, "second", 3, false).await.unwrap();
    let came_back = |mark: &str| Settlement {
        came_back: vec![(id.clone(), mark.to_owned())],
        ..Settlement::default()
    };
    group.settle(&came_back("first"), false).await.unwrap();
    assert_eq!(marks(&server, &id).await, "2 second");
    for _ in 0..3 {
        group.settle(&came_back("second"), false).await.unwrap();
        assert_eq!(marks(&server, &id).await, "1 -");
    }
}

#[tokio::test]
async fn a_suspect_that_is_with_somebody_else_is_not_started() {
    let server = Redis::start().await;
    let (a, b) = (group(&server, "a").await, group(&server, "b").await);
    let id = read(&server, &a, &["x"]).await[0].id.clone();
    let start = b.start(&id, "mark", 3, false).await.unwrap();
    assert!(matches!(start, Start::Elsewhere), "{start:?}");
    assert_eq!(marks(&server, &id).await, "");
    // And what was trimmed away is not held for ever.
    server.ask(&["XTRIM", "{orders}", "MAXLEN", "0"]).await;
    assert!(matches!(
        a.start(&id, "mark", 3, false).await.unwrap(),
        Start::Gone
    ));
    assert!(matches!(
        a.start(&id, "mark", 3, false).await.unwrap(),
        Start::Elsewhere
    ));
}

#[tokio::test]
async fn a_claim_raises_no_delivery_count() {
    let server = Redis::start().await;
    let (a, b) = (group(&server, "a").await, group(&server, "b").await);
    let messages = read(&server, &a, &["x", "y"]).await;
    let ids: Vec<_> = messages.iter().map(|message| message.id.clone()).collect();
    assert!(claim(&b, false).await.is_empty());
    // Left to others, at once.
    assert!(a.hold(&ids, HOUR).await.unwrap().is_empty());
    assert_eq!(claim(&b, false).await, ids);
    for _ in 0..3 {
        assert_eq!(
            a.hold(&ids, Duration::ZERO).await.unwrap(),
            ids,
            "they are not a's"
        );
        assert!(b.hold(&ids, Duration::ZERO).await.unwrap().is_empty());
    }
    let pending = ["XPENDING", "{orders}", "workers", "-", "+", "10"];
    let pending = server.ask(&pending).await;
    let lines: Vec<_> = pending.lines().collect();
    assert_eq!(
        (lines[1], lines[3], lines[5], lines[7]),
        ("b", "1", "b", "1"),
        "{pending}"
    );
}

/// A claim looks at ten times as many messages as it may take: those of a crowd in good hands hid those
/// behind it for ever.
#[tokio::test]
async fn messages_behind_a_crowd_in_good_hands_are_found() {
    let server = Redis::start().await;
    let (a, b) = (group(&server, "a").await, group(&server, "b").await);
    read(&server, &a, &["x"; 300]).await;
    let last = [read(&server, &a, &["y"]).await[0].id.clone()];
    a.hold(&last, HOUR).await.unwrap();
    assert_eq!(claim(&b, false).await, last);
}

#[tokio::test]
async fn in_order_nothing_is_claimed_behind_what_is_in_good_hands() {
    let server = Redis::start().await;
    let (a, b) = (group(&server, "a").await, group(&server, "b").await);
    let messages = read(&server, &a, &["x", "y"]).await;
    let second = [messages[1].id.clone()];
    a.hold(&second, HOUR).await.unwrap();
    assert!(claim(&b, true).await.is_empty());
    assert!(b.read_alone(10, 0).await.unwrap().0.is_empty());
    let first = Settlement {
        done: vec![messages[0].id.clone().into()],
        ..Settlement::default()
    };
    a.settle(&first, false).await.unwrap();
    assert_eq!(claim(&b, true).await, second);
}

#[tokio::test]
async fn what_is_put_off_twice_comes_back_once() {
    let server = Redis::start().await;
    let group = group(&server, "a").await;
    let message = read(&server, &group, &["x"]).await.remove(0);
    for _ in 0..3 {
        group.delay(&message, Duration::ZERO).await.unwrap();
    }
    assert_eq!(
        server.ask(&["ZCARD", "{orders}:workers:delayed"]).await,
        "1"
    );
    // Due by the rounding at the latest in the next millisecond.
    while group.put_back().await.unwrap().1.is_some() {}
    assert_eq!(group.put_back().await.unwrap(), (0, None));
    assert_eq!(server.ask(&["XLEN", "{orders}"]).await, "2");
    // Late, after it went back: it is acknowledged, and not put off again.
    group.delay(&message, Duration::ZERO).await.unwrap();
    assert_eq!(
        server.ask(&["ZCARD", "{orders}:workers:delayed"]).await,
        "0"
    );
    let (_, back) = group.read(None, 10).await;
    let back = back.unwrap();
    assert_eq!((back.len(), back[0].parked), (1, 1));
    assert_eq!(back[0].to_letter().id(), message.to_letter().id());
}

/// As where a stream moves to another server of a cluster: a read that waits is told that there is no such group, and there is.
#[tokio::test]
async fn a_group_that_is_there_after_all_ends_nothing() {
    let server = Redis::start().await;
    let group = group(&server, "a").await;
    let told = || ::redis::make_extension_error("NOGROUP".to_owned(), None);
    assert!(is_final(&told()));
    assert!(!is_final(&group.as_it_is(told()).await));
    let destroy = ["XGROUP", "DESTROY", "{orders}", "workers"];
    server.ask(&destroy).await;
    assert!(is_final(&group.as_it_is(told()).await));
}

#[tokio::test]
async fn a_message_of_any_bytes_and_many_headers_is_put_off_unharmed() {
    let server = Redis::start().await;
    let group = group(&server, "a").await;
    let client = ::redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_connection_manager().await.unwrap();
    let mut fields: Vec<(String, Vec<u8>)> = (0..900)
        .map(|number| (format!("h{}", number % 7), vec![number as u8, 0, 255]))
        .collect();
    fields.push(("payload".to_owned(), (0..=255).collect()));
    fields.push(("key".to_owned(), vec![0, 159, 146, 150]));
    let _: String = connection.xadd("{orders}", "*", &fields).await.unwrap();
    let (_, read) = group.read(None, 1).await;
    let before = read.unwrap().remove(0);
    assert!(Group::can_delay(&before));
    group.delay(&before, Duration::ZERO).await.unwrap();
    while group.put_back().await.unwrap().1.is_some() {}
    let (_, read) = group.read(None, 1).await;
    let (before, after) = (before.to_letter(), read.unwrap().remove(0).to_letter());
    assert_eq!(
        (before.key, before.headers, before.payload),
        (after.key, after.headers, after.payload)
    );
}

#[tokio::test]
async fn a_consumer_with_messages_is_never_taken_out_of_the_group() {
    let server = Redis::start().await;
    let (a, b) = (group(&server, "a").await, group(&server, "b").await);
    let messages = read(&server, &a, &["x"]).await;
    read(&server, &b, &["y"]).await;
    let done = Settlement {
        done: vec![messages[0].id.clone().into()],
        ..Settlement::default()
    };
    a.sweep(HOUR, true).await.unwrap();
    a.settle(&done, false).await.unwrap();
    a.sweep(HOUR, true).await.unwrap();
    b.sweep(HOUR, true).await.unwrap();
    let pending = server.ask(&["XPENDING", "{orders}", "workers"]).await;
    assert_eq!(pending.lines().next(), Some("1"), "{pending}");
    let consumers = server
        .ask(&["XINFO", "CONSUMERS", "{orders}", "workers"])
        .await;
    assert!(consumers.lines().any(|line| line == "b"), "{consumers}");
    assert!(!consumers.lines().any(|line| line == "a"), "{consumers}");
}
