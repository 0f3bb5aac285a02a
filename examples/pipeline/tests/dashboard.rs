//! The dashboard asks for figures that are there, by labels that they have.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use common::{Server, get, send, until};
use pipeline::args::Cli;
use pipeline::load::{Load, Mix, Run};
use pipeline::services::Places;
use serde_json::Value;

/// Words of PromQL that are no figures.
const WORDS: &[&str] = &["sum", "max", "by", "rate", "increase", "histogram_quantile"];

/// The figures at `/metrics`, each with the labels that some series of it has.
fn exposed(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut figures: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.rsplit_once(' ').map_or("", |(series, _)| series);
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let labels = labels
            .split("\",")
            .filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
        figures.entry(name.to_owned()).or_default().extend(labels);
    }
    figures
}

/// What a query asks for: figures, and the labels that it names.
fn asked(query: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut labels = BTreeSet::new();
    let mut rest = query.to_owned();
    // Labels stand behind `by (` and in braces.
    for (open, close) in [("by (", ")"), ("{", "}")] {
        while let Some((before, after)) = rest.clone().split_once(open) {
            let (inside, after) = after.split_once(close).expect("it is closed");
            let names = inside.split(',').map(|label| {
                label
                    .trim()
                    .split(['!', '='])
                    .next()
                    .unwrap_or("")
                    .to_owned()
            });
            labels.extend(names);
            rest = format!("{before} {after}");
        }
    }
    let figures = rest
        .split(|c| !is_word(c))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()))
        .filter(|word| !WORDS.contains(word) && word.len() > 2)
        .map(str::to_owned)
        .collect();
    (figures, labels)
}

fn deploy(file: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|why| panic!("{}: {why}", file.display()))
}

#[tokio::test]
async fn each_query_of_the_dashboard_asks_for_a_figure_that_is_there_by_labels_that_it_has() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::start(
        &data.path().join("data"),
        &["--proxies", "1", "--retry-scale", "0.01"],
    );
    let load = Load {
        server: server.address,
        rate: 500,
        duration: Duration::from_secs(1),
        connections: 8,
        users: 100,
        products: 100,
        mix: Mix {
            writes: 0.5,
            repeats: 0.2,
            poison: 0.1,
            ..Mix::default()
        },
        seed: 1,
    };
    Run::new(&load, None).drive(&load).await;
    until(server.address, "/metrics", |answer| {
        String::from_utf8_lossy(&answer.body).contains("pipeline_partitions_behind 0")
    })
    .await;
    let answer = send(server.address, get("/metrics")).await;
    let figures = exposed(&String::from_utf8_lossy(&answer.body));

    let dashboard: Value =
        serde_json::from_str(&deploy("grafana/dashboard.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let queries: Vec<&str> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().expect("a panel has targets"))
        .map(|target| target["expr"].as_str().expect("a target has a query"))
        .collect();
    assert!(queries.len() >= panels.len() && panels.len() > 10);
    for query in queries {
        let (names, labels) = asked(query);
        assert!(!names.is_empty(), "{query}");
        for name in &names {
            let has = figures
                .get(name)
                .unwrap_or_else(|| panic!("{query}: there is no {name}"));
            for label in &labels {
                assert!(has.contains(label), "{query}: {name} has no {label}");
            }
        }
    }
    assert!(server.stop().success());
}

#[test]
fn a_query_that_asks_for_what_is_not_there_would_be_seen() {
    let figures = exposed("a_total{b=\"1\",c=\"2\"} 3\nd 4\n");
    assert_eq!(figures["a_total"], ["b", "c"].map(str::to_owned).into());
    assert!(figures["d"].is_empty());
    let (names, labels) =
        asked("sum by (b, e) (rate(a_total{c!=\"x\"}[1m])) / sum(rate(other[1m]))");
    assert_eq!(names, ["a_total", "other"].map(str::to_owned).into());
    assert_eq!(labels, ["b", "c", "e"].map(str::to_owned).into());
}

#[test]
fn what_the_compose_file_mounts_is_there() {
    let compose = deploy("compose.yml");
    let mounted: Vec<&str> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- ./")?.split(':').next())
        .collect();
    assert!(mounted.len() >= 7, "{mounted:?}");
    for file in mounted {
        deploy(file);
    }
}

#[test]
fn what_the_compose_file_runs_is_understood_and_finds_services_that_are_in_it() {
    let compose = deploy("compose.yml");
    let commands: Vec<Vec<String>> = compose
        .lines()
        .filter_map(|line| line.trim().strip_prefix("command: "))
        .map(|list| serde_json::from_str(list).expect("a command is a list"))
        .filter(|words: &Vec<String>| words.iter().any(|word| word == "--services"))
        .collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    for words in commands {
        let all = std::iter::once("pipeline").chain(words.iter().map(String::as_str));
        Cli::try_parse_from(all).unwrap_or_else(|why| panic!("{words:?}: {why}"));
    }

    let places = Places::parse(&deploy("services.toml")).expect("it is read");
    assert_eq!(places.postgres.shards.len(), 10);
    let shards = places.postgres.shards.iter();
    let named = shards
        .flat_map(|shard| std::iter::once(&shard.primary).chain(&shard.replica))
        .chain(&places.kafka.brokers)
        .chain(&places.redis.urls);
    for place in named {
        let host = place.split_once("://").map_or(&**place, |(_, rest)| rest);
        let host = host.split_once('@').map_or(host, |(_, rest)| rest);
        let host = host.split([':', '/']).next().expect("a host");
        let service = format!("\n  {host}:\n");
        assert!(compose.contains(&service), "{place}: no service {host:?}");
    }
}
