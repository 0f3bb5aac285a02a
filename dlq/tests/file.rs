//! The file sink: what survives, what is refused, and that two never share a file.
#![cfg(all(feature = "file", unix))]
#![allow(clippy::unwrap_used)] // in helpers, which are tests as well

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
};

use seawall_dlq::{
    DeadLetterLayer, FileSink, Filter, Letter, NotWritten, OpenError, Queue, Redrive, Sink,
    SinkError, Span, Written,
};
use support::{Broken, Message, all, call, letter, noon};
use tempfile::tempdir;
use tower::{Layer, service_fn};

async fn open(path: &Path) -> FileSink {
    FileSink::open(path).await.unwrap()
}

#[tokio::test]
async fn letters_are_there_after_it_was_closed() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = open(&path).await;
    for offset in 0..30 {
        assert_eq!(sink.write(letter(offset)).await.unwrap(), Written::New);
    }
    assert!(sink.remove(letter(7).id()).await.unwrap());
    assert!(!sink.remove(letter(7).id()).await.unwrap());
    drop(sink);

    let sink = open(&path).await;
    let expected: Vec<_> = (0..30).filter(|n| *n != 7).map(letter).collect();
    assert_eq!(all(&sink).await, expected);
    assert_eq!(sink.get(letter(7).id()).await.unwrap(), None);
    assert_eq!(sink.write(letter(8)).await.unwrap(), Written::Repeat);
    let depth = sink.depth().await.unwrap();
    assert_eq!((depth.letters, depth.oldest), (29, Some(noon())));
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_written_at_the_same_time_are_all_there_once() {
    let directory = tempdir().unwrap();
    let sink = open(&directory.path().join("dead")).await;
    // Each of 200 letters is written by three tasks.
    let tasks: Vec<_> = (0..600)
        .map(|n| {
            tokio::spawn({
                let sink = sink.clone();
                async move { sink.write(letter(n % 200)).await.unwrap() }
            })
        })
        .collect();
    let mut new = 0;
    for task in tasks {
        new += u32::from(task.await.unwrap() == Written::New);
    }
    assert_eq!((new, all(&sink).await.len()), (200, 200));
}

#[tokio::test]
async fn a_write_whose_caller_went_away_is_whole_or_absent() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = open(&path).await;
    let offset = std::cell::Cell::new(0);
    test_support::drop_at_every_poll(
        || {
            offset.set(offset.get() + 1);
            let (sink, letter) = (sink.clone(), letter(offset.get()));
            async move { sink.write(letter).await }
        },
        async |_| {
            sink.write(letter(offset.get())).await.unwrap();
        },
    )
    .await
    .unwrap();
    drop(sink);
    let expected: Vec<_> = (1..=offset.get()).map(letter).collect();
    assert_eq!(all(&open(&path).await).await, expected);
}

#[tokio::test]
async fn two_cannot_have_it_open() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = open(&path).await;
    assert!(matches!(FileSink::open(&path).await, Err(OpenError::InUse)));
    let clone = sink.clone();
    drop(sink);
    assert!(matches!(FileSink::open(&path).await, Err(OpenError::InUse)));
    drop(clone);
    open(&path).await;
}

