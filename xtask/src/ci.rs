//! `cargo xtask ci`: everything that must hold before a change goes in.

use anyhow::{Context, Result, bail};

use crate::cargo::{cargo, libraries};
use crate::process::{say, shown, succeed};
use crate::stopwatch::{Stopwatch, Took};
use crate::test::{self, Tally};

struct Step {
    name: &'static str,
    run: fn(&mut Option<Tally>) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step {
        name: "format",
        run: |_| order(["fmt", "--all", "--check"]),
    },
    Step {
        name: "clippy, everything",
        run: |_| {
            let features = ["--workspace", "--all-targets", "--all-features"];
            order(["clippy"].into_iter().chain(features).chain(DENY_WARNINGS))
        },
    },
    Step {
        name: "clippy, each library alone with its default features",
        run: |_| each_library(),
    },
    Step {
        name: "docs",
        run: |_| docs(),
    },
    Step {
        name: "tests",
        run: tests,
    },
    Step {
        name: "a campaign of failures",
        run: |_| chaos(),
    },
    Step {
        name: "the demo",
        run: |_| demo(),
    },
];

const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

pub(crate) fn run() -> Result<bool> {
    let mut tally = None;
    let mut times: Vec<(&str, Took)> = Vec::new();
    let total = Stopwatch::start();
    let mut outcome = Ok(());
    for step in STEPS {
        say(&format!("\n== {}", step.name));
        let stopwatch = Stopwatch::start();
        outcome = (step.run)(&mut tally).with_context(|| format!("step failed: {}", step.name));
        times.push((step.name, stopwatch.read()));
        if outcome.is_err() {
            break;
        }
    }

    say("");
    for (name, took) in &times {
        say(&format!("{:>14}  {name}", took.to_string()));
    }
    for step in &STEPS[times.len()..] {
        say(&format!("{:>14}  {}", "not run", step.name));
    }
    say(&format!("{:>14}  in all", total.read().to_string()));
    if let Some(tally) = tally {
        say(&tally.to_string());
    }
    outcome.map(|()| true)
}

fn order<'a>(args: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let mut command = cargo(args);
    say(&format!("$ {}", shown(&command)));
    succeed(&mut command)
}

/// Together, the libraries would lend each other the features of what they share, and one that asks for
/// too few would pass.
fn each_library() -> Result<()> {
    for library in libraries()? {
        let lib = ["clippy", "--package", &library, "--lib"];
        order(lib.into_iter().chain(DENY_WARNINGS))?;
    }
    Ok(())
}

fn docs() -> Result<()> {
    let mut command = cargo(["doc", "--workspace", "--no-deps", "--all-features"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    say(&format!("$ {}", shown(&command)));
    succeed(&mut command)
}

fn tests(tally: &mut Option<Tally>) -> Result<()> {
    let (good, counted) = test::run_counting(&[])?;
    *tally = Some(counted);
    if !good {
        bail!("{counted}");
    }
    Ok(())
}

fn chaos() -> Result<()> {
    if !crate::chaos::run(crate::chaos::SHORT)? {
        bail!("the books of a run did not close");
    }
    Ok(())
}

/// The program's main job, as somebody who reads the README runs it, only shorter.
fn demo() -> Result<()> {
    let directory = tempfile::tempdir().context("no directory for temporary files")?;
    let report = directory.path().join("report.json");
    let mut command = cargo(["run", "--release", "--package", "pipeline", "--"]);
    command
        .args(["demo", "--seconds", "3", "--report"])
        .arg(&report);
    say(&format!("$ {}", shown(&command)));
    succeed(&mut command)?;
    let report = std::fs::read(&report).context("the demo wrote no report")?;
    let report: serde_json::Value =
        serde_json::from_slice(&report).context("the demo's report is no JSON")?;
    if report.pointer("/accounting/closed") != Some(&serde_json::Value::Bool(true)) {
        bail!("the demo's accounting did not close");
    }
    Ok(())
}
