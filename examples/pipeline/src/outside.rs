//! The checker that stands outside: it sends load, keeps its own record of what it was told, and later compares
//! that with what lies on the disk.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::accounting::{Accounting, Books};
use crate::app::runtime;
use crate::args::{CheckArgs, LoadArgs};
use crate::data::{Data, PRODUCTS, Settings};
use crate::load::{LedgerFile, Load, Mix, Run, read_ledger};
use crate::report::Percentiles;

/// Users that the load plays.
pub const USERS: usize = 50_000;

/// How long the server may take to show everything as decided, once the load is through.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Sends load. It is done when every answer is noted, whatever the answers were.
pub fn load(args: &LoadArgs) -> anyhow::Result<bool> {
    let load = Load {
        server: args.target,
        rate: args.rate,
        duration: args.seconds,
        connections: args.connections.into(),
        users: USERS,
        products: PRODUCTS as usize,
        mix: Mix {
            writes: args.writes,
            ..Mix::default()
        },
        seed: args.seed.unwrap_or_else(|| fastrand::u64(..)),
    };
    let file = LedgerFile::open(&args.log)
        .with_context(|| format!("cannot keep {}", args.log.display()))?;
    let run = Run::new(&load, Some(file));
    let run = if args.resent {
        run.behind_a_proxy()
    } else {
        run
    };
    let (orders, accounts) = runtime("load", 1)?.block_on(async {
        run.drive(&load).await;
        run.read_back(load.server, args.read_back, CATCH_UP).await
    });
    run.look(|ledger, sent| {
        for ((kind, status), n) in &sent.statuses {
            println!("{kind:<9} {status:>3} {n:>9}");
        }
        let Percentiles { p50, p99, .. } = Percentiles::of_micros(&sent.latency);
        println!("latency from intended send time: p50 {p50:.1} ms, p99 {p99:.1} ms");
        println!(
            "accepted {}, in doubt {}, seed {}",
            ledger.accepted(),
            ledger.indeterminate(),
            load.seed
        );
        println!("read back {accounts} accounts and {orders} orders of theirs");
    });
    run.close()
        .with_context(|| format!("{} is not complete", args.log.display()))?;
    Ok(true)
}

/// Compares a record with a data directory, or with what services hold. Answers whether the accounting closes.
pub fn check(args: &CheckArgs) -> anyhow::Result<bool> {
    let ledger =
        read_ledger(&args.log).with_context(|| format!("cannot read {}", args.log.display()))?;
    let books = match &args.services {
        Some(services) => books_of_services(services)?,
        None => books_of_data(&args.data)?,
    };
    let accounting = Accounting::of(&ledger, &books);
    print!("{accounting}");
    if let Some(path) = &args.report {
        let json = serde_json::to_vec_pretty(&accounting)?;
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(accounting.closed)
}

fn books_of_data(directory: &Path) -> anyhow::Result<Books> {
    if !directory.join("meta.json").exists() {
        // Opening would make one.
        bail!("{} is no data directory", directory.display());
    }
    let data = Data::open_or_create(directory, Settings::default())?;
    runtime("checker", 1)?.block_on(Books::read(&**data.log(), data.shards()))
}

#[cfg(feature = "services")]
fn books_of_services(services: &Path) -> anyhow::Result<Books> {
    use crate::backend::Backend;
    use crate::log::kafka::Reading;
    use crate::services::{Places, Services};

    let places = Places::read(services)?;
    runtime("checker", 1)?.block_on(async {
        let there = Services::connect(&places, Reading::All).await?;
        let books = Books::read(&**there.log(), there.shards()).await;
        there.close().await;
        books
    })
}

#[cfg(not(feature = "services"))]
fn books_of_services(_: &Path) -> anyhow::Result<Books> {
    bail!("{}", crate::services::NOT_BUILT)
}
