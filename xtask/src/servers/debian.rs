//! Installing a package on Debian and its kin, without the service that comes with it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};

use super::Server;
use crate::process::{run, say, succeed};

pub(super) fn can_install() -> bool {
    geteuid().is_root()
        && Path::new("/etc/debian_version").exists()
        && Path::new("/usr/bin/apt-get").exists()
}

/// Installs the package without its service, for the tests start servers of their own: it is kept from
/// starting, ended if it started all the same, and not started with the machine. This is only for a
/// package that was not there, so no service that somebody uses is touched.
pub(super) fn install(server: &Server) -> Result<()> {
    let ran_before = running(server);
    succeed(apt_get().arg("update"))
        .context("apt-get update failed, so the server cannot be installed")?;
    succeed(apt_get().args([
        "install",
        "--yes",
        "--no-install-recommends",
        server.package,
    ]))
    .with_context(|| format!("{} cannot be installed", server.package))?;
    if server.pid_file.is_none() || ran_before.is_some() {
        return Ok(());
    }
    if let Some(service) = running(server) {
        say(&format!(
            "ending the service that the package {} started",
            server.package
        ));
        kill_process(service, Signal::TERM).context("cannot end the package's service")?;
    }
    if Path::new("/usr/bin/systemctl").exists() {
        let mut disable = Command::new("/usr/bin/systemctl");
        // Where it fails there is no such unit, which is as well.
        run(disable.args(["--quiet", "disable", server.package]))?;
    }
    Ok(())
}

fn apt_get() -> Command {
    let mut command = Command::new("/usr/bin/apt-get");
    command
        // A terminal of its own would be asked for in vain: we run it in the background.
        .args(["-o", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive")
        // To sysvinit's scripts: single-user mode, in which no service starts.
        .env("RUNLEVEL", "1")
        // To systemctl: as if in a chroot, where a request to start something is passed over.
        .env("SYSTEMD_OFFLINE", "1");
    command
}

/// The service's process, if it runs.
fn running(server: &Server) -> Option<Pid> {
    let place = Path::new(server.pid_file?);
    let file = if place.is_dir() {
        let files = std::fs::read_dir(place).ok()?;
        let mut files = files.filter_map(|entry| Some(entry.ok()?.path()));
        files.find(|file| file.extension().is_some_and(|extension| extension == "pid"))?
    } else {
        place.to_owned()
    };
    let pid = std::fs::read_to_string(file).ok()?;
    let pid = Pid::from_raw(pid.lines().next()?.trim().parse().ok()?)?;
    test_kill_process(pid).ok().map(|()| pid)
}
