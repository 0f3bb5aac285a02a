//! The one form of JSON: it is its own form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use seawall_idempotency::canonical_json;

fuzz_target!(|text: &[u8]| {
    if let Some(form) = canonical_json(text) {
        assert_eq!(canonical_json(form.as_bytes()), Some(form));
    }
});
