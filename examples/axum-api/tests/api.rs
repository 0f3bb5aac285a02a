//! The API over a real connection.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Api(SocketAddr);

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Api {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum_api::app().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self(address)
    }

    async fn send(&self, line: &str, headers: &str, body: &str) -> Answer {
        let mut connection = TcpStream::connect(self.0).await.unwrap();
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: api\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n{headers}\r\n{body}"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    async fn orders(&self, headers: &str) -> Answer {
        self.send("GET /orders", headers, "").await
    }

    async fn log_in(&self, password: &str) -> u16 {
        let body = format!(r#"{{"user":"ada","password":"{password}"}}"#);
        self.send("POST /login", "", &body).await.status
    }
}

#[tokio::test]
async fn a_client_has_ten_a_second_whatever_it_says_of_itself() {
    let api = Api::start().await;
    // A burst of 60 may take some seconds on a busy machine; of each second, ten pass.
    let begun = tokio::time::Instant::now();
    let (mut passed, mut refused) = (0, 0);
    for n in 0..60 {
        let forged = format!("x-forwarded-for: 192.0.2.{n}\r\n");
        let answer = api.orders(&forged).await;
        match answer.status {
            200 => passed += 1,
            429 => refused += 1,
            other => panic!("{other}"),
        }
        let fields = [
            "ratelimit-policy: \"client\";q=10;w=1, \"user\";q=100;w=60",
            "x-ratelimit-limit: 10",
        ];
        for field in fields {
            assert!(answer.head.contains(field), "{}", answer.head);
        }
    }
    let seconds = begun.elapsed().as_secs() + 1;
    assert!(passed <= 10 * (seconds + 1), "{passed} in {seconds} s");
    assert_eq!(passed + refused, 60);
}

#[tokio::test]
async fn a_plan_and_an_operator_change_what_a_user_has() {
    let api = Api::start().await;
    let wide = r#"{"limit":1000000,"seconds":1}"#;
    let set = api.send("PUT /admin/quota/client", "", wide).await;
    assert_eq!((set.status, set.body.as_str()), (200, "version 1\n"));

    let paid = api.orders("x-user: ada\r\nx-plan: paid\r\n").await;
    assert!(paid.head.contains("\"user\";q=1000;w=60"), "{}", paid.head);
    assert_eq!(
        api.orders("x-user: eve\r\nx-plan: closed\r\n").await.status,
        403
    );

    let narrow = r#"{"limit":2,"seconds":3600}"#;
    api.send("PUT /admin/quota/user", "", narrow).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(api.orders("x-user: bob\r\n").await.status);
    }
    assert_eq!(statuses, [200, 200, 429]);

    assert_eq!(api.orders("x-user: kim\r\n").await.status, 200);
    assert_eq!(api.send("POST /admin/block/kim", "", "").await.status, 204);
    let blocked = api.orders("x-user: kim\r\n").await;
    assert_eq!(blocked.status, 429);
    let (_, wait) = blocked.head.split_once("retry-after: ").unwrap();
    let wait: u64 = wait.split("\r\n").next().unwrap().parse().unwrap();
    assert!((3_000..=3_600).contains(&wait), "{wait}");

    let refused = api.send("GET /admin/refused", "", "").await.body;
    let refused: serde_json::Value = serde_json::from_str(&refused).unwrap();
    assert_eq!(refused.as_array().unwrap().len(), 2);
    assert_eq!(
        (&refused[0]["rule"], &refused[0]["count"]),
        (&"user".into(), &1.into())
    );

    let wrong = api
        .send("PUT /admin/quota/user", "", r#"{"limit":0,"seconds":1}"#)
        .await;
    assert_eq!(wrong.status, 400);
    let unknown = api.send("PUT /admin/quota/usr", "", wide).await;
    assert_eq!(unknown.body, "no rule is named \"usr\"\n");
}

#[tokio::test]
async fn only_wrong_passwords_count() {
    let api = Api::start().await;
    for _ in 0..8 {
        assert_eq!(api.log_in("sesame").await, 204);
    }
    for _ in 0..5 {
        assert_eq!(api.log_in("guess").await, 401);
    }
    assert_eq!(api.log_in("guess").await, 429);
    assert_eq!(api.log_in("sesame").await, 429);
}

#[tokio::test]
async fn making_orders_counts_as_reading_them_does_and_what_is_refused_claims_no_key() {
    let api = Api::start().await;
    let headers = "x-user: eve\r\nx-plan: closed\r\nauthorization: Bearer eve\r\nidempotency-key: \"one\"\r\n";
    let order = r#"{"article":"tea","number":2}"#;
    assert_eq!(api.send("POST /orders", headers, order).await.status, 403);
    // Under the same key, once it may: it is the first that anybody heard of it.
    let headers = headers.replace("closed", "paid");
    let made = api.send("POST /orders", &headers, order).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert!(!made.head.to_lowercase().contains("idempotency-replayed"));
    assert!(made.head.to_lowercase().contains("x-ratelimit-"));
}
