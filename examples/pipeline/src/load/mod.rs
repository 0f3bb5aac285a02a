//! An open-loop load: requests have a time at which they are meant to be sent, whatever the server does, and
//! latency counts from that time. It speaks HTTP over sockets and knows nothing of the server's insides.

mod back;
mod client;
mod file;
mod ledger;
mod plan;
mod reads;

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

pub use file::{LedgerFile, read as read_ledger};
pub use ledger::{Figures, Ledger, Operation, Sent, Told, histogram};
pub use plan::Mix;
pub use reads::{Reads, Shown};

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
    file: Option<Arc<LedgerFile>>,
    /// Whether a proxy may have sent an order before the sending that was answered.
    resent: bool,
    /// How long clients wait for an answer, and before that for a connection.
    deadline: Option<Duration>,
    /// Whether each connection sends when it was answered, rather than at a rate.
    closed: bool,
    /// Whose orders are timed by themselves as well.
    watched: Option<fn(&Principal) -> bool>,
}

#[derive(Debug)]
struct State {
    plan: Plan,
    ledger: Ledger,
    figures: Figures,
    drawn: u64,
}

#[derive(Deserialize)]
struct Accepted {
    #[serde(rename = "orderId")]
    order_id: String,
}

impl Run {
    /// A load that has not begun. With a file, it notes there too what it is told, and sends no order that is
    /// not noted.
    pub fn new(load: &Load, file: Option<LedgerFile>) -> Self {
        let state = State {
            plan: Plan::new(load.mix, load.users, load.products, load.seed),
            ledger: Ledger::default(),
            figures: Figures::default(),
            drawn: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            file: file.map(Arc::new),
            resent: false,
            deadline: None,
            closed: false,
            watched: None,
        }
    }

    /// The server stands behind a proxy that sends a request once more where it got no answer. A refusal is of
    /// the last sending then, and says nothing of those before it: the order is in doubt.
    #[must_use]
    pub fn behind_a_proxy(self) -> Self {
        Self {
            resent: true,
            ..self
        }
    }

    /// Each connection sends its next request when it was answered, whatever the rate: so the server is given what it
    /// can do, and no more.
    #[must_use]
    pub fn in_a_closed_loop(self) -> Self {
        Self {
            closed: true,
            ..self
        }
    }

    /// Times the orders of some users by themselves as well, such as those whose shard is not out.
    #[must_use]
    pub fn watching(self, users: fn(&Principal) -> bool) -> Self {
        Self {
            watched: Some(users),
            ..self
        }
    }