#[tokio::test]
async fn what_is_no_file_of_letters_is_refused_and_not_touched() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let later = [b"SEAWDLQ\n", &7_u32.to_le_bytes()[..], &[0; 5000]].concat();
    for (bytes, error) in [
        (&b""[..], "not a file of letters"),
        (b"hello", "not a file of letters"),
        (b"SEAWDLQ\n\x01", "damaged at byte 9"),
        (&later, "of version 7"),
    ] {
        fs::write(&path, bytes).unwrap();
        let refused = FileSink::open(&path).await.unwrap_err().to_string();
        assert!(refused.contains(error), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    let nowhere = FileSink::open(directory.path().join("none").join("dead")).await;
    assert!(matches!(nowhere, Err(OpenError::Io(_))));
}

/// Such a letter kept the file from being opened, and all others with it.
#[tokio::test]
async fn a_letter_of_a_later_version_is_kept_and_named_and_in_nobodys_way() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = open(&path).await;
    for offset in 1..=3 {
        sink.write(letter(offset)).await.unwrap();
    }
    drop(sink);
    support::make_unreadable(&path);

    let sink = open(&path).await;
    let named = async |sink: &FileSink| {
        let page = sink.list(&Filter::all(), &Span::all(), 10).await.unwrap();
        match &page.unreadable[..] {
            [SinkError::NotALetter { stream, entry, .. }] => {
                assert_eq!(*stream, path.display().to_string());
                (page.letters, entry.clone())
            }
            other => panic!("{other:?}"),
        }
    };
    let both = vec![letter(2), letter(3)];
    assert_eq!(named(&sink).await, (both, "at byte 4096".to_owned()));
    let depth = sink.depth().await.unwrap();
    assert_eq!((depth.letters, depth.oldest), (3, Some(noon())));

    // What is sent back goes on beside it, and it outlives a rewriting of the file.
    let mut told = Vec::new();
    let (tell, problems) = std::sync::mpsc::channel();
    let summary = Redrive::new(sink.clone())
        .per_second(1000.0)
        .problems(move |problem| tell.send(format!("{problem:?}")).unwrap())
        .run(|_: Letter| std::future::ready(Ok::<_, SinkError>(())))
        .await
        .unwrap();
    told.extend(problems.try_iter());
    assert_eq!(
        (summary.redriven, summary.unreadable, told.len()),
        (2, 1, 1)
    );
    assert!(told[0].contains("at byte 4096"), "{told:?}");
    for offset in 10..500 {
        sink.write(letter(offset)).await.unwrap();
        sink.remove(letter(offset).id()).await.unwrap();
    }
    drop(sink);
    let sink = open(&path).await;
    assert_eq!(named(&sink).await, (vec![], "at byte 4096".to_owned()));
}

#[tokio::test]
async fn a_torn_tail_is_cut_off_and_the_next_letter_lies_in_its_place() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = open(&path).await;
    sink.write(letter(1)).await.unwrap();
    drop(sink);
    let whole = fs::metadata(&path).unwrap().len();
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    file.write_all(&[7; 100]).unwrap();

    let sink = open(&path).await;
    assert_eq!(fs::metadata(&path).unwrap().len(), whole);
    sink.write(letter(2)).await.unwrap();
    drop(sink);
    assert_eq!(all(&open(&path).await).await, [letter(1), letter(2)]);
}

#[tokio::test]
async fn damage_below_what_was_synced_is_refused_with_its_place_and_not_touched() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = open(&path).await;
    let mut ends = vec![fs::metadata(&path).unwrap().len()];
    for offset in 0..3 {
        sink.write(letter(offset)).await.unwrap();
        ends.push(fs::metadata(&path).unwrap().len());
    }
    drop(sink);
    let whole = fs::read(&path).unwrap();
    for (n, pair) in ends.windows(2).enumerate() {
        let mut damaged = whole.clone();
        damaged[pair[1] as usize - 1] ^= 1;
        fs::write(&path, &damaged).unwrap();
        let error = FileSink::open(&path).await.unwrap_err();
        // The last letter as well: it is no torn tail, for it was reported as written.
        assert!(
            matches!(error, OpenError::Damaged { offset } if offset == pair[0]),
            "letter {n}"
        );
        assert_eq!(fs::read(&path).unwrap(), damaged);
    }
    // Cut short below what was synced.
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = FileSink::open(&path).await.unwrap_err();
    assert!(matches!(error, OpenError::Damaged { offset } if offset == ends[2]));
}

#[tokio::test]
async fn damage_while_it_is_open_is_found_when_the_letter_is_read() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = open(&path).await;
    sink.write(letter(1)).await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = sink.get(letter(1).id()).await.unwrap_err();
    assert!(
        matches!(error, SinkError::Damaged { offset: 4096 }),
        "{error}"
    );
}

