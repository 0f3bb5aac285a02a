//! How letters look to people and to scripts.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use seawall_dlq::{Census, Depth, HeldKey, Letter, Summary};
use serde_json::{Value, json};

use crate::Stop;

/// Messages longer than this are cut in tables.
const CUT: usize = 60;

/// Writes to the output. Whoever stopped reading it has heard enough.
pub(crate) fn say(text: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|_| Stop::Unheard)
}

/// A line that is written over, for people who watch.
pub(crate) fn progress(text: &str) {
    let mut out = io::stderr();
    if out.is_terminal() {
        // Nobody needs it.
        drop(write!(out, "\r\x1b[K{text}").and_then(|()| out.flush()));
    }
}

pub(crate) fn stats(depth: &Depth, census: &Census, now: SystemTime) -> String {
    let oldest = depth.oldest.map_or_else(
        || "none".to_owned(),
        |oldest| format!("{} ({} ago)", date(oldest), age(now, oldest)),
    );
    let mut text = format!("letters  {}\noldest   {oldest}\n", depth.letters);
    if census.unreadable.entries > 0 {
        // Writing to a string does not fail.
        let _ = writeln!(text, "unreadable {}", census.unreadable.entries);
    }
    if census.causes.is_empty() {
        return text;
    }
    let rows = census.causes.iter().map(|cause| {
        [
            cause.letters.to_string(),
            cause.fingerprint.to_string(),
            clean(&cause.class, 16),
            age(now, cause.first),
            age(now, cause.last),
            clean(&cause.message, CUT),
        ]
    });
    text.push('\n');
    table(
        &mut text,
        [
            "LETTERS",
            "FINGERPRINT",
            "CLASS",
            "FIRST",
            "LAST",
            "MESSAGE",
        ],
        rows,
    );
    text
}

pub(crate) fn stats_json(depth: &Depth, census: &Census) -> String {
    let causes: Vec<Value> = census
        .causes
        .iter()
        .map(|cause| {
            json!({
                "fingerprint": cause.fingerprint.to_string(),
                "class": cause.class,
                "message": cause.message,
                "letters": cause.letters,
                "first_ms": millis(cause.first),
                "last_ms": millis(cause.last),
            })
        })
        .collect();
    let oldest = depth.oldest.map(millis);
    let all = json!({
        "letters": depth.letters,
        "oldest_ms": oldest,
        "unreadable": census.unreadable.entries,
        "causes": causes,
    });
    format!("{all}\n")
}

pub(crate) fn list(letters: &[Letter], now: SystemTime) -> String {
    let rows = letters.iter().map(|letter| {
        [
            letter.id().to_string(),
            clean(&letter.origin.to_string(), 40),
            letter.generation.to_string(),
            age(now, letter.last_failure),
            clean(&letter.failure.class, 16),
            clean(&letter.failure.message, CUT),
        ]
    });
    let mut text = String::new();
    table(
        &mut text,
        ["ID", "ORIGIN", "REDRIVEN", "DIED", "CLASS", "MESSAGE"],
        rows,
    );
    text
}

pub(crate) fn letter(letter: &Letter, now: SystemTime) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name:<12} {value}");
    };
    line("id", &letter.id().to_string());
    line("origin", &clean(&letter.origin.to_string(), usize::MAX));
    if let Some(place) = &letter.copy_at {
        line("copy at", &clean(&place.to_string(), usize::MAX));
    }
    line("redriven", &letter.generation.to_string());
    let times = [
        ("first failure", letter.first_failure),
        ("last failure", letter.last_failure),
    ];
    for (name, at) in times {
        line(name, &format!("{} ({} ago)", date(at), age(now, at)));
    }
    line("attempts", &letter.failure.attempts.to_string());
    line("fingerprint", &letter.fingerprint.to_string());
    line("class", &clean(&letter.failure.class, usize::MAX));
    line("message", &clean(&letter.failure.message, usize::MAX));
    for cause in &letter.failure.chain {
        line("  because", &clean(cause, usize::MAX));
    }
    if let Some(key) = &letter.key {
        line("key", &bytes(key));
    }
    for (name, value) in &letter.headers {
        line(
            "header",
            &format!("{}: {}", clean(name, usize::MAX), bytes(value)),
        );
    }
    line("payload", &format!("{} bytes", letter.payload.len()));
    text.push('\n');
    text.push_str(&bytes(&letter.payload));
    text.push('\n');
    text
}

pub(crate) fn json_line(letter: &Letter) -> String {
    let mut json = String::from_utf8_lossy(&letter.to_json()).into_owned();
    json.push('\n');
    json
}

pub(crate) fn redriven(summary: &Summary, dry_run: bool) -> String {
    let sent = if dry_run { "would be sent" } else { "sent" };
    format!(
        "{} {sent}, {} failed, {} left as they go in circles, of {} that match\n",
        summary.redriven, summary.failed, summary.looping, summary.matched
    )
}

pub(crate) fn redriven_json(summary: &Summary, dry_run: bool) -> String {
    let all = json!({
        "dry_run": dry_run,
        "matched": summary.matched,
        "redriven": summary.redriven,
        "failed": summary.failed,
        "looping": summary.looping,
        "unreadable": summary.unreadable,
    });
    format!("{all}\n")
}

pub(crate) fn held(keys: &[HeldKey]) -> String {
    let rows = keys.iter().map(|key| {
        [
            key.behind.to_string(),
            clean(&key.by.to_string(), 60),
            bytes(&key.key),
        ]
    });
    let mut text = String::new();
    table(&mut text, ["BEHIND", "HELD BY", "KEY"], rows);
    text
}

pub(crate) fn held_json(key: &HeldKey) -> String {
    let line = json!({
        "key": String::from_utf8_lossy(&key.key),
        "key_hex": hex(&key.key, ""),
        "by": key.by.to_string(),
        "behind": key.behind,
    });
    format!("{line}\n")
}

fn table<const N: usize>(
    text: &mut String,
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned))
        .chain(rows)
        .collect();
    let width = |column: usize| {
        let lengths = rows.iter().map(|row| row[column].chars().count());
        lengths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// Text from a letter, cut, and without what a terminal would obey.
pub(crate) fn clean(text: &str, most: usize) -> String {
    let mut clean = String::new();
    for (place, char) in text.chars().enumerate() {
        if place == most {
            clean.push('…');
            break;
        }
        if char.is_control() {
            clean.extend(char.escape_default());
        } else {
            clean.push(char);
        }
    }
    clean
}

/// Bytes as text where they are, else as hexadecimal digits.
fn bytes(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => clean(text, usize::MAX),
        Err(_) => format!("hex {}", hex(bytes, " ")),
    }
}

fn hex(bytes: &[u8], between: &str) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(between)
}

fn millis(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

fn age(now: SystemTime, then: SystemTime) -> String {
    let seconds = now
        .duration_since(then)
        .map_or(0, |age: Duration| age.as_secs());
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// As in RFC 3339, in UTC.
fn date(time: SystemTime) -> String {
    let seconds = millis(time).div_euclid(1000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Counted from 1 March of year 0, a leap day is the last of its year.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds| date(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(at(4_102_444_800), "2100-01-01T00:00:00Z");
    }

    #[test]
    fn a_letter_cannot_talk_to_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\n", 100), "a\\u{1b}[2Jb\\n");
        assert_eq!(clean("abc", 2), "ab…");
    }
}
