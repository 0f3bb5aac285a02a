//! Retries as a [`tower`](tower_service) layer that cannot make an outage worse.
//!
//! Three parts, each of use alone: a [`Backoff`] says how long to wait and how often to try, a
//! [classifier](Classify) says which outcomes are worth another attempt, and a [`Budget`] keeps
//! retries to a share of what succeeds. [`RetryLayer`] puts them around any service.
//!
//! ```
//! use std::{io, time::Duration};
//! use seawall_retry::{Attempt, Backoff, Budget, RetryError, RetryLayer, Stopped};
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! #[derive(Clone)]
//! struct Order { attempt: u32 }
//!
//! let mut service = ServiceBuilder::new()
//!     .layer(
//!         RetryLayer::new(Backoff::exponential(Duration::from_secs(1)).attempts(3))
//!             .budget(Budget::ratio(0.1))
//!             .deadline(Duration::from_secs(60))
//!             .stamp(|order: &mut Order, attempt: Attempt| order.attempt = attempt.number),
//!     )
//!     .service(service_fn(|order: Order| async move {
//!         if order.attempt < 3 { Err(io::Error::other("busy")) } else { Ok(order.attempt) }
//!     }));
//!
//! let answer = service.ready().await.unwrap().call(Order { attempt: 0 }).await;
//! assert_eq!(answer.unwrap(), 3);
//!
//! # let mut service = ServiceBuilder::new()
//! #     .layer(RetryLayer::new(Backoff::exponential(Duration::from_secs(1)).attempts(3)))
//! #     .service(service_fn(|_: ()| async { Err::<(), _>(io::Error::other("busy")) }));
//! // A service that stays broken:
//! let error = service.ready().await.unwrap().call(()).await.unwrap_err();
//! let why = RetryError::find(&error).unwrap();
//! assert_eq!((why.attempts, why.stopped), (3, Stopped::Exhausted));
//! assert_eq!(why.source.to_string(), "busy");
//! # }
//! ```
//!
//! # What a call does
//!
//! The first attempt is made at once, on the service that was readied. After an outcome that is
//! [`Transient`](Class::Transient) or [`Throttled`](Class::Throttled) the call waits, readies the
//! service again (with a deadline of its own), and makes the next. It ends with the first outcome
//! that is neither, or when attempts, budget or time run out:
//!
//! - a **response** is returned as it is, whatever its class: the last 503 is still an answer;
//! - an **error** comes back inside a [`RetryError`], which says how many attempts were made, how
//!   long it took and why it [stopped](Stopped). Only an error that the classifier calls a
//!   [`Success`](Class::Success) comes back bare.
//!
//! A panic of the service passes through and is not retried. Dropping the future drops the attempt,
//! and a retry that was planned and not made goes back into the budget.
//!
//! Waits need a tokio runtime with its timer enabled.
//!
//! # How much more a service is sent
//!
//! Attempts multiply: 4 attempts in each of 3 layers are 64 calls for one request, and they are sent when the
//! service can stand them least. A budget of ratio `r` bounds what leaves a layer by what comes in:
//!
//! ```text
//! calls out <= (1 + r) * calls in + burst
//! ```
//!
//! so three layers with 0.1 send at most 1.33 times as much, with 0.2 at most 1.73 times. That holds
//! while calls succeed. Where none does, nothing is paid in, and what is sent on top is the
//! burst, once.
//!
//! A service that is used to a share `u` has room for `(1 - u) / u` more calls for each that it is
//! sent. After a slow spell it works off its backlog in what room is left: with a ratio above that it
//! never does. At 85% the room is 0.176, so 0.1 is fine and 0.2 is not; 0.1 needs a service that is used to
//! no more than 90%.
//!
//! Without a budget a layer retries whatever the backoff allows. That is right for a job that runs
//! alone at night, and for nothing that many do at the same time.
//!
//! # Hedging
//!
//! [`HedgeLayer`] sends a request once more while the first attempt still runs, under the same kind of budget.
//!
//! # Cost
//!
//! A call that succeeds at once allocates nothing, takes no lock, writes to nothing that threads share
//! while its budget is full, reads no clock unless a deadline or an attempt timeout is set, and clones the
//! service and the request once (not at all with one attempt). The classifier, the stamp and what copies
//! requests are cloned for each call: closures that capture nothing, or references, cost nothing.
//!
//! # Order
//!
//! Retry belongs outside what routes or balances, so that each attempt may go elsewhere, and inside
//! what counts or remembers whole calls (limits, idempotency, dead letters). One layer of retries is
//! enough: the attempts of nested ones multiply, so the default classifier does not retry what an
//! inner retry layer gave up on.
//!
//! # Features
//!
//! - `http`: `HttpStatus`, a classifier by status and `Retry-After`; `IdempotentMethods`, which sends
//!   once what must not be sent twice; `ReplayBody`, a body that is kept up to a bound as it is sent.
//! - `grpc`: `GrpcStatus`, a classifier by gRPC code with the server's pushback. No gRPC library.
//! - `tracing`, `metrics`: an event and a counter for each retry, each hedge and each end; with `tracing` a
//!   span for each attempt, so that what the service tells says which it was.

mod backoff;
mod budget;
mod call;
mod classify;
mod error;
mod future;
#[cfg(feature = "grpc")]
mod grpc;
mod hedge;
mod held;
#[cfg(feature = "http")]
mod http_status;
mod io_errors;
mod layer;
mod policy;
mod rarely;
#[cfg(feature = "http")]
mod replay;
mod request;
mod service;
mod telemetry;
mod waits;

pub use backoff::{Backoff, Delays, Jitter};
pub use budget::{Budget, Budgets, Withdrawal};
pub use classify::{AnyError, Class, Classify};
pub use error::{ConfigError, Interrupted, RetryError, Stopped};
pub use future::ResponseFuture;
#[cfg(feature = "grpc")]
pub use grpc::GrpcStatus;
pub use hedge::{Hedge, HedgeFuture, HedgeLayer};
#[cfg(feature = "http")]
pub use http_status::{HttpStatus, IdempotentMethods, SystemClock, WallClock, error_response};
pub use io_errors::IoErrors;
pub use layer::RetryLayer;
#[cfg(feature = "http")]
pub use replay::{ReplayBody, ReplayError, ReplayRequests};
pub use request::{Attempt, ByClone, CloneRequest, PickBudget, RequestDeadline, Stamp};
pub use service::Retry;

/// The error of a layered service: any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
