//! Figures that a crate's tests print.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Findings;
use super::bar::Figure;
use crate::cargo::cargo;
use crate::claims::{Claim, How};
use crate::process::{run_lines, say, shown};
use crate::servers;

/// Runs the claims' tests, one after the other so that they do not disturb each other's figures.
pub(super) fn measure(
    package: &str,
    file: &str,
    claims: &[&Claim],
    findings: &mut Findings,
) -> Result<()> {
    let names: BTreeSet<_> = claims.iter().filter_map(|claim| name(claim)).collect();
    let mut command = cargo([
        "test",
        "--package",
        package,
        "--all-features",
        "--test",
        file,
    ]);
    command
        .args(["--", "--exact", "--nocapture", "--test-threads=1"])
        .args(&names)
        .envs(servers::ready()?);
    say(&format!("$ {}", shown(&command)));

    let mut said = Vec::new();
    let status = run_lines(&mut command, &mut |line| said.push(line.to_owned()))?;
    let failed = failures(&said);
    if !status.success() {
        said.iter().for_each(|line| say(line));
    }
    for claim in claims {
        if let Some(figure) = figure(&said, claim.id) {
            findings.found(claim, figure);
        }
        if name(claim).is_some_and(|name| failed.contains(name)) {
            findings.failed(claim, "its test failed");
        } else if !status.success() && failed.is_empty() {
            findings.failed(claim, "cargo test failed");
        }
    }
    Ok(())
}

fn name(claim: &Claim) -> Option<&'static str> {
    match claim.how {
        How::Test { name, .. } => Some(name),
        How::Compare { .. } | How::Demo { .. } | How::Chaos { .. } | How::Interop => None,
    }
}

/// The last `figure <id>: <value>`, which may stand behind `test <name> ... ` on its line.
fn figure(lines: &[String], id: &str) -> Option<Figure> {
    let mark = format!("figure {id}: ");
    lines.iter().rev().find_map(|line| {
        let (_, value) = line.split_once(&mark)?;
        Figure::read(value)
    })
}

/// The names under the last `failures:`.
fn failures(lines: &[String]) -> BTreeSet<&str> {
    let last = lines.iter().rposition(|line| line == "failures:");
    let listed = last.map_or(&[] as &[String], |at| &lines[at + 1..]);
    listed
        .iter()
        .map_while(|line| line.strip_prefix("    "))
        .collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn finds_figures_wherever_the_test_binary_puts_them() {
        let said = lines(
            "running 2 tests\n\
             test moves ... figure shard-router/moves: 321\n\
             ok\n\
             figure shard-router/moves-back: 12\n\
             test other ... ok\n",
        );
        assert_eq!(
            figure(&said, "shard-router/moves"),
            Some(Figure::Number(321.0))
        );
        assert_eq!(
            figure(&said, "shard-router/moves-back"),
            Some(Figure::Number(12.0))
        );
        assert_eq!(figure(&said, "shard-router/other"), None);
    }

    #[test]
    fn finds_the_tests_that_failed() {
        let said = lines(
            "test good ... ok\n\
             \n\
             failures:\n\
             \n\
             ---- bad stdout ----\n\
             thread 'bad' panicked\n\
             \n\
             failures:\n    bad\n    worse\n\n\
             test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        );
        assert_eq!(failures(&said), BTreeSet::from(["bad", "worse"]));
        assert!(failures(&lines("test result: ok.")).is_empty());
    }
}
