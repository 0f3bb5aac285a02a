//! The project's chores: `cargo xtask test`, `cargo xtask ci`, `cargo xtask interop`, `cargo xtask services`,
//! `cargo xtask chaos`,
//! `cargo xtask prove`.

mod args;
mod cargo;
mod chaos;
mod ci;
mod claims;
mod interop;
mod process;
mod prove;
mod servers;
mod services;
mod stopwatch;
mod test;

use std::process::ExitCode;

use args::{Chore, Request, USAGE};

/// Wrong usage, as the shell's own commands have it.
const USAGE_ERROR: u8 = 2;
/// 128 and SIGINT: what a shell reports of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let chore = match args::parse(std::env::args().skip(1)) {
        Ok(Request::Help) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(Request::Do(chore)) => chore,
        Err(mistake) => {
            eprintln!("xtask: {mistake}");
            return USAGE_ERROR.into();
        }
    };
    let done = process::end_children_on_signals().and_then(|()| match chore {
        Chore::Test { extra } => test::run(&extra),
        Chore::Ci => ci::run(),
        Chore::Interop => interop::run(),
        Chore::Chaos { args } => chaos::run(&args),
        Chore::Services { args } => services::run(&args),
        Chore::Prove(which) => prove::run(&which),
    });
    match done {
        _ if process::interrupted() => {
            eprintln!("xtask: interrupted");
            INTERRUPTED.into()
        }
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
