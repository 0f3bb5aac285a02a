//! The server as real clients meet it.

mod common;

use common::places::{Place, on_each_place};
use common::{Server, applied, command, dead, get, post, send, try_send, until};
use http::StatusCode;
use tokio::task::JoinSet;

const ORDER: &str = r#"{"requestId":"r-1","item":"product-789","quantity":1}"#;

async fn the_same_order_twice_gives_the_same_bytes_and_one_row<P: Place>() {
    let home = P::fresh().await;
    let server = Server::on(&home, &[]);
    let first = send(server.address, post(ORDER, &[])).await;
    let second = send(server.address, post(ORDER, &[])).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    assert_eq!((second.status, &second.body), (first.status, &first.body));
    assert_eq!(second.headers["location"], first.headers["location"]);
    assert!(!first.headers.contains_key("idempotency-replayed"));
    assert_eq!(second.headers["idempotency-replayed"], "true");

    // The key in a header, quoted or bare, is the same key.
    let quoted = send(
        server.address,
        post(ORDER, &[("idempotency-key", "\"r-1\"")]),
    )
    .await;
    let bare = send(server.address, post(ORDER, &[("idempotency-key", "r-1")])).await;
    assert_eq!((&quoted.body, &bare.body), (&first.body, &first.body));

    let place = first.headers["location"]
        .to_str()
        .expect("a path")
        .to_owned();
    let order = until(server.address, &place, |answer| {
        answer.json()["status"] == "applied"
    })
    .await;
    assert_eq!(order.json()["item"], "product-789");
    home.settled().await;
    assert!(server.stop().success());
    let rows = applied(&home.books().await);
    println!("figure pipeline/rows-of-two: {rows}");
    assert_eq!(rows, 1);
}

async fn fifty_at_once_give_one_row_and_one_answer<P: Place>() {
    let home = P::fresh().await;
    let server = Server::on(&home, &[]);
    let mut senders = JoinSet::new();
    for _ in 0..50 {
        senders.spawn(send(server.address, post(ORDER, &[("x-user-id", "alice")])));
    }
    let answers = senders.join_all().await;
    for answer in &answers {
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        assert_eq!(answer.body, answers[0].body);
    }
    let user = until(server.address, "/api/users/alice", |answer| {
        answer.status == 200
    })
    .await;
    assert_eq!(
        (&user.json()["orders"], &user.json()["units"]),
        (&1.into(), &1.into())
    );
    home.settled().await;
    assert!(server.stop().success());
    let rows = applied(&home.books().await);
    println!("figure pipeline/rows-of-fifty: {rows}");
    assert_eq!(rows, 1);
}

async fn another_body_under_the_same_key_is_refused_before_and_after_a_restart<P: Place>() {
    let home = P::fresh().await;
    let other = r#"{"requestId":"r-1","item":"product-789","quantity":2}"#;
    let server = Server::on(&home, &[]);
    let first = send(server.address, post(ORDER, &[])).await;
    let reused = send(server.address, post(other, &[])).await;
    println!(
        "figure pipeline/reused-key-status: {}",
        reused.status.as_u16()
    );
    assert_eq!(reused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(reused.is_problem(), "{reused:?}");
    server.kill();

    let server = Server::on(&home, &[]);
    let again = send(server.address, post(ORDER, &[])).await;
    assert_eq!((again.status, again.body), (first.status, first.body));
    let reused = send(server.address, post(other, &[])).await;
    assert_eq!(
        reused.status,
        StatusCode::UNPROCESSABLE_ENTITY,
        "{reused:?}"
    );
    home.settled().await;
    assert!(server.stop().success());
    assert_eq!(applied(&home.books().await), 1);
}

async fn one_key_of_two_users_is_two_orders<P: Place>() {
    let home = P::fresh().await;
    let server = Server::on(&home, &[]);
    let alice = send(server.address, post(ORDER, &[("x-user-id", "alice")])).await;
    let bob = send(server.address, post(ORDER, &[("x-user-id", "bob")])).await;
    let keyed = send(server.address, post(ORDER, &[("x-api-key", "alice")])).await;
    assert!(alice.body != bob.body && alice.body != keyed.body && bob.body != keyed.body);
    home.settled().await;
    assert!(server.stop().success());
    assert_eq!(applied(&home.books().await), 3);
}

async fn an_order_that_can_never_apply_is_accepted_written_off_and_shown_as_rejected<P: Place>() {
    let home = P::fresh().await;
    let server = Server::on(&home, &["--retry-scale", "0.01"]);
    let poison = r#"{"requestId":"p","item":"no-such-product","quantity":1}"#;
    let accepted = send(server.address, post(poison, &[("x-user-id", "alice")])).await;
    let good = send(server.address, post(ORDER, &[("x-user-id", "alice")])).await;
    let place = accepted.headers["location"]
        .to_str()
        .expect("a path")
        .to_owned();
    let order = until(server.address, &place, |answer| {
        answer.json()["status"] == "rejected"
    })
    .await;
    assert_eq!(order.json()["reason"], "unknown-item");
    // The order behind it was not held up.
    let place = good.headers["location"]
        .to_str()
        .expect("a path")
        .to_owned();
    until(server.address, &place, |answer| {
        answer.json()["status"] == "applied"
    })
    .await;
    home.settled().await;
    assert!(server.stop().success());
    let books = home.books().await;
    assert_eq!((applied(&books), dead(&books)), (1, 1));
}

async fn whoever_is_over_a_limit_gets_429_and_when_to_come_back<P: Place>() {
    let home = P::fresh().await;
    let server = Server::on(&home, &["--user-limit", "3"]);
    let ask = || {
        let mut request = get("/api/products/product-1");
        request
            .headers_mut()
            .insert("x-user-id", "alice".parse().expect("a value"));
        send(server.address, request)
    };
    for left in (0..3).rev() {
        let answer = ask().await;
        assert_eq!(answer.status, StatusCode::OK);
        let limits = answer
            .headers
            .get("ratelimit")
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
            .to_owned();
        assert!(limits.contains(&format!("\"user\";r={left};")), "{limits}");
    }
    let refused = ask().await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.is_problem(), "{refused:?}");
    let wait: u64 = refused.headers["retry-after"]
        .to_str()
        .ok()
        .and_then(|v| v.parse().ok())
        .expect("seconds");
    assert!((1..=64).contains(&wait), "{wait}");
    // A forged address does not help, nor does another user's name from the same place get refused.
    let other = send(server.address, get("/api/products/product-1")).await;
    assert_eq!(other.status, StatusCode::OK);
}

