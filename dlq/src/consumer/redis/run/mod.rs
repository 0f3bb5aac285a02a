//! The consumer at work: one loop that owns all state, with what takes time in tasks beside it.

mod ask;
mod leave;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use ::redis::RedisError;
use seawall_redis::Error;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tower_service::Service;

use super::{
    Settings,
    group::{BEGINNING, Group, Reading},
    settle::{Finished, Settlement, Start},
};
use crate::{
    BoxError, ConsumeError, Message, Outcome, Totals,
    consumer::{
        chore::Chore,
        desk::{Aside, Desk, Next},
        handle::End,
        handling::Handling,
    },
};

/// How long to wait before Redis is asked again after it failed.
const AGAIN: Duration = Duration::from_millis(250);
/// How often messages are looked for where order is kept: such a read cannot wait on the server.
const LOOK: Duration = Duration::from_millis(20);
/// How often delayed messages are looked for, if none is known to be due before.
const MOVE: Duration = Duration::from_secs(1);
/// Suspects that are taken over at once. They run one at a time, so others shall have some.
const SUSPECTS: usize = 16;
/// Messages that one script holds or settles.
const AT_ONCE: usize = 500;
/// A consumer that has nothing and was not seen for so long is gone. If it is not, it comes back.
const UNSEEN: Duration = Duration::from_secs(60 * 60);

type Id = Arc<str>;

/// What came of something asked of Redis.
enum Event {
    Read(Reading, Result<Vec<Message>, RedisError>),
    ReadAlone(Result<(Vec<Message>, Vec<Id>), Error>),
    Claimed(Result<(Id, Vec<Id>), Error>),
    Marked(Id, Result<Start, Error>),
    Settled(Settlement, Result<(), Error>),
    Held(Result<Vec<Id>, Error>),
    Delayed(Id, Instant, Result<(), Error>),
    PutBack(Result<(u64, Option<Duration>), Error>),
    SetAside(Result<(), Error>),
    Swept,
}

pub(super) struct Shift<S> {
    settings: Settings,
    group: Group,
    desk: Desk,
    handling: Handling<S, ()>,
    asking: JoinSet<Event>,
    connection: Reading,
    read: Chore,
    claim: Chore,
    claim_from: Id,
    hold: Chore,
    put_back: Chore,
    sweep: Chore,
    settle: Chore,
    set_aside: Chore,
    /// What is being set aside, and the name for that.
    aside: Option<(Aside, String)>,
    to_settle: Settlement,
    marks: u64,
}

