//! What the command does and says.

use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use seawall_shard_router::{BoxError, Progress, Reshard, ReshardError, Shard, Stage, Topology};

use super::PostgresMover;
use crate::app::runtime;
use crate::args::{ReshardAction, ReshardArgs};
use crate::backend::Backend;
use crate::errors::chain;
use crate::log::kafka::Reading;
use crate::services::{Assigned, Journal, Places, Services, ShardPlace};
use crate::shards::shard_id;

/// Does what is asked.
///
/// # Errors
///
/// What does not come on, and why. The journal knows how far it is, and `resume` goes on from there.
pub fn run(args: &ReshardArgs) -> anyhow::Result<()> {
    let places = Places::read(&args.services)?;
    runtime("reshard", 2)?.block_on(async {
        let there = Services::connect(&places, Reading::Nothing).await?;
        let done = act(there.assigned(), args).await;
        there.close().await;
        done
    })
}

async fn act(shards: &Arc<Assigned>, args: &ReshardArgs) -> anyhow::Result<()> {
    let journal = shards.journal().await.map_err(told)?;
    if let Some((_, Journal { joined, .. })) = &journal {
        shards.join_all(joined).await?;
    }
    let stage = match args.action {
        ReshardAction::Status => {
            match journal {
                Some((_, Journal { progress, .. })) => {
                    print!("{}", progress.plan());
                    let (done, all) = progress.steps();
                    println!("{:?}, {done} of {all} steps of it", progress.stage());
                }
                None => println!("no slots were ever moved"),
            }
            return Ok(());
        }
        ReshardAction::Add => {
            let at = ShardPlace {
                primary: args
                    .primary
                    .clone()
                    .context("--primary says where the shard is")?,
                replica: args.replica.clone(),
                replicas: Vec::new(),
            };
            match add(shards, at, args.dry_run).await? {
                Some(mut moving) => go_on(&mut moving, args.finish).await?,
                None => return Ok(()),
            }
        }
        ReshardAction::Resume => go_on(&mut resumed(shards, journal).await?, args.finish).await?,
        ReshardAction::Finish => go_on(&mut resumed(shards, journal).await?, true).await?,
        ReshardAction::RollBack => {
            let mut moving = resumed(shards, journal).await?;
            moving.roll_back().await.map_err(why)?
        }
    };
    println!("{}", said(stage));
    Ok(())
}

/// What follows from where it stands.
fn said(stage: Stage) -> &'static str {
    match stage {
        Stage::Reversible => {
            "the slots have moved; `finish` deletes them where they were, `roll-back` takes them back"
        }
        Stage::Done => "the slots have moved, and are deleted where they were",
        Stage::RolledBack => "everything is where it was",
        _ => "it is under way; `resume` goes on",
    }
}

/// The assignment after a shard has joined, and the shard's name.
///
/// # Errors
///
/// When there are too many.
pub(super) fn grown(base: &Topology) -> anyhow::Result<(Topology, u16)> {
    let number = u16::try_from(base.shards().len()).context("too many shards")?;
    let id = shard_id(number);
    let shard = Shard::new(id.clone())
        .primary(format!("{id}/primary"))
        .replica(format!("{id}/replica"));
    Ok((base.with_shard(shard)?, number))
}

async fn add(
    shards: &Arc<Assigned>,
    at: ShardPlace,
    dry_run: bool,
) -> anyhow::Result<Option<Reshard<PostgresMover>>> {
    shards.admits(&at)?;
    let newest = shards.newest();
    let base = newest.topology;
    let (grown, number) = grown(&base)?;
    let plan = grown.plan_from(&base);
    print!("{plan}");
    if dry_run {
        for step in Progress::planned(&base, plan)?.dry_run() {
            println!("{step}");
        }
        println!("nothing was done");
        return Ok(None);
    }
    let mut joined = newest.joined;
    shards.join(number, &at).await?;
    joined.insert(shard_id(number), at);
    let mover = PostgresMover::new(shards, joined).await.map_err(told)?;
    Reshard::begin(mover, &base, plan)
        .await
        .map(Some)
        .map_err(why)
}

async fn resumed(
    shards: &Arc<Assigned>,
    journal: Option<(u64, Journal)>,
) -> anyhow::Result<Reshard<PostgresMover>> {
    let Some((_, Journal { joined, .. })) = journal else {
        bail!("no slots were ever moved");
    };
    let mover = PostgresMover::new(shards, joined).await.map_err(told)?;
    let moving = Reshard::resume(mover).await.map_err(why)?;
    let moving = moving.context("no slots were ever moved")?;
    let stage = moving.progress().stage();
    ensure!(
        !matches!(stage, Stage::Done | Stage::RolledBack),
        "the last move is over: {}",
        said(stage)
    );
    print!("{}", moving.progress().plan());
    Ok(moving)
}

/// Takes the steps, and says of each what it is.
async fn go_on(moving: &mut Reshard<PostgresMover>, finish: bool) -> anyhow::Result<Stage> {
    loop {
        let progress = moving.progress();
        let (done, all) = progress.steps();
        if let Some(step) = progress.next() {
            println!("{:?} {}/{all}: {step}", progress.stage(), done + 1);
        }
        if !moving.advance().await.map_err(why)? {
            break;
        }
    }
    let stage = moving.progress().stage();
    if stage == Stage::Reversible && finish {
        return moving.finish().await.map_err(why);
    }
    Ok(stage)
}

fn why(error: ReshardError) -> anyhow::Error {
    anyhow!("{}; `reshard resume` goes on", chain(&error))
}

fn told(error: BoxError) -> anyhow::Error {
    anyhow!("{}", chain(&*error))
}
