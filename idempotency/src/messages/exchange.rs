//! Responses through a codec.

use std::sync::Arc;

use bytes::Bytes;

use super::{Codec, Stamp};
use crate::{
    error::{BoxError, Error},
    exchange::{Exchange, Keep},
    lease::Claim,
    record::Why,
};

pub(super) struct Coded<Req, C> {
    codec: Arc<C>,
    stamp: Option<Stamp<Req>>,
    max_answer: usize,
}

impl<Req, C> Coded<Req, C> {
    pub(super) fn new(codec: Arc<C>, stamp: Option<Stamp<Req>>, max_answer: usize) -> Self {
        Self {
            codec,
            stamp,
            max_answer,
        }
    }
}

impl<Req, Res, E, C> Exchange<Req, Res, E> for Coded<Req, C>
where
    Req: 'static,
    Res: Send + 'static,
    E: Into<BoxError>,
    C: Codec<Res>,
{
    type Out = Res;
    type Err = BoxError;

    fn stamp(&mut self, request: &mut Req, claim: &Claim) {
        if let Some(stamp) = &self.stamp {
            stamp(request, claim);
        }
    }

    async fn capture(&self, response: Res) -> (Keep, Res) {
        let keep = match self.codec.encode(&response) {
            Keep::Answer(answer) if answer.len() > self.max_answer => {
                Keep::Tombstone(Why::Oversize)
            }
            keep => keep,
        };
        (keep, response)
    }

    fn replay(&self, answer: Bytes) -> Result<Res, BoxError> {
        self.codec.decode(answer)
    }

    fn failed(&self, error: E) -> BoxError {
        error.into()
    }

    fn refuse(&self, error: Error) -> Result<Res, BoxError> {
        Err(error.into())
    }

    fn panicked(&self, message: String) -> (Keep, Result<Res, BoxError>) {
        (
            Keep::Tombstone(Why::Panicked),
            Err(Error::Panicked { message }.into()),
        )
    }
}
