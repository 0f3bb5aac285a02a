//! Where PostgreSQL's programs are, and as whom they run.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::geteuid;

/// Who runs the server where the tests run as root, which PostgreSQL refuses to.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// Where distributions keep the server's programs: off the path, one directory for each version.
const PLACES: [&str; 2] = ["/usr/lib/postgresql", "/opt/homebrew/opt"];

/// The programs of one installation, and the user that runs them.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    directory: PathBuf,
    user: Option<(u32, u32)>,
}

impl Programs {
    /// # Panics
    /// When there are none.
    pub(super) fn find() -> Self {
        let directory = installation().unwrap_or_else(|| panic!("{MISSING}"));
        Self {
            directory,
            user: geteuid().is_root().then(unprivileged),
        }
    }

    /// One of them, to be run by the user that may. Messages are in English and times in UTC.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join(program));
        if let Some((user, group)) = self.user {
            // Leaves root's other groups as well.
            command.uid(user).gid(group);
        }
        command
            .current_dir("/")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// Gives a directory to the user that runs the programs.
    pub(super) fn give(&self, directory: &Path) {
        if let Some((user, group)) = self.user {
            chown(directory, Some(user), Some(group)).expect("root may give its files away");
        }
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
            .expect("the directory was just made");
    }
}

/// The directory of the `postgres` that `POSTGRES_SERVER` names, that is on the path, or the newest of those
/// that are where distributions put them.
fn installation() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("POSTGRES_SERVER").filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        // What stands on the path may be a link into the installation, where the other programs are.
        let server = fs::canonicalize(&named).unwrap_or(named);
        return Some(server.parent()?.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).find(|place| has_server(place));
    on_path.or_else(|| {
        let mut places: Vec<(u32, PathBuf)> = PLACES
            .iter()
            .filter_map(|place| fs::read_dir(place).ok())
            .flat_map(|entries| entries.filter_map(Result::ok))
            .filter_map(|entry| Some((version(&entry.file_name())?, entry.path().join("bin"))))
            .filter(|(_, place)| has_server(place))
            .collect();
        places.sort();
        places.pop().map(|(_, place)| place)
    })
}

/// `15` and `postgresql@15` are both of version 15.
fn version(directory: &OsString) -> Option<u32> {
    let name = directory.to_str()?;
    name.strip_prefix("postgresql@")
        .unwrap_or(name)
        .parse()
        .ok()
}

fn has_server(directory: &Path) -> bool {
    ["postgres", "initdb", "pg_basebackup", "psql"]
        .iter()
        .all(|program| directory.join(program).is_file())
}

/// User and group of the first of [`USERS`] that this machine knows.
fn unprivileged() -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").expect("every machine has its users listed");
    let numbers = |name: &&str| {
        users.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next()? == *name).then_some(())?;
            let user = fields.nth(1)?.parse().ok()?;
            Some((user, fields.next()?.parse().ok()?))
        })
    };
    USERS.iter().find_map(numbers).unwrap_or_else(|| {
        panic!("PostgreSQL refuses to run as root, and there is no user {USERS:?}: run the tests as another user")
    })
}

const MISSING: &str = "cannot find PostgreSQL. This test needs its server, initdb, pg_basebackup and psql, version 13 or \
     newer: install them (Debian, Ubuntu: apt-get install postgresql; macOS: brew install postgresql), put the path \
     of the program `postgres` into POSTGRES_SERVER, or let `cargo xtask test` do it.";
