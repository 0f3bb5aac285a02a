//! The command line tool on a Redis Cluster, of which it is told one server.

mod support;
#[path = "support/tool.rs"]
mod tool;

use seawall_dlq::{
    Consumer, DeadLetterLayer, Envelope, Failure, Letter, Message, Origin, Queue, RedisSink, Sink,
};
use support::{Broken, noon};
use test_support::RedisCluster;
use tokio::sync::{oneshot, watch};
use tool::{answered, in_part, json, refused, said};
use tower::{Layer, service_fn};

/// Tags whose slots are those of three servers out of three.
const TAGS: [&str; 3] = ["{a}", "{b}", "{c}"];

fn of_stream(stream: &str, number: u32) -> Letter {
    let envelope = Envelope::new(Origin::stream(stream, format!("{number}-1")), vec![0, 255]);
    Letter::new(envelope, Failure::new("parse", "cannot be read"), noon())
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_worked_with_whichever_server_has_them() {
    let cluster = RedisCluster::start().await;
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let connection = client.get_async_connection().await.unwrap();
    let ask = async |words: &[&str]| -> redis::Value {
        let mut ask = redis::cmd(words[0]);
        ask.arg(&words[1..]);
        ask.query_async(&mut connection.clone()).await.unwrap()
    };
    let mut servers = std::collections::HashSet::new();
    let url = &*cluster.nodes()[0].url();
    for stream in TAGS {
        let redis::Value::Int(slot) = ask(&["CLUSTER", "KEYSLOT", stream]).await else {
            panic!("a slot is a number")
        };
        let slot = u16::try_from(slot).unwrap();
        servers.insert(cluster.node_of(slot).port());

        let letters = &*format!("{stream}.dead");
        assert!(refused(&["stats", url, letters]).contains("there is no stream"));
        let sink = RedisSink::new(connection.clone(), letters);
        for number in 0..5 {
            sink.write(of_stream(stream, number)).await.unwrap();
        }
        let stats = json(&said(&["stats", url, letters, "--json"]));
        assert_eq!(
            (&stats["letters"], &stats["oldest_ms"]),
            (&5.into(), &1_700_000_000_123_u64.into())
        );
        let list = said(&["list", url, letters, "--json"]);
        assert_eq!(list.lines().count(), 5);
        let id = of_stream(stream, 3).id().to_string();
        let shown = said(&["show", url, letters, &id, "--json"]);
        assert_eq!(
            Letter::from_json(shown.trim().as_bytes()).unwrap(),
            of_stream(stream, 3)
        );

        let (_, line) = in_part(&["redrive", url, letters]);
        assert!(line.contains(&format!("XADD {stream}")), "{line}");
        ask(&["XADD", stream, "*", "payload", "live"]).await;
        let redriven = json(&said(&["redrive", url, letters, "--limit", "3", "--json"]));
        assert_eq!(redriven["redriven"], 3);
        assert_eq!(ask(&["XLEN", stream]).await, redis::Value::Int(4));
        let (code, told) = answered(&["purge", url, letters], "no");
        assert_eq!(code, Some(1), "{told}");
        let purged = json(&said(&["purge", url, letters, "--yes", "--json"]));
        assert_eq!(purged["purged"], 2);
        assert_eq!(sink.depth().await.unwrap().letters, 0);
    }
    assert_eq!(servers.len(), 3);

    // From a file to whichever server has the stream.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dead");
    let file = seawall_dlq::FileSink::open(&path).await.unwrap();
    for stream in TAGS {
        file.write(of_stream(stream, 9)).await.unwrap();
    }
    drop(file);
    let path = path.to_str().unwrap();
    let redriven = json(&said(&["redrive", path, "--to", url, "--json"]));
    assert_eq!(redriven["redriven"], 3);
    for stream in TAGS {
        assert_eq!(ask(&["XLEN", stream]).await, redis::Value::Int(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_held_are_listed_and_let_go_whichever_server_has_them() {
    let cluster = RedisCluster::start().await;
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let mut connection = client.get_async_connection().await.unwrap();
    let url = &*cluster.nodes()[0].url();
    for stream in TAGS {
        let mut group = redis::cmd("XGROUP");
        group.arg(&["CREATE", stream, "workers", "0", "MKSTREAM"]);
        let () = group.query_async(&mut connection).await.unwrap();
        for payload in ["bad", "behind"] {
            let mut add = redis::cmd("XADD");
            add.arg(&[stream, "*", "key", "a", "payload", payload]);
            let () = add.query_async(&mut connection).await.unwrap();
        }
        assert!(refused(&["held", url, stream, "nosuch"]).contains("there is no group nosuch"));
        let (done, mut seen) = watch::channel(0);
        let sink = RedisSink::new(connection.clone(), format!("{stream}.dead"))
            .acknowledging(stream, "workers")
            .holding_keys();
        let handler = DeadLetterLayer::new(sink)
            .capture(Message::to_letter)
            .layer(service_fn(move |message: Message| {
                let is_bad = message.payload == "bad";
                done.send_modify(|done| *done += i32::from(!is_bad));
                async move { if is_bad { Err(Broken) } else { Ok(()) } }
            }));
        let (stop, stopped) = oneshot::channel::<()>();
        let consumer = Consumer::redis_cluster(&client, stream, "workers").ordered_by_key();
        let working = tokio::spawn(async move {
            let stopped = async { drop(stopped.await) };
            consumer.run(handler, stopped).await.unwrap()
        });
        let held = loop {
            let held = said(&["held", url, stream, "workers", "--json"]);
            if held.contains("\"behind\":1") {
                break json(&held);
            }
        };
        assert_eq!(held["key"], "a");
        assert!(said(&["let-go", url, stream, "workers", "a"]).starts_with("let go"));
        seen.wait_for(|done| *done == 1).await.unwrap();
        assert_eq!(said(&["held", url, stream, "workers", "--json"]), "");
        stop.send(()).unwrap();
        working.await.unwrap();
    }
}