impl<S, R> Shift<S>
where
    S: Service<Message, Response = Outcome<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    pub(super) fn new(settings: Settings, group: Group, handler: S) -> Self {
        Self {
            desk: Desk::new(settings.limits),
            handling: Handling::new(handler, Arc::clone(&settings.poison_to)),
            settings,
            group,
            asking: JoinSet::new(),
            connection: None,
            read: Chore::now(),
            claim: Chore::now(),
            claim_from: BEGINNING.into(),
            hold: Chore::now(),
            put_back: Chore::now(),
            sweep: Chore::now(),
            settle: Chore::now(),
            set_aside: Chore::now(),
            aside: None,
            to_settle: Settlement::default(),
            marks: 0,
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
            if !*paused.borrow_and_update() || leave_by.is_some() {
                self.begin(now);
            }
            self.ask(now, leave_by.is_some());
            if let Some(by) = leave_by
                && ((self.desk.is_idle() && !self.read.busy) || now >= by)
            {
                return self.leave().await;
            }
            let wake_at = self.wake_at(leave_by);
            tokio::select! {
                () = &mut shutdown, if leave_by.is_none() => {
                    leave_by = Some(Instant::now() + self.settings.drain_for);
                    self.desk.close();
                }
                Some((id, (), end)) = self.handling.ended() => self.ended(&id, end),
                Some(event) = self.asking.join_next() => {
                    self.answered(event.map_err(ConsumeError::lost)?)?;
                }
                Ok(()) = paused.changed() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Starts the messages that may be started.
    fn begin(&mut self, now: Instant) {
        loop {
            let settled =
                self.to_settle.is_empty() && !self.settle.busy && !self.is_setting_aside();
            match self.desk.next(now, settled) {
                None => break,
                Some(Next::Handle(message)) => self.handling.begin(message, ()),
                Some(Next::Mark(id)) => self.mark(id),
            }
        }
    }

    fn mark(&mut self, id: Id) {
        self.marks += 1;
        let number = self.marks;
        let consumer = &self.settings.consumer;
        let Some(mark) = self.desk.mark(&id, || format!("{consumer}.{number}")) else {
            return;
        };
        let (group, most) = (self.group.clone(), self.settings.poison_after);
        let in_order = self.settings.limits.ordered;
        self.asking.spawn(async move {
            let start = group.start(&id, &mark, most, in_order).await;
            Event::Marked(id, start)
        });
    }

    fn ended(&mut self, id: &Id, end: End) {
        let now = Instant::now();
        match end {
            End::Dead if self.settings.hold_dead && self.desk.died(id) => {}
            End::Done | End::Dead => self.finish(id),
            End::Failed(_) => self.park(id, now, None),
            End::Parked(wait, _) => match self.desk.message(id) {
                Some(message) if self.is_to_be_delayed(message, wait) => {
                    let (group, message) = (self.group.clone(), message.clone());
                    self.asking.spawn(async move {
                        let delayed = group.delay(&message, wait).await;
                        Event::Delayed(message.id, now + wait, delayed)
                    });
                }
                _ => self.park(id, now, Some(wait)),
            },
        }
    }

    /// A suspect is not, for its marks would be forgotten.
    fn is_to_be_delayed(&self, message: &Message, wait: Duration) -> bool {
        let park_up_to = self.settings.park_up_to;
        self.desk.is_to_leave(&message.id, wait, park_up_to) && Group::can_delay(message)
    }

    fn finish(&mut self, id: &Id) {
        let message = self.desk.message(id);
        let done = match message.filter(|_| self.settings.limits.ordered) {
            Some(message) => Finished::in_order(message),
            None => Arc::clone(id).into(),
        };
        self.to_settle.done.push(done);
        self.desk.finish(id);
    }

    fn park(&mut self, id: &Id, now: Instant, wait: Option<Duration>) {
        if let Some(mark) = self.desk.park(id, now, wait) {
            self.to_settle.came_back.push((Arc::clone(id), mark));
        }
    }

    fn release(&mut self, settlement: &Settlement) {
        for done in &settlement.done {
            self.desk.release(&done.id);
        }
    }

    fn is_setting_aside(&self) -> bool {
        self.aside.is_some() || self.desk.has_aside()
    }

    fn ask_to_set_aside(&mut self) {
        if self.aside.is_none() {
            self.marks += 1;
            let name = format!("{}.{}", self.settings.consumer, self.marks);
            self.aside = self.desk.take_aside().map(|aside| (aside, name));
        }
        let Some((aside, name)) = self.aside.clone() else {
            return self.set_aside.again_in(Duration::ZERO);
        };
        let group = self.group.clone();
        self.asking
            .spawn(async move { Event::SetAside(group.set_aside(&aside, &name).await) });
    }

    /// Whether messages are to be read now.
    fn reads(&self) -> bool {
        !self.settings.pause.is_paused() && !self.is_setting_aside()
    }

    fn wake_at(&self, leave_by: Option<Instant>) -> Instant {
        let settle = (!self.to_settle.is_empty()).then(|| self.settle.wake_at());
        let settle = settle.filter(|_| self.aside.is_none());
        let aside = self.is_setting_aside() && !self.read.busy;
        let aside = aside.then(|| self.set_aside.wake_at());
        let mut chores = vec![
            self.hold.wake_at(),
            settle.flatten(),
            aside.flatten(),
            leave_by,
        ];
        if leave_by.is_none() {
            let claim = (self.desk.room_for_suspects() > 0).then(|| self.claim.wake_at());
            let reads = self.desk.room() > 0 && self.reads();
            let read = reads.then(|| self.read.wake_at());
            chores.extend([
                claim.flatten(),
                read.flatten(),
                self.put_back.wake_at(),
                self.sweep.wake_at(),
                self.desk
                    .wake_at(Instant::now())
                    .filter(|_| !self.settings.pause.is_paused()),
            ]);
        }
        let first = chores.into_iter().flatten().min();
        first.unwrap_or_else(|| Instant::now() + MOVE)
    }
}
