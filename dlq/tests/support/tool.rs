//! The command line tool, started as a program of its own.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test uses its part

use std::{
    fs::File,
    io::Write,
    process::{Command, Output, Stdio},
};

use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use serde_json::Value;

fn tool(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_seawall-dlq"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What it said, having succeeded.
pub fn said(args: &[&str]) -> String {
    let output = tool(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {errors}");
    assert_eq!(errors, "");
    String::from_utf8(output.stdout).unwrap()
}

/// The one line by which it refused, having said nothing else.
pub fn refused(args: &[&str]) -> String {
    let (out, line) = in_part(args);
    assert_eq!(out, "", "{args:?}");
    line
}

/// What it said, and the line by which it told what it could not do.
pub fn in_part(args: &[&str]) -> (String, String) {
    let output = tool(args);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
    (String::from_utf8(output.stdout).unwrap(), errors)
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The code with which it ended and what it told whoever was asked and typed this answer: standard input is a terminal.
pub fn answered(args: &[&str], answer: &str) -> (Option<i32>, String) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let its = OFlags::RDWR | OFlags::NOCTTY;
    let its = rustix::fs::open(name, its, Mode::empty()).unwrap();
    writeln!(File::from(ours.try_clone().unwrap()), "{answer}").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_seawall-dlq"))
        .args(args)
        .stdin(Stdio::from(its))
        .output()
        .unwrap();
    drop(ours);
    (
        output.status.code(),
        String::from_utf8(output.stderr).unwrap(),
    )
}
