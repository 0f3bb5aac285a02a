//! As much of a server as a store needs, of those that compare and set by themselves: `SET IFEQ`, as Redis 8.4
//! and Valkey 8.1 document it.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::Instant,
};

/// A value and its end.
type Values = HashMap<Vec<u8>, (Vec<u8>, Instant)>;

#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    shared: Arc<Mutex<Shared>>,
    accepting: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    values: Values,
    commands: BTreeMap<String, u64>,
    /// Says nil where the comparison fails, as some do.
    terse: bool,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Mutex<Shared>>::default();
        let served = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, Arc::clone(&served)));
            }
        });
        Self {
            port,
            shared,
            accepting: accepting.abort_handle(),
        }
    }

    /// From now on it says nil where a comparison fails.
    pub(crate) fn be_terse(&self) {
        self.shared.lock().unwrap().terse = true;
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// How often each command came, but for what a client says about itself.
    pub(crate) fn commands(&self) -> BTreeMap<String, u64> {
        self.shared.lock().unwrap().commands.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(client: TcpStream, shared: Arc<Mutex<Shared>>) -> std::io::Result<()> {
    let (reader, mut writer) = client.into_split();
    let mut reader = BufReader::new(reader);
    while let Some(words) = read(&mut reader).await? {
        let reply = shared.lock().unwrap().answer(&words);
        writer.write_all(&reply).await?;
    }
    Ok(())
}

async fn read(from: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<Vec<Vec<u8>>>> {
    let Some(count) = number(from).await? else {
        return Ok(None);
    };
    let mut words = Vec::new();
    for _ in 0..count {
        let length = number(from).await?.unwrap();
        let mut word = vec![0; length + 2];
        from.read_exact(&mut word).await?;
        word.truncate(length);
        words.push(word);
    }
    Ok(Some(words))
}

/// The number of a line such as `*3` or `$5`.
async fn number(from: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<usize>> {
    let mut line = String::new();
    if from.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(line[1..].trim_end().parse().unwrap()))
}

impl Shared {
    fn answer(&mut self, words: &[Vec<u8>]) -> Vec<u8> {
        let name = String::from_utf8_lossy(&words[0]).to_lowercase();
        if name == "client" || name == "hello" {
            return b"-ERR unknown command\r\n".to_vec();
        }
        *self.commands.entry(name.clone()).or_default() += 1;
        let now = Instant::now();
        self.values.retain(|_, (_, end)| *end > now);
        match name.as_str() {
            "set" => self.set(&words[1..], now),
            "pttl" => match self.values.get(&words[1]) {
                None => b":-2\r\n".to_vec(),
                Some((_, end)) => format!(":{}\r\n", (*end - now).as_millis()).into_bytes(),
            },
            // Its one script, by what it does: key, new value, milliseconds, whether there may be nothing,
            // and the values that may be there.
            "evalsha" | "eval" => self.swap(&words[3..], now),
            _ => b"-ERR unknown command\r\n".to_vec(),
        }
    }

    fn set(&mut self, words: &[Vec<u8>], now: Instant) -> Vec<u8> {
        let [key, value, options @ ..] = words else {
            return b"-ERR syntax error\r\n".to_vec();
        };
        let old = self.values.get(key).map(|(old, _)| old.clone());
        let mut sets = true;
        let mut keep_for = None;
        let mut options = options.iter();
        while let Some(option) = options.next() {
            match option.to_ascii_lowercase().as_slice() {
                b"nx" => sets = old.is_none(),
                b"ifeq" => sets = options.next() == old.as_ref(),
                b"get" => {}
                b"px" => keep_for = options.next().map(millis),
                _ => return b"-ERR syntax error\r\n".to_vec(),
            }
        }
        if sets {
            let end = now + keep_for.expect("records expire");
            self.values.insert(key.clone(), (value.clone(), end));
        }
        match old {
            Some(_) if !sets && self.terse && words.iter().any(|word| word == b"IFEQ") => nil(),
            old => bulk(old),
        }
    }

    fn swap(&mut self, words: &[Vec<u8>], now: Instant) -> Vec<u8> {
        let [key, to, keep_for, from_nothing, from @ ..] = words else {
            return b"-ERR wrong number of arguments\r\n".to_vec();
        };
        let old = self.values.get(key).map(|(old, _)| old.clone());
        let matches = match &old {
            Some(old) if old == to => return b":2\r\n".to_vec(),
            Some(old) => from.contains(old),
            None => from_nothing == b"1",
        };
        if !matches {
            return bulk(old);
        }
        let end = now + millis(keep_for);
        self.values.insert(key.clone(), (to.clone(), end));
        b":1\r\n".to_vec()
    }
}

fn millis(digits: impl AsRef<[u8]>) -> Duration {
    Duration::from_millis(
        std::str::from_utf8(digits.as_ref())
            .unwrap()
            .parse()
            .unwrap(),
    )
}

fn nil() -> Vec<u8> {
    b"$-1\r\n".to_vec()
}

fn bulk(value: Option<Vec<u8>>) -> Vec<u8> {
    let Some(value) = value else { return nil() };
    let mut reply = format!("${}\r\n", value.len()).into_bytes();
    reply.extend(value);
    reply.extend(b"\r\n");
    reply
}
