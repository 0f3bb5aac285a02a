//! The command line tool, as a program of its own.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use seawall_dlq::{Envelope, Failure, FileSink, Letter, Origin, Queue, RedisSink, Sink};
use seawall_redis::Shared;
use serde_json::Value;
use support::{all, connect, letter, noon};
use test_support::Redis;

fn tool(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seawall-dlq"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What it said, having succeeded.
fn said(args: &[&str]) -> String {
    let output = tool(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {errors}");
    assert_eq!(errors, "");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line by which it refused, with this code.
fn refused(args: &[&str], code: i32) -> String {
    let output = tool(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
    assert_eq!(output.stdout, b"", "{args:?}");
    errors
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

async fn sink(server: &Redis) -> RedisSink<Shared<redis::aio::ConnectionManager>> {
    RedisSink::new(connect(server.port()).await, "{orders}.dead")
}

fn of_stream(number: u32, class: &str) -> Letter {
    let id = format!("{number}-1");
    let envelope = Envelope::new(Origin::stream("{orders}", &*id), vec![0, 255, 10])
        .key("key")
        .header("trace", "\x1b[2J");
    let failure = Failure::new(class, format!("order {number} \x1b[31m cannot be\nread"));
    Letter::new(envelope, failure, noon())
}

/// Five letters of two causes on a server.
async fn some(server: &Redis) -> RedisSink<Shared<redis::aio::ConnectionManager>> {
    let sink = sink(server).await;
    for number in 0..5 {
        let class = if number < 3 { "parse" } else { "timeout" };
        sink.write(of_stream(number, class)).await.unwrap();
    }
    sink
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_and_lists_are_tables_for_people_and_json_for_scripts() {
    let server = Redis::start().await;
    some(&server).await;
    let (url, stream) = (&*server.url(), "{orders}.dead");
    let stats = said(&["stats", url, stream]);
    assert!(
        stats.starts_with("letters  5\noldest   2023-11-14T22:13:20Z"),
        "{stats}"
    );
    assert!(!stats.contains('\x1b'), "{stats:?}");
    let stats = json(&said(&["stats", url, stream, "--json"]));
    assert_eq!(
        (&stats["letters"], &stats["oldest_ms"]),
        (&5.into(), &1_700_000_000_123_u64.into())
    );
    assert_eq!(stats["causes"][0]["letters"], 3);
    assert_eq!(stats["causes"][1]["class"], "timeout");

    let list = said(&["list", url, stream, "--class", "timeout"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.starts_with("ID "), "{list}");
    assert!(!list.contains('\x1b'), "{list:?}");
    let lines = said(&["list", url, stream, "--limit", "2", "--json"]);
    let listed: Vec<_> = lines
        .lines()
        .map(|line| Letter::from_json(line.as_bytes()).unwrap())
        .collect();
    assert_eq!(listed, [of_stream(0, "parse"), of_stream(1, "parse")]);
    assert_eq!(said(&["list", url, stream, "--since", "1h", "--json"]), "");
    assert_eq!(
        said(&["list", url, stream, "--before", "1h", "--json"])
            .lines()
            .count(),
        5
    );

    let fingerprint = of_stream(0, "parse").fingerprint.to_string();
    let by_digits = said(&[
        "list",
        url,
        stream,
        "--fingerprint",
        &fingerprint[..8],
        "--json",
    ]);
    assert_eq!(by_digits.lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_letter_is_shown_whole() {
    let server = Redis::start().await;
    some(&server).await;
    let letter = of_stream(1, "parse");
    let id = letter.id().to_string();
    let (url, stream) = (&*server.url(), "{orders}.dead");
    let shown = said(&["show", url, stream, &id]);
    for part in [
        &*id,
        "{orders}@1-1",
        "hex 00 ff 0a",
        "\\u{1b}[2J",
        "attempts     1",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains('\x1b'), "{shown:?}");
    let shown = said(&["show", url, stream, &id, "--json"]);
    assert_eq!(Letter::from_json(shown.trim().as_bytes()).unwrap(), letter);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_sends_what_matches_and_a_dry_run_nothing() {
    let server = Redis::start().await;
    let sink = some(&server).await;
    let (url, stream) = (&*server.url(), "{orders}.dead");
    let dry = said(&[
        "redrive",
        url,
        stream,
        "--class",
        "parse",
        "--dry-run",
        "--json",
    ]);
    assert_eq!(json(&dry)["redriven"], 3);
    assert_eq!(sink.depth().await.unwrap().letters, 5);

    // The stream is not there: every letter stays, and it says so.
    let output = tool(&["redrive", url, stream, "--class", "parse", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        json(&String::from_utf8(output.stdout).unwrap())["failed"],
        3
    );
    assert_eq!(sink.depth().await.unwrap().letters, 5);

    server.ask(&["XADD", "{orders}", "*", "payload", "x"]).await;
    let sent = said(&[
        "redrive", url, stream, "--class", "parse", "--rate", "1000/s",
    ]);
    assert!(sent.starts_with("3 sent, 0 failed"), "{sent}");
    assert_eq!(sink.depth().await.unwrap().letters, 2);
    assert_eq!(server.ask(&["XLEN", "{orders}"]).await, "4");
    let sent = said(&["redrive", url, stream, "--limit", "1"]);
    assert!(sent.starts_with("1 sent"), "{sent}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_thrown_away_without_consent() {
    let server = Redis::start().await;
    let sink = some(&server).await;
    let (url, stream) = (&*server.url(), "{orders}.dead");
    let line = refused(&["purge", url, stream], 2);
    assert!(line.contains("--yes"), "{line}");
    assert_eq!(sink.depth().await.unwrap().letters, 5);
    let purged = said(&["purge", url, stream, "--class", "parse", "--yes"]);
    assert_eq!(purged, "3 letters thrown away\n");
    assert_eq!(sink.depth().await.unwrap().letters, 2);
    assert_eq!(
        json(&said(&["purge", url, stream, "--yes", "--json"]))["purged"],
        2
    );
    assert_eq!(said(&["list", url, stream, "--json"]), "");
}

async fn file(path: &Path) {
    let sink = FileSink::open(path).await.unwrap();
    sink.write(of_stream(0, "parse")).await.unwrap();
    sink.write(letter(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_in_a_file_are_worked_with_the_same_way() {
    let server = Redis::start().await;
    server.ask(&["XADD", "{orders}", "*", "payload", "x"]).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.dead");
    file(&path).await;
    let at = path.to_str().unwrap();
    assert_eq!(json(&said(&["stats", at, "--json"]))["letters"], 2);
    let id = letter(1).id().to_string();
    assert!(said(&["show", at, &id]).contains("orders/3@1"));
    let line = refused(&["redrive", at], 2);
    assert!(line.contains("--to"), "{line}");
    assert_eq!(
        json(&said(&["redrive", at, "--dry-run", "--json"]))["redriven"],
        2
    );
    // One is from a log, and no Redis can take it.
    let output = tool(&["redrive", at, "--to", &server.url()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(server.ask(&["XLEN", "{orders}"]).await, "2");
    let sink = FileSink::open(&path).await.unwrap();
    assert_eq!(all(&sink).await, [letter(1)]);
    let line = refused(&["stats", at], 1);
    assert!(line.contains("in use"), "{line}");
}

/// What is wrong, in one line, and how to mend it: exit code 2.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_is_one_line_and_exit_code_2() {
    let server = Redis::start().await;
    let sink = sink(&server).await;
    sink.write(letter(1)).await.unwrap();
    server.ask(&["SET", "text", "x"]).await;
    let directory = tempfile::tempdir().unwrap();
    let foreign = directory.path().join("foreign");
    std::fs::write(&foreign, vec![7; 8192]).unwrap();
    let foreign = foreign.to_str().unwrap();
    let (url, stream) = (&*server.url(), "{orders}.dead");
    let unknown = "0".repeat(32);
    let table: &[(&[&str], &str)] = &[
        (&[], "stats, list, show, redrive or purge"),
        (&["destroy"], "unrecognized subcommand"),
        (&["stats"], "<AT>"),
        (&["stats", url], "say which stream"),
        (&["stats", url, "nosuch"], "there is no stream nosuch"),
        (&["stats", url, "text"], "is no stream"),
        (&["stats", "redis//typo"], "there is no file"),
        (&["stats", "http://host/", "s"], "no address of a Redis"),
        (&["stats", "/no/such/file"], "there is no file"),
        (&["stats", foreign], "not a file of letters"),
        (&["stats", foreign, "s"], "taken for a file"),
        (&["stats", url, stream, "--nosuch"], "--nosuch"),
        (&["list", url, stream, "--since", "yesterday"], "is no time"),
        (&["list", url, stream, "--limit", "many"], "--limit"),
        (
            &["list", url, stream, "--fingerprint", "zz"],
            "begins with `zz`",
        ),
        (&["show", url, stream, "12"], "32 hexadecimal digits"),
        (&["show", url, stream, &unknown], "there is no letter"),
        (&["redrive", url, stream, "--rate", "fast"], "is no rate"),
        (&["redrive", url, stream, "--rate", "0/s"], "rate"),
        (&["redrive", url, stream, "--rate", "NaN/s"], "rate"),
        (&["purge", url, stream], "--yes"),
    ];
    for (args, what) in table {
        let line = refused(args, 2);
        assert!(line.contains(what), "{args:?}: {line}");
    }
    assert_eq!(all(&sink).await, [letter(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_otherwise_is_one_line_and_exit_code_1() {
    let server = Redis::start().await;
    let id = server
        .ask(&["XADD", "{orders}.dead", "*", "other", "x"])
        .await;
    let (url, stream) = (server.url(), "{orders}.dead");
    let line = refused(&["stats", &url, stream], 1);
    assert!(line.contains(&format!("XDEL {stream} {id}")), "{line}");
    server.kill();
    refused(&["stats", &url, stream], 1);
    let secret = url.replace("redis://", "redis://user:secret@");
    let line = refused(&["stats", &secret, stream], 1);
    assert!(!line.contains("secret"), "{line}");
}

#[test]
fn help_is_no_error() {
    assert!(said(&["--help"]).contains("redrive"));
    assert!(said(&["redrive", "--help"]).contains("--dry-run"));
    assert!(said(&["--version"]).starts_with("seawall-dlq "));
}

/// The same commands on a topic, whose letters go back into the partition they came from.
#[cfg(feature = "kafka")]
#[tokio::test(flavor = "multi_thread")]
async fn letters_on_kafka_are_counted_listed_shown_redriven_and_purged() {
    use support::{client, make_topic};
    let kafka = test_support::Kafka::shared().await;
    let url = format!("kafka://{}/?client.id=tool", kafka.bootstrap());
    let (url, topic) = (&*url, "cli.dead");
    assert!(refused(&["stats", url], 2).contains("say which topic"));
    assert!(refused(&["stats", url, topic], 2).contains("there is no topic cli.dead"));
    assert!(refused(&["stats", "kafka://", topic], 2).contains("names no broker"));
    let unknown = format!("{url}&no.such.setting=secret");
    let unknown = refused(&["stats", &unknown, topic], 2);
    assert!(
        unknown.contains("no.such.setting") && !unknown.contains("secret"),
        "{unknown}"
    );

    make_topic(kafka, "cli", 4, &[]).await;
    let options = seawall_dlq::KafkaSink::options().make_topic(2, -1);
    let sink = options.open(&client(kafka), topic).await.unwrap();
    let letter = |offset, class: &str| {
        let envelope = Envelope::new(Origin::log("cli", 3, offset), vec![0, 255, 10]).key("key");
        Letter::new(envelope, Failure::new(class, "cannot be read"), noon())
    };
    for offset in 0..5 {
        let class = if offset < 3 { "parse" } else { "timeout" };
        sink.write(letter(offset, class)).await.unwrap();
    }
    let stats = json(&said(&["stats", url, topic, "--json"]));
    assert_eq!(
        (&stats["letters"], &stats["causes"][0]["letters"]),
        (&5.into(), &3.into())
    );
    let list = said(&["list", url, topic, "--class", "timeout", "--json"]);
    assert_eq!(list.lines().count(), 2);
    let id = letter(0, "parse").id().to_string();
    let shown = said(&["show", url, topic, &id, "--json"]);
    assert_eq!(
        Letter::from_json(shown.trim().as_bytes()).unwrap(),
        letter(0, "parse")
    );

    let dry = json(&said(&[
        "redrive",
        url,
        topic,
        "--class",
        "parse",
        "--dry-run",
        "--json",
    ]));
    assert_eq!(dry["redriven"], 3);
    assert_eq!(sink.depth().await.unwrap().letters, 5);
    let redriven = json(&said(&[
        "redrive", url, topic, "--class", "parse", "--json",
    ]));
    assert_eq!(
        (&redriven["redriven"], &redriven["failed"]),
        (&3.into(), &0.into())
    );
    assert_eq!(sink.depth().await.unwrap().letters, 2);
    assert!(refused(&["purge", url, topic], 2).contains("say --yes"));
    let purged = json(&said(&["purge", url, topic, "--yes", "--json"]));
    assert_eq!(purged["purged"], 2);
    assert_eq!(sink.depth().await.unwrap().letters, 0);

    let redis_letter = of_stream(1, "parse");
    sink.write(redis_letter).await.unwrap();
    let output = tool(&["redrive", url, topic]);
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors.lines().count(), 1, "{errors}");
}
