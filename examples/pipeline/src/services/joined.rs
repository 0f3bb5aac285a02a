//! Where a shard lies that joined: what may be told to all, and what each process must know by itself.
//!
//! The shards keep the address of one that joined, so that every process finds it. A table is no place for a password:
//! who may read orders would learn how to write them, and it would be in each backup. So what is kept is hosts, ports,
//! database and user; the password, and how connections are made, are those of the first shard in the process's own file.

use std::fmt::Write as _;

use anyhow::{Context, ensure};
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::ShardPlace;

impl ShardPlace {
    /// The place without anything secret.
    ///
    /// # Errors
    ///
    /// When an address is none.
    pub fn without_password(&self) -> anyhow::Result<Self> {
        Ok(Self {
            primary: address(&self.primary)?,
            replica: self.replica.as_deref().map(address).transpose()?,
            replicas: self
                .replicas
                .iter()
                .map(|url| address(url))
                .collect::<anyhow::Result<_>>()?,
        })
    }

    /// Makes sure that a process which knows only the first shards can connect to this one as well.
    ///
    /// # Errors
    ///
    /// When an address is none, or names another password than `first` has.
    pub fn joins(&self, first: &Config) -> anyhow::Result<()> {
        for server in self.servers()? {
            let password = server.get_password();
            ensure!(
                password.is_none() || password == first.get_password(),
                "a shard that joins has another password than the first: no process would know it, since passwords \
                 are not kept in the shards' tables"
            );
        }
        Ok(())
    }

    /// Its servers, the primary first.
    ///
    /// # Errors
    ///
    /// When an address is none.
    pub fn servers(&self) -> anyhow::Result<Vec<Config>> {
        let all = std::iter::once(&self.primary)
            .chain(&self.replica)
            .chain(&self.replicas);
        all.map(|url| parse(url)).collect()
    }
}

/// A server that was kept, as this process connects to it: with what the first shard's address says beside the place.
pub(super) fn with_password_of(first: &Config, kept: &Config) -> Config {
    let mut server = first_without_place(first);
    for host in kept.get_hosts() {
        match host {
            Host::Tcp(name) => server.host(name),
            #[cfg(unix)]
            Host::Unix(path) => server.host_path(path),
        };
    }
    for &address in kept.get_hostaddrs() {
        server.hostaddr(address);
    }
    for &port in kept.get_ports() {
        server.port(port);
    }
    if let Some(database) = kept.get_dbname() {
        server.dbname(database);
    }
    if let Some(user) = kept.get_user() {
        server.user(user);
    }
    server
}

fn first_without_place(first: &Config) -> Config {
    let mut server = Config::new();
    server
        .ssl_mode(first.get_ssl_mode())
        .channel_binding(first.get_channel_binding())
        .target_session_attrs(first.get_target_session_attrs())
        .keepalives(first.get_keepalives())
        .keepalives_idle(first.get_keepalives_idle());
    if let Some(user) = first.get_user() {
        server.user(user);
    }
    if let Some(password) = first.get_password() {
        server.password(password);
    }
    if let Some(options) = first.get_options() {
        server.options(options);
    }
    if let Some(name) = first.get_application_name() {
        server.application_name(name);
    }
    if let Some(within) = first.get_connect_timeout() {
        server.connect_timeout(*within);
    }
    server
}

fn parse(url: &str) -> anyhow::Result<Config> {
    // Not said which: it may hold a password.
    url.parse().context("an address of PostgreSQL is none")
}

/// As pairs of keys and values, which hold any name without escapes that depend on where in an address it stands.
fn address(url: &str) -> anyhow::Result<String> {
    let server = parse(url)?;
    let hosts = server.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.to_string_lossy().into_owned(),
    });
    let addresses = server.get_hostaddrs().iter().map(ToString::to_string);
    let ports = server.get_ports().iter().map(ToString::to_string);
    let mut kept = String::new();
    for (key, value) in [
        ("host", hosts.collect::<Vec<_>>().join(",")),
        ("hostaddr", addresses.collect::<Vec<_>>().join(",")),
        ("port", ports.collect::<Vec<_>>().join(",")),
        ("dbname", server.get_dbname().unwrap_or_default().to_owned()),
        ("user", server.get_user().unwrap_or_default().to_owned()),
    ] {
        if !value.is_empty() {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            let space = if kept.is_empty() { "" } else { " " };
            let written = write!(kept, "{space}{key}='{value}'");
            written.context("a text takes whatever is written")?;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(primary: &str) -> ShardPlace {
        ShardPlace {
            primary: primary.to_owned(),
            replica: Some("postgres://u:hidden@h2:5433/s01".to_owned()),
            replicas: vec!["host=h3 dbname=s01 password='hid den'".to_owned()],
        }
    }

    #[test]
    fn what_is_kept_says_where_and_as_whom_but_no_password() {
        let kept =
            place("postgres://u%27s:hidden@h:6000/s%2001?password=hidden&application_name=x");
        let kept = kept.without_password().expect("they are addresses");
        assert_eq!(
            kept.primary,
            "host='h' port='6000' dbname='s 01' user='u\\'s'"
        );
        assert!(!format!("{kept:?}").contains("hid"), "{kept:?}");
        let again = kept.without_password().expect("they are addresses");
        assert_eq!(again.primary, kept.primary);
    }

    #[test]
    fn a_process_adds_what_its_own_file_says_of_the_first_shard() {
        let first: Config =
            "postgres://own:secret@first:1/s00?connect_timeout=3&options=-c%20a%3Db"
                .parse()
                .expect("it is one");
        let [primary, second, third] = &place("host=h port=2 dbname=s01 user=other")
            .servers()
            .expect("they are addresses")[..]
        else {
            panic!("there are three");
        };
        let server = with_password_of(&first, primary);
        assert_eq!(server.get_hosts(), [Host::Tcp("h".to_owned())]);
        assert_eq!(server.get_ports(), [2]);
        assert_eq!(server.get_dbname(), Some("s01"));
        assert_eq!(server.get_user(), Some("other"));
        assert_eq!(server.get_password(), Some(&b"secret"[..]));
        assert_eq!(server.get_options(), Some("-c a=b"));
        let timeout = server
            .get_connect_timeout()
            .map(|timeout| timeout.as_secs());
        assert_eq!(timeout, Some(3));
        // Whatever was said of them.
        for server in [second, third] {
            let server = with_password_of(&first, server);
            assert_eq!(server.get_password(), Some(&b"secret"[..]));
        }
        assert_eq!(with_password_of(&first, third).get_user(), Some("own"));
    }

    #[test]
    fn a_shard_with_a_password_of_its_own_does_not_join() {
        let first = |url: &str| url.parse::<Config>().expect("it is one");
        let joins = ShardPlace {
            primary: "postgres://u:hidden@h/s01".to_owned(),
            replica: None,
            replicas: Vec::new(),
        };
        assert!(joins.joins(&first("postgres://own:hidden@h/s00")).is_ok());
        let refused = joins.joins(&first("postgres://own@h/s00"));
        let why = refused.expect_err("nobody else knows it").to_string();
        assert!(why.contains("another password") && !why.contains("hidden"));
    }
}
