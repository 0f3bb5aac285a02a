//! What was read, and when it may be begun.

use std::sync::Arc;

use rdkafka::consumer::Consumer;
use tokio::time::Instant;
use tower_service::Service;

use super::Shift;
use crate::{
    BoxError, Message, Outcome,
    consumer::kafka::{
        poll::{Item, Key, one},
        track::offset,
    },
    telemetry,
};

impl<S, R> Shift<S>
where
    S: Service<Message, Response = Outcome<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    /// A record was read.
    pub(super) fn arrive(&mut self, item: Item) {
        let Some(track) = self.tracks.get_mut(&item.key) else {
            return;
        };
        if track.epoch != item.epoch || track.leaving {
            return;
        }
        match item.message {
            Some(message) => {
                // What is left of its wait passes here.
                track.read(message, item.wait);
                self.admit(&item.key);
            }
            None => {
                track.pass(item.offset);
                self.dirty = true;
            }
        }
    }

    /// Takes up what may be begun by now; a partition that may not go on is paused.
    pub(super) fn admit(&mut self, key: &Key) {
        let now = Instant::now();
        let Some(track) = self.tracks.get_mut(key) else {
            return;
        };
        let mut put_off = Vec::new();
        while let Some((message, wait)) = track.admit() {
            if track.is_suspect(offset(&message)) {
                let news = self.desk.suspect(vec![Arc::clone(&message.id)]);
                self.handling.totals.taken_over += news.len() as u64;
                telemetry::suspects(&news);
                self.suspects.insert(Arc::clone(&message.id), message);
            } else if wait.is_zero() {
                self.desk.arrive(vec![message]);
            } else if self.settings.delays.fits(wait) {
                put_off.push((message, wait));
            } else {
                self.desk.arrive_parked(message, now + wait);
            }
        }
        if track.is_held_up() && !track.paused {
            track.paused = true;
            // It fails for a partition that is not ours any more.
            drop(self.member.consumer.pause(&one(key)));
        } else if !track.is_held_up() && track.paused {
            track.paused = false;
            drop(self.member.consumer.resume(&one(key)));
        }
        for (message, wait) in put_off {
            self.delay(message, now, wait, true);
        }
    }
}
