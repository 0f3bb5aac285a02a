//! An API and workers in processes of their own.

use std::process::Command;

use http::StatusCode;
use tempfile::NamedTempFile;

use crate::common::places::Place;
use crate::common::places::remote::{Services, books, settled};
use crate::common::{Server, applied, get, post, send, until};

fn role(name: &str, file: &NamedTempFile) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
    command
        .args([name, "--listen", "127.0.0.1:0", "--services"])
        .arg(file.path());
    Server::spawn(command)
}

fn order(n: u32) -> String {
    format!(r#"{{"requestId":"r-{n}","item":"product-7","quantity":2}}"#)
}

/// An order of each of many users, so that it lies in one of many partitions.
async fn place_orders(api: &Server, numbers: std::ops::Range<u32>) -> Vec<String> {
    let mut places = Vec::new();
    for n in numbers {
        let user = format!("user-{n}");
        let answer = send(api.address, post(order(n), &[("x-user-id", &user)])).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        places.push(answer.headers["location"].to_str().unwrap().to_owned());
    }
    places
}

#[tokio::test]
async fn what_one_process_accepts_others_apply_and_when_one_is_killed_the_rest_go_on() {
    let home = Services::fresh().await;
    let file = home.file();
    let (one, two) = (role("api", file), role("api", file));
    let (first, second) = (role("worker", file), role("worker", file));

    let places = place_orders(&one, 0..40).await;
    // Also where nothing is applied yet, the other API knows of it.
    let shown = send(two.address, get(&places[39])).await;
    assert_eq!(shown.status, StatusCode::OK, "{shown:?}");
    for place in &places {
        for api in [&one, &two] {
            until(api.address, place, |answer| {
                answer.json()["status"] == "applied"
            })
            .await;
        }
    }
    // What a process was told before is not what it says after the other took an order.
    let path = "/api/users/user-3";
    let orders = |n: u64| move |answer: &crate::common::Answer| answer.json()["orders"] == n;
    until(two.address, path, orders(1)).await;
    let again = post(order(1_000), &[("x-user-id", "user-3")]);
    assert_eq!(send(one.address, again).await.status, StatusCode::ACCEPTED);
    until(two.address, path, orders(2)).await;

    // A worker takes no orders.
    let refused = send(first.address, post(order(1), &[])).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    first.kill();
    let places = place_orders(&two, 100..140).await;
    for place in &places {
        until(one.address, place, |answer| {
            answer.json()["status"] == "applied"
        })
        .await;
    }
    settled(file).await;
    for server in [one, two, second] {
        assert!(server.stop().success());
    }
    assert_eq!(applied(&books(file).await), 81);
}

#[tokio::test]
async fn one_key_at_two_processes_at_once_is_one_order() {
    let home = Services::fresh().await;
    let (one, two) = (role("api", home.file()), role("api", home.file()));
    let worker = role("worker", home.file());
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..40 {
        let address = [one.address, two.address][n % 2];
        senders.spawn(send(address, post(order(1), &[("x-user-id", "alice")])));
    }
    let answers = senders.join_all().await;
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        assert_eq!(answer.body, answers[0].body);
    }
    settled(home.file()).await;
    for server in [one, two, worker] {
        assert!(server.stop().success());
    }
    let rows = applied(&home.books().await);
    println!("figure pipeline/rows-at-two-processes: {rows}");
    assert_eq!(rows, 1);
}
