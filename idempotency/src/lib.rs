//! Idempotency keys as a tower layer: one execution per key, whatever disconnects, crashes or is sent twice.
