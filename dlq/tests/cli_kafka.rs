//! The command line tool on topics of Kafka.

mod support;
#[path = "support/tool.rs"]
mod tool;

use seawall_dlq::{Envelope, Failure, KafkaSink, Letter, Origin, Queue, Sink};
use support::{client, make_topic, noon};
use tool::{answered, in_part, json, refused, said};

/// The same commands on a topic, whose letters go back into the partition they came from.
#[tokio::test(flavor = "multi_thread")]
async fn letters_on_kafka_are_counted_listed_shown_redriven_and_purged() {
    let kafka = test_support::Kafka::shared().await;
    let url = format!("kafka://{}/?client.id=tool", kafka.bootstrap());
    let (url, topic) = (&*url, "cli.dead");
    assert!(refused(&["stats", url]).contains("say which topic"));
    assert!(refused(&["stats", url, topic]).contains("there is no topic cli.dead"));
    assert!(refused(&["stats", "kafka://", topic]).contains("names no broker"));
    let unknown = format!("{url}&no.such.setting=secret");
    let unknown = refused(&["stats", &unknown, topic]);
    assert!(
        unknown.contains("no.such.setting") && !unknown.contains("secret"),
        "{unknown}"
    );

    make_topic(kafka, "cli", 4, &[]).await;
    let options = KafkaSink::options().make_topic(2, -1);
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
    assert_eq!(stats["oldest_ms"], 1_700_000_000_123_u64);
    let for_people = said(&["stats", url, topic]);
    assert!(
        for_people.starts_with("letters  5\noldest   2023-11-14T22:13:20Z"),
        "{for_people}"
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
    assert!(refused(&["purge", url, topic]).contains("say --yes"));
    let (code, told) = answered(&["purge", url, topic], "3");
    assert_eq!(code, Some(1), "{told}");
    assert!(told.ends_with("nothing was thrown away\n"), "{told}");
    assert_eq!(sink.depth().await.unwrap().letters, 2);
    let purged = json(&said(&["purge", url, topic, "--yes", "--json"]));
    assert_eq!(purged["purged"], 2);
    assert_eq!(sink.depth().await.unwrap().letters, 0);

    let of_stream = Envelope::new(Origin::stream("{orders}", "1-1"), "x");
    let of_stream = Letter::new(of_stream, Failure::new("parse", "gone"), noon());
    let id = of_stream.id();
    sink.write(of_stream).await.unwrap();
    let (_, line) = in_part(&["redrive", url, topic]);
    assert!(line.contains("--to redis://host/"), "{line}");
    sink.remove(id).await.unwrap();

    // What the brokers do not take is named, and stays.
    let settings = [("max.message.bytes", "2000")];
    make_topic(kafka, "cli.small", 1, &settings).await;
    let payload: Vec<u8> = (0..5000).map(|_| fastrand::u8(..)).collect();
    let envelope = Envelope::new(Origin::log("cli.small", 0, 1), payload);
    let large = Letter::new(envelope, Failure::new("parse", "large"), noon());
    let id = large.id().to_string();
    sink.write(large).await.unwrap();
    let gone = Envelope::new(Origin::log("cli.nosuch", 0, 1), "x");
    let gone = Letter::new(gone, Failure::new("parse", "gone"), noon());
    for (letter, parts) in [
        (None, [&*id, "max.message.bytes"]),
        (Some(gone.clone()), ["2 letters", "max.message.bytes"]),
    ] {
        if let Some(letter) = letter {
            sink.write(letter).await.unwrap();
        }
        let (_, line) = in_part(&["redrive", url, topic]);
        for part in parts {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    let nowhere = in_part(&["redrive", url, topic, "--source", "cli.nosuch"]).1;
    let id = gone.id().to_string();
    assert!(
        nowhere.contains(&id) && nowhere.contains("cli.nosuch"),
        "{nowhere}"
    );
    assert_eq!(sink.depth().await.unwrap().letters, 2);
}
