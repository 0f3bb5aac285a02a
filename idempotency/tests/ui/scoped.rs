use seawall_idempotency::{IdempotencyLayer, MemoryStore};
use tower::Layer;

struct Message {
    id: String,
    tenant: u64,
}

fn main() {
    let store = MemoryStore::with_capacity(1);
    let _ = IdempotencyLayer::http(store.clone()).unscoped().layer(());
    let _ = IdempotencyLayer::http(store.clone()).scope(http::header::AUTHORIZATION).layer(());
    let _ = IdempotencyLayer::new(store)
        .scope(|m: &Message| m.tenant.into())
        .key(|m: &Message| m.id.as_str().into())
        .codec(())
        .layer(());
}
