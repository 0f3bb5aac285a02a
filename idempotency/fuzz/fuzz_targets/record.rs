//! Records: whatever lies under a key, what is read has exactly these bytes.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use seawall_idempotency::record::Record;

fuzz_target!(|bytes: &[u8]| {
    let mut framed = b"si\x01".to_vec();
    framed.extend_from_slice(bytes);
    for bytes in [bytes.to_vec(), framed] {
        if let Ok(record) = Record::decode(Bytes::from(bytes.clone())) {
            assert_eq!(record.encode(), bytes);
        }
    }
});
