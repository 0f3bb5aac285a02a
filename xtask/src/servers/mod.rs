//! The servers that tests run against: found, or installed where that can be done.
//!
//! Tests start them by themselves, on free ports and in directories of their own. What they need from
//! here is the program.

mod debian;
mod kafka;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::say;

/// A program that tests start, or that brings what they start.
#[derive(Debug)]
struct Server {
    /// The program's file name.
    program: &'static str,
    /// The environment variable that names the program to the tests, and may name it to us.
    variable: &'static str,
    /// Its package on Debian, and the name of the service in it.
    package: &'static str,
    /// The directory, off the path, in which distributions have one for each version, with programs in `bin`.
    versions: Option<&'static str>,
    /// The file in which a service that the package started writes its process id, where it starts one, or the
    /// directory of such files.
    pid_file: Option<&'static str>,
    /// The oldest version that will do (major, minor), and what for.
    oldest: (u32, u32),
    why: &'static str,
    /// How to get it elsewhere.
    elsewhere: &'static str,
}

const SERVERS: &[Server] = &[
    Server {
        program: "redis-server",
        variable: "REDIS_SERVER",
        package: "redis-server",
        versions: None,
        pid_file: Some("/run/redis/redis-server.pid"),
        oldest: (7, 0),
        why: "SET with both NX and GET",
        elsewhere: "macOS: brew install redis; Fedora: dnf install redis; others: https://redis.io",
    },
    Server {
        program: "postgres",
        variable: "POSTGRES_SERVER",
        package: "postgresql",
        versions: Some("/usr/lib/postgresql"),
        pid_file: Some("/run/postgresql"),
        oldest: (13, 0),
        why: "replicas that change their primary without a restart",
        elsewhere: "macOS: brew install postgresql; Fedora: dnf install postgresql-server; others: \
                    https://www.postgresql.org",
    },
    Server {
        program: "haproxy",
        variable: "HAPROXY",
        package: "haproxy",
        versions: None,
        pid_file: Some("/run/haproxy.pid"),
        oldest: (2, 0),
        why: "requests sent to another server when one does not answer",
        elsewhere: "macOS: brew install haproxy; Fedora: dnf install haproxy; others: https://www.haproxy.org",
    },
];

/// Finds each server, or installs it; the variables that tell the tests where it is.
pub(crate) fn ready() -> Result<Vec<(&'static str, OsString)>> {
    let mut variables = Vec::new();
    for server in SERVERS {
        variables.push((server.variable, server.ready()?.into_os_string()));
    }
    variables.extend(kafka::ready()?);
    Ok(variables)
}

impl Server {
    fn ready(&self) -> Result<PathBuf> {
        let program = match self.find(&std::env::var_os("PATH").unwrap_or_default())? {
            Some(program) => program,
            None if debian::can_install() => {
                say(&format!(
                    "{} is missing: installing the package {}",
                    self.program, self.package
                ));
                debian::install(self)?;
                match self.find(OsStr::new("/usr/bin:/usr/local/bin"))? {
                    Some(program) => program,
                    None => bail!(
                        "{}\n(installing the package did not bring it)",
                        self.missing()
                    ),
                }
            }
            None => bail!("{}", self.missing()),
        };
        self.check(&program)?;
        Ok(program)
    }

    /// The program that the variable names, which then must be there, or the first on the path.
    fn find(&self, path: &OsStr) -> Result<Option<PathBuf>> {
        if let Some(named) = std::env::var_os(self.variable).filter(|named| !named.is_empty()) {
            // A bare name is looked for like any other.
            let named = PathBuf::from(named);
            return match on_path(&named, path) {
                None => bail!("{}={}: no such program", self.variable, named.display()),
                found => Ok(found),
            };
        }
        Ok(on_path(Path::new(self.program), path).or_else(|| self.newest()))
    }

    /// The program of the newest version, where versions have directories of their own.
    fn newest(&self) -> Option<PathBuf> {
        let versions = std::fs::read_dir(self.versions?).ok()?;
        let number = |entry: &std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        let mut found: Vec<(u32, PathBuf)> = versions
            .filter_map(Result::ok)
            .filter_map(|entry| {
                Some((number(&entry)?, entry.path().join("bin").join(self.program)))
            })
            .filter(|(_, program)| on_path(program, OsStr::new("")).is_some())
            .collect();
        found.sort();
        found.pop().map(|(_, program)| program)
    }

