use seawall_idempotency::{IdempotencyLayer, MemoryStore};
use tower::Layer;

fn add(_: impl Layer<()>) {}

fn main() {
    add(IdempotencyLayer::http(MemoryStore::with_capacity(1)).require_key());
}
