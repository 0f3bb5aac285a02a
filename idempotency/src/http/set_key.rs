//! Keys of outgoing HTTP requests.

use std::fmt::Write as _;

use http::{HeaderValue, Method, Request};
use sha2::{Digest, Sha256};

use super::key::HEADER;
use crate::{
    idempotency_key::IdempotencyKey,
    set_key::{SetKey, SetKeyLayer},
};

/// Sets the `Idempotency-Key` header; see [`SetKeyLayer::http`].
#[derive(Debug, Clone)]
pub struct SetHeader {
    methods: Vec<Method>,
}

impl SetKeyLayer<SetHeader> {
    /// For clients of HTTP and of gRPC: `POST` and `PATCH` requests get an `Idempotency-Key` header, unless
    /// they have one.
    ///
    /// An [`IdempotencyKey`] in the request's extensions is the key that is sent: so the caller can make it
    /// beforehand, keep it, and send the request again after a restart. Else it is a fresh one, which inner
    /// layers find in the extensions.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use http::{Method, Request};
    /// use seawall_idempotency::{IdempotencyKey, SetKeyLayer};
    /// use tower::{Service, ServiceBuilder, ServiceExt};
    ///
    /// let mut client = ServiceBuilder::new()
    ///     .layer(SetKeyLayer::http())
    ///     // ... and then the layer that retries
    ///     .service_fn(async |request: Request<()>| {
    ///         let key = request.headers().get("idempotency-key").cloned();
    ///         Ok::<_, std::convert::Infallible>(key)
    ///     });
    /// let post = Request::post("/orders").body(()).unwrap();
    /// let sent = client.ready().await.unwrap().call(post).await.unwrap().unwrap();
    /// assert!(IdempotencyKey::parse(sent.as_bytes()).is_ok());
    /// # }
    /// ```
    pub fn http() -> Self {
        Self::new(SetHeader {
            methods: vec![Method::POST, Method::PATCH],
        })
    }

    /// Requests of which methods get a key. The others are idempotent by themselves.
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.set.methods = methods.into_iter().collect();
        self
    }
}

impl<B> SetKey<Request<B>> for SetHeader {
    fn set_key(&self, request: &mut Request<B>) {
        if !self.methods.contains(request.method()) || request.headers().contains_key(&HEADER) {
            return;
        }
        let key = match request.extensions().get::<IdempotencyKey>() {
            Some(key) => key.clone(),
            None => {
                let fresh = IdempotencyKey::fresh();
                request.extensions_mut().insert(fresh.clone());
                fresh
            }
        };
        // Whatever the caller calls its work by, the same name is the same key.
        let field = key.to_field().unwrap_or_else(|_| hashed(&key));
        let field = HeaderValue::try_from(field).expect("printable ASCII is a header's value");
        request.headers_mut().insert(HEADER.clone(), field);
    }
}

/// A key that no header can carry, as one that it can.
fn hashed(key: &IdempotencyKey) -> String {
    let digest = Sha256::digest(key.as_str());
    let mut field = String::from("\"");
    for byte in digest {
        // Writing to a string does not fail.
        let _ = write!(field, "{byte:02x}");
    }
    field.push('"');
    field
}
