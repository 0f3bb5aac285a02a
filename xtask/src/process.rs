//! Children that never outlive their chore.
//!
//! Each child leads a process group of its own, in which everything that it starts (the test binaries and
//! their servers) is found again. When the child ends, or this program is told to end, what is left of
//! that group ends as well, and nothing else does.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long children that were asked to end may take before they are killed.
const GRACE: Duration = Duration::from_secs(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The group of the child that runs now; there is one at a time.
static GROUP: Mutex<Option<Pid>> = Mutex::new(None);

/// Whether this program was told to end.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// From now on SIGINT, SIGTERM and SIGHUP are passed on to the child, which is killed when it does not
/// heed them or at the second one.
pub(crate) fn end_children_on_signals() -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
    thread::spawn(move || {
        let mut timers = Vec::new();
        for _ in signals.forever() {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                end_group(Signal::KILL);
                continue;
            }
            end_group(Signal::INT);
            let (stop, stopped) = mpsc::channel::<()>();
            timers.push(stop);
            thread::spawn(move || {
                // The sender is kept: this ends by its time alone.
                let _ = stopped.recv_timeout(GRACE);
                end_group(Signal::KILL);
            });
        }
    });
    Ok(())
}

fn group() -> MutexGuard<'static, Option<Pid>> {
    GROUP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the lock while it signals, so that the group cannot be gone and its number somebody else's.
fn end_group(signal: Signal) {
    if let Some(leader) = *group() {
        // It fails when all of the group have ended, which is what is wanted.
        let _ = kill_process_group(leader, signal);
    }
}

/// Where a child's output goes, line by line, as it is written.
pub(crate) type Lines<'a> = &'a mut (dyn FnMut(&str) + Send);

/// Runs a command to its end, with its output on ours.
pub(crate) fn run(command: &mut Command) -> Result<ExitStatus> {
    lead(command, None)
}

/// Runs a command to its end; `lines` gets what it writes to its standard output.
pub(crate) fn run_lines(command: &mut Command, lines: Lines<'_>) -> Result<ExitStatus> {
    lead(command, Some(lines))
}

/// Runs a command to its end and fails unless it succeeds.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let status = run(command)?;
    if !status.success() {
        bail!("{} failed ({status})", shown(command));
    }
    Ok(())
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut shown = program.file_name().map_or_else(
        || program.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    for arg in command.get_args() {
        shown.push(' ');
        shown.push_str(&arg.to_string_lossy());
    }
    shown
}

fn lead(command: &mut Command, lines: Option<Lines<'_>>) -> Result<ExitStatus> {
    if interrupted() {
        bail!("interrupted");
    }
    if lines.is_some() {
        command.stdout(Stdio::piped());
    }
    command.stdin(Stdio::null()).process_group(0);
    // Locked over the start, so that a signal in this moment finds the group.
    let mut current = group();
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", shown(command)))?;
    let leader = Pid::from_child(&child);
    *current = Some(leader);
    drop(current);

    let output = child.stdout.take();
    thread::scope(|scope| {
        if let (Some(output), Some(lines)) = (output, lines) {
            scope.spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    lines(&String::from_utf8_lossy(&line));
                }
            });
        }
        // Without reaping it: while the leader is a zombie, its group's number is not given away.
        let ended = waitid(
            WaitId::Pid(leader),
            WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
        );
        let mut current = group();
        let _ = kill_process_group(leader, Signal::KILL);
        *current = None;
        drop(current);
        ended.context("cannot wait for a child")?;
        let status = child.wait().context("cannot wait for a child")?;
        if interrupted() {
            bail!("interrupted");
        }
        Ok(status)
    })
}

/// Prints a line at once, also where the output is a pipe.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // With nobody left to read it, there is nothing to do about it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_leaves_behind_ends_with_it() {
        let mut lines = Vec::new();
        // The grandchild would hold the pipe for an hour.
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 3600 & echo $!; exit 3"]);
        let status = run_lines(&mut command, &mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let error = run(&mut Command::new("/nowhere/no-such-program")).unwrap_err();
        assert_eq!(error.to_string(), "cannot run no-such-program");
    }
}
