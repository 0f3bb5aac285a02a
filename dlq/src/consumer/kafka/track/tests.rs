use bytes::Bytes;

use super::*;

fn message(offset: u64) -> Message {
    Message {
        stream: "orders".into(),
        id: format!("orders/0@{offset}").into(),
        key: None,
        headers: Vec::new(),
        payload: Bytes::new(),
        parked: 0,
        at: At::Record {
            partition: 0,
            offset,
        },
    }
}

fn read(track: &mut Track, offsets: impl IntoIterator<Item = u64>) {
    for offset in offsets {
        track.read(message(offset), Duration::ZERO);
    }
}

fn admitted(track: &mut Track) -> Vec<i64> {
    std::iter::from_fn(|| track.admit())
        .map(|(message, _)| offset(&message))
        .collect()
}

/// Says to the brokers what there is to say.
fn commit(track: &mut Track) -> Mark {
    let mark = track.mark(Some(10)).expect("there is something to say");
    track.committed(mark.clone());
    mark
}

#[test]
fn metadata_is_read_as_it_was_written_and_that_of_others_says_nothing() {
    let mark = Mark {
        position: 7,
        open: Some(17),
        starts: [(8, 2), (11, 1)].into(),
    };
    assert_eq!(mark.metadata(), "seawall1 17 8:2 11:1");
    assert_eq!(Mark::read(7, &mark.metadata()), mark);
    for other in ["", "x", "seawall1", "seawall1 x", "seawall2 17", "NULL"] {
        let clean = Mark {
            position: 7,
            ..Mark::default()
        };
        assert_eq!(Mark::read(7, other), clean, "{other}");
    }
    let starts = (0..5000).map(|offset| (offset, 3)).collect();
    let many = Mark { starts, ..mark };
    assert!(many.metadata().len() < 4096, "the brokers take no more");
}

#[test]
fn nothing_is_begun_before_the_brokers_know_that_somebody_is_at_work() {
    let mut track = Track::new(1, Mark::read(5, ""));
    read(&mut track, 5..30);
    assert!(admitted(&mut track).is_empty());
    let mark = commit(&mut track);
    assert_eq!((mark.position, mark.open), (5, Some(15)));
    assert_eq!(admitted(&mut track), (5..15).collect::<Vec<_>>());
    assert!(track.is_held_up());
    assert_eq!(track.mark(Some(10)), None);
}

#[test]
fn the_lowest_that_is_not_done_is_committed() {
    let mut track = Track::new(1, Mark::read(0, ""));
    read(&mut track, 0..4);
    commit(&mut track);
    assert_eq!(admitted(&mut track), [0, 1, 2, 3]);
    track.finish(1);
    track.finish(3);
    assert_eq!(track.mark(Some(10)), None);
    track.finish(0);
    assert_eq!(commit(&mut track).position, 2);
    track.finish(2);
    assert_eq!(commit(&mut track).position, 4);
}

#[test]
fn offsets_that_have_holes_hold_nothing_up() {
    let mut track = Track::new(1, Mark::read(0, ""));
    commit(&mut track);
    read(&mut track, [3, 500]);
    assert_eq!(admitted(&mut track), [3]);
    track.finish(3);
    assert_eq!(
        commit(&mut track).position,
        500,
        "there is nothing before it"
    );
    assert_eq!(admitted(&mut track), [500]);
    track.pass(501);
    track.finish(500);
    assert_eq!(commit(&mut track).position, 502);
}

#[test]
fn a_record_that_comes_again_is_taken_once() {
    let mut track = Track::new(1, Mark::read(2, ""));
    commit(&mut track);
    read(&mut track, [0, 1, 2, 3, 2, 3, 4]);
    assert_eq!(admitted(&mut track), [2, 3, 4]);
    read(&mut track, [3, 4, 5]);
    assert_eq!(admitted(&mut track), [5]);
}

/// With what was committed when it was given back, everything in a window would be blamed.
#[test]
fn only_what_a_crash_may_have_begun_is_a_suspect() {
    let mut track = Track::new(1, Mark::read(0, ""));
    read(&mut track, 0..30);
    commit(&mut track);
    admitted(&mut track);
    let crashed = Mark::read(0, "seawall1 10");
    assert!(Track::new(2, crashed.clone()).is_suspect(9));
    assert!(!Track::new(2, crashed).is_suspect(10));
    let in_order = track.mark(None).expect("nobody is at work any more");
    assert_eq!(in_order.metadata(), "");
    let next = Track::new(2, Mark::read(in_order.position, &in_order.metadata()));
    assert!(!next.is_suspect(0));
}

#[test]
fn starts_are_kept_until_the_suspect_comes_back() {
    let mut track = Track::new(1, Mark::read(0, "seawall1 10 3:2"));
    read(&mut track, 0..10);
    commit(&mut track);
    assert_eq!(admitted(&mut track).len(), 10);
    assert_eq!((track.starts(3), track.starts(4)), (2, 0));
    // Another suspect that starts in between does not take its starts away.
    track.start(0);
    assert_eq!(commit(&mut track).metadata(), "seawall1 10 0:1 3:2");
    track.finish(0);
    track.start(3);
    assert_eq!(commit(&mut track).metadata(), "seawall1 11 3:3");
    track.came_back(3);
    assert_eq!(commit(&mut track).starts, BTreeMap::new());
}

#[test]
fn a_window_that_becomes_smaller_takes_nothing_back() {
    let mut track = Track::new(1, Mark::read(0, ""));
    read(&mut track, 0..10);
    commit(&mut track);
    assert_eq!(admitted(&mut track).len(), 10);
    assert_eq!(track.mark(Some(2)), None);
    track.finish(0);
    assert_eq!(track.mark(Some(2)).map(|mark| mark.open), Some(Some(10)));
}
