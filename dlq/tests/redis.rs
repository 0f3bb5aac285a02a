//! Letters on a real Redis.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::time::Duration;

use redis::{AsyncCommands, aio::ConnectionManager};
use seawall_dlq::{
    BoxError, Cursor, Envelope, Failure, Filter, Letter, Origin, Queue, RedisSink, Redrive,
    RedriveReason, Requeue, RequeueError, Sink, SinkError, Span, Written,
};
use seawall_redis::{Client, Shared};
use support::{all, connect, letter, noon};
use test_support::{Proxy, Redis, RedisCluster, drop_at_every_poll};

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

async fn sink(server: &Redis) -> RedisSink<Shared<ConnectionManager>> {
    RedisSink::new(connect(server.port()).await, "{orders}.dead")
}

/// The letter of an entry of a stream.
fn of_stream(id: &str) -> Letter {
    let envelope = Envelope::new(Origin::stream("{orders}", id), vec![0, 255, 10, 13])
        .key("key")
        .header("trace", vec![0, 159, 146, 150])
        .header("trace", "again");
    Letter::new(envelope, Failure::new("timeout", "slow"), noon())
}

#[tokio::test]
async fn letters_are_listed_counted_found_and_removed() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    assert_eq!(sink.depth().await.unwrap().letters, 0);
    for offset in 0..200 {
        assert_eq!(sink.write(letter(offset)).await.unwrap(), Written::New);
    }
    let depth = sink.depth().await.unwrap();
    assert_eq!((depth.letters, depth.oldest), (200, Some(noon())));
    let expected: Vec<_> = (0..200).map(letter).collect();
    assert_eq!(all(&sink).await, expected);
    let one = Filter::all().fingerprint(letter(7).fingerprint);
    let page = sink.list(&one, &Span::all(), 1000).await.unwrap();
    assert_eq!(page.letters, expected, "messages of one cause");

    let id = letter(7).id();
    assert_eq!(sink.get(id).await.unwrap(), Some(letter(7)));
    assert!(sink.remove(id).await.unwrap());
    assert!(!sink.remove(id).await.unwrap());
    assert_eq!(sink.get(id).await.unwrap(), None);
    assert_eq!(sink.depth().await.unwrap().letters, 199);
}

#[tokio::test]
async fn a_letter_that_is_written_twice_is_there_once() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    assert_eq!(sink.write(letter(1)).await.unwrap(), Written::New);
    server.flush_scripts().await;
    assert_eq!(sink.write(letter(1)).await.unwrap(), Written::Repeat);
    assert_eq!(all(&sink).await, [letter(1)]);
}

#[tokio::test]
async fn another_request_that_claims_the_origin_is_refused() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    sink.write(letter(1)).await.unwrap();
    let mut other = letter(1);
    other.payload = "another".into();
    let refused = sink.write(other).await.unwrap_err();
    assert!(matches!(refused, SinkError::Conflict(id) if id == letter(1).id()));
}

#[tokio::test]
async fn removing_takes_exactly_one_generation() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    sink.write(letter(1)).await.unwrap();
    sink.write(letter(1).redriven()).await.unwrap();
    assert!(sink.remove(letter(1).id()).await.unwrap());
    assert_eq!(all(&sink).await, [letter(1).redriven()]);
}

#[tokio::test]
async fn a_letter_whose_entry_was_trimmed_away_is_no_repeat() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    sink.write(letter(1)).await.unwrap();
    server.ask(&["XTRIM", "{orders}.dead", "MAXLEN", "0"]).await;
    assert_eq!(sink.write(letter(1)).await.unwrap(), Written::New);
    assert_eq!(all(&sink).await, [letter(1)]);
}

