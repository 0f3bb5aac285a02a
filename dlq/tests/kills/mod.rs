//! Workers that are processes of their own, killed with SIGKILL where a test says so.
//!
//! A test starts its own program again with [`child`] as the only test and a plan in the environment. The
//! child reads messages from Redis, counts each effect there, and kills itself at the step that the plan names.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test uses its part

#[cfg(feature = "kafka")]
mod log;

use std::{
    collections::HashMap,
    env,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use redis::{AsyncCommands, aio::ConnectionManager, streams::StreamInfoGroupsReply};
use seawall_dlq::{
    BoxError, Consumer, DeadLetterLayer, FileSink, Letter, Message, Queue, RedisSink, Redrive,
    Requeue, Sink, SinkError, Totals, Written,
};
use seawall_redis::Shared;
use test_support::Redis;
use tokio::{process::Command, time::sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{all, connect};

const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];
const STREAM: &str = "{orders}";
const GROUP: &str = "workers";
/// How often a message was applied, by its payload.
const APPLIED: &str = "applied";
/// How often a message was begun, by its payload.
const BEGUN: &str = "begun";

/// Where letters are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letters {
    File,
    Redis,
    /// The messages, too.
    #[cfg(feature = "kafka")]
    Kafka,
}

/// Where a child is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    BeforeHandling,
    AfterHandling,
    AfterTheLetterIsWritten,
    AfterItIsAcknowledged,
    RedriveSent,
    RedriveRemoved,
    Nowhere,
}

/// What a child is told.
#[derive(Debug, Clone, Copy)]
struct Plan {
    step: Step,
    /// At which of these steps.
    at: u64,
    /// Whether nothing fails any more.
    mended: bool,
    redrive: bool,
}

pub const CONSUMER_STEPS: [Step; 4] = [
    Step::BeforeHandling,
    Step::AfterHandling,
    Step::AfterTheLetterIsWritten,
    Step::AfterItIsAcknowledged,
];

fn fails(payload: &str) -> bool {
    payload.ends_with('3') || payload.ends_with('7')
}

/// Kills the process when it has been here so often.
#[derive(Clone)]
struct Killer {
    plan: Plan,
    been: Arc<AtomicU64>,
}

impl Killer {
    fn at(&self, step: Step) {
        if self.plan.step == step && self.been.fetch_add(1, SeqCst) + 1 == self.plan.at {
            die();
        }
    }
}

/// The real thing: nothing of this process runs after it.
fn die() {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        .unwrap();
}

/// Either sink, and the step after it.
#[derive(Clone)]
struct Watched {
    letters: Kept,
    killer: Killer,
    servers: Servers,
}

#[derive(Clone)]
enum Kept {
    File(FileSink),
    Redis(RedisSink<Shared<ConnectionManager>>),
    #[cfg(feature = "kafka")]
    Kafka(seawall_dlq::KafkaSink),
}

/// What a child is connected to.
#[derive(Clone)]
struct Servers {
    redis: ConnectionManager,
    /// Where the brokers are, if the messages are there.
    brokers: String,
}

impl Kept {
    async fn open(letters: Letters, path: &str, servers: &Servers) -> Self {
        match letters {
            Letters::File => Self::File(FileSink::open(path).await.unwrap()),
            Letters::Redis => Self::Redis(
                RedisSink::new(servers.redis.clone(), "{orders}.dead").acknowledging(STREAM, GROUP),
            ),
            #[cfg(feature = "kafka")]
            Letters::Kafka => Self::Kafka(log::letters(&servers.brokers).await),
        }
    }

    async fn all(&self) -> Vec<Letter> {
        match self {
            Self::File(sink) => all(sink).await,
            Self::Redis(sink) => all(sink).await,
            #[cfg(feature = "kafka")]
            Self::Kafka(sink) => all(sink).await,
        }
    }
}

