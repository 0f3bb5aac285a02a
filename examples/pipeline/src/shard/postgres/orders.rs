//! Looking up orders together.
//!
//! Every write asks whether its operation is decided, and a look for one costs PostgreSQL almost as much as a look for
//! a hundred. So while a look is under way, those who ask wait for the next one, which is for all of them.

use std::future::Future;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::query;
use crate::order::OrderId;
use crate::shard::{ShardError, Versioned};

/// Orders that one look is for.
const TOGETHER: usize = 256;

/// Those who may wait; beyond it a read is refused at once.
const WAITING: usize = 4_096;

/// Looks at once: one travels while another is answered.
const LOOKS: usize = 2;

type Found = Result<query::Orders, ShardError>;

/// Asks for one order.
struct Asked {
    id: OrderId,
    answer: oneshot::Sender<Result<Versioned, ShardError>>,
}

/// Whoever looks for orders.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    queue: mpsc::Sender<Asked>,
}

impl Orders {
    /// Starts on the current runtime, and ends with the last of its clones.
    pub(super) fn start<L, F>(look: L) -> Self
    where
        L: Fn(Vec<OrderId>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Found> + Send + 'static,
    {
        let (queue, mut asked) = mpsc::channel::<Asked>(WAITING);
        tokio::spawn(async move {
            let mut looks = tokio::task::JoinSet::new();
            let mut together = Vec::new();
            while asked.recv_many(&mut together, TOGETHER).await > 0 {
                let batch = std::mem::take(&mut together);
                looks.spawn(answer(batch, look.clone()));
                while looks.len() >= LOOKS {
                    looks.join_next().await;
                }
            }
            // Those who asked last are answered too.
            while looks.join_next().await.is_some() {}
        });
        Self { queue }
    }

    pub(super) async fn find(&self, id: OrderId) -> Result<Versioned, ShardError> {
        let (answer, answered) = oneshot::channel();
        self.queue
            .try_send(Asked { id, answer })
            .map_err(|_| ShardError::Unavailable("too many reads wait already".to_owned()))?;
        answered.await.unwrap_or_else(|_| {
            Err(ShardError::Unavailable(
                "it ended before it answered".to_owned(),
            ))
        })
    }
}

fn answer<L, F>(asked: Vec<Asked>, look: L) -> BoxFuture<'static, ()>
where
    L: Fn(Vec<OrderId>) -> F + Send + Sync + 'static,
    F: Future<Output = Found> + Send + 'static,
{
    Box::pin(async move {
        // Nobody waits for the others any more.
        let asked: Vec<Asked> = asked
            .into_iter()
            .filter(|asked| !asked.answer.is_closed())
            .collect();
        let ids: Vec<OrderId> = asked.iter().map(|asked| asked.id).collect();
        if ids.is_empty() {
            return;
        }
        let found = look(ids).await;
        for Asked { id, answer } in asked {
            let one = match &found {
                Ok(found) => match found.get(&id) {
                    Some(Ok(found)) => Ok(found.clone()),
                    Some(Err(refusal)) => Err(ShardError::Refused(refusal.clone())),
                    None => Ok(Versioned {
                        version: 0,
                        document: None,
                    }),
                },
                Err(why) => Err(ShardError::Unavailable(why.to_string())),
            };
            // A failed send: its caller was dropped.
            let _ = answer.send(one);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::order::OpId;
    use seawall_shard_router::slot_of;
    use tokio::sync::Semaphore;

    fn id(n: u8) -> OrderId {
        OrderId {
            slot: slot_of(b"any"),
            op: OpId([n; 16]),
        }
    }

    #[tokio::test]
    async fn those_who_ask_during_a_look_are_answered_by_one_more_each_with_its_own() {
        let (looks, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let orders = Orders::start({
            let (looks, go) = (Arc::clone(&looks), Arc::clone(&go));
            move |ids: Vec<OrderId>| {
                let (looks, go) = (Arc::clone(&looks), Arc::clone(&go));
                async move {
                    looks.fetch_add(1, Ordering::Relaxed);
                    go.acquire().await.expect("it is not closed").forget();
                    let even = ids.into_iter().filter(|id| id.op.0[0] % 2 == 0);
                    let found = even.map(|id| {
                        let version = u64::from(id.op.0[0]);
                        (
                            id,
                            Ok(Versioned {
                                version,
                                document: None,
                            }),
                        )
                    });
                    Ok(found.collect())
                }
            }
        });
        let asking: Vec<_> = (0..100)
            .map(|n| {
                let orders = orders.clone();
                tokio::spawn(async move { orders.find(id(n)).await })
            })
            .collect();
        go.add_permits(100);
        for (n, asked) in (0..).zip(asking) {
            let found = asked.await.expect("no panic").expect("it is found");
            assert_eq!(found.version, if n % 2 == 0 { n } else { 0 });
        }
        assert!(looks.load(Ordering::Relaxed) <= 4, "{looks:?}");
    }

    #[tokio::test]
    async fn a_look_that_fails_fails_for_all_who_asked() {
        let orders =
            Orders::start(|_| async { Err(ShardError::Unavailable("it is out".to_owned())) });
        let (one, two) = tokio::join!(orders.find(id(1)), orders.find(id(2)));
        for failed in [one, two] {
            assert!(failed.is_err_and(|why| why.is_transient()));
        }
    }
}