#[tokio::test]
async fn the_letter_and_the_acknowledgement_are_one_step() {
    let server = Redis::start().await;
    let mut connection = connect(server.port()).await;
    let sink = sink(&server).await.acknowledging("{orders}", "workers");
    let group = ["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"];
    server.ask(&group).await;
    let id: String = connection
        .xadd("{orders}", "*", &[("payload", "x")])
        .await
        .unwrap();
    let read = [
        "XREADGROUP",
        "GROUP",
        "workers",
        "a",
        "STREAMS",
        "{orders}",
        ">",
    ];
    server.ask(&read).await;
    server.reset_stats().await;
    sink.write(of_stream(&id)).await.unwrap();
    let calls = server.commandstats().await;
    // By its digest, which the server does not know yet, and by its source.
    assert_eq!(calls["evalsha"] + calls["eval"], 2, "{calls:?}");
    let pending = server.ask(&["XPENDING", "{orders}", "workers"]).await;
    assert!(pending.starts_with('0'), "{pending}");
    assert_eq!(all(&sink).await, [of_stream(&id)]);
}

/// A message that claims the origin of another must not acknowledge the other.
#[tokio::test]
async fn a_claimed_origin_acknowledges_nothing_but_the_copy_itself() {
    let server = Redis::start().await;
    let mut connection = connect(server.port()).await;
    let sink = sink(&server).await.acknowledging("{orders}", "workers");
    let group = ["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"];
    server.ask(&group).await;
    let victim: String = connection
        .xadd("{orders}", "*", &[("payload", "x")])
        .await
        .unwrap();
    let copy: String = connection
        .xadd("{orders}", "*", &[("payload", "y")])
        .await
        .unwrap();
    let read = [
        "XREADGROUP",
        "GROUP",
        "workers",
        "a",
        "STREAMS",
        "{orders}",
        ">",
    ];
    server.ask(&read).await;
    let claimed = of_stream(&victim).redriven().headers_to_send();
    let envelope = Envelope::new(Origin::stream("{orders}", &*copy), "y").headers(claimed);
    assert_eq!(envelope.origin, Origin::stream("{orders}", &*victim));
    let letter = Letter::new(envelope, Failure::new("error", "again"), noon());
    sink.write(letter).await.unwrap();
    let pending = server.ask(&["XPENDING", "{orders}", "workers"]).await;
    assert_eq!(pending.lines().next(), Some("1"), "{pending}");
    assert!(pending.contains(&victim), "{pending}");
}

#[tokio::test]
async fn names_that_cannot_work_are_refused_when_built() {
    let server = Redis::start().await;
    let client = Client::shared(connect(server.port()).await);
    let sink = |name: &str| RedisSink::try_over(client.clone(), name);
    for name in ["", "a}b", "{}x"] {
        assert!(sink(name).is_err(), "{name}");
    }
    let both = |letters, stream| sink(letters).unwrap().try_acknowledging(stream, "workers");
    let refused = both("dead", "{orders}").unwrap_err();
    assert!(refused.message().contains("two slots"));
    assert!(both("{orders}.dead", "{orders}").is_ok());
    assert!(both("{orders}.dead", "orders").is_ok());
}

#[tokio::test]
async fn what_is_not_a_letter_is_named_and_left_where_it_is() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    sink.write(letter(1)).await.unwrap();
    for (fields, what) in [
        (["other", "x"], "foreign"),
        (["letter", "{}"], "no letter"),
        (["letter", "\u{1F4A9}"], "no JSON"),
    ] {
        let add = ["XADD", "{orders}.dead", "*", fields[0], fields[1]];
        let id = server.ask(&add).await;
        sink.write(letter(2)).await.unwrap();
        let none = Filter::all().class("no such class");
        for (filter, letters) in [(Filter::all(), vec![letter(1), letter(2)]), (none, vec![])] {
            let page = sink.list(&filter, &Span::all(), 100).await.unwrap();
            assert_eq!(page.letters, letters, "{what}");
            match &page.unreadable[..] {
                [SinkError::NotALetter { stream, entry, .. }] => {
                    assert_eq!(
                        (&**stream, &**entry),
                        ("{orders}.dead", id.trim()),
                        "{what}"
                    );
                }
                other => panic!("{what}: {other:?}"),
            }
        }
        assert!(sink.remove(letter(2).id()).await.unwrap());
        assert_eq!(server.ask(&["XLEN", "{orders}.dead"]).await, "2");
        server.ask(&["XDEL", "{orders}.dead", id.trim()]).await;
    }
    assert_eq!(all(&sink).await, [letter(1)]);
}

