//! Watching, guarding and counting: with paused time.
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use proptest::prelude::*;
use seawall_dlq::{
    Alert, BoxError, DeadLetterLayer, Depth, Disposition, Filter, FloodGuard, Letter, LetterId,
    MemorySink, Monitor, NotWritten, Page, Parked, Queue, Sink, SinkError, Span, Written, census,
};
use support::{Broken, Message, SlowSink, all, call, letter, noon, seconds};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, service_fn};

/// A queue that can be out of reach.
#[derive(Clone)]
struct Remote {
    letters: MemorySink,
    out: Arc<AtomicBool>,
}

impl Queue for Remote {
    async fn depth(&self) -> Result<Depth, SinkError> {
        match self.out.load(SeqCst) {
            true => Err(SinkError::Closed),
            false => self.letters.depth().await,
        }
    }

    async fn list(&self, filter: &Filter, span: &Span, limit: usize) -> Result<Page, SinkError> {
        self.letters.list(filter, span, limit).await
    }

    async fn get(&self, id: LetterId) -> Result<Option<Letter>, SinkError> {
        self.letters.get(id).await
    }

    async fn remove(&self, id: LetterId) -> Result<bool, SinkError> {
        self.letters.remove(id).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_alert_is_raised_once_and_cleared_once_however_the_depth_wavers() {
    let letters = MemorySink::with_capacity(1000);
    let out = Arc::new(AtomicBool::new(false));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let alerts = heard.clone();
    let remote = Remote {
        letters: letters.clone(),
        out: out.clone(),
    };
    let monitor = Monitor::new(remote)
        .clock(noon)
        .on_alert(move |alert| alerts.lock().unwrap().push(alert.clone()));
    let watching = tokio::spawn(monitor.watch());
    let heard = || heard.lock().unwrap().clone();
    for offset in 0..100 {
        letters.write(letter(offset)).await.unwrap();
    }
    sleep(seconds(60)).await;
    assert_eq!(heard(), [], "100 are not over 100");
    letters.write(letter(100)).await.unwrap();
    sleep(seconds(60)).await;
    assert!(matches!(&heard()[..], [Alert::Raised(depth)] if depth.letters == 101));
    for offset in 0..50 {
        letters.remove(letter(offset).id()).await.unwrap();
        sleep(seconds(10)).await;
    }
    assert_eq!(heard().len(), 1, "51 are not half as many");
    out.store(true, SeqCst);
    letters.remove(letter(50).id()).await.unwrap();
    sleep(seconds(60)).await;
    assert_eq!(heard().len(), 1, "nobody can look");
    out.store(false, SeqCst);
    sleep(seconds(10)).await;
    assert!(matches!(&heard()[..], [_, Alert::Cleared(depth)] if depth.letters == 50));
    watching.abort();
}

#[test]
fn settings_of_a_monitor_that_cannot_work_are_refused() {
    let monitor = || Monitor::new(MemorySink::with_capacity(1));
    assert!(monitor().over(10).try_clear_at(11).is_err());
    assert!(monitor().over(10).try_clear_at(10).is_ok());
    assert!(monitor().try_every(Duration::ZERO).is_err());
}

proptest! {
    /// Raised and cleared take turns, raised only above and cleared only at or below.
    #[test]
    fn alerts_take_turns(over in 0_u64..20, gap in 0_u64..20, depths in proptest::collection::vec(0_u64..30, 0..100)) {
        let clear_at = over.saturating_sub(gap);
        let mut monitor = Monitor::new(MemorySink::with_capacity(1)).over(over).clear_at(clear_at);
        let mut raised = false;
        for letters in depths {
            match monitor.observe(&Depth { letters, ..Depth::default() }) {
                Some(Alert::Raised(_)) => {
                    prop_assert!(!raised && letters > over);
                    raised = true;
                }
                Some(Alert::Cleared(_)) => {
                    prop_assert!(raised && letters <= clear_at);
                    raised = false;
                }
                None => {
                    let quiet = if raised { letters > clear_at } else { letters <= over };
                    prop_assert!(quiet);
                }
            }
        }
    }

    /// In no window of time are more letters written than may be, and one is let through as soon as may be.
    #[test]
    fn a_guard_holds_in_every_window(most in 1_usize..5, waits in proptest::collection::vec(0_u64..40, 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let window = Duration::from_millis(100);
            let guard = FloodGuard::new(MemorySink::with_capacity(1000), most, window);
            let mut written: Vec<Instant> = Vec::new();
            for (offset, wait) in waits.into_iter().enumerate() {
                advance(Duration::from_millis(wait)).await;
                let now = Instant::now();
                let recent = written.iter().filter(|&&at| now - at < window).count();
                match guard.write(letter(offset as u64)).await {
                    Ok(_) => {
                        prop_assert!(recent < most);
                        written.push(now);
                    }
                    Err(SinkError::Flooded { retry_in }) => {
                        prop_assert_eq!(recent, most);
                        let first = written[written.len() - most];
                        prop_assert_eq!(now + retry_in, first + window);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_not_acknowledged_and_goes_on_when_there_is_room() {
    let sink = FloodGuard::new(MemorySink::with_capacity(1000), 10, seconds(60));
    let mut service = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(|_: Message| async { Err::<(), _>(Broken) }));
    let mut refused = Vec::new();
    for offset in 0..30 {
        if let Err(error) = call(&mut service, Message::new(offset, "order")).await {
            let NotWritten { source, .. } = NotWritten::find(&error).unwrap();
            assert!(matches!(source, SinkError::Flooded { retry_in } if *retry_in == seconds(60)));
            refused.push(offset);
        }
    }
    assert_eq!(refused.len(), 20);
    sleep(seconds(60)).await;
    assert!(call(&mut service, Message::new(10, "order")).await.is_ok());
    assert_eq!(all(&sink).await.len(), 11);
}

#[tokio::test(start_paused = true)]
async fn repeats_and_failures_take_no_place_behind_a_guard() {
    let slow = SlowSink::new();
    let sink = FloodGuard::new(slow.clone(), 2, seconds(60));
    sink.write(letter(1)).await.unwrap();
    for _ in 0..10 {
        assert_eq!(sink.write(letter(1)).await.unwrap(), Written::Repeat);
    }
    slow.down.store(true, SeqCst);
    for _ in 0..10 {
        assert!(matches!(
            sink.write(letter(2)).await,
            Err(SinkError::Other(_))
        ));
    }
    slow.down.store(false, SeqCst);
    sink.write(letter(2)).await.unwrap();
    assert!(matches!(
        sink.write(letter(3)).await,
        Err(SinkError::Flooded { .. })
    ));
    assert!(FloodGuard::try_new((), 0, seconds(1)).is_err());
    assert!(FloodGuard::try_new((), 1, Duration::ZERO).is_err());
    let endless = FloodGuard::new(slow, 1, Duration::MAX);
    endless.write(letter(4)).await.unwrap();
    assert!(matches!(
        endless.write(letter(5)).await,
        Err(SinkError::Flooded { .. })
    ));
}

#[tokio::test]
async fn letters_are_counted_by_their_cause() {
    let sink = MemorySink::with_capacity(1000);
    for offset in 0..250 {
        let mut letter = letter(offset);
        if offset % 5 == 0 {
            letter.failure.class = "panic".into();
            letter.fingerprint = letter.failure.fingerprint();
        }
        sink.write(letter).await.unwrap();
    }
    let found = census(&sink, &Filter::all()).await.unwrap();
    assert_eq!(found.unreadable.entries, 0);
    let causes = found.causes;
    let counted: Vec<_> = causes
        .iter()
        .map(|cause| (&*cause.class, cause.letters))
        .collect();
    assert_eq!(counted, [("timeout", 200), ("panic", 50)]);
    assert_eq!((causes[0].first, causes[0].last), (noon(), noon()));
    let panics = census(&sink, &Filter::all().class("panic")).await.unwrap();
    assert_eq!(panics.causes.len(), 1);
}

#[tokio::test]
async fn what_is_to_be_parked_is_an_error_with_its_wait_and_no_letter() {
    let sink = MemorySink::with_capacity(10);
    let mut service = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .dispose(|error| match error.is::<Broken>() {
            true => Disposition::Park(seconds(300)),
            false => Disposition::DeadLetter,
        })
        .layer(service_fn(|message: Message| async move {
            assert!(message.offset != 13, "a panic is dead all the same");
            Err::<(), BoxError>(Broken.into())
        }));
    let error = call(&mut service, Message::new(1, "order"))
        .await
        .unwrap_err();
    let parked = Parked::find(&error).unwrap();
    assert_eq!(parked.wait, seconds(300));
    assert!(parked.source.is::<Broken>());
    assert_eq!(all(&sink).await, []);
    let dead = call(&mut service, Message::new(13, "order")).await.unwrap();
    assert!(dead.dead_lettered().is_some());
}
