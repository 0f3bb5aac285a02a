//! A server and the processes that it is made of.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

/// The lines by which a server says that it answers: a primary, or a replica.
const READY: [&str; 2] = [
    "database system is ready to accept connections",
    "database system is ready to accept read-only connections",
];

/// A server's first process, a child of ours. It has a child for each connection and each chore, which lead
/// sessions of their own: a signal to the first alone would stop or kill no connection.
#[derive(Debug)]
pub(super) struct Process(Child);

impl Process {
    /// Starts it and waits until it says that it is ready; the error is its log.
    pub(super) async fn start(mut command: Command) -> Result<Self, String> {
        let (output, writer) = io::pipe().expect("a pipe can be made");
        let errors = writer.try_clone().expect("a pipe's end can be shared");
        let child = command
            .stdout(writer)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {:?}: {error}", command.get_program()));
        // The command holds the pipe's writing ends, and the log would not end while it does.
        drop(command);
        let process = Self(child);
        let (ready, is_ready) = oneshot::channel();
        thread::spawn(move || follow(BufReader::new(output), ready));
        let outcome = is_ready
            .await
            .expect("the thread that reads the log answers");
        match outcome {
            Ok(()) => Ok(process),
            Err(log) => {
                process.kill();
                Err(log)
            }
        }
    }

    /// Stops all of it where it stands and returns once it has stopped.
    pub(super) fn pause(&self) -> Vec<Pid> {
        let first = self.pid();
        kill_process(first, Signal::STOP).expect("the server is a child of ours");
        // Not by waiting for a child, which tells of a stop once: it may have been stopped before.
        until(|| has_stopped(first));
        // With the first one stopped, no further ones come, and none that ends gives its number away.
        let others = children(first);
        for other in &others {
            let _ = kill_process(*other, Signal::STOP);
        }
        for other in &others {
            until(|| has_stopped(*other));
        }
        others
    }

    pub(super) fn resume(&self) {
        for other in children(self.pid()) {
            let _ = kill_process(other, Signal::CONT);
        }
        kill_process(self.pid(), Signal::CONT).expect("the server is a child of ours");
    }

    /// Kills all of it and returns once it is gone.
    pub(super) fn kill(mut self) {
        // Who has ended by itself cannot be stopped first.
        if matches!(self.0.try_wait(), Ok(None)) {
            let others = self.pause();
            for other in &others {
                let _ = kill_process(*other, Signal::KILL);
            }
            for other in &others {
                until(|| state(*other).is_none_or(|state| state == 'Z'));
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Asks it to end: connections are cut, what is committed is written down.
    pub(super) fn stop(mut self) {
        kill_process(self.pid(), Signal::INT).expect("the server is a child of ours");
        let _ = self.0.wait();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

/// Processes end and stop a moment after they are told to; nobody but their parent is told of it.
fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        thread::yield_now();
    }
}

/// The fields behind the program's name, which may hold anything: state, parent, ...
fn stat(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.trim_start().to_owned())
}

fn state(pid: Pid) -> Option<char> {
    stat(pid)?.chars().next()
}

/// Stopped, or ended.
fn has_stopped(pid: Pid) -> bool {
    state(pid).is_none_or(|state| matches!(state, 'T' | 't' | 'Z'))
}

fn children(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").expect("pausing and killing a server needs /proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|pid| {
            let stat = stat(*pid);
            let of = stat.as_deref().and_then(|stat| stat.split(' ').nth(1));
            of.and_then(|of| of.parse().ok()) == Some(parent.as_raw_pid())
        })
        .collect()
}

/// Reads the log to its end, so that the server never blocks on a full pipe, and answers once.
fn follow(lines: impl BufRead, ready: oneshot::Sender<Result<(), String>>) {
    let mut ready = Some(ready);
    let mut log = String::new();
    for line in lines.lines().map_while(Result::ok) {
        let Some(waiting) = ready.take() else {
            continue;
        };
        if READY.iter().any(|said| line.contains(said)) {
            // Nobody listens any more when the test was dropped while the server came up.
            let _ = waiting.send(Ok(()));
        } else {
            log.push_str(&line);
            log.push('\n');
            ready = Some(waiting);
        }
    }
    if let Some(waiting) = ready {
        let _ = waiting.send(Err(log));
    }
}