#[tokio::test]
async fn a_key_of_another_type_is_an_error_and_stays_as_it_is() {
    let server = Redis::start().await;
    server.ask(&["SET", "{orders}.dead", "mine"]).await;
    let sink = sink(&server).await;
    assert!(matches!(
        sink.write(letter(1)).await,
        Err(SinkError::Other(_))
    ));
    assert!(matches!(sink.depth().await, Err(SinkError::Other(_))));
    assert_eq!(server.ask(&["GET", "{orders}.dead"]).await, "mine");
    assert_eq!(server.ask(&["EXISTS", "{orders}.dead:ids"]).await, "0");
}

#[tokio::test]
async fn a_letter_that_is_too_large_is_refused_by_name() {
    let server = Redis::start().await;
    let sink = sink(&server).await.max_letter_bytes(100);
    let refused = sink.write(letter(1)).await.unwrap_err();
    assert!(matches!(refused, SinkError::TooLarge { id, limit: 100, .. } if id == letter(1).id()));
}

#[tokio::test]
async fn a_full_server_refuses_and_nothing_is_half_written() {
    let server = Redis::with_args(&["--maxmemory-policy", "noeviction"]).await;
    let sink = sink(&server).await;
    sink.write(letter(1)).await.unwrap();
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert!(sink.write(letter(2)).await.is_err());
    server.ask(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(all(&sink).await, [letter(1)]);
    assert_eq!(sink.write(letter(2)).await.unwrap(), Written::New);
}

#[tokio::test]
async fn letters_outlive_a_kill_of_the_server() {
    let server = Redis::with_args(DURABLE).await;
    let sink = sink(&server).await;
    for offset in 0..20 {
        sink.write(letter(offset)).await.unwrap();
    }
    server.restart().await;
    // The connection notices by failing once.
    let mut letters = sink.depth().await;
    while letters.is_err() {
        tokio::task::yield_now().await;
        letters = sink.depth().await;
    }
    let expected: Vec<_> = (0..20).map(letter).collect();
    assert_eq!(all(&sink).await, expected);
}

#[tokio::test]
async fn a_reply_that_is_lost_leaves_no_second_letter() {
    let server = Redis::start().await;
    let proxy = Proxy::to(server.port()).await;
    let client = Client::shared(connect(proxy.port()).await).deadline(Duration::from_secs(2));
    let sink = RedisSink::try_over(client, "{orders}.dead").unwrap();
    sink.write(letter(0)).await.unwrap();
    proxy.swallow_next_reply();
    assert!(sink.write(letter(1)).await.is_err(), "nobody knows");
    proxy.cut();
    proxy.heal();
    let mut written = sink.write(letter(1)).await;
    while written.is_err() {
        tokio::task::yield_now().await;
        written = sink.write(letter(1)).await;
    }
    assert_eq!(written.unwrap(), Written::Repeat);
    assert_eq!(all(&sink).await, [letter(0), letter(1)]);
}

#[tokio::test]
async fn a_write_that_is_dropped_at_any_poll_leaves_at_most_one_letter() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    let written = drop_at_every_poll(
        || sink.write(letter(1)),
        async |_| {
            assert!(all(&sink).await.len() <= 1);
        },
    )
    .await;
    assert!(written.is_ok());
    assert_eq!(all(&sink).await, [letter(1)]);
}

#[tokio::test]
async fn a_cursor_from_elsewhere_fails_and_passes_over_nothing() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    sink.write(letter(1)).await.unwrap();
    let span = Span {
        after: Some(Cursor::new("not an id")),
        until: None,
    };
    assert!(sink.list(&Filter::all(), &span, 10).await.is_err());
}

#[tokio::test]
async fn a_redrive_brings_key_headers_and_payload_back_byte_for_byte() {
    let server = Redis::start().await;
    let mut connection = connect(server.port()).await;
    server
        .ask(&["XADD", "{orders}", "1-1", "payload", "first"])
        .await;
    let sink = sink(&server).await;
    let died = of_stream("1-1");
    sink.write(died.clone()).await.unwrap();
    let requeue = Requeue::new(connection.clone());
    let summary = Redrive::new(sink.clone()).through(requeue).await.unwrap();
    assert_eq!(summary.redriven, 1);
    assert_eq!(sink.depth().await.unwrap().letters, 0);
    let range: redis::Value = connection.xrange_all("{orders}").await.unwrap();
    let redis::Value::Array(entries) = range else {
        panic!()
    };
    let redis::Value::Array(entry) = &entries[1] else {
        panic!()
    };
    let fields: Vec<Vec<u8>> = redis::from_redis_value(entry[1].clone()).unwrap();
    let mut expected: Vec<Vec<u8>> = vec!["key".into(), "key".into(), "payload".into()];
    expected.push(died.payload.to_vec());
    for (name, value) in died.redriven().headers_to_send() {
        expected.push(name.as_bytes().to_vec());
        expected.push(value.to_vec());
    }
    assert_eq!(fields, expected);
}

