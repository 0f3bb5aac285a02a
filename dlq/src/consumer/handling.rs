//! Messages with their handlers, one task each, from when they begin to how they end.

use std::{collections::HashMap, sync::Arc};

use tokio::task::{Id as TaskId, JoinSet};
use tower_service::Service;

use super::{
    WriteLetter,
    handle::{End, Ended, condemned, handled},
};
use crate::{BoxError, Message, Totals, telemetry};

type Id = Arc<str>;

/// What runs, and what came of all that did. With each message goes what its consumer wants to know of it when it ends.
pub(super) struct Handling<S, K> {
    handler: S,
    poison_to: WriteLetter,
    tasks: JoinSet<End>,
    by_task: HashMap<TaskId, (Id, K)>,
    pub(super) totals: Totals,
}

impl<S, K> Handling<S, K> {
    pub(super) fn new(handler: S, poison_to: WriteLetter) -> Self {
        Self {
            handler,
            poison_to,
            tasks: JoinSet::new(),
            by_task: HashMap::new(),
            totals: Totals::default(),
        }
    }

    /// Begins a message.
    pub(super) fn begin(&mut self, message: Message, of_it: K)
    where
        S: Service<Message, Response: Ended> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let id = Arc::clone(&message.id);
        let task = self.tasks.spawn(handled(self.handler.clone(), message));
        self.by_task.insert(task.id(), (id, of_it));
    }

    /// Begins to write the letter of a message that ended its worker too often.
    pub(super) fn condemn(&mut self, message: &Message, starts: u32, of_it: K) {
        telemetry::condemned(&message.id, starts);
        self.totals.condemned += 1;
        let letter = condemned(&self.poison_to, message, starts);
        let task = self.tasks.spawn(letter);
        let id = Arc::clone(&message.id);
        self.by_task.insert(task.id(), (id, of_it));
    }

    /// The next that ends, told and counted, or `None` when nothing runs. Nothing is lost where this is dropped.
    pub(super) async fn ended(&mut self) -> Option<(Id, K, End)> {
        loop {
            let (task, end) = match self.tasks.join_next_with_id().await? {
                Ok((task, end)) => (task, end),
                // Without a layer that catches it, a panic is a failure like any other.
                Err(error) => (error.id(), End::Failed(error.into())),
            };
            if let Some((id, of_it)) = self.by_task.remove(&task) {
                self.count(&id, &end);
                return Some((id, of_it, end));
            }
        }
    }

    fn count(&mut self, id: &str, end: &End) {
        let totals = &mut self.totals;
        let (how, total, error) = match end {
            End::Done => ("done", &mut totals.done, None),
            End::Dead => ("dead", &mut totals.dead, None),
            End::Failed(error) => ("failed", &mut totals.failed, Some(error)),
            End::Parked(_, error) => ("parked", &mut totals.parked, Some(error)),
        };
        *total += 1;
        telemetry::ended(id, how, error);
    }

    /// What runs is to end now.
    pub(super) fn abort(&mut self) {
        self.tasks.abort_all();
    }

    /// What is wanted to be known of those that run.
    #[cfg(feature = "kafka")]
    pub(super) fn running(&self) -> impl Iterator<Item = &K> {
        self.by_task.values().map(|(_, of_it)| of_it)
    }
}