#[tokio::test]
async fn a_full_or_too_small_sink_refuses_and_goes_on() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let options = FileSink::options().max_letters(2).max_letter_bytes(1000);
    let sink = options.open(&path).await.unwrap();
    let large = Message {
        offset: 9,
        payload: vec![0; 2000].into(),
    };
    let mut service = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(|_: Message| {
            std::future::ready(Err::<(), _>(Broken))
        }));
    let error = call(&mut service, large).await.unwrap_err();
    let source = &NotWritten::find(&error).unwrap().source;
    assert!(
        matches!(source, SinkError::TooLarge { limit: 1000, .. }),
        "{source}"
    );

    sink.write(letter(1)).await.unwrap();
    sink.write(letter(2)).await.unwrap();
    let error = sink.write(letter(3)).await.unwrap_err();
    assert!(matches!(error, SinkError::Full { capacity: 2 }));
    assert_eq!(sink.write(letter(2)).await.unwrap(), Written::Repeat);
    sink.remove(letter(1).id()).await.unwrap();
    sink.write(letter(3)).await.unwrap();
    assert_eq!(all(&sink).await, [letter(2), letter(3)]);
}

#[tokio::test]
async fn another_request_that_claims_an_origin_is_refused_also_after_a_restart() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let mut other = letter(1);
    other.payload = "other".into();
    let sink = open(&path).await;
    sink.write(letter(1)).await.unwrap();
    assert!(matches!(
        sink.write(other.clone()).await,
        Err(SinkError::Conflict(_))
    ));
    drop(sink);
    let sink = open(&path).await;
    assert!(matches!(
        sink.write(other).await,
        Err(SinkError::Conflict(_))
    ));
    assert_eq!(all(&sink).await, [letter(1)]);
}

#[tokio::test]
async fn removed_letters_are_left_out_when_they_take_up_most_of_the_file() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = FileSink::options()
        .rewrite_over(4096)
        .open(&path)
        .await
        .unwrap();
    for offset in 0..100 {
        sink.write(letter(offset)).await.unwrap();
    }
    let full = fs::metadata(&path).unwrap().len();
    let page = sink.list(&Filter::all(), &Span::all(), 95).await.unwrap();
    for offset in 0..98 {
        sink.remove(letter(offset).id()).await.unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() < full / 5);
    assert_eq!(all(&sink).await, [letter(98), letter(99)]);
    // A place in the queue stays one, over a rewriting and a restart.
    let rest = Span {
        after: page.next,
        until: None,
    };
    assert_eq!(
        sink.list(&Filter::all(), &rest, 95)
            .await
            .unwrap()
            .letters
            .len(),
        2
    );
    sink.write(letter(100)).await.unwrap();
    drop(sink);
    let sink = open(&path).await;
    assert_eq!(
        sink.list(&Filter::all(), &rest, 95)
            .await
            .unwrap()
            .letters
            .len(),
        3
    );
    assert_eq!(all(&sink).await, [letter(98), letter(99), letter(100)]);
    assert!(!directory.path().join("dead.rewrite").exists());
}

#[tokio::test]
async fn a_rewriting_that_a_crash_cut_short_is_forgotten() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    open(&path).await.write(letter(1)).await.unwrap();
    let beside = directory.path().join("dead.rewrite");
    fs::write(&beside, b"half of it").unwrap();
    assert_eq!(all(&open(&path).await).await, [letter(1)]);
    assert!(!beside.exists());
}

#[tokio::test]
async fn a_rewriting_that_fails_leaves_the_file_as_good_as_before() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let sink = FileSink::options()
        .rewrite_over(2048)
        .open(&path)
        .await
        .unwrap();
    // Where the new file would be made there is a directory.
    fs::create_dir(directory.path().join("dead.rewrite")).unwrap();
    for offset in 0..50 {
        sink.write(letter(offset)).await.unwrap();
    }
    for offset in 0..49 {
        assert!(sink.remove(letter(offset).id()).await.unwrap());
    }
    assert_eq!(all(&sink).await, [letter(49)]);
    sink.write(letter(50)).await.unwrap();
    drop(sink);
    fs::remove_dir(directory.path().join("dead.rewrite")).unwrap();
    assert_eq!(all(&open(&path).await).await, [letter(49), letter(50)]);
}

