//! Apache Kafka for tests: Java, and the jars that Maven brings once.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::{Server, debian};
use crate::cargo::cargo;
use crate::process::{run_lines, say};

const JAVA: Server = Server {
    program: "java",
    variable: "JAVA",
    package: "openjdk-17-jre-headless",
    versions: None,
    pid_file: None,
    oldest: (17, 0),
    why: "Kafka's brokers",
    elsewhere: "macOS: brew install openjdk@17; others: https://adoptium.net",
};

const MAVEN: Server = Server {
    program: "mvn",
    variable: "MAVEN",
    package: "maven",
    versions: None,
    pid_file: None,
    oldest: (3, 0),
    why: "to bring Kafka's jars",
    elsewhere: "macOS: brew install maven; others: https://maven.apache.org",
};

/// Finds Java and the jars, or brings them; the variables that tell the tests where they are.
pub(super) fn ready() -> Result<[(&'static str, OsString); 2]> {
    let java = JAVA.ready()?;
    let jars = match jars() {
        // They may be in a cache, and then nothing is missing but the program that would have brought them.
        None if MAVEN
            .find(&std::env::var_os("PATH").unwrap_or_default())?
            .is_none() =>
        {
            if !debian::can_install() {
                bail!("{}", MAVEN.missing());
            }
            MAVEN.ready()?;
            jars()
        }
        found => found,
    };
    let jars = jars.context("Kafka's jars are missing: see above")?;
    Ok([
        (JAVA.variable, java.into_os_string()),
        ("KAFKA_JARS", jars.into_os_string()),
    ])
}

/// Asks the tests' own library for the directory of the jars, which fetches them the first time; it says itself what
/// is wrong.
fn jars() -> Option<PathBuf> {
    let mut directory = None;
    let package = ["--package", "test-support", "--bin", "kafka-jars"];
    let mut command = cargo(["run", "--quiet"]);
    command.args(package);
    let status = run_lines(&mut command, &mut |line| directory = Some(line.to_owned()));
    match status {
        Ok(status) if status.success() => directory.map(PathBuf::from),
        Ok(_) => None,
        Err(error) => {
            say(&format!("{error:#}"));
            None
        }
    }
}
