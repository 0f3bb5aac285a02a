//! Answers of HTTP as they are stored: whatever was kept, it is a response or an error.
#![no_main]

use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use seawall_idempotency::{Seen, State};

fuzz_target!(|kept: &[u8]| {
    let seen = Seen {
        attempt: 1,
        remaining: Duration::from_secs(1),
        state: State::Completed {
            answer: Ok(Bytes::copy_from_slice(kept)),
        },
    };
    let _ = seen.response();
});
