//! `cargo xtask test`: every test of the workspace, against real servers.

use std::ffi::OsString;

use anyhow::Result;

use crate::cargo::cargo;
use crate::process::{run_lines, say, shown};
use crate::servers;

pub(crate) fn run(extra: &[String]) -> Result<bool> {
    let (good, tally) = run_counting(extra)?;
    say(&tally.to_string());
    Ok(good)
}

/// Runs the tests; whether all is well, and how many there were. All of them are run, also after a
/// failure.
pub(crate) fn run_counting(extra: &[String]) -> Result<(bool, Tally)> {
    run_on(extra, servers::ready()?)
}

/// The same on these servers, by the variables that name them to the tests.
pub(crate) fn run_on(
    extra: &[String],
    servers: Vec<(&'static str, OsString)>,
) -> Result<(bool, Tally)> {
    let mut command = cargo(["test", "--all-features", "--no-fail-fast"]);
    // With `--workspace`, cargo would not heed a package that was asked for.
    let packages = extra
        .iter()
        .take_while(|arg| *arg != "--")
        .any(|arg| arg == "--package" || arg.starts_with("--package=") || arg.starts_with("-p"));
    if !packages {
        command.arg("--workspace");
    }
    command.args(extra).envs(servers);
    say(&format!("$ {}", shown(&command)));

    let mut tally = Tally::default();
    let status = run_lines(&mut command, &mut |line| {
        tally.read(line);
        say(line);
    })?;
    if tally.passed + tally.failed == 0 {
        eprintln!("xtask: no test ran");
    } else if !status.success() && tally.failed == 0 {
        eprintln!("xtask: cargo test failed, but not by a test: see above");
    }
    let good = status.success() && tally.failed == 0 && tally.passed > 0;
    Ok((good, tally))
}

/// The tests of all test binaries together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Adds what a test binary says at its end; any other line adds nothing.
    fn read(&mut self, line: &str) {
        let Some((_, figures)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for figure in figures.split("; ") {
            let Some((count, what)) = figure.split_once(' ') else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        if self.ignored > 0 {
            write!(f, ", {} skipped", self.ignored)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_up_what_the_binaries_say() {
        let mut tally = Tally::default();
        for line in [
            "running 12 tests",
            "test a ... ok",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.34s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: nonsense",
        ] {
            tally.read(line);
        }
        assert_eq!(tally.to_string(), "14 passed, 1 failed");
    }

    #[test]
    fn ignored_tests_are_told_of() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 1 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out");
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 2 skipped");
    }
}
