//! The command as it is typed.

use std::process::{Command, Output};

fn services(args: &[&str], directory: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_services"))
        .args(args)
        .arg("--directory")
        .arg(directory)
        .output()
        .expect("it runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&*output.stdout, &*output.stderr].concat()).into_owned()
}

#[test]
fn what_is_up_outlives_the_command_is_shown_and_ends_when_it_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = directory.path();
    let up = services(
        &["up", "--only", "redis,postgres,haproxy", "--shards", "2"],
        at,
    );
    assert!(up.status.success(), "{}", said(&up));
    let table = said(&up);
    for row in ["redis", "primary, 2 shards", "streaming replica", "haproxy"] {
        assert!(table.contains(row), "{table}");
    }
    let places = std::fs::read_to_string(at.join("services.toml")).expect("it is written");
    for line in ["[redis]", "[postgres]", "/s01\" }", "[haproxy]"] {
        assert!(places.contains(line), "{places}");
    }

    let again = services(&["up", "--only", "redis"], at);
    assert!(said(&again).contains("up already"), "{}", said(&again));

    let status = services(&["status"], at);
    assert!(status.status.success(), "{}", said(&status));
    assert_eq!(
        said(&status).matches(" answers").count(),
        4,
        "{}",
        said(&status)
    );
    let address = table
        .lines()
        .find(|line| line.starts_with("redis"))
        .and_then(|line| line.split_whitespace().last())
        .expect("its address is the last word")
        .to_owned();

    let down = services(&["down"], at);
    assert!(down.status.success(), "{}", said(&down));
    assert!(
        std::net::TcpStream::connect(&*address).is_err(),
        "Redis has ended"
    );
    assert!(!at.join("services.toml").exists());
    let status = services(&["status"], at);
    assert_eq!(status.status.code(), Some(1), "{}", said(&status));
    // A second time there is nothing to end.
    assert!(services(&["down"], at).status.success());
}

#[test]
fn redis_may_be_a_cluster() {
    let directory = tempfile::tempdir().expect("a directory");
    let up = services(&["up", "--only", "redis", "--cluster"], directory.path());
    assert!(up.status.success(), "{}", said(&up));
    assert_eq!(said(&up).matches("primary").count(), 3, "{}", said(&up));
    assert_eq!(said(&up).matches("replica").count(), 3, "{}", said(&up));
    let places = std::fs::read_to_string(directory.path().join("services.toml"));
    assert_eq!(
        places.expect("it is written").matches("redis://").count(),
        6
    );
    assert!(services(&["down"], directory.path()).status.success());
}

#[test]
fn what_does_not_start_is_said_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_services"))
        .args(["up", "--only", "redis", "--directory"])
        .arg(directory.path())
        .env("REDIS_SERVER", "/nowhere/redis-server")
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("REDIS_SERVER"), "{}", said(&output));
    assert!(!directory.path().join("services.json").exists());
}
