//! The consumer at work: one loop that owns all state, with what takes time in tasks beside it.

mod admit;
mod commit;
mod rebalance;

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use rdkafka::error::KafkaResult;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower_service::Service;

use super::{
    Member, Settings,
    poll::Key,
    track::{Mark, Track, offset},
};
use crate::{
    BoxError, ConsumeError, Message, Outcome, Totals,
    consumer::{
        chore::Chore,
        desk::{Desk, Next},
        handle::End,
        handling::Handling,
        message::At,
    },
};

/// How long to wait before the brokers are asked again after they failed.
const AGAIN: Duration = Duration::from_millis(250);
/// How often what is done is committed, where nothing waits for it.
const COMMIT: Duration = Duration::from_millis(20);
/// How long the loop sleeps at most.
const LOOK: Duration = Duration::from_secs(1);

type Id = Arc<str>;

/// What came of something asked of the brokers.
enum Event {
    Committed {
        marks: Vec<(Key, u64, Mark)>,
        started: Vec<Id>,
        outcome: KafkaResult<()>,
    },
    Delayed(Message, Instant, KafkaResult<()>),
    /// Something whose outcome changes nothing here.
    Aside,
}

/// Partitions that are asked back.
struct Leaving {
    keys: Vec<Key>,
    by: Instant,
    done: SyncSender<()>,
}

pub(super) struct Shift<S> {
    settings: Settings,
    member: Member,
    desk: Desk,
    tracks: HashMap<Key, Track>,
    /// Messages of suspects, until they start.
    suspects: HashMap<Id, Message>,
    /// Suspects that start when their marks are committed.
    starting: Vec<Id>,
    handling: Handling<S, Message>,
    asking: JoinSet<Event>,
    commit: Chore,
    /// Something may be to be committed.
    dirty: bool,
    /// After a failure brokers are left alone until then.
    not_before: Instant,
    leaving: Vec<Leaving>,
}

