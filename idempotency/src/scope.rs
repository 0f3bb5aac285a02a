//! Whose keys they are, as a type: a layer that does not say is not a layer.

/// There is no scope yet: call `.scope(..)` or `.unscoped()`. Until then it is no `Layer`:
///
/// ```compile_fail,E0277
/// # use seawall_idempotency::{IdempotencyLayer, MemoryStore};
/// # struct Message { id: u64 }
/// fn add(_: impl tower::Layer<()>) {}
///
/// let once = IdempotencyLayer::new(MemoryStore::with_capacity(1_000));
/// add(once.key(|m: &Message| m.id.into()).codec(()));
/// ```
///
/// With one it is:
///
/// ```
/// # use seawall_idempotency::{IdempotencyLayer, MemoryStore};
/// # struct Message { id: u64 }
/// fn add(_: impl tower::Layer<()>) {}
///
/// let once = IdempotencyLayer::new(MemoryStore::with_capacity(1_000));
/// add(once.unscoped().key(|m: &Message| m.id.into()).codec(()));
/// ```
#[cfg_attr(
    feature = "http",
    doc = r"
HTTP is no exception:

```compile_fail,E0277
# use seawall_idempotency::{IdempotencyLayer, MemoryStore};
fn add(_: impl tower::Layer<()>) {}

add(IdempotencyLayer::http(MemoryStore::with_capacity(1_000)).require_key());
```

```
# use seawall_idempotency::{IdempotencyLayer, MemoryStore};
use http::header::AUTHORIZATION;

fn add(_: impl tower::Layer<()>) {}

let once = IdempotencyLayer::http(MemoryStore::with_capacity(1_000)).require_key();
add(once.scope(AUTHORIZATION));
```
"
)]
#[derive(Debug, Clone, Copy)]
pub struct ScopeMissing;

/// All keys are of one scope.
#[derive(Debug, Clone, Copy)]
pub struct Unscoped;
