//! The desk against a model.

use std::{collections::HashSet, sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Desk, Limits, Next};
use crate::Message;

fn message(number: u64, key: u8) -> Message {
    Message {
        stream: "{orders}".into(),
        id: format!("{number:04}-0").into(),
        key: Some(vec![key].into()),
        headers: Vec::new(),
        payload: number.to_string().into(),
        parked: 0,
        at: crate::consumer::message::At::Entry,
    }
}

#[derive(Debug, Clone)]
enum Event {
    Arrive(u8),
    Suspect,
    Finish(usize),
    Park(usize, u64),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0..3_u8).prop_map(Event::Arrive),
        1 => Just(Event::Suspect),
        4 => any::<usize>().prop_map(Event::Finish),
        2 => (any::<usize>(), 0..50_u64).prop_map(|(which, wait)| Event::Park(which, wait)),
        2 => (0..40_u64).prop_map(Event::Pass),
    ];
    proptest::collection::vec(event, 1..150)
}

proptest! {
    /// Whatever happens: no more run than may, a suspect runs with nothing beside it, nothing is begun before
    /// its time or twice at once, one of a key at a time where order counts, and everything ends.
    #[test]
    fn the_desk_keeps_its_invariants(events in events(), ordered: bool) {
        let limits = Limits { concurrency: 3, window: 20, ordered };
        let mut desk = Desk::new(limits);
        let mut now = Instant::now();
        let mut number = 0;
        let mut running: Vec<Message> = Vec::new();
        let mut suspects = HashSet::new();
        let mut parked = std::collections::HashMap::new();
        let mut finished = 0;
        let step = |desk: &mut Desk, running: &mut Vec<Message>, suspects: &HashSet<u64>, parked: &mut std::collections::HashMap<Arc<str>, Instant>, now: Instant| {
            while let Some(next) = desk.next(now, true) {
                let begun = match next {
                    Next::Handle(message) => message,
                    Next::Mark(id) => {
                        prop_assert!(running.is_empty(), "something runs beside a suspect");
                        let number = id[..4].parse().unwrap();
                        let message = message(number, (number % 3) as u8);
                        desk.marked(message.clone());
                        message
                    }
                };
                if let Some(until) = parked.remove(&begun.id) {
                    prop_assert!(until <= now, "early");
                }
                prop_assert!(running.iter().all(|other| other.id != begun.id), "twice at once");
                let is_suspect = |message: &Message| suspects.contains(&message.id[..4].parse::<u64>().unwrap());
                prop_assert!(!running.iter().any(is_suspect), "begun beside a suspect");
                if ordered {
                    prop_assert!(running.iter().all(|other| other.key != begun.key), "two of a key");
                }
                running.push(begun);
                prop_assert!(running.len() <= 3);
            }
            Ok(())
        };
        for event in events {
            match event {
                Event::Arrive(key) if desk.room() > 0 => {
                    number += 1;
                    desk.arrive(vec![message(number, key)]);
                }
                Event::Suspect if desk.room_for_suspects() > 0 => {
                    number += 1;
                    suspects.insert(number);
                    desk.suspect(vec![message(number, 0).id]);
                }
                Event::Finish(which) if !running.is_empty() => {
                    let message = running.swap_remove(which % running.len());
                    desk.finish(&message.id);
                    desk.release(&message.id);
                    finished += 1;
                }
                Event::Park(which, wait) if !running.is_empty() => {
                    let message = running.swap_remove(which % running.len());
                    let wait = Duration::from_millis(wait);
                    parked.insert(message.id.clone(), now + wait);
                    desk.park(&message.id, now, Some(wait));
                }
                Event::Pass(wait) => now += Duration::from_millis(wait),
                _ => {}
            }
            prop_assert!(desk.len() <= 20);
            step(&mut desk, &mut running, &suspects, &mut parked, now)?;
        }
        // Whoever waits knows for what, and in the end nothing is left.
        for _ in 0..1000 {
            if let Some(message) = running.pop() {
                desk.finish(&message.id);
                desk.release(&message.id);
                finished += 1;
            } else if let Some(at) = desk.wake_at(now) {
                now = at;
            }
            step(&mut desk, &mut running, &suspects, &mut parked, now)?;
        }
        prop_assert_eq!((desk.len(), finished), (0, number));
    }
}
