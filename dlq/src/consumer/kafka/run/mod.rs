//! The consumer at work: one loop that owns all state, with what takes time in tasks beside it.

mod commit;
mod rebalance;

use std::{
    collections::HashMap,
    future::Future,
    pin::pin,
    sync::{Arc, mpsc::SyncSender},
    time::Duration,
};

use rdkafka::{consumer::Consumer, error::KafkaResult};
use tokio::{
    task::{Id as TaskId, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tower_service::Service;

use super::{
    Member, Settings,
    poll::{Item, Key, one},
    track::{Mark, Track, offset},
};
use crate::{
    BoxError, ConsumeError, Message, Outcome, Totals,
    consumer::{
        chore::Chore,
        desk::{Desk, Next},
        handle::{End, condemned, handled},
        message::At,
    },
    telemetry,
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
    handler: S,
    desk: Desk,
    tracks: HashMap<Key, Track>,
    /// Messages of suspects, until they start.
    suspects: HashMap<Id, Message>,
    /// Suspects that start when their marks are committed.
    starting: Vec<Id>,
    handling: JoinSet<End>,
    by_task: HashMap<TaskId, Message>,
    asking: JoinSet<Event>,
    commit: Chore,
    /// Something may be to be committed.
    dirty: bool,
    /// After a failure brokers are left alone until then.
    not_before: Instant,
    leaving: Vec<Leaving>,
    totals: Totals,
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
            settings,
            member,
            handler,
            tracks: HashMap::new(),
            suspects: HashMap::new(),
            starting: Vec::new(),
            handling: JoinSet::new(),
            by_task: HashMap::new(),
            asking: JoinSet::new(),
            commit: Chore::now(),
            dirty: false,
            not_before: Instant::now(),
            leaving: Vec::new(),
            totals: Totals::default(),
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
                Some(ended) = self.handling.join_next_with_id() => self.ended(ended),
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
                Some(Next::Handle(message)) => self.handle(message),
                Some(Next::Mark(id)) => self.start(id),
            }
        }
    }

    fn handle(&mut self, message: Message) {
        let handled = handled(self.handler.clone(), message.clone());
        let task = self.handling.spawn(handled);
        self.by_task.insert(task.id(), message);
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
        telemetry::condemned(&id, starts);
        self.totals.condemned += 1;
        let letter = condemned(&self.settings.poison_to, &message, starts);
        let task = self.handling.spawn(letter);
        self.by_task.insert(task.id(), message.clone());
        self.suspects.remove(&id);
        self.desk.marked(message);
    }

    fn ended(&mut self, ended: Result<(TaskId, End), JoinError>) {
        let (task, end) = match ended {
            Ok((task, end)) => (task, end),
            // Without a layer that catches it, a panic is a failure like any other.
            Err(error) => (error.id(), End::Failed(error.into())),
        };
        let Some(message) = self.by_task.remove(&task) else {
            return;
        };
        let now = Instant::now();
        let id = Arc::clone(&message.id);
        match end {
            End::Done => {
                telemetry::ended(&id, "done", None);
                self.totals.done += 1;
                self.finish(&message);
            }
            End::Dead => {
                telemetry::ended(&id, "dead", None);
                self.totals.dead += 1;
                self.finish(&message);
            }
            End::Failed(error) => {
                telemetry::ended(&id, "failed", Some(&error));
                self.totals.failed += 1;
                self.park(&message, now, None);
            }
            End::Parked(wait, error) => {
                telemetry::ended(&id, "parked", Some(&error));
                self.totals.parked += 1;
                match self.is_to_be_delayed(&id, wait) {
                    true => self.delay(message, now, wait, false),
                    false => self.park(&message, now, Some(wait)),
                }
            }
        }
    }

    /// Long waits, and those for which the window has no room, are left to the brokers. A suspect is
    /// not, for its starts would be forgotten; nor is anything whose order counts.
    fn is_to_be_delayed(&self, id: &str, wait: Duration) -> bool {
        !self.settings.limits.ordered
            && !self.desk.is_suspect(id)
            && self.settings.delays.fits(wait)
            && (wait > self.settings.park_up_to || self.desk.is_crowded())
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

    /// A record was read.
    fn arrive(&mut self, item: Item) {
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
    fn admit(&mut self, key: &Key) {
        let now = Instant::now();
        let Some(track) = self.tracks.get_mut(key) else {
            return;
        };
        let mut put_off = Vec::new();
        while let Some((message, wait)) = track.admit() {
            if track.is_suspect(offset(&message)) {
                let news = self.desk.suspect(vec![Arc::clone(&message.id)]);
                self.totals.taken_over += news.len() as u64;
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
