//! A queue worker that holds each tenant to a share of its time.
//!
//! ```sh
//! cargo run -p seawall-ratelimit --example worker
//! ```

use seawall_ratelimit::{BoxError, MemoryStore, Quota, RateLimitError, RateLimitLayer, Rule};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

#[derive(Clone, Copy, Debug)]
struct Job {
    tenant: &'static str,
    pages: u32,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let pages_of_a_tenant = Rule::new("pages", Quota::per_minute(10))
        .key(|job: &Job| job.tenant.into())
        .cost(|job: &Job| job.pages);
    let mut worker = ServiceBuilder::new()
        .layer(RateLimitLayer::new(MemoryStore::with_capacity(10_000)).rule(pages_of_a_tenant))
        .service(service_fn(async |job: Job| Ok::<_, BoxError>(job.pages)));

    let job = |tenant, pages| Job { tenant, pages };
    for job in [
        job("ada", 6),
        job("ada", 6),
        job("bob", 6),
        job("ada", 4),
        job("bob", 11),
    ] {
        match worker.ready().await?.call(job).await {
            Ok(pages) => println!("{job:?}: {pages} pages rendered"),
            Err(error) => match RateLimitError::find(&error) {
                Some(RateLimitError::Refused(refused)) => {
                    println!("{job:?}: later, in {:?}", refused.retry_after());
                }
                Some(RateLimitError::CostAboveLimit(never)) => println!("{job:?}: {never}"),
                _ => return Err(error),
            },
        }
    }
    Ok(())
}
