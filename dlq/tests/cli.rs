//! The command line tool, as a program of its own.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;
#[path = "support/tool.rs"]
mod tool;

use std::path::Path;

use seawall_dlq::{Envelope, Failure, FileSink, Letter, Origin, Queue, RedisSink, Sink};
use seawall_redis::Shared;
use support::{all, connect, letter, noon};
use test_support::Redis;
use tool::{answered, in_part, json, refused, said};

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
    let (out, line) = in_part(&["redrive", url, stream, "--class", "parse", "--json"]);
    assert_eq!(json(&out)["failed"], 3);
    let first = of_stream(0, "parse").id().to_string();
    for part in ["3 letters", &*first, "no stream {orders}", "--to"] {
        assert!(line.contains(part), "{part}: {line}");
    }
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
    let line = refused(&["purge", url, stream]);
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

    // Whoever can be asked types how many they are.
    some(&server).await;
    for (answer, code, left) in [("yes", 1, 5), ("4", 1, 5), ("", 1, 5), ("5", 0, 0)] {
        let (ended, told) = answered(&["purge", url, stream], answer);
        assert_eq!(ended, Some(code), "{answer}: {told}");
        assert!(told.contains("Type 5 to go on"), "{told}");
        assert_eq!(told.contains("nothing was thrown away"), code == 1);
        assert_eq!(sink.depth().await.unwrap().letters, left);
    }
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
    let line = refused(&["redrive", at]);
    assert!(line.contains("--to"), "{line}");
    assert_eq!(
        json(&said(&["redrive", at, "--dry-run", "--json"]))["redriven"],
        2
    );
    // One is from a log, and no Redis can take it.
    let (_, line) = in_part(&["redrive", at, "--to", &server.url()]);
    for part in [&*id, "orders/3@1 is no entry", "--to kafka://"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert_eq!(server.ask(&["XLEN", "{orders}"]).await, "2");
    let sink = FileSink::open(&path).await.unwrap();
    assert_eq!(all(&sink).await, [letter(1)]);
    let line = refused(&["stats", at]);
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
        (&[], "stats, list, show, redrive, purge, held or let-go"),
        (&["destroy"], "unrecognized subcommand"),
        (&["stats"], "<AT>"),
        (&["stats", url], "say which stream"),
        (&["stats", url, "nosuch"], "there is no stream nosuch"),
        (&["stats", url, "text"], "is no stream"),
        (&["stats", "redis//typo"], "there is no file"),
        (&["stats", "http://host/", "s"], "no address of a Redis"),
        (&["stats", "redis://:port/", "s"], "no address of a Redis"),
        (&["redrive", foreign], "not a file of letters"),
        (
            &["redrive", url, stream, "--to", "ftp://host/"],
            "no address",
        ),
        (&["redrive", url, stream, "--to", "/a/file"], "no address"),
        (&["stats", "/no/such/file"], "there is no file"),
        (
            &["stats", directory.path().to_str().unwrap()],
            "there is no file",
        ),
        (&["held", url, "{orders}"], "<GROUP>"),
        (
            &["held", url, "nosuch", "workers"],
            "there is no stream nosuch",
        ),
        (&["held", url, stream, "nosuch"], "there is no group nosuch"),
        (&["held", foreign, "{orders}", "workers"], "holds no keys"),
        (
            &["held", "kafka://h:1", "orders", "workers"],
            "holds no keys",
        ),
        (&["let-go", url, stream, "workers"], "<KEY>"),
        (
            &["let-go", url, stream, "workers", "0g", "--hex"],
            "hexadecimal",
        ),
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
        (&["redrive", url, stream, "--rate=-5/s"], "rate"),
        (&["redrive", url, stream, "--rate", "inf/s"], "rate"),
        (&["redrive", url, stream, "--limit=-1"], "--limit"),
        (&["list", url, stream, "--before", "1y"], "is no time"),
        (&["redrive", url, stream, "--rate", "NaN/s"], "rate"),
        (&["purge", url, stream], "--yes"),
    ];
    for (args, what) in table {
        let line = refused(args);
        assert!(line.contains(what), "{args:?}: {line}");
    }
    assert_eq!(all(&sink).await, [letter(1)]);
}

