//! A connection on which odd things happen to the calls of the script.

use std::time::{SystemTime, UNIX_EPOCH};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Arg, Cmd, Pipeline, RedisFuture, Value};

/// Every call is told another time than the server's: one that is set back by 150 ms in each half second, for all
/// processes at once. And some calls are sent twice, as a client of clusters does.
#[derive(Clone)]
pub(crate) struct Odd {
    connection: MultiplexedConnection,
    random: fastrand::Rng,
}

impl Odd {
    pub(crate) fn new(connection: MultiplexedConnection, seed: u64) -> Self {
        Self {
            connection,
            random: fastrand::Rng::with_seed(seed),
        }
    }
}

/// Seven tenths as fast as other clocks, in steps.
fn stepping_clock() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = now.as_micros() as u64;
    now - now / 500_000 * 150_000
}

fn with_time(cmd: &Cmd) -> Cmd {
    let mut args = cmd.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes,
        _ => panic!("the store sends plain arguments"),
    });
    let (name, script, keys) = (args.next().unwrap(), args.next(), args.next());
    let mut other = Cmd::new();
    other.arg(name);
    if !name.starts_with(b"EVAL") {
        script.into_iter().chain(keys).chain(args).for_each(|arg| {
            other.arg(arg);
        });
        return other;
    }
    let (script, keys) = (script.unwrap(), keys.unwrap());
    let count: usize = std::str::from_utf8(keys).unwrap().parse().unwrap();
    other.arg(script).arg(keys);
    for (place, arg) in args.enumerate() {
        if place == count {
            assert!(arg.is_empty(), "the store leaves the time to the server");
            other.arg(stepping_clock());
        } else {
            other.arg(arg);
        }
    }
    other
}

impl ConnectionLike for Odd {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let twice = self.random.u8(0..8) == 0;
        let cmd = with_time(cmd);
        Box::pin(async move {
            if twice {
                // Whatever becomes of the first.
                let _ = self.connection.req_packed_command(&cmd).await;
            }
            self.connection.req_packed_command(&cmd).await
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.connection.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.connection.get_db()
    }
}
