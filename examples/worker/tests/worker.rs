//! The worker as a program, on a real Redis.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use test_support::Redis;
use tokio::process::{Child, Command};
use tokio::time::sleep;

fn start(server: &Redis) -> Child {
    Command::new(env!("CARGO_BIN_EXE_worker"))
        .arg(server.url())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Waits until the group has read and acknowledged this many messages.
async fn finished(server: &Redis, messages: &str) {
    loop {
        let group = server.ask(&["XINFO", "GROUPS", "{orders}"]).await;
        let lines: Vec<&str> = group.lines().collect();
        let after = |name| lines.iter().skip_while(move |line| **line != name).nth(1);
        if after("entries-read") == Some(&messages) && after("pending") == Some(&"0") {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn it_handles_what_it_can_and_writes_down_the_rest() {
    let server = Redis::start().await;
    for number in 0..20 {
        let order = if number % 5 == 0 {
            "books".to_owned()
        } else {
            format!("books {number}")
        };
        server
            .ask(&["XADD", "{orders}", "*", "payload", &order])
            .await;
    }
    let worker = start(&server);
    // The group is the worker's to make.
    while server.ask(&["XLEN", "{orders}.dead"]).await != "4" {
        sleep(Duration::from_millis(10)).await;
    }
    finished(&server, "20").await;
    let id = Pid::from_raw(worker.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    let output = worker.wait_with_output().await.unwrap();
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "16 done, 4 dead\n"
    );
    let letter = server
        .ask(&["XRANGE", "{orders}.dead", "-", "+", "COUNT", "1"])
        .await;
    assert!(letter.contains("\"attempts\":3"), "{letter}");
    assert!(
        letter.contains("an order is an article and a number"),
        "{letter}"
    );
}

#[tokio::test]
async fn an_order_that_was_sent_twice_is_handled_once() {
    let server = Redis::start().await;
    // Executed, the copies of the first order would die.
    for (order, payload) in [
        ("7", "books 12"),
        ("7", "books"),
        ("8", "books 1"),
        ("7", "books"),
    ] {
        let add = ["XADD", "{orders}", "*", "order", order, "payload", payload];
        server.ask(&add).await;
        if payload == "books 12" {
            server
                .ask(&["XGROUP", "CREATE", "{orders}", "workers", "0"])
                .await;
        }
    }
    let worker = start(&server);
    finished(&server, "4").await;
    let id = Pid::from_raw(worker.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(id, Signal::TERM).unwrap();
    let output = worker.wait_with_output().await.unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told, "4 done, 0 dead\n");
    let records = server.ask(&["KEYS", "seawall:idempotency:*"]).await;
    assert_eq!(records.lines().count(), 2);
}
