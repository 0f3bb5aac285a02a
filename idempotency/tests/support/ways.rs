//! Three ways to call one handler, behind the layer.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes};
use http::{Request, Response, StatusCode, uri::PathAndQuery};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use seawall_idempotency::{
    Abandoned, BoxError, Codec, Error, Fence, Fingerprint, IdempotencyLayer, InFlight, Keep, Key,
    Problem, Tasks, Undone,
};
use tonic::{
    Code, Status,
    codec::{DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::{Troubled, call};

/// The largest text that is kept.
pub(crate) const MAX_ANSWER: usize = 1_000;

/// What a handler says.
#[derive(Debug, Clone)]
pub(crate) enum Says {
    Answer(String),
    /// It did nothing.
    Undone,
}

type Saying = Pin<Box<dyn Future<Output = Says> + Send>>;

/// Is given the attempt and the payload.
pub(crate) type Handler = Arc<dyn Fn(u64, String) -> Saying + Send + Sync>;

pub(crate) fn handler<F>(handle: impl Fn(u64, String) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = Says> + Send + 'static,
{
    Arc::new(move |attempt, payload| Box::pin(handle(attempt, payload)))
}

/// What a caller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Answer(String),
    Undone,
    InFlight,
    Mismatch,
    Abandoned,
    NotKept,
    Panicked,
    Unavailable,
}

impl Told {
    fn problem(name: &str) -> Self {
        let all = [
            (Problem::InFlight, Self::InFlight),
            (Problem::Mismatch, Self::Mismatch),
            (Problem::Abandoned, Self::Abandoned),
            (Problem::AnswerNotKept, Self::NotKept),
            (Problem::Panicked, Self::Panicked),
            (Problem::StoreUnavailable, Self::Unavailable),
        ];
        let found = all.into_iter().find(|(problem, _)| problem.name() == name);
        found
            .unwrap_or_else(|| panic!("an unexpected problem: {name}"))
            .1
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    pub(crate) store: Troubled,
    pub(crate) in_flight: InFlight,
    pub(crate) abandoned: Abandoned,
}

impl Settings {
    fn on<A>(&self, layer: IdempotencyLayer<Troubled, A>) -> IdempotencyLayer<Troubled, A> {
        layer
            .lease(Duration::from_secs(3))
            .in_flight(self.in_flight)
            .abandoned(self.abandoned)
    }
}

pub(crate) trait Way: Clone + Send + Sync + 'static {
    fn new(settings: Settings, handler: Handler) -> Self;

    fn tasks(&self) -> Tasks;

    fn call(&self, key: u64, payload: &str) -> impl Future<Output = Told> + Send;
}

type Boxed<Req, Res, E> = tower::util::BoxCloneSyncService<Req, Res, E>;

/// Answers what the handler says as text, and 503 with [`Undone`] where it did nothing.
#[derive(Clone)]
pub(crate) struct Web {
    service: Boxed<Request<Full<Bytes>>, (StatusCode, String), Infallible>,
    tasks: Tasks,
}

impl Way for Web {
    fn new(settings: Settings, handler: Handler) -> Self {
        let layer = settings
            .on(IdempotencyLayer::http(settings.store.clone()))
            .scope(http::header::AUTHORIZATION)
            .documentation("https://example.org/problems")
            .max_response(MAX_ANSWER);
        let tasks = layer.tasks();
        let inner = service_fn(move |request: Request<Full<Bytes>>| {
            let attempt = request.extensions().get::<Fence>().unwrap().0;
            let handler = Arc::clone(&handler);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let payload = String::from_utf8(body.into()).unwrap();
                Ok::<_, Infallible>(match handler(attempt, payload).await {
                    Says::Answer(text) => Response::new(Full::<Bytes>::from(text)),
                    Says::Undone => {
                        let mut response = Response::new(Full::default());
                        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                        response.extensions_mut().insert(Undone);
                        response
                    }
                })
            }
        });
        let service = layer.layer(inner).and_then(|response: Response<_>| async {
            let (head, body) = response.into_parts();
            let body = BodyExt::collect(body).await.unwrap().to_bytes();
            Ok((head.status, String::from_utf8(body.into()).unwrap()))
        });
        Self {
            service: Boxed::new(service),
            tasks,
        }
    }

    fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    async fn call(&self, key: u64, payload: &str) -> Told {
        let request = Request::post("/orders")
            .header("authorization", "Bearer t")
            .header("idempotency-key", format!("\"{key}\""))
            .body(Full::from(payload.to_owned()))
            .unwrap();
        let (status, body) = call(&mut self.service.clone(), request).await.unwrap();
        match status {
            StatusCode::OK => Told::Answer(body),
            StatusCode::SERVICE_UNAVAILABLE if body.is_empty() => Told::Undone,
            _ => {
                let json: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(json["status"], status.as_u16());
                assert_eq!(json["retention"], 86_400);
                let name = json["type"].as_str().unwrap().rsplit('#').next().unwrap();
                Told::problem(name)
            }
        }
    }
}

/// Text as a message of gRPC, without the help of a compiler of Protocol Buffers.
#[derive(Debug, Clone, Copy, Default)]
struct Text;

impl tonic::codec::Codec for Text {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Text {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Text {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = from.copy_to_bytes(from.remaining());
        Ok(Some(String::from_utf8(bytes.into()).unwrap()))
    }
}

/// What is generated for a server with one method, by hand.
#[derive(Clone)]
struct Server(Handler);

impl<B> Service<Request<B>> for Server
where
    B: Body<Error: Into<BoxError> + Send> + Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = Method(Arc::clone(&self.0));
        Box::pin(async move { Ok(tonic::server::Grpc::new(Text).unary(method, request).await) })
    }
}

