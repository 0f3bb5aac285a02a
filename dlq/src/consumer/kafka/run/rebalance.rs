//! Partitions that come and go, and the end of the consumer, when all of them go.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tower_service::Service;

use super::{AGAIN, Event, Leaving, Shift, commit::commit, key as place};
use crate::{
    BoxError, ConsumeError, Message, Outcome, Totals,
    consumer::kafka::{
        poll::{Control, Key, is_final},
        track::Track,
    },
    telemetry,
};

/// How long the last commit of a partition is tried again.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

impl<S, R> Shift<S>
where
    S: Service<Message, Response = Outcome<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    pub(super) async fn hear(&mut self, control: Control) -> Result<(), ConsumeError> {
        match control {
            Control::Assigned(news) => {
                for (key, epoch, left) in news {
                    if self.settings.delays.of(&key.0).is_some() {
                        let (delays, key) = (self.settings.delays.clone(), key.clone());
                        self.asking.spawn(async move {
                            if let Err(error) = delays.tick(&key).await {
                                telemetry::unreachable("tick", &error);
                            }
                            Event::Aside
                        });
                    }
                    self.tracks.insert(key, Track::new(epoch, left));
                }
                self.dirty = true;
                self.commit.at = Instant::now();
            }
            Control::Revoked { keys, lost, done } => {
                for key in &keys {
                    self.let_go(key);
                }
                if lost {
                    keys.iter().for_each(|key| drop(self.tracks.remove(key)));
                    let _ = done.try_send(());
                } else {
                    let by = Instant::now() + self.settings.drain_for;
                    self.leaving.push(Leaving { keys, by, done });
                }
            }
            Control::Forgotten {
                key: (topic, partition),
                at,
                first,
                end,
            } => {
                return Err(ConsumeError::Forgotten {
                    topic,
                    partition,
                    at,
                    first,
                    end,
                });
            }
            Control::Failed(error) => {
                return Err(match error.rdkafka_error_code() {
                    Some(rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition) => {
                        ConsumeError::NoTopic(Arc::clone(&self.settings.topic))
                    }
                    _ => error.into(),
                });
            }
        }
        Ok(())
    }

    /// Begins nothing more of a partition.
    pub(super) fn let_go(&mut self, key: &Key) {
        if let Some(track) = self.tracks.get_mut(key) {
            track.leaving = true;
        }
        let held = self.desk.ids();
        let of_it = held.into_iter().filter(|id| {
            let message = self.suspects.get(id).or_else(|| self.desk.message(id));
            message.is_some_and(|message| place(message) == *key)
        });
        let of_it: Vec<_> = of_it.collect();
        for id in &of_it {
            if self.suspects.remove(id).is_some() {
                self.starting.retain(|starting| starting != id);
            }
        }
        self.desk.lose(&of_it);
        let alone = self.desk.about_to_start().cloned();
        if let Some(id) = alone
            && of_it.contains(&id)
            && !self.handling.running().any(|message| message.id == id)
        {
            self.desk.release(&id);
        }
    }

    /// Gives partitions back of which nothing runs any more.
    pub(super) async fn give_back(&mut self, now: Instant) -> Result<(), ConsumeError> {
        let ready = |of: &Leaving| {
            let runs = |key: &Key| {
                self.handling
                    .running()
                    .any(|message| place(message) == *key)
            };
            of.by <= now || !of.keys.iter().any(runs)
        };
        let Some(place) = self.leaving.iter().position(ready) else {
            return Ok(());
        };
        if self.commit.busy {
            // The two would race for which is the last word.
            return Ok(());
        }
        let Leaving { keys, done, .. } = self.leaving.remove(place);
        self.close(&keys).await?;
        keys.iter().for_each(|key| drop(self.tracks.remove(key)));
        let _ = done.try_send(());
        // The others may go further now.
        self.dirty = true;
        Ok(())
    }

    /// Commits that nobody is at work any more.
    pub(super) async fn close(&mut self, keys: &[Key]) -> Result<(), ConsumeError> {
        let marks = keys.iter().filter_map(|key| {
            let mark = self.tracks.get(key)?.mark(None)?;
            Some((key.clone(), mark))
        });
        let marks: Arc<[_]> = marks.collect();
        let until = Instant::now() + CLOSE_WITHIN;
        loop {
            let (consumer, marks) = (Arc::clone(&self.member.consumer), Arc::clone(&marks));
            let closing = tokio::task::spawn_blocking(move || {
                commit(&*consumer, marks.iter().map(|(key, mark)| (key, mark)))
            });
            let Err(error) = closing.await.map_err(ConsumeError::lost)? else {
                return Ok(());
            };
            telemetry::unreachable("give back", &error);
            if Instant::now() + AGAIN >= until || is_final(&error) {
                // Then it looks like a crash: what was done since the last commit is done again.
                return Ok(());
            }
            // A coordinator that is moving, for one.
            sleep(AGAIN).await;
        }
    }

    /// Commits what is done, and leaves everything else in order.
    pub(super) async fn leave(mut self) -> Result<Totals, ConsumeError> {
        let now = Instant::now();
        if !self.settings.limits.ordered {
            for (message, wait) in self.desk.take_parked(now) {
                if !self.desk.has_failed(&message.id) && self.settings.delays.fits(wait) {
                    self.delay(message, now, wait, false);
                }
            }
        }
        loop {
            self.handling.abort();
            if let Some((_, message, end)) = self.handling.ended().await {
                self.ended(message, end);
            } else if let Some(event) = self.asking.join_next().await {
                self.answered(event.map_err(ConsumeError::lost)?)?;
            } else {
                break;
            }
        }
        let keys: Vec<_> = self.tracks.keys().cloned().collect();
        self.close(&keys).await?;
        for leaving in self.leaving.drain(..) {
            let _ = leaving.done.try_send(());
        }
        self.tracks.clear();
        self.member.stop.store(true, Relaxed);
        let thread = self.member.thread.take();
        let consumer = Arc::clone(&self.member.consumer);
        // Nobody answers to a rebalance any more.
        self.member.control.close();
        while let Ok(control) = self.member.control.try_recv() {
            if let Control::Revoked { done, .. } = control {
                let _ = done.try_send(());
            }
        }
        self.member.items.close();
        let totals = self.handling.totals;
        drop(self);
        let left = tokio::task::spawn_blocking(move || {
            if let Some(thread) = thread {
                drop(thread.join());
            }
            // The last of it leaves the group.
            drop(consumer);
        });
        left.await.map_err(ConsumeError::lost)?;
        Ok(totals)
    }
}
