//! What is done, and what may be begun next, made known to the brokers.

use std::sync::Arc;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::KafkaResult,
};
use tokio::time::Instant;
use tower_service::Service;

use super::{AGAIN, COMMIT, Event, Shift};
use crate::{
    BoxError, ConsumeError, Message, Outcome,
    consumer::kafka::{
        poll::{Key, is_final},
        rebalance::Context,
        track::{Mark, Track},
    },
    telemetry,
};

impl<S, R> Shift<S>
where
    S: Service<Message, Response = Outcome<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    /// How far from what is done a message may be begun, in each partition.
    pub(super) fn window(&self) -> i64 {
        let partitions = self.tracks.len().max(1);
        let window = (self.settings.limits.window / partitions).max(1);
        i64::try_from(window).unwrap_or(i64::MAX)
    }

    /// Commits what the brokers do not know yet.
    pub(super) fn begin_commit(&mut self, now: Instant) {
        let urgent = !self.starting.is_empty() || self.tracks.values().any(Track::is_held_up);
        if urgent && !self.commit.busy {
            self.commit.at = self.commit.at.min(self.not_before.max(now));
        }
        if !self.dirty || !self.commit.begin(now) {
            return;
        }
        self.dirty = false;
        let window = self.window();
        let kept = self.tracks.iter().filter(|(_, track)| !track.leaving);
        let marks = kept.filter_map(|(key, track)| {
            let mark = track.mark(Some(window))?;
            Some((key.clone(), track.epoch, mark))
        });
        let marks: Vec<_> = marks.collect();
        if marks.is_empty() && self.starting.is_empty() {
            self.commit.again_in(COMMIT);
            return;
        }
        let started = std::mem::take(&mut self.starting);
        let consumer = Arc::clone(&self.member.consumer);
        self.asking.spawn_blocking(move || Event::Committed {
            outcome: commit(&*consumer, marks.iter().map(|(key, _, mark)| (key, mark))),
            marks,
            started,
        });
    }

    pub(super) fn answered(&mut self, event: Event) -> Result<(), ConsumeError> {
        match event {
            Event::Committed {
                marks,
                started,
                outcome: Ok(()),
            } => {
                self.commit.again_in(COMMIT);
                for (key, epoch, mark) in marks {
                    if let Some(track) = self.tracks.get_mut(&key).filter(|of| of.epoch == epoch) {
                        if self.settings.delays.of(&key.0).is_some()
                            && let Some(before) = track.worth_deleting(&mark)
                        {
                            let (delays, key) = (self.settings.delays.clone(), key.clone());
                            self.asking.spawn(async move {
                                delays.delete(&key, before).await;
                                Event::Aside
                            });
                        }
                        track.committed(mark);
                        self.admit(&key);
                    }
                }
                for id in started {
                    match self.suspects.remove(&id) {
                        Some(message) => {
                            self.desk.marked(message.clone());
                            self.handling.begin(message.clone(), message);
                        }
                        // One that failed before, or whose partition is gone.
                        None => match self.desk.message(&id).cloned() {
                            Some(message) => {
                                self.desk.marked(message.clone());
                                self.handling.begin(message.clone(), message);
                            }
                            None => self.desk.release(&id),
                        },
                    }
                }
            }
            Event::Committed {
                started,
                outcome: Err(error),
                ..
            } => {
                self.commit.again_in(AGAIN);
                self.dirty = true;
                self.not_before = self.commit.at;
                self.starting.extend(started);
                if is_final(&error) {
                    return Err(error.into());
                }
                telemetry::unreachable("commit", &error);
            }
            Event::Delayed(message, _, Ok(())) => self.finish(&message),
            Event::Delayed(message, at, Err(error)) => {
                telemetry::unreachable("delay", &error);
                let now = Instant::now();
                let wait = at.saturating_duration_since(now);
                match self.desk.message(&message.id) {
                    Some(_) => self.park(&message, now, Some(wait)),
                    None => self.desk.arrive_parked(message, now + wait),
                }
            }
            Event::Aside => {}
        }
        Ok(())
    }
}

/// Commits these marks, and waits until the brokers know. It blocks.
pub(super) fn commit<'a>(
    consumer: &impl Consumer<Context>,
    marks: impl Iterator<Item = (&'a Key, &'a Mark)>,
) -> KafkaResult<()> {
    let mut offsets = TopicPartitionList::new();
    for ((topic, partition), mark) in marks {
        let mut of = offsets.add_partition(topic, *partition);
        of.set_offset(Offset::Offset(mark.position))?;
        of.set_metadata(mark.metadata());
    }
    match offsets.count() {
        0 => Ok(()),
        _ => consumer.commit(&offsets, CommitMode::Sync),
    }
}
