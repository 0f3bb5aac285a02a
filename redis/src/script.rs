use std::fmt;
use std::sync::OnceLock;

use redis::Cmd;

/// A Lua script that is called by its digest.
///
/// The digest is computed once, at the first call, so a script can be a `static`:
///
/// ```
/// use seawall_redis::Script;
///
/// static GET: Script = Script::new("return redis.call('GET', KEYS[1])");
/// assert_eq!(GET.sha1(), "d3c21d0c2b9ca22f82737626a27bcaf5d288f99f");
/// ```
pub struct Script {
    source: &'static str,
    sha1: OnceLock<String>,
}

impl Script {
    /// A script by its source.
    #[must_use]
    pub const fn new(source: &'static str) -> Self {
        Self {
            source,
            sha1: OnceLock::new(),
        }
    }

    /// The source's SHA-1 digest in hexadecimal digits, by which the server knows the script.
    pub fn sha1(&self) -> &str {
        self.sha1
            .get_or_init(|| redis::Script::new(self.source).get_hash().to_owned())
    }

    /// The call by digest.
    pub(crate) fn by_digest(&self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        call("EVALSHA", self.sha1(), keys, args)
    }

    /// The call by source, after which the server knows the digest.
    pub(crate) fn by_source(&self, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
        call("EVAL", self.source, keys, args)
    }
}

fn call(command: &str, script: &str, keys: &[&[u8]], args: &[&[u8]]) -> Cmd {
    let mut cmd = redis::cmd(command);
    cmd.arg(script).arg(keys.len());
    for word in keys.iter().chain(args) {
        cmd.arg(*word);
    }
    cmd
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("sha1", &self.sha1())
            .finish()
    }
}
