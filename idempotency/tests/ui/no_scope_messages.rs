use seawall_idempotency::{IdempotencyLayer, MemoryStore};
use tower::Layer;

struct Message {
    id: String,
}

fn add(_: impl Layer<()>) {}

fn main() {
    add(IdempotencyLayer::new(MemoryStore::with_capacity(1))
        .key(|m: &Message| m.id.as_str().into())
        .codec(()));
}
