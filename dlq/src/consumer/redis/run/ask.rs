//! What is asked of Redis, and what follows from its answers.

use std::time::Duration;

use std::sync::Arc;

use seawall_redis::Error;
use tokio::time::Instant;
use tower_service::Service;

use super::{AGAIN, AT_ONCE, Event, LOOK, MOVE, SUSPECTS, Shift, UNSEEN};
use crate::{
    BoxError, ConsumeError, Message, Outcome,
    consumer::redis::{
        group::{BEGINNING, is_final},
        settle::Start,
    },
    telemetry,
};

impl<S, R> Shift<S>
where
    S: Service<Message, Response = Outcome<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    /// Asks Redis what is due to be asked.
    pub(super) fn ask(&mut self, now: Instant, leaving: bool) {
        // Nothing is read meanwhile: what comes after that is known to be late, and what came before is set aside with it.
        if self.is_setting_aside() && !self.read.busy && self.set_aside.begin(now) {
            self.ask_to_set_aside();
        }
        // One that others are being set aside behind must not be over before they are.
        let settles = !self.to_settle.is_empty() && self.aside.is_none();
        if settles && self.settle.begin(now) {
            let (group, in_order) = (self.group.clone(), self.settings.limits.ordered);
            let settlement = self.to_settle.take(AT_ONCE);
            self.asking.spawn(async move {
                let settled = group.settle(&settlement, in_order).await;
                Event::Settled(settlement, settled)
            });
        }
        if self.hold.begin(now) {
            let (group, ids) = (self.group.clone(), self.desk.ids());
            self.asking.spawn(async move {
                let mut lost = Vec::new();
                for ids in ids.chunks(AT_ONCE) {
                    match group.hold(ids, Duration::ZERO).await {
                        Ok(some) => lost.extend(some),
                        Err(error) => return Event::Held(Err(error)),
                    }
                }
                Event::Held(Ok(lost))
            });
        }
        if leaving {
            return;
        }
        let room = self.desk.room_for_suspects().min(SUSPECTS);
        if room > 0 && self.claim.begin(now) {
            let (group, idle) = (self.group.clone(), self.settings.claim_after);
            let in_order = self.settings.limits.ordered;
            let from = Arc::clone(&self.claim_from);
            self.asking.spawn(async move {
                let claimed = group.claim(&from, idle, room, in_order).await;
                Event::Claimed(claimed)
            });
        }
        if self.put_back.begin(now) {
            let group = self.group.clone();
            self.asking
                .spawn(async move { Event::PutBack(group.put_back().await) });
        }
        if self.sweep.begin(now) {
            let group = self.group.clone();
            self.asking.spawn(async move {
                // It only tidies: when it fails the next will do.
                drop(group.sweep(UNSEEN, false).await);
                Event::Swept
            });
        }
        let room = match self.reads() {
            true => self.desk.room(),
            false => 0,
        };
        if room > 0 && self.read.begin(now) {
            let group = self.group.clone();
            if self.settings.limits.ordered {
                let known = self.desk.len();
                self.asking
                    .spawn(async move { Event::ReadAlone(group.read_alone(room, known).await) });
            } else {
                let connection = self.connection.take();
                self.asking.spawn(async move {
                    let (connection, read) = group.read(connection, room).await;
                    Event::Read(connection, read)
                });
            }
        }
    }

    pub(super) fn answered(&mut self, event: Event) -> Result<(), ConsumeError> {
        match event {
            Event::Read(connection, Ok(messages)) => {
                self.connection = connection;
                self.read.again_in(Duration::ZERO);
                self.desk.arrive(messages);
            }
            Event::Read(_, Err(error)) if is_final(&error) => return Err(error.into()),
            Event::Read(_, Err(error)) => {
                telemetry::unreachable("read", &error);
                self.read.again_in(AGAIN);
            }
            Event::ReadAlone(Ok((messages, late))) => {
                let wait = if messages.is_empty() {
                    LOOK
                } else {
                    Duration::ZERO
                };
                self.read.again_in(wait);
                let is_late = |message: &Message| late.contains(&message.id);
                let (late, messages): (Vec<_>, _) = messages.into_iter().partition(is_late);
                self.desk.arrive(messages);
                late.into_iter()
                    .for_each(|late| self.desk.arrive_late(late));
            }
            Event::ReadAlone(Err(error)) => {
                self.read.again_in(AGAIN);
                not_final("read", error)?;
            }
            Event::Claimed(Ok((next, ids))) => {
                let news = self.desk.suspect(ids);
                if !news.is_empty() {
                    telemetry::suspects(&news);
                    self.handling.totals.taken_over += news.len() as u64;
                }
                // Until all has been looked at there may be more, once these are done.
                let wait = match &*next {
                    BEGINNING => self.settings.claim_after / 2,
                    _ => Duration::ZERO,
                };
                self.claim_from = next;
                self.claim.again_in(wait);
            }
            Event::Claimed(Err(error)) => {
                self.claim.again_in(AGAIN);
                not_final("claim", error)?;
            }
            Event::Marked(id, Ok(start)) => match start {
                Start::Run(message) => {
                    self.desk.marked(message.clone());
                    self.handling.begin(message, ());
                }
                Start::Poison(message, starts) => {
                    self.handling.condemn(&message, starts, ());
                    self.desk.marked(message);
                }
                Start::Late(message) => self.desk.arrive_late(message),
                Start::Elsewhere | Start::Gone => self.desk.release(&id),
            },
            Event::Marked(id, Err(error)) => {
                self.desk.not_marked(&id, Instant::now() + AGAIN);
                not_final("start", error)?;
            }
            Event::Settled(settlement, Ok(())) => {
                self.settle.again_in(Duration::ZERO);
                self.release(&settlement);
            }
            Event::Settled(settlement, Err(error)) => {
                self.settle.again_in(AGAIN);
                self.to_settle.put_back(settlement);
                not_final("acknowledge", error)?;
            }
            Event::Held(Ok(lost)) => {
                self.hold.again_in(self.settings.claim_after / 3);
                self.desk.lose(&lost);
            }
            Event::Held(Err(error)) => {
                self.hold.again_in(AGAIN.min(self.settings.claim_after / 3));
                not_final("hold", error)?;
            }
            Event::Delayed(id, _, Ok(())) => {
                self.desk.finish(&id);
                self.desk.release(&id);
                // The next may be due before it is looked for.
                self.put_back.at = self.put_back.at.min(Instant::now());
            }
            Event::Delayed(id, at, Err(error)) => {
                let now = Instant::now();
                self.park(&id, now, Some(at.saturating_duration_since(now)));
                not_final("delay", error)?;
            }
            Event::PutBack(Ok((moved, next))) => {
                telemetry::back(moved);
                self.put_back
                    .again_in(next.map_or(MOVE, |next| next.min(MOVE)));
            }
            Event::PutBack(Err(error)) => {
                self.put_back.again_in(AGAIN);
                not_final("put back", error)?;
            }
            Event::SetAside(Ok(())) => {
                self.set_aside.again_in(Duration::ZERO);
                if let Some((aside, _)) = self.aside.take() {
                    telemetry::set_aside(aside.messages.len());
                    self.handling.totals.set_aside += aside.messages.len() as u64;
                    self.desk.set_aside(&aside);
                }
            }
            Event::SetAside(Err(error)) => {
                self.set_aside.again_in(AGAIN);
                not_final("set aside", error)?;
            }
            Event::Swept => self.sweep.again_in(UNSEEN),
        }
        Ok(())
    }
}

fn not_final(what: &'static str, error: Error) -> Result<(), ConsumeError> {
    match error {
        Error::Redis(error) if is_final(&error) => Err(error.into()),
        error => {
            telemetry::unreachable(what, &error);
            Ok(())
        }
    }
}
