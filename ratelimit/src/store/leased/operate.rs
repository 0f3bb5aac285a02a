//! What operators do, and what is given back.

use std::time::Duration;

use seawall_redis::Source;

use super::{Leased, LeasedScope, below};
use crate::decision::{Charge, Charges, Decision};
use crate::error::StoreError;
use crate::store::redis::{RedisReceipt, RedisStore};
use crate::store::{Operate, Standing};

impl<S: Source> Operate for Leased<RedisStore<S>> {
    async fn peek(&self, of: &Charge<'_, LeasedScope>) -> Result<Standing, StoreError> {
        self.store.peek(&below(of)).await
    }

    async fn reset(&self, of: &Charge<'_, LeasedScope>) -> Result<(), StoreError> {
        self.forget(of);
        self.store.reset(&below(of)).await
    }

    async fn block(&self, of: &Charge<'_, LeasedScope>, time: Duration) -> Result<(), StoreError> {
        self.store.block(&below(of), time).await?;
        self.forget(of);
        Ok(())
    }

    async fn unblock(&self, of: &Charge<'_, LeasedScope>) -> Result<(), StoreError> {
        self.store.unblock(&below(of)).await?;
        self.forget(of);
        Ok(())
    }

    type Receipt = RedisReceipt;

    fn receipt(&self, charges: &Charges<'_, LeasedScope>, decision: &Decision) -> RedisReceipt {
        let mut below_all = Charges::new();
        for charge in charges.iter() {
            below_all.push(below(&charge));
        }
        self.store.receipt(&below_all, decision)
    }

    fn refund(&self, receipt: RedisReceipt) {
        self.store.refund(receipt);
    }
}