#[tokio::test]
async fn a_redrive_to_nowhere_names_the_letter_and_keeps_it() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    sink.write(of_stream("1-1")).await.unwrap();
    sink.write(letter(1)).await.unwrap();
    let requeue = Requeue::new(connect(server.port()).await);
    let redrive = Redrive::new(sink.clone()).give_up_after(1);
    let stopped = redrive.through(requeue.clone()).await.unwrap_err();
    match stopped.reason {
        RedriveReason::NotSent { id, error, .. } => {
            assert_eq!(id, of_stream("1-1").id());
            let error = error.downcast::<RequeueError>().unwrap();
            assert!(matches!(*error, RequeueError::NoStream(stream) if stream == "{orders}"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.ask(&["EXISTS", "{orders}"]).await, "0");
    // One that is from no stream at all.
    sink.remove(of_stream("1-1").id()).await.unwrap();
    let redrive = Redrive::new(sink.clone()).give_up_after(1);
    let stopped: BoxError = redrive.through(requeue).await.unwrap_err().into();
    let why = stopped.source().unwrap().to_string();
    assert!(why.contains("is no entry of a Redis Stream"), "{why}");
    assert_eq!(all(&sink).await, [letter(1)]);
}

/// All keys of a step lie in one slot, so a cluster takes it.
#[tokio::test]
async fn letters_lie_in_a_cluster_and_go_back_through_it() {
    let cluster = RedisCluster::start().await;
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    // Streams of several slots, and so of several servers.
    for name in ["{orders}", "payments", "a{b}c"] {
        let letters = format!("{name}.dead");
        let group = ["CREATE", name, "workers", "0", "MKSTREAM"];
        let () = redis::cmd("XGROUP")
            .arg(&group)
            .query_async(&mut connection)
            .await
            .unwrap();
        let letters = if name.contains('{') {
            letters
        } else {
            format!("{{{name}}}.dead")
        };
        let sink = RedisSink::new(connection.clone(), letters).acknowledging(name, "workers");
        let mut ids = Vec::new();
        for number in 0..20 {
            let fields = [("payload", number.to_string())];
            let id: String = connection.xadd(name, "*", &fields).await.unwrap();
            ids.push(id);
        }
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP")
            .arg("workers")
            .arg("a")
            .arg("STREAMS")
            .arg(name)
            .arg(">");
        let _: redis::Value = read.query_async(&mut connection).await.unwrap();
        for id in &ids {
            let envelope = Envelope::new(Origin::stream(name, &**id), "x").key("key");
            let letter = Letter::new(envelope, Failure::new("timeout", "slow"), noon());
            assert_eq!(sink.write(letter).await.unwrap(), Written::New);
        }
        let mut pending = redis::cmd("XPENDING");
        pending.arg(name).arg("workers");
        let pending: redis::Value = pending.query_async(&mut connection).await.unwrap();
        let redis::Value::Array(pending) = pending else {
            panic!()
        };
        assert_eq!(
            pending[0],
            redis::Value::Int(0),
            "{name}: acknowledged with their letters"
        );
        assert_eq!(all(&sink).await.len(), 20);
        let redrive = Redrive::new(sink.clone()).per_second(10_000.0);
        let summary = redrive
            .through(Requeue::new(connection.clone()))
            .await
            .unwrap();
        assert_eq!(
            (summary.redriven, sink.depth().await.unwrap().letters),
            (20, 0)
        );
        let length: u64 = connection.xlen(name).await.unwrap();
        assert_eq!(length, 40, "{name}");
    }
}
