//! An open-loop load: requests have a time at which they are meant to be sent, whatever the server does, and
//! latency counts from that time. It speaks HTTP over sockets and knows nothing of the server's insides.

mod client;
mod ledger;
mod plan;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::order::{OpId, Principal};
use client::Connection;
use plan::Plan;

pub use ledger::{Ledger, Told, histogram};
pub use plan::Mix;

/// API keys that the users share out among them.
const API_KEYS: usize = 200;

/// What load to make.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the server listens.
    pub server: SocketAddr,
    /// Requests a second.
    pub rate: u64,
    /// For how long.
    pub duration: Duration,
    /// Connections; when all are busy, requests wait, and their wait counts.
    pub connections: usize,
    /// Users, of Zipf popularity.
    pub users: usize,
    /// Products, of Zipf popularity.
    pub products: usize,
    /// The mix.
    pub mix: Mix,
    /// Two runs of one seed send the same requests.
    pub seed: u64,
}

/// A load under way; clones share it.
#[derive(Clone, Debug)]
pub struct Run {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    ledger: Ledger,
    drawn: u64,
}

#[derive(Deserialize)]
struct Accepted {
    #[serde(rename = "orderId")]
    order_id: String,
}

impl Run {
    /// A load that has not begun.
    pub fn new(load: &Load) -> Self {
        let plan = Plan::new(load.mix, load.users, load.products, load.seed);
        Self {
            state: Arc::new(Mutex::new(State {
                plan,
                ledger: Ledger::new(),
                drawn: 0,
            })),
        }
    }

    /// Looks at what was told so far.
    pub fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.lock().ledger)
    }

    /// Sends the load; returns when its last answer is in.
    pub async fn drive(&self, load: &Load) {
        let start = Instant::now();
        let total = (load.duration.as_secs_f64() * load.rate as f64) as u64;
        let mut senders = JoinSet::new();
        for _ in 0..load.connections {
            senders.spawn(send(self.clone(), load.clone(), start, total));
        }
        while let Some(done) = senders.join_next().await {
            if let Err(error) = done {
                tracing::error!(%error, "a sender of the load ended early");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection: takes the next request that is due, sends it, notes the answer.
async fn send(run: Run, load: Load, start: Instant, total: u64) {
    let mut connection = Connection::new(load.server);
    loop {
        let (number, user, request) = {
            let mut state = run.lock();
            if state.drawn == total {
                return;
            }
            let number = state.drawn;
            state.drawn += 1;
            let (user, request) = state.plan.draw();
            (number, user, request)
        };
        let due = start + Duration::from_secs_f64(number as f64 / load.rate as f64);
        sleep_until(due).await;
        let late = due.elapsed();
        let (kind, op, http) = encode(user, &request);
        let told = connection.send(http).await;
        let took = due.elapsed();

        let mut state = run.lock();
        let State { plan, ledger, .. } = &mut *state;
        let Ok(told) = told else {
            // Nothing went out, so nothing is owed; it shows as status 0 of its own kind.
            ledger.note("unsent", None, Told::Nothing);
            continue;
        };
        record(&mut ledger.latency, took);
        record(&mut ledger.send_delay, late);
        if op.is_some() {
            record(&mut ledger.write_latency, took);
        }
        let body = match &told {
            Told::Answer { body, .. } => body.clone(),
            Told::Nothing => Bytes::new(),
        };
        if ledger.note(kind, op, told)
            && let Ok(Accepted { order_id }) = serde_json::from_slice(&body)
        {
            plan.accepted(user, order_id);
        }
    }
}

fn record(histogram: &mut hdrhistogram::Histogram<u64>, took: Duration) {
    histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
}

/// The request on the wire. The load stands where a load balancer would, so it names the client's address.
fn encode(
    user: usize,
    request: &plan::Request,
) -> (&'static str, Option<OpId>, Request<Full<Bytes>>) {
    let name = format!("u{user}");
    let common = Request::builder()
        .header("host", "pipeline")
        .header("x-user-id", &name)
        .header("x-api-key", format!("key-{}", user % API_KEYS))
        .header(
            "x-forwarded-for",
            format!("10.{}.{}.{}", user >> 16 & 255, user >> 8 & 255, user & 255),
        );
    let get =
        |builder: http::request::Builder, path: String| builder.uri(path).body(Full::default());
    let (kind, op, built) = match request {
        plan::Request::Place(placed) => (
            "order",
            Some(OpId::derive(&Principal::User(name.clone()), &placed.key)),
            common
                .method("POST")
                .uri("/api/orders")
                .header("content-type", "application/json")
                .body(Full::from(placed.body.clone())),
        ),
        plan::Request::Product(n) => (
            "product",
            None,
            get(common, format!("/api/products/product-{n}")),
        ),
        plan::Request::User(n) => ("user", None, get(common, format!("/api/users/u{n}"))),
        plan::Request::Order(id) => ("lookup", None, get(common, format!("/api/orders/{id}"))),
    };
    (
        kind,
        op,
        built.expect("the parts are made here and are valid"),
    )
}
