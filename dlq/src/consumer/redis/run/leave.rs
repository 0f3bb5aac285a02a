//! The end of the work.

use tokio::time::Instant;
use tower_service::Service;

use super::{AT_ONCE, Event, Shift, UNSEEN};
use crate::{BoxError, ConsumeError, Message, Outcome, Totals, consumer::redis::group::Group};

impl<S, R> Shift<S>
where
    S: Service<Message, Response = Outcome<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    /// Settles what is done, and puts everything else into other hands.
    pub(super) async fn leave(mut self) -> Result<Totals, ConsumeError> {
        loop {
            self.handling.abort();
            if let Some((id, (), end)) = self.handling.ended().await {
                self.ended(&id, end);
            } else if let Some(event) = self.asking.join_next().await {
                self.answered(event.map_err(ConsumeError::lost)?)?;
            } else {
                break;
            }
        }
        let in_order = self.settings.limits.ordered;
        while self.is_setting_aside() {
            self.ask_to_set_aside();
            while let Some(event) = self.asking.join_next().await {
                match event.map_err(ConsumeError::lost)? {
                    Event::SetAside(Err(error)) => return Err(error.into()),
                    event => self.answered(event)?,
                }
            }
        }
        let now = Instant::now();
        while !self.to_settle.is_empty() {
            let settlement = self.to_settle.take(AT_ONCE);
            self.group.settle(&settlement, in_order).await?;
            self.release(&settlement);
        }
        if !in_order {
            for (message, wait) in self.desk.take_parked(now) {
                if !self.desk.has_failed(&message.id) && Group::can_delay(&message) {
                    self.group.delay(&message, wait).await?;
                    self.desk.release(&message.id);
                }
            }
        }
        for ids in self.desk.ids().chunks(AT_ONCE) {
            self.group.hold(ids, self.settings.claim_after).await?;
        }
        self.group.sweep(UNSEEN, true).await?;
        Ok(self.handling.totals)
    }
}