/// Its name, the body, headers, and the status it gets.
type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, u16);

async fn bad_requests_get_a_problem_and_leave_nothing<P: Place>() {
    let home = P::fresh().await;
    let server = Server::on(&home, &[]);
    let huge = format!(
        r#"{{"requestId":"x","item":"{}","quantity":1}}"#,
        "x".repeat(100_000)
    );
    let long_key = "k".repeat(256);
    let cases: Vec<Case<'_>> = vec![
        ("malformed JSON", "{", vec![], 400),
        ("no body", "", vec![], 400),
        (
            "a missing field",
            r#"{"requestId":"x","item":"product-1"}"#,
            vec![],
            400,
        ),
        (
            "an unknown field",
            r#"{"requestId":"x","item":"product-1","quantity":1,"x":1}"#,
            vec![],
            400,
        ),
        (
            "quantity zero",
            r#"{"requestId":"x","item":"product-1","quantity":0}"#,
            vec![],
            400,
        ),
        (
            "a negative quantity",
            r#"{"requestId":"x","item":"product-1","quantity":-5}"#,
            vec![],
            400,
        ),
        (
            "an absurd quantity",
            r#"{"requestId":"x","item":"product-1","quantity":1e300}"#,
            vec![],
            400,
        ),
        (
            "no key at all",
            r#"{"item":"product-1","quantity":1}"#,
            vec![],
            400,
        ),
        (
            "an empty key",
            r#"{"item":"product-1","quantity":1}"#,
            vec![("idempotency-key", "\"\"")],
            400,
        ),
        (
            "a broken key",
            r#"{"item":"product-1","quantity":1}"#,
            vec![("idempotency-key", "\"abc")],
            400,
        ),
        (
            "a long key",
            r#"{"item":"product-1","quantity":1}"#,
            vec![("idempotency-key", &long_key)],
            400,
        ),
        (
            "a repeated key",
            r#"{"item":"product-1","quantity":1}"#,
            vec![("idempotency-key", "a"), ("idempotency-key", "b")],
            400,
        ),
        (
            "two users",
            ORDER,
            vec![("x-user-id", "a"), ("x-user-id", "b")],
            400,
        ),
        ("a huge body", &huge, vec![], 413),
    ];
    for (case, body, headers, status) in cases {
        let answer = send(server.address, post(body.to_owned(), &headers)).await;
        assert_eq!(answer.status.as_u16(), status, "{case}: {answer:?}");
        assert!(answer.is_problem(), "{case}: {answer:?}");
    }
    let mut form = post(ORDER, &[]);
    form.headers_mut().insert(
        "content-type",
        "application/x-www-form-urlencoded"
            .parse()
            .expect("a value"),
    );
    let answer = send(server.address, form).await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(answer.is_problem());

    for (method, where_to, status) in [
        ("GET", "/nowhere", 404),
        ("GET", "/api/orders/not-an-id", 404),
        (
            "GET",
            "/api/orders/000000000000000000000000000000000000",
            404,
        ),
        ("GET", "/api/users/nobody", 404),
        ("GET", "/api/products/product-0", 404),
        ("DELETE", "/api/orders", 405),
        ("GET", "/api/orders", 405),
        ("POST", "/api/users/alice", 405),
        ("POST", "/healthz", 405),
    ] {
        let mut request = get(where_to);
        *request.method_mut() = method.parse().expect("a method");
        let answer = send(server.address, request).await;
        assert_eq!(
            answer.status.as_u16(),
            status,
            "{method} {where_to}: {answer:?}"
        );
        assert!(answer.is_problem(), "{method} {where_to}: {answer:?}");
        if status == 405 {
            assert!(
                answer.headers.contains_key("allow"),
                "{method} {where_to}: {answer:?}"
            );
        }
    }
    home.settled().await;
    assert!(server.stop().success());
    let books = home.books().await;
    assert_eq!((applied(&books), dead(&books)), (0, 0));
}

