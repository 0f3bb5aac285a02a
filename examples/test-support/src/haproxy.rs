use std::ffi::{OsStr, OsString};
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::port::free_port;

/// The configuration that the pipeline is deployed with.
const CONFIG: &str = include_str!("../../pipeline/deploy/haproxy.cfg");
/// How often another port is drawn when somebody else took the first in between.
const PORTS_TO_TRY: usize = 20;
/// How long it may take to listen.
const START: Duration = Duration::from_secs(10);

/// HAProxy in front of two servers on loopback, on a free port, with the pipeline's own configuration: least
/// connections, health checks, and requests that one server did not answer sent to the other.
///
/// It is killed by its process id when the value is dropped. The program is `haproxy` from `PATH`, or what `HAPROXY`
/// names.
#[derive(Debug)]
pub struct Haproxy {
    port: u16,
    process: Process,
    _directory: TempDir,
}

#[derive(Debug)]
struct Process(Child);

impl Haproxy {
    /// Starts it in front of these two ports and returns once it listens. Nothing has to listen there yet.
    ///
    /// # Panics
    ///
    /// When haproxy is not installed or does not start; the message says what to do.
    pub async fn in_front_of(servers: [u16; 2]) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("test-haproxy-")
            .tempdir()
            .expect("the directory for temporary files is writable");
        let config = directory.path().join("haproxy.cfg");
        std::fs::write(&config, CONFIG).expect("a temporary directory is writable");
        let program = std::env::var_os("HAPROXY").unwrap_or_else(|| OsString::from("haproxy"));
        let mut log = String::new();
        for _ in 0..PORTS_TO_TRY {
            let port = free_port();
            match Process::start(&program, &config, port, servers).await {
                Ok(process) => {
                    return Self {
                        port,
                        process,
                        _directory: directory,
                    };
                }
                Err(said) => log = said,
            }
        }
        panic!("haproxy did not start in {PORTS_TO_TRY} attempts:\n{log}");
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process that serves.
    pub fn id(&self) -> u32 {
        self.process.0.id()
    }
}

impl Process {
    /// Starts it and waits until it listens; the error is what it says.
    async fn start(
        program: &OsStr,
        config: &Path,
        port: u16,
        [one, other]: [u16; 2],
    ) -> Result<Self, String> {
        let child = Command::new(program)
            .arg("-db")
            .arg("-f")
            .arg(config)
            .env("BIND", format!("127.0.0.1:{port}"))
            .env("API_1", format!("127.0.0.1:{one}"))
            .env("API_2", format!("127.0.0.1:{other}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}", cannot_run(program, &error)));
        let mut process = Self(child);
        let errors = process.0.stderr.take().expect("it is piped");
        // It is told of servers that come and go, and the pipe must not fill.
        let said = std::thread::spawn(move || io::read_to_string(errors).unwrap_or_default());
        let listens = async {
            while process.0.try_wait().is_ok_and(|ended| ended.is_none()) {
                if TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                    .await
                    .is_ok()
                {
                    return true;
                }
                sleep(Duration::from_millis(10)).await;
            }
            false
        };
        if timeout(START, listens).await == Ok(true) {
            return Ok(process);
        }
        drop(process);
        Err(said.join().unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cannot_run(program: &OsStr, error: &io::Error) -> String {
    format!(
        "cannot run {} ({error}). This test needs HAProxy: install it (Debian, Ubuntu: apt-get install haproxy; macOS: \
         brew install haproxy), or name the program in HAPROXY",
        program.display()
    )
}
