//! HAProxy in front of two servers that come and go.

use std::net::Ipv4Addr;

use test_support::{Haproxy, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server that says its name to every request, and is healthy.
async fn server(port: u16, name: &'static str) -> JoinHandle<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .expect("the port is free");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4_096];
                let _ = stream.read(&mut head).await;
                let length = name.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{name}"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    })
}

async fn ask(port: u16) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .expect("HAProxy listens");
    let request = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is open");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    answer
}

/// Asks until the answer ends with this.
async fn until(port: u16, end: &str) {
    while !ask(port).await.ends_with(end) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn requests_go_to_whichever_server_is_there() {
    let (one, other) = (free_port(), free_port());
    let haproxy = Haproxy::in_front_of([one, other]).await;
    let first = server(one, "one").await;
    until(haproxy.port(), "one").await;
    let second = server(other, "other").await;
    until(haproxy.port(), "other").await;
    // The first one goes without a word: what it does not take, the other does.
    first.abort();
    let _ = first.await;
    for _ in 0..50 {
        assert!(ask(haproxy.port()).await.ends_with("other"));
    }
    second.abort();
}
