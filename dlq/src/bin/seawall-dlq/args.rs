//! What can be asked for.

use std::time::Duration;

use clap::{Args as Flat, Parser, Subcommand};
use seawall_dlq::LetterId;

/// Looks into a queue of dead letters, sends letters back, and throws them away.
#[derive(Debug, Parser)]
#[command(name = "seawall-dlq", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// How many letters there are, how old the oldest is, and what killed them.
    Stats {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        filter: Which,
        /// One JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// The letters, oldest first.
    List {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        filter: Which,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: u64,
        /// One JSON object a line instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// One letter, whole.
    #[command(allow_missing_positional = true)]
    Show {
        #[command(flatten)]
        place: Place,
        /// The letter's id: 32 hexadecimal digits.
        id: LetterId,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Sends letters back to the streams or topics they came from, and removes each when its copy is there.
    Redrive {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        filter: Which,
        /// The Redis of the streams or the Kafka of the topics, where the letters are not in the same.
        #[arg(long, value_name = "URL")]
        to: Option<String>,
        /// At most so many a second, a minute or an hour: 100/s, 600/m.
        #[arg(long, default_value = "100/s", value_parser = rate)]
        rate: f64,
        /// At most so many letters.
        #[arg(long)]
        limit: Option<u64>,
        /// Leaves letters alone that were sent back so often already.
        #[arg(long, default_value_t = 10)]
        loop_cap: u32,
        /// Only counts.
        #[arg(long)]
        dry_run: bool,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
    /// The keys whose messages wait behind one that is dead or parked, and how many do.
    Held {
        #[command(flatten)]
        group: Group,
        /// One JSON object a line instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Holds a key back no longer: what waits behind its dead message goes on without it.
    LetGo {
        #[command(flatten)]
        group: Group,
        /// The key, as `held` shows it.
        key: String,
        /// The key is given as hexadecimal digits: for keys that are not text.
        #[arg(long)]
        hex: bool,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
    /// Throws letters away, after asking.
    Purge {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        filter: Which,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
        /// One JSON object instead of words.
        #[arg(long)]
        json: bool,
    },
}

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  nothing is wrong, and whoever was asked said no
  2  not done, or not all of it: one line on stderr says what is wrong and how to mend it. What cannot be
     read or sent is named there and stays where it is; everything else is listed, sent or thrown away
     all the same";

/// Whose keys are held.
#[derive(Debug, Flat)]
pub(crate) struct Group {
    /// The Redis, or any server of its cluster: redis://127.0.0.1/.
    pub(crate) at: String,
    /// The stream of the messages, such as {orders}.
    pub(crate) stream: String,
    /// The group of the consumers that keep the order of keys.
    pub(crate) group: String,
}

/// Where the letters are.
#[derive(Debug, Flat)]
pub(crate) struct Place {
    /// A Redis or any server of its cluster (redis://127.0.0.1/), a Kafka (kafka://127.0.0.1:9092), or the path of a file of letters.
    pub(crate) at: String,
    /// The stream of the letters on a Redis, such as {orders}.dead, or their topic on a Kafka.
    pub(crate) stream: Option<String>,
}

/// Which letters are meant; all of them if nothing is said.
#[derive(Debug, Flat)]
pub(crate) struct Which {
    /// From this topic or stream.
    #[arg(long)]
    pub(crate) source: Option<String>,
    /// Of this class of failure, such as exhausted, panic or poison.
    #[arg(long)]
    pub(crate) class: Option<String>,
    /// Of the cause whose fingerprint begins with these digits.
    #[arg(long, value_name = "DIGITS")]
    pub(crate) fingerprint: Option<String>,
    /// Dead for at most so long: 90s, 15m, 2h, 7d.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Duration>,
    /// Dead for longer than this.
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) before: Option<Duration>,
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time: say 90s, 15m, 2h or 7d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = seconds(unit).ok_or_else(wrong)?;
    let number: u64 = text[..text.len() - unit.len_utf8()]
        .parse()
        .map_err(|_| wrong())?;
    let all = number.checked_mul(seconds).ok_or_else(wrong)?;
    Ok(Duration::from_secs(all))
}

fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is no rate: say 100/s, 600/m or 1000/h");
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Ok(number / f64::from(seconds))
}

fn seconds(unit: char) -> Option<u64> {
    Some(match unit {
        's' => 1,
        'm' => 60,
        'h' => 60 * 60,
        'd' => 24 * 60 * 60,
        _ => return None,
    })
}

/// What was wrong with the arguments, without the page about how it is done right.
pub(crate) fn in_one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let until = ["\n\nUsage:", "\n\nFor more", "\n\n  tip:", "Usage:"];
    let end = until.iter().filter_map(|mark| text.find(mark)).min();
    let words: Vec<&str> = text[..end.unwrap_or(text.len())]
        .split_whitespace()
        .collect();
    let said = words.join(" ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    let said = if said.is_empty() || end == Some(0) || said.starts_with("Looks into") {
        "say what to do: stats, list, show, redrive, purge, held or let-go"
    } else {
        said
    };
    format!("{said}; --help says how it is done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn times_and_rates_are_read() {
        assert_eq!(time("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(time("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for wrong in [
            "",
            "m",
            "15",
            "-1s",
            "1w",
            "1.5h",
            "99999999999999999999d",
            "ä",
        ] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
        assert_eq!(rate("90/m"), Ok(1.5));
        for wrong in ["", "100", "/s", "a/s", "1/d"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
