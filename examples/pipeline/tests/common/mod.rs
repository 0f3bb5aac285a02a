//! The real binary as a child process, and a plain client for it.
#![allow(dead_code, unreachable_pub)]

pub mod places;

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use pipeline::accounting::Books;
use pipeline::data::{Data, Settings};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;

/// A `pipeline serve` that ends with the test.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    /// Starts it on a free port and waits until it listens.
    pub fn start(data: &Path, more: &[&str]) -> Self {
        Self::spawn(command(data, more))
    }

    /// Starts it in a place of a kind and waits until it listens.
    pub fn on(place: &impl places::Place, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(place.flags())
            .args(more);
        Self::spawn(command)
    }

    /// Starts what was prepared and waits until it listens.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        stdout
            .read_line(&mut line)
            .expect("it says where it listens");
        let address = line
            .split_once("http://")
            .and_then(|(_, rest)| rest.split(',').next()?.trim().parse().ok())
            .unwrap_or_else(|| panic!("no address in {line:?}"));
        // Keeps the pipe from filling, and from breaking.
        std::thread::spawn(move || stdout.lines().count());
        Self { child, address }
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(mut self) {
        // It fails only for what has ended already.
        let _ = self.child.kill();
        self.child.wait().expect("it ends");
    }

    /// Asks it to drain and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().expect("it ends")
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it runs");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn command(data: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pipeline"));
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--shards",
            "10",
            "--data",
        ])
        .arg(data)
        .args(more);
    command
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn is_problem(&self) -> bool {
        self.headers
            .get("content-type")
            .is_some_and(|v| v == "application/problem+json")
            && self.json()["status"] == self.status.as_u16()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Sends one request on a connection of its own.
pub async fn send(server: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    try_send(server, request).await.expect("the server answers")
}

pub async fn try_send(
    server: SocketAddr,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(server).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    connection.abort();
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}

pub fn post(body: impl Into<Bytes>, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let builder = Request::post("/api/orders")
        .header("host", "test")
        .header("content-type", "application/json");
    let builder = headers.iter().fold(builder, |builder, (name, value)| {
        builder.header(*name, *value)
    });
    builder.body(Full::new(body.into())).expect("a request")
}

pub fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header("host", "test")
        .body(Full::default())
        .expect("a request")
}

/// Asks again until the answer is as wanted.
pub async fn until(
    server: SocketAddr,
    path: &str,
    mut wanted: impl FnMut(&Answer) -> bool,
) -> Answer {
    let patience = tokio::time::Duration::from_secs(120);
    tokio::time::timeout(patience, async {
        loop {
            let answer = send(server, get(path)).await;
            if wanted(&answer) {
                return answer;
            }
            tokio::time::sleep(tokio::time::Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{path} never came to what was wanted"))
}

/// What the shards and the log hold, read from disk. Nobody may have the directory open.
pub async fn books(data: &Path) -> Books {
    let data = data.to_owned();
    let data = tokio::task::spawn_blocking(move || Data::open_or_create(data, Settings::default()))
        .await
        .expect("no panic")
        .expect("the directory is sound");
    let books = Books::read(&**data.log(), data.shards())
        .await
        .expect("they can be read");
    data.close();
    books
}

/// Orders that count, over all shards.
pub fn applied(books: &Books) -> usize {
    books.shards.iter().map(|shard| shard.applied.len()).sum()
}

/// Orders that were written off, over all shards.
pub fn dead(books: &Books) -> usize {
    books.shards.iter().map(|shard| shard.dead.len()).sum()
}