    fn check(&self, program: &Path) -> Result<()> {
        let output = match Command::new(program).arg("--version").output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => bail!("cannot run {}: {error}", program.display()),
        };
        match version(&output) {
            Some(found) if found >= self.oldest => Ok(()),
            _ => bail!(
                "{} is too old: {}.{} or newer is needed ({})\n{}",
                program.display(),
                self.oldest.0,
                self.oldest.1,
                self.why,
                self.missing()
            ),
        }
    }

    fn missing(&self) -> String {
        format!(
            "the tests need {} {}.{} or newer. Install it (Debian, Ubuntu: apt-get install {}; {}), or name the \
             program in {}",
            self.program, self.oldest.0, self.oldest.1, self.package, self.elsewhere, self.variable
        )
    }
}

/// The file that a shell would run for this name.
pub(crate) fn on_path(name: &Path, path: &OsStr) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |file: &PathBuf| {
        file.metadata()
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.components().count() > 1 {
        return std::path::absolute(name).ok().filter(runs);
    }
    std::env::split_paths(path)
        .map(|directory| directory.join(name))
        .find(runs)
}

/// The first version number in what a program says of itself: `v=7.0.15`, `v7.0`, `17.0.15` or `21`.
fn version(output: &str) -> Option<(u32, u32)> {
    output.split_whitespace().find_map(|word| {
        let word = word.strip_prefix('v').unwrap_or(word);
        let mut parts = word.trim_start_matches('=').split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next().map_or(Ok(0), str::parse).ok()?;
        Some((major, minor))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_a_server() {
        let said = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=1";
        assert_eq!(version(said), Some((7, 0)));
        assert_eq!(version("Redis server v=12.4-rc1.0"), None);
        let old = "Redis server version 2.4.10 (00000000:0)";
        assert_eq!(version(old), Some((2, 4)));
        assert_eq!(
            version("openjdk 17.0.15 2025-04-15\nOpenJDK"),
            Some((17, 0))
        );
        assert_eq!(version("openjdk 21 2023-09-19"), Some((21, 0)));
        let debian = "postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)";
        assert_eq!(version(debian), Some((15, 14)));
        assert_eq!(version(""), None);
    }

    #[test]
    fn of_versions_that_lie_beside_each_other_the_newest_is_taken() {
        use std::os::unix::fs::PermissionsExt;
        let place = tempfile::tempdir().unwrap();
        let bin = |version: &str| place.path().join(version).join("bin");
        for version in ["9", "13", "15", "16", "old"] {
            std::fs::create_dir_all(bin(version)).unwrap();
            let program = bin(version).join("postgres");
            std::fs::write(&program, "").unwrap();
            // Of 16 only the clients are there.
            let mode = if version == "16" { 0o644 } else { 0o755 };
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let versions: &'static str = place.path().to_str().unwrap().to_owned().leak();
        let server = Server {
            program: "postgres",
            variable: "NOBODY_NAMES_IT",
            package: "postgresql",
            versions: Some(versions),
            pid_file: None,
            oldest: (13, 0),
            why: "",
            elsewhere: "",
        };
        let found = server.find(OsStr::new("")).unwrap();
        assert_eq!(found, Some(bin("15").join("postgres")));
    }

    #[test]
    fn finds_programs_and_nothing_else() {
        let path = OsStr::new("/nowhere:/bin:/usr/bin");
        assert!(on_path(Path::new("sh"), path).is_some_and(|file| file.ends_with("sh")));
        assert_eq!(on_path(Path::new("no-such-program"), path), None);
        assert_eq!(on_path(Path::new("/etc/passwd"), path), None);
        assert_eq!(
            on_path(Path::new("/bin/sh"), OsStr::new("")),
            Some(PathBuf::from("/bin/sh"))
        );
    }

    #[test]
    fn what_is_missing_is_told_with_its_cure() {
        let message = SERVERS[0].missing();
        assert!(message.contains("apt-get install redis-server"));
        assert!(message.contains("REDIS_SERVER"));
    }
}