    /// Clients give up this long after they have sent a request, and those that find every connection busy for as long do
    /// not send theirs: what one gives up on counts as late.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self {
            deadline: Some(deadline),
            ..self
        }
    }

    /// Looks at what was told so far.
    pub fn look<T>(&self, look: impl FnOnce(&Ledger, &Figures) -> T) -> T {
        let state = self.lock();
        look(&state.ledger, &state.figures)
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

    /// Completes the file, once the load is through.
    ///
    /// # Errors
    ///
    /// What went wrong with it, at any time.
    pub fn close(self) -> std::io::Result<()> {
        match self.file.map(Arc::try_unwrap) {
            Some(Ok(file)) => file.close(),
            Some(Err(_)) => Err(std::io::Error::other("it is still in use")),
            None => Ok(()),
        }
    }

    /// Notes an order before it is sent. Answers false when that cannot be done: then it must not be.
    async fn sending(&self, op: OpId, sent: Sent) -> bool {
        let noted = {
            let mut state = self.lock();
            let noted = self.file.as_ref().map(|file| file.sent(op, &sent));
            state.ledger.sent(op, sent);
            noted
        };
        match noted {
            Some(noted) => noted.await.is_ok(),
            None => true,
        }
    }

    /// Notes how an order was shown.
    fn shown(&self, op: OpId, shown: Shown, quantity: u32, last: bool) {
        let mut state = self.lock();
        if let Some(file) = &self.file {
            file.shown(op, shown, quantity, last);
        }
        state.ledger.reads_mut().order(op, shown, quantity, last);
    }

    /// Notes with which sums an account was shown.
    fn summed(&self, user: usize, orders: u64, units: u64, last: bool) {
        let account = Principal::User(format!("u{user}")).account();
        let mut state = self.lock();
        if let Some(file) = &self.file {
            file.summed(&account, orders, units, last);
        }
        state
            .ledger
            .reads_mut()
            .account(account, orders, units, last);
    }

    /// Notes what a read told, where it tells something that must be true.
    fn read(&self, request: &plan::Request, status: u16, body: &[u8]) {
        match (request, back::Told::read(request, status, body)) {
            (
                plan::Request::Order(id),
                Some(back::Told::Order(shown @ (Shown::Applied | Shown::Rejected), quantity)),
            ) => {
                if let Some(op) = back::op_of(id) {
                    self.shown(op, shown, quantity, false);
                }
            }
            (plan::Request::User(user), Some(back::Told::Sums(orders, units))) => {
                self.summed(*user, orders, units, false);
            }
            _ => {}
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
            let over = match run.closed {
                true => start.elapsed() >= load.duration,
                false => state.drawn == total,
            };
            if over {
                return;
            }
            let number = state.drawn;
            state.drawn += 1;
            let (user, request) = state.plan.draw();
            (number, user, request)
        };
        let due = match run.closed {
            true => Instant::now(),
            false => start + Duration::from_secs_f64(number as f64 / load.rate as f64),
        };
        sleep_until(due).await;
        let late = due.elapsed();
        if run.deadline.is_some_and(|deadline| late >= deadline) {
            *run.lock().figures.statuses.entry(("late", 0)).or_default() += 1;
            continue;
        }
        let (kind, order, http) = encode(user, &request);
        let op = order.as_ref().map(|(op, _)| *op);
        if let Some((op, sent)) = order
            && !run.sending(op, sent).await
        {
            return;
        }
        let sent = Instant::now();
        let told = match run.deadline {
            None => connection.send(http).await,
            Some(deadline) => {
                match tokio::time::timeout_at(sent + deadline, connection.send(http)).await {
                    Ok(told) => told,
                    // The connection is closed with it.
                    Err(_) => Ok(Told::Nothing),
                }
            }
        };
        let took = due.elapsed();
        if let Ok(Told::Answer { status, body, .. }) = &told
            && op.is_none()
        {
            run.read(&request, *status, body);
        }

        let mut state = run.lock();
        let State {
            plan,
            ledger,
            figures,
            ..
        } = &mut *state;
        let (kind, told) = match told {
            Ok(told) => (kind, told),
            // It was not sent at all: a refusal, as far as an order is concerned.
            Err(_) => (
                "unsent",
                Told::Answer {
                    status: 0,
                    replayed: false,
                    body: Bytes::new(),
                },
            ),
        };
        // An answer to somebody who is not there any more, though there was no time to notice that before.
        let kind = match run.deadline {
            Some(deadline) if sent.elapsed() > deadline => "late",
            _ => kind,
        };
        *figures.statuses.entry((kind, told.status())).or_default() += 1;
        if told.status() != 0 {
            record(&mut figures.latency, took);
            record(&mut figures.send_delay, late);
        }
        let Some(op) = op else { continue };
        if told.status() != 0 {
            record(&mut figures.write_latency, took);
            if run
                .watched
                .is_some_and(|watched| watched(&Principal::User(format!("u{user}"))))
            {
                record(&mut figures.watched_latency, took);
            }
        }
        let told = match told.status() {
            429 | 503 if run.resent => Told::Nothing,
            _ => told,
        };
        if let Some(file) = &run.file {
            file.told(op, &told);
        }
        let id = match &told {
            Told::Answer { body, .. } => serde_json::from_slice(body).ok(),
            Told::Nothing => None,
        };
        if ledger.told(op, told)
            && let Some(Accepted { order_id }) = id
        {
            plan.accepted(user, order_id);
        }
    }
}

fn record(histogram: &mut hdrhistogram::Histogram<u64>, took: Duration) {
    histogram.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
}

/// A request's kind, the order in it if it is one, and its form on the wire.
type Encoded = (&'static str, Option<(OpId, Sent)>, Request<Full<Bytes>>);

/// The request on the wire. The load stands where a load balancer would, so it names the client's address.
fn encode(user: usize, request: &plan::Request) -> Encoded {
    let principal = Principal::User(format!("u{user}"));
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
    let (kind, order, built) = match request {
        plan::Request::Place(placed) => (
            "order",
            Some((
                OpId::derive(&principal, &placed.key),
                Sent {
                    account: principal.account(),
                    quantity: placed.quantity,
                },
            )),
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
        order,
        built.expect("the parts are made here and are valid"),
    )
}