async fn health_readiness_and_figures_are_there<P: Place>() {
    let home = P::fresh().await;
    let server = Server::on(&home, &[]);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(send(server.address, get(path)).await.status, StatusCode::OK);
    }
    send(server.address, post(ORDER, &[])).await;
    let figures = until(server.address, "/metrics", |answer| {
        String::from_utf8_lossy(&answer.body).contains("pipeline_rows_applied_total 1")
    })
    .await;
    let text = String::from_utf8_lossy(&figures.body).into_owned();
    for name in [
        "http_requests_total",
        "seawall_ratelimit",
        "seawall_idempotency",
        "seawall_shard_router",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_data_directory_in_use_is_refused_in_one_line() {
    let data = tempfile::tempdir().expect("a directory");
    let path = data.path().join("data");
    let server = Server::start(&path, &[]);
    let second = command(&path, &[]).output().expect("it runs");
    assert_eq!(second.status.code(), Some(2));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("in use"), "{said}");
    assert_eq!(
        send(server.address, post(ORDER, &[])).await.status,
        StatusCode::ACCEPTED
    );
}

#[tokio::test]
async fn a_damaged_data_directory_is_refused_and_left_as_it_is() {
    let data = tempfile::tempdir().expect("a directory");
    let path = data.path().join("data");
    Server::start(&path, &[]).stop();
    let shard = path.join("shard-03.db");
    let mut bytes = std::fs::read(&shard).expect("it is there");
    bytes[..64].fill(0xa5);
    std::fs::write(&shard, &bytes).expect("it can be written");
    let refused = command(&path, &[]).output().expect("it runs");
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.lines().count() == 1 && said.contains("shard-03.db"),
        "{said}"
    );
    assert_eq!(std::fs::read(&shard).expect("it is there"), bytes);
}

#[tokio::test]
async fn a_listening_address_in_use_is_refused_in_one_line() {
    let data = tempfile::tempdir().expect("a directory");
    let server = Server::start(&data.path().join("one"), &[]);
    let address = server.address.to_string();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_pipeline"))
        .args(["serve", "--listen", &address, "--data"])
        .arg(data.path().join("two"))
        .output()
        .expect("it runs");
    assert_eq!(second.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&second.stderr).lines().count(), 1);
}

async fn a_draining_server_answers_what_it_began<P: Place>() {
    let home = P::fresh().await;
    let server = Server::on(&home, &[]);
    let mut senders = JoinSet::new();
    for n in 0..200 {
        let body = format!(r#"{{"requestId":"d-{n}","item":"product-1","quantity":1}}"#);
        let address = server.address;
        senders.spawn(async move {
            try_send(address, post(body, &[]))
                .await
                .is_ok_and(|a| a.status == 202)
        });
    }
    // Some are in flight by the first answer, some have not even connected.
    let first = senders
        .join_next()
        .await
        .expect("there are many")
        .expect("no panic");
    home.settled().await;
    assert!(server.stop().success());
    let accepted = senders
        .join_all()
        .await
        .into_iter()
        .chain([first])
        .filter(|accepted| *accepted)
        .count();
    assert!(applied(&home.books().await) >= accepted);
}

on_each_place! {
    the_same_order_twice_gives_the_same_bytes_and_one_row,
    fifty_at_once_give_one_row_and_one_answer,
    another_body_under_the_same_key_is_refused_before_and_after_a_restart,
    one_key_of_two_users_is_two_orders,
    an_order_that_can_never_apply_is_accepted_written_off_and_shown_as_rejected,
    whoever_is_over_a_limit_gets_429_and_when_to_come_back,
    bad_requests_get_a_problem_and_leave_nothing,
    health_readiness_and_figures_are_there,
    a_draining_server_answers_what_it_began,
}
