//! The `Idempotency-Key` field: whatever comes, what is read can be written, and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use seawall_idempotency::IdempotencyKey;

fuzz_target!(|field: &[u8]| {
    let strict = IdempotencyKey::parse(field);
    let bare = IdempotencyKey::parse_bare(field);
    if let Ok(key) = &strict {
        assert_eq!(bare.as_ref(), Ok(key));
    }
    if let Ok(key) = bare {
        let written = key.to_field().expect("what was read can be written");
        assert_eq!(IdempotencyKey::parse(written.as_bytes()), Ok(key));
    }
});
