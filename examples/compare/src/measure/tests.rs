use super::*;

#[test]
fn a_median_is_the_middle_and_not_the_mean() {
    assert_eq!(median(&[3.0, 1.0, 1_000.0]), 3.0);
    assert_eq!(median(&[4.0, 1.0, 2.0, 1_000.0]), 3.0);
    assert_eq!(median(&[7.0]), 7.0);
}

#[test]
fn every_contender_has_one_turn_a_round_and_every_place_equally_often() {
    let (rounds, contenders) = (12, 3);
    let mut turns = Vec::new();
    let figures = interleave(rounds, contenders, |contender| {
        turns.push(contender);
        contender as f64
    });

    let mut places = vec![vec![0; contenders]; contenders];
    for round in turns.chunks(contenders) {
        for (place, &contender) in round.iter().enumerate() {
            places[contender][place] += 1;
        }
    }
    assert_eq!(places, vec![vec![4; 3]; 3]);
    // Both neighbours come before each of them.
    for pair in [[0, 1], [1, 0], [1, 2], [2, 1], [2, 0], [0, 2]] {
        assert!(turns.windows(2).any(|turn| turn == pair), "{pair:?}");
    }
    for (contender, figures) in figures.iter().enumerate() {
        assert_eq!(figures, &vec![contender as f64; rounds]);
    }
}

#[test]
fn a_machine_that_changes_its_speed_leaves_the_ratio_alone() {
    // Round by round the machine is another: from twice as fast to nine times as slow.
    let mut turn = 0;
    let figures = interleave(9, 3, |contender| {
        let slowness = [0.5, 9.0, 1.0, 3.0, 2.0][turn / 3 % 5];
        turn += 1;
        [30.0, 10.0, 50.0][contender] * slowness
    });
    let [ours, bare, theirs] = &figures[..] else {
        panic!("three contenders")
    };
    assert!((ratio(ours, theirs, None) - 0.6).abs() < 1e-9);
    assert!((ratio(ours, theirs, Some(bare)) - 0.5).abs() < 1e-9);
}

#[test]
fn one_disturbed_round_of_three_does_not_count() {
    assert_eq!(ratio(&[10.0, 900.0, 10.0], &[20.0; 3], None), 0.5);
    assert_eq!(ratio(&[10.0; 3], &[20.0, 20.0, 900.0], None), 0.5);
}

#[test]
fn a_peer_that_adds_nothing_has_no_ratio_and_ours_that_adds_nothing_has_none_below_zero() {
    let bare = vec![5.0; 3];
    assert!(ratio(&[9.0; 3], &[5.0, 4.0, 4.5], Some(&bare)).is_infinite());
    assert_eq!(ratio(&[4.0; 3], &[6.0; 3], Some(&bare)), 0.0);
}

#[test]
fn figures_are_per_call_or_per_second() {
    let elapsed = Duration::from_millis(2);
    assert!((Unit::Nanos.figure(1_000, elapsed) - 2_000.0).abs() < 1e-6);
    assert!((Unit::PerSecond.figure(1_000, elapsed) - 500_000.0).abs() < 1e-6);
}

#[test]
fn a_slice_is_filled_with_calls() {
    let mut lane = Lane::new(|calls| Duration::from_micros(10) * calls as u32);
    assert_eq!(lane.calls_in(Duration::from_millis(20)), 2_000);
    // One call that is longer than a slice is a slice.
    let mut lane = Lane::new(|calls| Duration::from_secs(1) * calls as u32);
    assert_eq!(lane.calls_in(Duration::from_millis(20)), 1);
}

#[test]
fn a_contest_gives_one_row_for_each_peer() {
    let nanos = |each: u64| Lane::new(move |calls| Duration::from_nanos(each * calls));
    let entry = Entry {
        name: "crate/what",
        peers: &["a", "b"],
        measure: |_| Vec::new(),
    };
    let rows = Contest::new(&entry, Unit::Nanos, nanos(30))
        .bare(nanos(10))
        .peer("a", nanos(50))
        .peer("b", nanos(20))
        .allocs(0.0)
        .run();
    let seen: Vec<_> = rows.iter().map(|row| (row.peer, row.ratio)).collect();
    assert_eq!(seen, [("a", Some(0.5)), ("b", Some(2.0))]);
    assert_eq!(
        (rows[0].ours, rows[0].theirs, rows[0].bare),
        (30.0, 50.0, Some(10.0))
    );

    let rows = Contest::new(&entry, Unit::Nanos, nanos(30))
        .bare(nanos(10))
        .run();
    assert_eq!(
        (rows[0].peer, rows[0].theirs, rows[0].ratio),
        ("bare", 10.0, Some(3.0))
    );
    let json = serde_json::to_value(&rows).unwrap();
    assert_eq!(json[0]["unit"], "ns");
    assert!(json[0]["allocs"].is_null());
}
