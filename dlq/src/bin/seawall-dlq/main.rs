//! `seawall-dlq`: what lies in a queue of dead letters, and what to do with it.

mod args;
mod commands;
mod held;
#[cfg(feature = "kafka")]
mod kafka;
// The consumer's: what is needed by both is no business of others.
#[path = "../../consumer/redis/link.rs"]
mod link;
mod place;
mod redrive;
mod show;
mod stream;

use std::{io::Write, process::ExitCode};

use clap::{Parser, error::ErrorKind};

use args::Args;

/// Why the tool stopped, in one line.
#[derive(Debug)]
enum Stop {
    /// What was asked for is not done, or not all of it, for something is wrong: exit code 2.
    Wrong(String),
    /// Nothing is wrong, and whoever was asked said no: exit code 1.
    Refused(String),
    /// Whoever read its output has gone.
    Unheard,
}

impl Stop {
    /// A failure with what lies beneath it.
    fn wrong(error: &dyn std::error::Error) -> Self {
        Self::Wrong(chain(error))
    }
}

/// What an error and those beneath it say, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let says = error.to_string();
        if !text.ends_with(&says) {
            text = format!("{text}: {says}");
        }
        next = error.source();
    }
    text
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    drop(write!(std::io::stdout(), "{error}"));
                    ExitCode::SUCCESS
                }
                _ => stopped(Stop::Wrong(args::in_one_line(&error))),
            };
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(args)),
        Err(error) => Err(Stop::wrong(&error)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stopped(stop),
    }
}

fn stopped(stop: Stop) -> ExitCode {
    let (line, code) = match stop {
        Stop::Wrong(line) => (line, 2),
        Stop::Refused(line) => (line, 1),
        Stop::Unheard => return ExitCode::SUCCESS,
    };
    // What cannot be written cannot be told either.
    drop(writeln!(
        std::io::stderr(),
        "seawall-dlq: {}",
        line.replace('\n', " ")
    ));
    ExitCode::from(code)
}