impl<S, R> Shift<S>
where
    S: Service<Message, Response = Outcome<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    pub(super) fn new(settings: Settings, member: Member, handler: S) -> Self {
        Self {
            desk: Desk::new(settings.limits),
            handling: Handling::new(handler, Arc::clone(&settings.poison_to)),
            settings,
            member,
            tracks: HashMap::new(),
            suspects: HashMap::new(),
            starting: Vec::new(),
            asking: JoinSet::new(),
            commit: Chore::now(),
            dirty: false,
            not_before: Instant::now(),
            leaving: Vec::new(),
        }
    }

    /// Works until `shutdown`, then ends what has begun.
    pub(super) async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
    ) -> Result<Totals, ConsumeError> {
        let mut shutdown = pin!(shutdown);
        let mut leave_by = None;
        let mut paused = self.settings.pause.watch();
        loop {
            let now = Instant::now();
            let stands_still = *paused.borrow_and_update() && leave_by.is_none();
            if !stands_still {
                self.begin(now);
            }
            self.begin_commit(now);
            self.give_back(now).await?;
            if let Some(by) = leave_by
                && (self.desk.is_idle() || now >= by)
            {
                return self.leave().await;
            }
            let wake_at = self.wake_at(now, leave_by);
            let reads = !stands_still && leave_by.is_none() && self.desk.room() > 0;
            tokio::select! {
                // What a record belongs to has to be known before it comes.
                biased;
                () = &mut shutdown, if leave_by.is_none() => {
                    leave_by = Some(Instant::now() + self.settings.drain_for);
                    self.desk.close();
                }
                Some(control) = self.member.control.recv() => self.hear(control).await?,
                Some((_, message, end)) = self.handling.ended() => self.ended(message, end),
                Some(event) = self.asking.join_next() => {
                    self.answered(event.map_err(ConsumeError::lost)?)?;
                }
                Ok(()) = paused.changed() => {}
                Some(item) = self.member.items.recv(), if reads => self.arrive(item),
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Starts the messages that may be started.
    fn begin(&mut self, now: Instant) {
        loop {
            // A commit says all there is to say of marks: none is left from before.
            match self.desk.next(now, true) {
                None => break,
                Some(Next::Handle(message)) => self.handling.begin(message.clone(), message),
                Some(Next::Mark(id)) => self.start(id),
            }
        }
    }

    /// Marks the start of a suspect, which runs when the mark is committed, or condemns it.
    fn start(&mut self, id: Id) {
        let message = self.suspects.get(&id).or_else(|| self.desk.message(&id));
        let Some(message) = message.cloned() else {
            return self.desk.release(&id);
        };
        let Some(track) = self.tracks.get_mut(&key(&message)) else {
            return self.desk.release(&id);
        };
        let starts = track.starts(offset(&message));
        if starts < self.settings.poison_after {
            track.start(offset(&message));
            self.starting.push(id);
            self.dirty = true;
            return;
        }
        self.handling.condemn(&message, starts, message.clone());
        self.suspects.remove(&id);
        self.desk.marked(message);
    }

    fn ended(&mut self, message: Message, end: End) {
        let now = Instant::now();
        match end {
            End::Done | End::Dead => self.finish(&message),
            End::Failed(_) => self.park(&message, now, None),
            End::Parked(wait, _) if self.is_to_be_delayed(&message.id, wait) => {
                self.delay(message, now, wait, false);
            }
            End::Parked(wait, _) => self.park(&message, now, Some(wait)),
        }
    }

    /// A suspect is not, for its starts would be forgotten.
    fn is_to_be_delayed(&self, id: &str, wait: Duration) -> bool {
        let park_up_to = self.settings.park_up_to;
        self.desk.is_to_leave(id, wait, park_up_to) && self.settings.delays.fits(wait)
    }

    fn delay(&mut self, message: Message, now: Instant, wait: Duration, again: bool) {
        let delays = self.settings.delays.clone();
        self.asking.spawn(async move {
            let delayed = delays.put_off(&message, wait, again).await;
            let at = now.checked_add(wait).unwrap_or(now);
            Event::Delayed(message, at, delayed)
        });
    }

    /// A message is done, whoever has its partition now: if it came back to this consumer, it is done there too.
    fn finish(&mut self, message: &Message) {
        self.dirty = true;
        // One on its way through the delays was not begun.
        if self.desk.message(&message.id).is_some() {
            self.desk.finish(&message.id);
            self.desk.release(&message.id);
        }
        if let Some(track) = self.tracks.get_mut(&key(message)) {
            track.finish(offset(message));
        }
    }

    fn park(&mut self, message: &Message, now: Instant, wait: Option<Duration>) {
        self.dirty = true;
        match self.tracks.get_mut(&key(message)) {
            Some(track) if !track.leaving => {
                track.came_back(offset(message));
                self.desk.park(&message.id, now, wait);
            }
            // Its next owner handles it.
            _ => {
                self.desk.finish(&message.id);
                self.desk.release(&message.id);
            }
        }
    }

    fn wake_at(&self, now: Instant, leave_by: Option<Instant>) -> Instant {
        let given_back = self.leaving.iter().map(|of| of.by).min();
        let times = [
            self.commit.wake_at().filter(|_| self.dirty),
            self.desk
                .wake_at(now)
                .filter(|_| leave_by.is_none() && !self.settings.pause.is_paused()),
            given_back,
            leave_by,
        ];
        let first = times.into_iter().flatten().min();
        first.unwrap_or(now + LOOK).min(now + LOOK)
    }
}

fn key(message: &Message) -> Key {
    let partition = match message.at {
        At::Record { partition, .. } => partition,
        At::Entry => unreachable!("it was read from a topic"),
    };
    let partition = i32::try_from(partition).unwrap_or(i32::MAX);
    (Arc::clone(&message.stream), partition)
}