impl Sink for Watched {
    async fn write(&self, letter: Letter) -> Result<Written, SinkError> {
        let place = letter.copy_at.clone().unwrap_or(letter.origin.clone());
        let written = match &self.letters {
            Kept::File(sink) => sink.write(letter).await,
            Kept::Redis(sink) => sink.write(letter).await,
            #[cfg(feature = "kafka")]
            Kept::Kafka(sink) => sink.write(letter).await,
        }?;
        self.killer.at(Step::AfterTheLetterIsWritten);
        if self.killer.plan.step == Step::AfterItIsAcknowledged {
            let (killer, servers) = (self.killer.clone(), self.servers.clone());
            tokio::spawn(async move {
                match &place {
                    #[cfg(feature = "kafka")]
                    seawall_dlq::Origin::Log { .. } => {
                        log::acknowledged(&servers.brokers, &place).await;
                    }
                    _ => acknowledged(servers.redis, place).await,
                }
                killer.at(Step::AfterItIsAcknowledged);
            });
        }
        Ok(written)
    }
}

async fn acknowledged(mut connection: ConnectionManager, place: seawall_dlq::Origin) {
    let seawall_dlq::Origin::Stream { id, .. } = place else {
        unreachable!()
    };
    loop {
        let mut ask = redis::cmd("XPENDING");
        ask.arg(STREAM).arg(GROUP).arg(&*id).arg(&*id).arg(1);
        let pending: redis::Value = ask.query_async(&mut connection).await.unwrap();
        if matches!(pending, redis::Value::Array(pending) if pending.is_empty()) {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The worker that other tests start. By itself it does nothing.
#[test]
fn child() {
    let Ok(plan) = env::var("KILLS_PLAN") else {
        return;
    };
    let parts: Vec<&str> = plan.split(' ').collect();
    let [letters, step, at, mended, redrive, path, port, brokers] = parts[..] else {
        panic!("{plan}")
    };
    let letters = match letters {
        "File" => Letters::File,
        #[cfg(feature = "kafka")]
        "Kafka" => Letters::Kafka,
        _ => Letters::Redis,
    };
    let steps = CONSUMER_STEPS.into_iter();
    let steps = steps.chain([Step::RedriveSent, Step::RedriveRemoved, Step::Nowhere]);
    let plan = Plan {
        step: { steps }
            .find(|known| format!("{known:?}") == step)
            .unwrap(),
        at: at.parse().unwrap(),
        mended: mended == "true",
        redrive: redrive == "true",
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work(plan, letters, path, port, brokers));
}

async fn work(plan: Plan, letters: Letters, path: &str, port: &str, brokers: &str) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/")).unwrap();
    let servers = Servers {
        redis: connect(port.parse().unwrap()).await,
        brokers: brokers.to_owned(),
    };
    let connection = servers.redis.clone();
    let killer = Killer {
        plan,
        been: Arc::default(),
    };
    let kept = Kept::open(letters, path, &servers).await;
    if plan.redrive {
        match kept {
            Kept::File(sink) => redrive(sink, Requeue::new(connection), &killer).await,
            Kept::Redis(sink) => redrive(sink, Requeue::new(connection), &killer).await,
            #[cfg(feature = "kafka")]
            Kept::Kafka(sink) => redrive(sink, log::back(brokers), &killer).await,
        }
        return;
    }
    let sink = Watched {
        letters: kept,
        killer: killer.clone(),
        servers,
    };
    let counting = connection.clone();
    let handler = DeadLetterLayer::new(sink.clone())
        .capture(Message::to_letter)
        .layer(service_fn(move |message: Message| {
            let (killer, mut connection) = (killer.clone(), counting.clone());
            async move {
                killer.at(Step::BeforeHandling);
                let payload = String::from_utf8(message.payload.to_vec())?;
                if payload == "poison" {
                    let _: u64 = connection.hincr(BEGUN, &payload, 1).await?;
                    die();
                }
                if fails(&payload) && !killer.plan.mended {
                    return Err("its shard is down".into());
                }
                let _: u64 = connection.hincr(APPLIED, &payload, 1).await?;
                killer.at(Step::AfterHandling);
                Ok::<_, BoxError>(())
            }
        }));
    #[cfg(feature = "kafka")]
    if letters == Letters::Kafka {
        let consumer = log::consumer(brokers).concurrency(16).window(WINDOW);
        let drained = log::drained(brokers);
        let totals = consumer.poison_to(sink).run(handler, drained).await;
        let _: Totals = totals.unwrap();
        return;
    }
    let totals = Consumer::redis(&client, STREAM, GROUP)
        .concurrency(16)
        .window(WINDOW)
        .claim_after(Duration::from_millis(300))
        .poison_to(sink)
        .run(handler, drained(connection))
        .await
        .unwrap();
    let _: Totals = totals;
}

pub const WINDOW: usize = 64;

async fn redrive<Q, S>(queue: Q, back: S, killer: &Killer)
where
    Q: Queue + Clone,
    S: Service<Letter, Response = (), Error: Into<BoxError> + Send, Future: Send> + Clone + Send,
{
    let send = service_fn(move |letter: Letter| {
        // The one before this one is sent and removed by now.
        killer.at(Step::RedriveRemoved);
        let mut back = back.clone();
        async move {
            let ready = back.ready().await.map_err(Into::into)?;
            ready.call(letter).await.map_err(Into::into)?;
            killer.at(Step::RedriveSent);
            Ok::<_, BoxError>(())
        }
    });
    // What a busy machine did not do in time is left for the next run.
    loop {
        match queue.depth().await {
            Ok(depth) if depth.letters == 0 => return,
            Ok(_) => {}
            Err(error) => {
                eprintln!("the depth: {error}");
                continue;
            }
        }
        let redrive = Redrive::new(queue.clone()).per_second(100_000.0);
        if let Err(error) = redrive.through(send.clone()).await {
            eprintln!("the redrive: {error}: {:?}", error.reason);
        }
    }
}

/// Completes when every message of the stream is read and acknowledged.
async fn drained(mut connection: ConnectionManager) {
    loop {
        let groups: StreamInfoGroupsReply = connection.xinfo_groups(STREAM).await.unwrap();
        let group = &groups.groups[0];
        if group.pending == 0 && group.lag == Some(0) {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// A server, a file, and the children that work with them.
pub struct World {
    letters: Letters,
    server: Redis,
    directory: tempfile::TempDir,
    connection: ConnectionManager,
    #[cfg(feature = "kafka")]
    log: Option<test_support::Kafka>,
    pub kills: u64,
}

/// What has become of the messages.
#[derive(Debug, Default)]
pub struct Account {
    /// Neither applied nor in a letter.
    pub lost: usize,
    /// Applications beyond the first of each message.
    pub repeats: u64,
    pub letters: usize,
    /// Letters that are there twice.
    pub repeated_letters: usize,
    /// Letters of messages that did nothing but be near.
    pub condemned: usize,
}

impl World {
    pub async fn new(letters: Letters) -> Self {
        let server = Redis::with_args(DURABLE).await;
        let connection = connect(server.port()).await;
        server
            .ask(&["XGROUP", "CREATE", STREAM, GROUP, "0", "MKSTREAM"])
            .await;
        Self {
            letters,
            server,
            directory: tempfile::tempdir().unwrap(),
            connection,
            #[cfg(feature = "kafka")]
            log: match letters {
                Letters::Kafka => Some(log::start().await),
                _ => None,
            },
            kills: 0,
        }
    }

    fn brokers(&self) -> String {
        #[cfg(feature = "kafka")]
        if let Some(log) = &self.log {
            return log.bootstrap();
        }
        "none".to_owned()
    }

    pub async fn add(&self, payloads: impl IntoIterator<Item = String>) {
        let mut connection = self.connection.clone();
        let payloads: Vec<_> = payloads.into_iter().collect();
        #[cfg(feature = "kafka")]
        if self.letters == Letters::Kafka {
            return log::add(&self.brokers(), &payloads).await;
        }
        for some in payloads.chunks(1000) {
            let mut pipe = redis::pipe();
            for payload in some {
                pipe.xadd(STREAM, "*", &[("payload", payload)]).ignore();
            }
            let () = pipe.query_async(&mut connection).await.unwrap();
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("orders.dead")
    }

    /// Runs a child to its end, or to its death. Answers whether it was killed.
    async fn run(&mut self, plan: Plan) -> bool {
        let Plan {
            step,
            at,
            mended,
            redrive,
        } = plan;
        let path = self.path();
        let letters = self.letters;
        let port = self.server.port();
        let plan = format!(
            "{letters:?} {step:?} {at} {mended} {redrive} {} {port} {}",
            path.display(),
            self.brokers()
        );
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["kills::child", "--exact", "--nocapture"])
            .env("KILLS_PLAN", plan)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let output = command.output().await.unwrap();
        let killed = output.status.signal() == Some(9);
        assert!(
            killed || output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        self.kills += u64::from(killed);
        killed
    }

    /// Kills a child at this step so often, each time at another of them.
    pub async fn kill_at(&mut self, step: Step, times: u64, mended: bool) {
        let redrive = matches!(step, Step::RedriveSent | Step::RedriveRemoved);
        let began = tokio::time::Instant::now();
        for time in 0..times {
            let at = match step {
                // More than one window, so that no message is met twice.
                Step::BeforeHandling | Step::AfterHandling => 90 + 7 * time,
                _ => 15 + 2 * time,
            };
            let plan = Plan {
                step,
                at,
                mended,
                redrive,
            };
            assert!(
                self.run(plan).await,
                "too few messages to be killed at {step:?}"
            );
        }
        eprintln!("{times} kills at {step:?}: {:.1?}", began.elapsed());
    }

    /// Runs children until one ends by itself.
    pub async fn finish(&mut self, mended: bool) {
        let began = tokio::time::Instant::now();
        let plan = Plan {
            step: Step::Nowhere,
            at: 0,
            mended,
            redrive: false,
        };
        while self.run(plan).await {}
        eprintln!("the others are done: {:.1?}", began.elapsed());
    }

    pub async fn finish_redrive(&mut self) {
        let began = tokio::time::Instant::now();
        let plan = Plan {
            step: Step::Nowhere,
            at: 0,
            mended: false,
            redrive: true,
        };
        while self.run(plan).await {}
        eprintln!("the others are sent back: {:.1?}", began.elapsed());
    }

    pub async fn begun(&self, payload: &str) -> u64 {
        let mut connection = self.connection.clone();
        connection
            .hget::<_, _, Option<u64>>(BEGUN, payload)
            .await
            .unwrap()
            .unwrap_or(0)
    }

    pub async fn letters(&self) -> Vec<Letter> {
        let path = self.path();
        let servers = Servers {
            redis: self.connection.clone(),
            brokers: self.brokers(),
        };
        let kept = Kept::open(self.letters, path.to_str().unwrap(), &servers).await;
        kept.all().await
    }

    pub async fn account(&self, payloads: impl IntoIterator<Item = String>) -> Account {
        let letters = self.letters().await;
        let mut dead = HashMap::<String, usize>::new();
        for letter in &letters {
            *dead
                .entry(String::from_utf8(letter.payload.to_vec()).unwrap())
                .or_default() += 1;
        }
        let mut connection = self.connection.clone();
        let applied: HashMap<String, u64> = connection.hgetall(APPLIED).await.unwrap();
        let is_lost =
            |payload: &String| !dead.contains_key(payload) && !applied.contains_key(payload);
        Account {
            lost: payloads.into_iter().filter(is_lost).count(),
            repeats: applied.values().map(|times| times - 1).sum(),
            letters: letters.len(),
            repeated_letters: dead.values().map(|times| times - 1).sum(),
            condemned: letters
                .iter()
                .filter(|letter| {
                    letter.failure.class == "poison" && &letter.payload[..] != b"poison"
                })
                .count(),
        }
    }
}

pub fn payloads(messages: u32) -> impl Iterator<Item = String> + Clone {
    (0..messages).map(|number| number.to_string())
}

/// Kills at each step, with so many messages, so often at each; then mends what was broken, sends the
/// letters back with kills in between, and answers what is left after the first part and at the end.
pub async fn kill_everywhere(letters: Letters, messages: u32, times: u64) -> [Account; 2] {
    let mut world = World::new(letters).await;
    world.add(payloads(messages)).await;
    for step in CONSUMER_STEPS {
        world.kill_at(step, times, false).await;
    }
    world.finish(false).await;
    let first = world.account(payloads(messages)).await;
    let failing = payloads(messages).filter(|payload| fails(payload)).count();
    assert_eq!(first.letters, failing);
    assert!(
        first.repeats <= world.kills * WINDOW as u64,
        "{first:?} after {} kills",
        world.kills
    );

    world.kill_at(Step::RedriveSent, times, false).await;
    world.kill_at(Step::RedriveRemoved, times, false).await;
    world.finish_redrive().await;
    world.kill_at(Step::AfterHandling, times, true).await;
    world.finish(true).await;
    let last = world.account(payloads(messages)).await;
    assert!(
        last.repeats <= world.kills * WINDOW as u64,
        "{last:?} after {} kills",
        world.kills
    );
    assert_eq!(last.letters, 0, "{:?}", world.letters().await);
    [first, last]
}
