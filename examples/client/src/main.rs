//! Gets a page, with retries: `cargo run -p client -- http://127.0.0.1:8080/`

use std::{process::ExitCode, time::Duration};

use client::{Body, http_client};
use http::Request;
use http_body_util::{BodyExt, Empty};
use seawall_retry::{BoxError, Budgets, RetryError};
use tower::{Service, ServiceExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Some(url) = std::env::args().nth(1) else {
        eprintln!("usage: client URL");
        return ExitCode::from(2);
    };
    match get(&url).await {
        Ok(page) => {
            println!("{page}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{url}: {error}");
            if let Some(why) = RetryError::find(&error) {
                eprintln!("the last attempt: {}", why.source);
            }
            ExitCode::FAILURE
        }
    }
}

async fn get(url: &str) -> Result<String, BoxError> {
    let hosts = Budgets::ratio(0.1);
    let base = Duration::from_millis(100);
    let mut client = http_client(&hosts, base, Duration::from_secs(10));
    let nothing = Empty::new().map_err(|never| match never {});
    let request = Request::get(url).body(Body::new(nothing))?;
    let response = client.ready().await?.call(request).await?;
    let status = response.status();
    let page = response.into_body().collect().await?.to_bytes();
    Ok(format!("{status}\n{}", String::from_utf8_lossy(&page)))
}
