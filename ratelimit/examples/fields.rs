//! Prints what responses say of their limits, for programs that read structured fields: a line of JSON for
//! each response, with its fields and with what they mean.
//!
//! ```sh
//! cargo run -p seawall-ratelimit --features http --example fields
//! ```

use std::convert::Infallible;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use seawall_ratelimit::{BoxError, MemoryStore, Quota, RateLimitLayer, Rule};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt, service_fn};

const RESPONSES: u32 = 2_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..RESPONSES {
        println!("{}", told(&mut random).await?);
    }
    Ok(())
}

/// The response to one request under some rules.
async fn told(random: &mut fastrand::Rng) -> Result<Value, BoxError> {
    let mut rules = Vec::new();
    let mut meant = Vec::new();
    for number in 0..random.usize(1..=4) {
        // Any name that there can be, each another one.
        let mut name = number.to_string();
        for _ in 0..random.usize(0..30) {
            let letter = char::from(random.u8(b' '..=b'~'));
            if letter != '"' && letter != '\\' {
                name.push(letter);
            }
        }
        // Small numbers as often as large ones.
        let (bits, more_bits) = (random.u32(0..32), random.u32(0..28));
        let limit = random.u32(1..=u32::MAX >> bits);
        let seconds = random.u64(1..=1 << more_bits);
        let quota = Quota::try_new(limit, Duration::from_secs(seconds))?;
        meant.push(json!({ "name": name, "q": limit, "w": seconds, "r": limit - 1 }));
        rules.push(Rule::try_new(name, quota)?.boxed());
    }
    let mut service = RateLimitLayer::new(MemoryStore::with_capacity(1))
        .try_rules(rules)?
        .http()
        .layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(()))
        }));
    let response = service.ready().await?.call(Request::new(())).await?;
    let headers = response.headers();
    Ok(json!({
        "policy": field(headers, "ratelimit-policy")?,
        "ratelimit": field(headers, "ratelimit")?,
        "meant": meant,
    }))
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, BoxError> {
    let value = headers.get(name).ok_or("the field is missing")?;
    Ok(value.to_str()?)
}
