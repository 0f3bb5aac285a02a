use std::future::pending;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// A TCP proxy on a free loopback port that fails on command.
///
/// | fault | what the client sees |
/// | --- | --- |
/// | [`cut`](Proxy::cut) | open connections end, new ones end at once, until [`heal`](Proxy::heal) |
/// | [`stall`](Proxy::stall) | everything hangs, until [`flow`](Proxy::flow) |
/// | [`delay`](Proxy::delay) | everything comes later than it was sent |
/// | [`swallow_next_reply`](Proxy::swallow_next_reply) | the next request is carried out; instead of its reply the connection ends |
/// | [`silence_next_reply`](Proxy::silence_next_reply) | the same, but the connection stays open and says nothing more |
///
/// All connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    target: AtomicU16,
    links: Mutex<Links>,
    stalled: watch::Sender<bool>,
    delay: AtomicU64,
    swallowed: AtomicU64,
}

#[derive(Debug, Default)]
struct Links {
    cut: bool,
    armed: Option<Swallow>,
    open: Vec<AbortHandle>,
}

/// What becomes of a connection whose reply was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swallow {
    Close,
    Silence,
}

impl Proxy {
    /// A proxy in front of `127.0.0.1:target`. Nothing has to listen there yet.
    ///
    /// # Panics
    ///
    /// When the loopback address cannot be bound.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port of the loopback address can be bound");
        let port = listener
            .local_addr()
            .map(|address: SocketAddr| address.port())
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            target: AtomicU16::new(target),
            links: Mutex::default(),
            stalled: watch::Sender::new(false),
            delay: AtomicU64::new(0),
            swallowed: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Self {
            port,
            shared,
            accepting,
        }
    }

    /// The port for clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads new connections to another port: where a server that was restarted listens now.
    pub fn aim(&self, target: u16) {
        self.shared.target.store(target, Ordering::SeqCst);
    }

    /// Holds each piece of a conversation back for so long, in either direction; zero for not at all.
    pub fn delay(&self, by: Duration) {
        let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.shared.delay.store(micros, Ordering::SeqCst);
    }

    /// `redis://127.0.0.1:<port>/`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Ends every connection and each new one, until [`heal`](Proxy::heal). What was under way is lost.
    pub fn cut(&self) {
        let mut links = self.shared.links();
        links.cut = true;
        links.close_all();
    }

    /// Takes connections again.
    pub fn heal(&self) {
        self.shared.links().cut = false;
    }

    /// Holds back what is sent in either direction, until [`flow`](Proxy::flow). Nothing is lost.
    pub fn stall(&self) {
        self.shared.stalled.send_replace(true);
    }

    /// Passes on what was held back, and everything after it.
    pub fn flow(&self) {
        self.shared.stalled.send_replace(false);
    }

    /// Lets the next request through and throws its reply away, then ends that connection: the server
    /// has done the work and the client cannot know.
    ///
    /// It takes the connection that next sends something, so no reply should be under way on it.
    pub fn swallow_next_reply(&self) {
        self.shared.links().armed = Some(Swallow::Close);
    }

    /// Like [`swallow_next_reply`](Proxy::swallow_next_reply), but the connection stays open and
    /// brings no further byte to the client.
    pub fn silence_next_reply(&self) {
        self.shared.links().armed = Some(Swallow::Silence);
    }

    /// How many replies were thrown away.
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.links().close_all();
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn flowing(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.stalled.subscribe().wait_for(|stalled| !stalled).await;
        match self.delay.load(Ordering::SeqCst) {
            0 => {}
            micros => tokio::time::sleep(Duration::from_micros(micros)).await,
        }
    }
}

impl Links {
    fn close_all(&mut self) {
        for link in self.open.drain(..) {
            link.abort();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let mut links = shared.links();
        links.open.retain(|link| !link.is_finished());
        if !links.cut {
            let link = tokio::spawn(carry(client, Arc::clone(&shared)));
            links.open.push(link.abort_handle());
        }
    }
}

/// Carries one connection until either end closes it or a fault ends it.
async fn carry(client: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let target = shared.target.load(Ordering::SeqCst);
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let fault = watch::Sender::new(None);
    tokio::select! {
        ended = requests(from_client, to_server, &shared, &fault) => ended,
        ended = replies(from_server, to_client, &shared, &fault) => ended,
    }
}

async fn requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    shared: &Shared,
    fault: &watch::Sender<Option<Swallow>>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = client.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        shared.flowing().await;
        // Before the request goes out, so that its reply cannot overtake the fault.
        if let Some(armed) = shared.links().armed.take() {
            fault.send_replace(Some(armed));
        }
        server.write_all(&buffer[..length]).await?;
    }
}

async fn replies(
    mut server: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    shared: &Shared,
    fault: &watch::Sender<Option<Swallow>>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = server.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        shared.flowing().await;
        let fault = *fault.borrow();
        if fault.is_some() {
            shared.swallowed.fetch_add(1, Ordering::SeqCst);
        }
        match fault {
            None => client.write_all(&buffer[..length]).await?,
            Some(Swallow::Close) => return Ok(()),
            Some(Swallow::Silence) => return pending().await,
        }
    }
}
