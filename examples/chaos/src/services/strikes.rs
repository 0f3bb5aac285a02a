//! How each blow is struck.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use test_support::Redis;
use tokio::time::{Instant, sleep};

use super::{Blow, Role, Run, Struck};
use crate::process::{Server, Started, reached};
use crate::strike::Action;

impl Run<'_> {
    pub(super) async fn strike(&mut self, struck: &Struck) -> Result<()> {
        let Struck { lasts, which, .. } = *struck;
        let one = which % 2;
        let broker = which % 3;
        match struck.blow {
            Blow::KillApi => {
                self.kill(Role::Api, one).await?;
                self.start(Role::Api, one).await
            }
            Blow::KillWorker => {
                self.kill(Role::Worker, one).await?;
                self.start(Role::Worker, one).await
            }
            Blow::KillWorkers => {
                for which in 0..2 {
                    self.kill(Role::Worker, which).await?;
                }
                sleep(lasts).await;
                for which in 0..2 {
                    self.start(Role::Worker, which).await?;
                }
                Ok(())
            }
            Blow::FreezeApi => freeze(self.apis[one].as_ref(), lasts).await,
            Blow::FreezeWorker => freeze(self.workers[one].as_ref(), lasts).await,
            Blow::Roll => self.roll().await,
            Blow::KillBroker => {
                self.ground.kafka.kill(broker);
                sleep(lasts).await;
                self.ground.kafka.restart(broker).await;
                Ok(())
            }
            Blow::FreezeBroker => {
                self.ground.kafka.pause(broker);
                sleep(lasts).await;
                self.ground.kafka.resume(broker);
                Ok(())
            }
            Blow::KillTwoBrokers => {
                let two = [broker, (broker + 1) % 3];
                for broker in two {
                    self.ground.kafka.kill(broker);
                }
                sleep(lasts).await;
                self.ground.kafka.restart_all(two).await;
                Ok(())
            }
            Blow::KillRedis => {
                let clustered = self.clustered;
                let redis = self.redis(broker).await;
                redis.kill();
                sleep(lasts).await;
                redis.restart().await;
                // It may have found the file of an earlier blow. One of a cluster has its replica to ask.
                if !clustered {
                    redis.ask(&["FLUSHALL"]).await;
                }
                Ok(())
            }
            Blow::AgeRedis => {
                let redis = self.redis(broker).await;
                redis.ask(&["SAVE"]).await;
                sleep(lasts).await;
                redis.restart().await;
                Ok(())
            }
            Blow::FreezeRedis => {
                let redis = self.redis(broker).await;
                redis.pause();
                sleep(lasts).await;
                redis.resume();
                Ok(())
            }
            Blow::ClusterFailOver => {
                self.ground.cluster().await.fail_over(broker).await;
                Ok(())
            }
            Blow::Failpoint(step) => self.at_failpoint(step, struck).await,
            Blow::KillPrimary => {
                self.ground.primary.kill();
                sleep(lasts).await;
                self.ground.primary.restart().await;
                Ok(())
            }
            Blow::FreezePrimary => {
                self.ground.primary.pause();
                sleep(lasts).await;
                self.ground.primary.resume();
                Ok(())
            }
            Blow::FailOver => self.fail_over(lasts).await,
            Blow::Cut => {
                self.proxy.cut();
                sleep(lasts).await;
                self.proxy.heal();
                Ok(())
            }
            Blow::Stall => {
                self.proxy.stall();
                sleep(lasts).await;
                self.proxy.flow();
                Ok(())
            }
            Blow::Delay => {
                self.proxy.delay(lasts / 10);
                sleep(lasts).await;
                self.proxy.delay(Duration::ZERO);
                Ok(())
            }
        }
    }

    /// One by one, each is told to drain and started again.
    async fn roll(&mut self) -> Result<()> {
        for which in 0..2 {
            if let Some(api) = self.apis[which].take() {
                let status = api.stop().await?;
                ensure!(status.success(), "api {which} did not drain: {status}");
            }
            self.start(Role::Api, which).await?;
            if let Some(worker) = self.workers[which].take() {
                let status = worker.stop().await?;
                ensure!(status.success(), "worker {which} did not drain: {status}");
            }
            self.start(Role::Worker, which).await?;
        }
        Ok(())
    }

    /// The replica takes over without what was committed in the last while.
    async fn fail_over(&mut self, lasts: Duration) -> Result<()> {
        self.ground.cut_replica().await;
        sleep(lasts).await;
        self.ground.fail_over().await;
        // Those who run know the two servers of before, which is enough: one of them is the primary. Whoever starts
        // from here on is told of the new replica as well.
        self.ground.mend().await;
        self.tell()
    }

    /// The server of Redis that is struck: the only one, or a primary of the cluster.
    async fn redis(&mut self, which: usize) -> &Redis {
        if self.clustered {
            self.ground.cluster().await.primary_of(which).await
        } else {
            &self.ground.redis
        }
    }

    /// A start that is to fail at a step of the write path; it is ended, however far it got.
    async fn at_failpoint(&mut self, step: &str, struck: &Struck) -> Result<()> {
        let (point, role) = struck.failpoint().context("a failpoint has a step")?;
        let which = struck.which % 2;
        self.kill(role, which).await?;
        let (args, log) = (self.args(role, which), self.said(role, which));
        let before = reached(&log, step)?;
        let until = Instant::now() + struck.patience();
        let armed = Some((&*point, struck.patience()));
        let started = Server::start(self.program, &args, &log, armed).await?;
        if let Started::Listening(mut server) = started {
            while reached(&log, step)? == before && Instant::now() < until {
                sleep(Duration::from_millis(50)).await;
            }
            // What hangs or halts there does so for a while.
            if server.ends_within(struck.lasts).await?.is_none() {
                if struck.action == Action::Stop && struck.times.is_multiple_of(2) {
                    // It goes on where it stood.
                    server.thaw();
                    sleep(struck.lasts).await;
                }
                server.kill().await?;
            }
        }
        if reached(&log, step)? > before {
            self.reached.push(point);
        }
        self.start(role, which).await
    }
}

async fn freeze(server: Option<&Server>, lasts: Duration) -> Result<()> {
    let server = server.context("it runs")?;
    server.freeze();
    sleep(lasts).await;
    server.thaw();
    Ok(())
}
