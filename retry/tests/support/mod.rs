//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub)] // each test uses its part

use std::{error::Error, fmt, time::Duration};

use seawall_retry::BoxError;
use tower::{Service, ServiceExt};

/// The error of a service that may recover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("busy")
    }
}

impl Error for Busy {}

pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Readies a service and calls it.
pub async fn call<S, Req>(service: &mut S, request: Req) -> Result<S::Response, BoxError>
where
    S: Service<Req, Error = BoxError>,
{
    service.ready().await?.call(request).await
}