/// Not a test of its own: the process that `kill_9` kills. It writes letters, tells of each that is
/// reported as written, and redrives now and then so that removals and rewritings happen too.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed() {
    let Some(path) = std::env::var_os("SEAWALL_DLQ_CHILD") else {
        return;
    };
    let sink = FileSink::options()
        .rewrite_over(4096)
        .open(path)
        .await
        .unwrap();
    let start = sink
        .depth()
        .await
        .unwrap()
        .end
        .map_or(0, |end| end.as_str().parse().unwrap());
    for batch in start.. {
        let writes: Vec<_> = (0..8)
            .map(|n| {
                let sink = sink.clone();
                let offset = batch * 8 + n;
                tokio::spawn(async move {
                    sink.write(letter(offset)).await.unwrap();
                    println!("written {offset}");
                })
            })
            .collect();
        for write in writes {
            write.await.unwrap();
        }
        for n in 0..6 {
            println!("removing {}", batch * 8 + n);
            sink.remove(letter(batch * 8 + n).id()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn kill_9_loses_no_letter_that_was_reported() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    let mut written = std::collections::BTreeSet::new();
    let mut removing = std::collections::BTreeSet::new();
    for round in 1..=8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_is_killed", "--nocapture"])
            .env("SEAWALL_DLQ_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut note = |line: String| match line.rsplit_once(' ') {
            Some(("written", offset)) => written.insert(offset.parse::<u64>().unwrap()),
            Some(("removing", offset)) => removing.insert(offset.parse::<u64>().unwrap()),
            _ => false,
        };
        let mut left = 37 * round;
        while left > 0 {
            left -= usize::from(note(lines.next().unwrap().unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died.
        lines.map_while(Result::ok).for_each(|line| {
            note(line);
        });

        let found = all(&open(&path).await).await;
        for offset in written.difference(&removing) {
            assert!(
                found.contains(&letter(*offset)),
                "letter {offset} is lost in round {round}"
            );
        }
        let ids: std::collections::HashSet<_> = found.iter().map(Letter::id).collect();
        assert_eq!(ids.len(), found.len(), "no letter is there twice");
    }
}

/// Not a test of its own: the process of the next one. It writes until the disk says no.
#[tokio::test]
async fn child_that_runs_out_of_space() {
    let Some(path) = std::env::var_os("SEAWALL_DLQ_FULL_DISK") else {
        return;
    };
    let sink = FileSink::open(path).await.unwrap();
    let mut offset = 0;
    let error = loop {
        match sink.write(letter(offset)).await {
            Ok(_) => println!("written {offset}"),
            Err(error) => break error,
        }
        offset += 1;
    };
    assert!(matches!(error, SinkError::Io(_)), "{error}");
    // What was written stays in order, and what is small enough still goes in.
    assert_eq!(
        all(&sink).await,
        (0..offset).map(letter).collect::<Vec<_>>()
    );
    assert!(sink.write(letter(offset)).await.is_err());
    println!("done");
}

#[tokio::test]
async fn a_disk_without_space_is_an_error_and_leaves_no_half_letter() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("dead");
    // A limit on the size of files, without the signal that goes with it.
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 20; exec \"$0\" --exact child_that_runs_out_of_space --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env("SEAWALL_DLQ_FULL_DISK", &path)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("done"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let written = said.matches("written").count() as u64;
    assert!(written > 2);
    let sink = open(&path).await;
    assert_eq!(
        all(&sink).await,
        (0..written).map(letter).collect::<Vec<_>>()
    );
    assert_eq!(sink.write(letter(written)).await.unwrap(), Written::New);
}
