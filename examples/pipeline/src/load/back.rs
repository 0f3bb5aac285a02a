//! Reading back at the end of a load: what the API shows of accounts and of all their orders, once it should
//! have caught up. Whatever a cache holds too long shows here.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::client::Connection;
use super::plan::Request;
use super::reads::Shown;
use super::{Run, encode};
use crate::order::{OpId, OrderId};

/// How long to wait before asking again.
const AGAIN: Duration = Duration::from_millis(20);

/// What is to be read, and what it may be shown as in the end.
struct Wanted {
    user: usize,
    orders: Vec<(OpId, String)>,
}

impl Run {
    /// Reads so many accounts and all their orders, again until they are shown as decided, and notes what they are
    /// shown as in the end. It has this much patience with all of them: what is not shown as it should be then is
    /// noted as it is shown. Answers how many orders and accounts were read.
    pub async fn read_back(
        &self,
        server: std::net::SocketAddr,
        accounts: usize,
        patience: Duration,
    ) -> (usize, usize) {
        let until = Instant::now() + patience;
        let mut connection = Connection::new(server);
        for wanted in self.wanted(accounts) {
            self.one(&mut connection, &wanted, until).await;
        }
        self.look(|ledger, _| ledger.reads().read_back())
    }

    async fn one(&self, connection: &mut Connection, wanted: &Wanted, until: Instant) {
        let mut applied = 0;
        for (op, id) in &wanted.orders {
            let request = Request::Order(id.clone());
            let decided =
                |told: &Told| matches!(told, Told::Order(Shown::Applied | Shown::Rejected, _));
            let told = ask(connection, wanted.user, &request, until, decided).await;
            if let Some(Told::Order(shown, quantity)) = told {
                applied += u64::from(shown == Shown::Applied);
                self.shown(*op, shown, quantity, true);
            }
        }
        // Its orders are shown as applied, so its sums have to tell of them before long.
        let whole = |told: &Told| matches!(told, Told::Sums(orders, _) if *orders >= applied);
        let request = Request::User(wanted.user);
        if let Some(Told::Sums(orders, units)) =
            ask(connection, wanted.user, &request, until, whole).await
        {
            self.summed(wanted.user, orders, units, true);
        }
    }

    /// Accounts of which every order's fate is known, in no order.
    fn wanted(&self, accounts: usize) -> Vec<Wanted> {
        let mut by_user = std::collections::HashMap::<usize, Option<Vec<_>>>::new();
        self.look(|ledger, _| {
            for (op, operation) in ledger.operations() {
                let Some(user) = operation.sent.account.strip_prefix("user:u") else {
                    continue;
                };
                let Ok(user) = user.parse() else { continue };
                let orders = by_user.entry(user).or_insert_with(|| Some(Vec::new()));
                match (&operation.accepted, operation.in_doubt) {
                    (Some((_, body)), _) => {
                        let id = serde_json::from_slice::<super::Accepted>(body);
                        if let (Some(orders), Ok(id)) = (orders, id) {
                            orders.push((*op, id.order_id));
                        }
                    }
                    (None, 0) => {}
                    (None, _) => *orders = None,
                }
            }
        });
        by_user
            .into_iter()
            .filter_map(|(user, orders)| {
                Some(Wanted {
                    user,
                    orders: orders?,
                })
            })
            .filter(|wanted| !wanted.orders.is_empty())
            .take(accounts)
            .collect()
    }
}

/// What a read told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    Order(Shown, u32),
    Sums(u64, u64),
}

impl Told {
    /// Reads an answer to this request; nothing where it says nothing about it.
    pub(super) fn read(request: &Request, status: u16, body: &[u8]) -> Option<Self> {
        let body = || serde_json::from_slice::<serde_json::Value>(body).ok();
        let number = |body: &serde_json::Value, name: &str| body[name].as_u64();
        match (request, status) {
            (Request::Order(_), 404) => Some(Self::Order(Shown::Absent, 0)),
            (Request::User(_), 404) => Some(Self::Sums(0, 0)),
            (Request::Order(_), 200) => {
                let body = body()?;
                let shown = serde_json::from_value(body["status"].clone()).ok()?;
                let quantity = number(&body, "quantity")?.try_into().ok()?;
                Some(Self::Order(shown, quantity))
            }
            (Request::User(_), 200) => {
                let body = body()?;
                Some(Self::Sums(
                    number(&body, "orders")?,
                    number(&body, "units")?,
                ))
            }
            _ => None,
        }
    }
}

/// The operation of an order's public id.
pub(super) fn op_of(id: &str) -> Option<OpId> {
    OrderId::parse(id).map(|id| id.op)
}

/// Asks until the answer is as wanted or time is up, and answers with the last that was told.
async fn ask(
    connection: &mut Connection,
    user: usize,
    request: &Request,
    until: Instant,
    wanted: impl Fn(&Told) -> bool,
) -> Option<Told> {
    let mut last = None;
    loop {
        let (_, _, http) = encode(user, request);
        if let Ok(super::Told::Answer { status, body, .. }) = connection.send(http).await {
            last = Told::read(request, status, &body).or(last);
        }
        if last.as_ref().is_some_and(&wanted) || Instant::now() >= until {
            return last;
        }
        sleep(AGAIN).await;
    }
}