struct Method(Handler);

impl tonic::server::UnaryService<String> for Method {
    type Response = String;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<String>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<String>) -> Self::Future {
        let attempt = request.extensions().get::<Fence>().unwrap().0;
        let saying = (self.0)(attempt, request.into_inner());
        Box::pin(async move {
            match saying.await {
                Says::Answer(text) => Ok(tonic::Response::new(text)),
                Says::Undone => Err(Status::unavailable("nothing was done")),
            }
        })
    }
}

/// tonic's client, the layer, tonic's server.
#[derive(Clone)]
pub(crate) struct Grpc {
    service: Boxed<
        Request<tonic::body::Body>,
        Response<seawall_idempotency::ResponseBody<tonic::body::Body>>,
        Infallible,
    >,
    tasks: Tasks,
}

impl Way for Grpc {
    fn new(settings: Settings, handler: Handler) -> Self {
        let layer = settings
            .on(IdempotencyLayer::grpc(settings.store.clone()))
            .scope(http::header::AUTHORIZATION)
            .undone_if(|head| {
                let status = head.headers.get("grpc-status");
                status.is_some_and(|code| code == "14")
            })
            .max_response(MAX_ANSWER + 5);
        let tasks = layer.tasks();
        let service = Boxed::new(layer.layer(Server(handler)));
        Self { service, tasks }
    }

    fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    async fn call(&self, key: u64, payload: &str) -> Told {
        let mut client = tonic::client::Grpc::new(self.service.clone());
        let mut request = tonic::Request::new(payload.to_owned());
        let metadata = request.metadata_mut();
        metadata.insert("authorization", "Bearer t".parse().unwrap());
        metadata.insert("idempotency-key", key.to_string().parse().unwrap());
        client.ready().await.unwrap();
        let path = PathAndQuery::from_static("/shop.Orders/Create");
        match client.unary(request, path, Text).await {
            Ok(answer) => Told::Answer(answer.into_inner()),
            Err(status) => match status.metadata().get("idempotency-problem") {
                None => {
                    assert_eq!(status.code(), Code::Unavailable);
                    assert_eq!(status.message(), "nothing was done");
                    Told::Undone
                }
                Some(name) => Told::problem(name.to_str().unwrap()),
            },
        }
    }
}

/// A message as a consumer of Kafka is given it.
#[derive(Debug, Clone)]
struct Message {
    offset: i64,
    payload: String,
    attempt: u64,
}

#[derive(Debug, Clone, Copy)]
struct Plain;

impl Codec<Option<String>> for Plain {
    fn encode(&self, response: &Option<String>) -> Keep {
        match response {
            None => Keep::Undone,
            Some(text) => Keep::Answer(Bytes::copy_from_slice(text.as_bytes())),
        }
    }

    fn decode(&self, kept: Bytes) -> Result<Option<String>, BoxError> {
        Ok(Some(String::from_utf8(kept.into())?))
    }
}

/// A worker whose messages are known by where they lie.
#[derive(Clone)]
pub(crate) struct Messages {
    service: Boxed<Message, Option<String>, BoxError>,
    tasks: Tasks,
}

impl Way for Messages {
    fn new(settings: Settings, handler: Handler) -> Self {
        let layer = settings
            .on(IdempotencyLayer::new(settings.store.clone()))
            .scope(|_: &Message| Key::from("workers"))
            .key(|m: &Message| Key::position("orders", 3, m.offset))
            .fingerprint(|m: &Message| Fingerprint::of([&m.payload]))
            .stamp(|m: &mut Message, claim| m.attempt = claim.fence().0)
            .codec(Plain)
            .max_answer(MAX_ANSWER);
        let tasks = layer.tasks();
        let inner = service_fn(move |m: Message| {
            let saying = handler(m.attempt, m.payload);
            async move {
                Ok::<_, BoxError>(match saying.await {
                    Says::Answer(text) => Some(text),
                    Says::Undone => None,
                })
            }
        });
        let service = Boxed::new(layer.layer(inner));
        Self { service, tasks }
    }

    fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    async fn call(&self, key: u64, payload: &str) -> Told {
        let message = Message {
            offset: i64::try_from(key).unwrap(),
            payload: payload.to_owned(),
            attempt: 0,
        };
        match call(&mut self.service.clone(), message).await {
            Ok(Some(text)) => Told::Answer(text),
            Ok(None) => Told::Undone,
            Err(error) => match crate::support::ours(error) {
                Error::InFlight { .. } => Told::InFlight,
                Error::Mismatch => Told::Mismatch,
                Error::Abandoned { .. } => Told::Abandoned,
                Error::AnswerNotKept { .. } => Told::NotKept,
                Error::Panicked { .. } => Told::Panicked,
                Error::Store(_) => Told::Unavailable,
                other => panic!("unexpected: {other:?}"),
            },
        }
    }
}
