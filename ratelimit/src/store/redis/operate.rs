//! What operators do, and what is given back.

use std::sync::Arc;
use std::time::Duration;

use seawall_redis::Source;

use super::batch::{Act, Answer, Refund, Request};
use super::lane::Ask;
use super::{Asked, RedisScope, RedisStore, failed};
use crate::decision::{Charge, Charges, Decision};
use crate::error::StoreError;
use crate::quota::MAX_WINDOW;
use crate::store::{Operate, Standing};
use crate::window::{Wait, WindowKind};

impl<S: Source> RedisStore<S> {
    async fn act(&self, of: &Charge<'_, RedisScope>, act: Act) -> Result<Answer, StoreError> {
        let request = Arc::new(Request {
            first: Asked {
                cost: 0,
                shadow: false,
                ..Asked::of(of)
            },
            more: Vec::new(),
            act,
            lease: None,
        });
        let lanes = Arc::clone(&self.lanes) as Arc<dyn Ask>;
        lanes
            .ask(request, None)
            .await
            .map_err(|_| failed::given_up())
    }
}

impl<S: Source> Operate for RedisStore<S> {
    async fn peek(&self, of: &Charge<'_, RedisScope>) -> Result<Standing, StoreError> {
        let answer = self.act(of, Act::Decide).await?;
        let decision = answer.decision?;
        let (_, outcome) = decision.iter().next().ok_or_else(failed::given_up)?;
        let rest = match outcome.wait() {
            Wait::Micros(micros) if answer.blocked => Some(Duration::from_micros(micros)),
            _ => None,
        };
        Ok(Standing {
            outcome: outcome.let_through(),
            blocked_for: rest,
        })
    }

    async fn reset(&self, of: &Charge<'_, RedisScope>) -> Result<(), StoreError> {
        self.act(of, Act::Reset).await?.decision.map(drop)
    }

    async fn block(&self, of: &Charge<'_, RedisScope>, time: Duration) -> Result<(), StoreError> {
        // Longer than any window can be is as good as for ever, and numbers beyond 53 bits are none.
        let micros = time.min(MAX_WINDOW).as_micros() as u64;
        self.act(of, Act::Block(micros)).await?.decision.map(drop)
    }

    async fn unblock(&self, of: &Charge<'_, RedisScope>) -> Result<(), StoreError> {
        self.act(of, Act::Unblock).await?.decision.map(drop)
    }

    type Receipt = RedisReceipt;

    fn receipt(&self, charges: &Charges<'_, RedisScope>, decision: &Decision) -> RedisReceipt {
        let Some(moment) = decision.moment() else {
            return RedisReceipt::default();
        };
        let charged = charges.iter().zip(decision.iter());
        let charged = charged.filter(|(charge, (_, outcome))| outcome.passes() && charge.cost > 0);
        let refund = |charge: &Charge<'_, RedisScope>| {
            let asked = Asked::of(charge);
            let charged = match asked.kind() {
                WindowKind::Sliding => moment / asked.terms.width,
                _ => moment,
            };
            asked.refund(charged, asked.cost)
        };
        RedisReceipt {
            refunds: charged.map(|(charge, _)| refund(&charge)).collect(),
        }
    }

    fn refund(&self, receipt: RedisReceipt) {
        let lanes = Arc::clone(&self.lanes) as Arc<dyn Ask>;
        lanes.refund(receipt.refunds);
    }
}

/// What a decision on Redis has charged.
#[derive(Debug, Default)]
pub struct RedisReceipt {
    refunds: Vec<Refund>,
}