/// One that cannot be read stopped the tool, and hid all others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_letter_is_named_and_the_others_are_worked_with() {
    let server = Redis::start().await;
    let sink = some(&server).await;
    let foreign = ["XADD", "{orders}.dead", "*", "other", "x"];
    let id = server.ask(&foreign).await;
    sink.write(of_stream(5, "parse")).await.unwrap();
    server.ask(&["XADD", "{orders}", "*", "payload", "x"]).await;
    let (url, stream) = (&*server.url(), "{orders}.dead");
    let named = |args: &[&str]| {
        let (out, line) = in_part(args);
        for part in ["1 cannot be read", &id, &format!("XDEL {stream} {id}")] {
            assert!(line.contains(part), "{args:?}: {part}: {line}");
        }
        out
    };
    let stats = json(&named(&["stats", url, stream, "--json"]));
    assert_eq!(
        (&stats["letters"], &stats["unreadable"]),
        (&7.into(), &1.into())
    );
    assert!(named(&["stats", url, stream]).contains("unreadable 1"));
    assert_eq!(named(&["list", url, stream, "--json"]).lines().count(), 6);
    let args = ["redrive", url, stream, "--rate", "1000/s", "--json"];
    let sent = json(&named(&[&args[..], &["--class", "parse"]].concat()));
    assert_eq!(
        (&sent["redriven"], &sent["unreadable"]),
        (&4.into(), &1.into())
    );
    let purged = json(&named(&["purge", url, stream, "--yes", "--json"]));
    assert_eq!(purged["purged"], 2);
    assert_eq!(server.ask(&["XLEN", stream]).await, "1");

    // Many are counted, and the first of them named.
    for _ in 0..11 {
        server.ask(&foreign).await;
    }
    let (out, line) = in_part(&["list", url, stream, "--json"]);
    assert_eq!(out, "");
    assert!(line.contains("12 cannot be read"), "{line}");
    assert!(line.contains("and 7 more"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_as_far_as_it_can_be_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.dead");
    let at = path.to_str().unwrap();
    let fresh = async || {
        drop(std::fs::remove_file(&path));
        file(&path).await;
        std::fs::read(&path).unwrap()
    };
    fresh().await;
    support::make_unreadable(&path);
    let (out, line) = in_part(&["list", at, "--json"]);
    assert_eq!(out.lines().count(), 1);
    for part in ["1 cannot be read", at, "at byte 4096", "later version"] {
        assert!(line.contains(part), "{part}: {line}");
    }

    let whole = fresh().await;
    let later = [&whole[..8], &7_u32.to_le_bytes(), &whole[12..]].concat();
    let mut flipped = whole.clone();
    flipped[4096 + 40] ^= 1;
    for (bytes, what) in [
        (&whole[..4], "not a file of letters"),
        (&whole[..2000], "damaged at byte 2000"),
        (&whole[..whole.len() - 10], "damaged at byte"),
        (&flipped, "damaged at byte 4096"),
        (&later, "of version 7"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let line = refused(&["stats", at]);
        assert!(line.contains(what), "{what}: {line}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_one_line_without_its_password() {
    // It takes connections and says nothing.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mute = mute.local_addr().unwrap();
    let server = Redis::start().await;
    let url = server.url();
    server.kill();
    let secret = url.replace("redis://", "redis://user:secret@");
    let mute_url = format!("redis://user:secret@{mute}/");
    let all = ["stats", "list", "redrive", "purge"];
    for (url, commands) in [(&url, &all[..]), (&secret, &all), (&mute_url, &all[..1])] {
        for command in commands {
            let line = refused(&[command, url, "{orders}.dead"]);
            assert!(line.contains("no Redis answers at"), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
    }
    #[cfg(feature = "kafka")]
    {
        let url = format!("kafka://{mute}/?sasl.password=secret");
        let line = refused(&["stats", &url, "orders.dead"]);
        assert!(line.contains("no Kafka answers at"), "{line}");
        assert!(!line.contains("secret"), "{line}");
    }
}

/// A key whose message is dead, and what waits behind it.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_held_are_listed_and_let_go() {
    let server = Redis::start().await;
    let group = ["XGROUP", "CREATE", "{orders}", "workers", "0", "MKSTREAM"];
    server.ask(&group).await;
    for (key, payload) in [("a", "bad"), ("a", "behind"), ("b", "good")] {
        let add = ["XADD", "{orders}", "*", "key", key, "payload", payload];
        server.ask(&add).await;
    }
    let connection = connect(server.port()).await;
    let (done, mut seen) = tokio::sync::watch::channel(Vec::new());
    let handler = {
        use tower::Layer;
        let sink = RedisSink::new(connection.clone(), "{orders}.dead")
            .acknowledging("{orders}", "workers")
            .holding_keys();
        let layer = seawall_dlq::DeadLetterLayer::new(sink);
        let layer = layer.capture(seawall_dlq::Message::to_letter);
        layer.layer(tower::service_fn(move |message: seawall_dlq::Message| {
            let is_bad = message.payload == "bad";
            if !is_bad {
                done.send_modify(|done| done.push(message.payload.clone()));
            }
            async move { if is_bad { Err(support::Broken) } else { Ok(()) } }
        }))
    };
    let client = redis::Client::open(server.url()).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let consumer = seawall_dlq::Consumer::redis(&client, "{orders}", "workers").ordered_by_key();
    let working = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        consumer.run(handler, stopped).await.unwrap()
    });
    seen.wait_for(|done| done[..] == ["good"]).await.unwrap();

    let at = [&*server.url(), "{orders}", "workers"];
    let run = |command: &'static str, more: &[&'static str]| {
        let mut args = vec![command];
        args.extend(at);
        args.extend(more);
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let strs = |args: &[String]| said(&args.iter().map(|arg| &**arg).collect::<Vec<_>>());
    let held = loop {
        let held = strs(&run("held", &["--json"]));
        if held.contains("\"behind\":1") {
            break json(&held);
        }
    };
    assert_eq!(
        (&held["key"], &held["key_hex"]),
        (&"a".into(), &"61".into())
    );
    let table = strs(&run("held", &[]));
    assert!(table.starts_with("BEHIND"), "{table}");
    let no = run("let-go", &["nosuch"]);
    let no = refused(&no.iter().map(|arg| &**arg).collect::<Vec<_>>());
    assert!(no.contains("no key `nosuch` is held"), "{no}");
    assert!(strs(&run("let-go", &["61", "--hex"])).starts_with("let go"));
    seen.wait_for(|done| done[..] == ["good", "behind"])
        .await
        .unwrap();
    assert_eq!(strs(&run("held", &["--json"])), "");
    stop.send(()).unwrap();
    working.await.unwrap();
}

#[test]
fn help_is_no_error() {
    let help = said(&["--help"]);
    assert!(help.contains("redrive") && help.contains("Exit codes"));
    assert!(said(&["redrive", "--help"]).contains("--dry-run"));
    assert!(said(&["--version"]).starts_with("seawall-dlq "));
}
