//! The authorization service for `ext_authz`: looks the key up in a map and answers with its client, in a separate
//! process. Supports both of the filter's protocols, plain HTTP and gRPC.

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt as _, Either, Empty, Full};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use keyward_harness::{Failure, Result};
use prost::Message;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

/// The header field for the client's name.
const CLIENT: HeaderName = HeaderName::from_static("x-client");

/// `google.rpc.Code.UNAUTHENTICATED`.
const UNAUTHENTICATED: i32 = 16;

type Clients = HashMap<String, HeaderValue>;

type Trailers = Ready<Option<std::result::Result<HeaderMap, Infallible>>>;

type Answer = Response<Either<Empty<Bytes>, WithTrailers<Full<Bytes>, Trailers>>>;

/// Serves until the process exits. Each line of `keys` has a client and its key.
pub(crate) async fn serve(address: SocketAddr, keys: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Failure::new(format!("the authorizer on {address}: {error}"));
    let text = std::fs::read_to_string(keys).map_err(failed)?;
    let clients: Clients = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(client, key)| Some((key.to_owned(), HeaderValue::from_str(client).ok()?)))
        .collect();
    let clients = Rc::new(clients);
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    LocalSet::new()
        .run_until(async move {
            loop {
                let (stream, _) = listener.accept().await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                let clients = Rc::clone(&clients);
                let service = service_fn(move |request| answer(Rc::clone(&clients), request));
                spawn_local(async move {
                    let builder = auto::Builder::new(OnThisThread);
                    // Envoy reconnects after a connection error.
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        })
        .await
}

async fn answer(clients: Rc<Clients>, request: Request<Incoming>) -> std::result::Result<Answer, hyper::Error> {
    if request.headers().get(CONTENT_TYPE).is_some_and(|value| value == "application/grpc") {
        let body = request.into_body().collect().await?.to_bytes();
        return Ok(grpc(&clients, &body));
    }
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let mut response = Response::new(Either::Left(Empty::new()));
    match client(&clients, authorization) {
        Some(client) => drop(response.headers_mut().insert(CLIENT, client.clone())),
        None => *response.status_mut() = StatusCode::UNAUTHORIZED,
    }
    Ok(response)
}

fn client<'a>(clients: &'a Clients, authorization: Option<&str>) -> Option<&'a HeaderValue> {
    clients.get(authorization?.strip_prefix("Bearer ")?)
}

/// `envoy.service.auth.v3.Authorization/Check`. A malformed request is answered like one without a key.
fn grpc(clients: &Clients, body: &[u8]) -> Answer {
    // After a compression byte and four bytes of length.
    let asked = body.get(5..).and_then(|message| CheckRequest::decode(message).ok()).unwrap_or_default();
    let headers = asked.attributes.and_then(|of| of.request).and_then(|of| of.http).unwrap_or_default().headers;
    let authorization = headers.iter().find(|field| field.key == AUTHORIZATION.as_str());
    let response = match client(clients, authorization.map(|field| field.value.as_str())) {
        Some(client) => {
            let value = client.to_str().unwrap_or_default().to_owned();
            let header = HeaderValueOption { header: Some(Field { key: CLIENT.as_str().to_owned(), value }) };
            CheckResponse { status: Some(Status { code: 0 }), ok_response: Some(OkResponse { headers: vec![header] }) }
        }
        None => CheckResponse { status: Some(Status { code: UNAUTHENTICATED }), ok_response: None },
    };
    let mut message = BytesMut::with_capacity(128);
    message.put_u8(0);
    message.put_u32(u32::try_from(response.encoded_len()).expect("a small message"));
    response.encode(&mut message).expect("a buffer that grows");
    let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::new(message.freeze()).with_trailers(ready(Some(Ok(trailers))));
    let mut response = Response::new(Either::Right(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Runs the streams of a connection on its thread.
#[derive(Clone, Copy)]
struct OnThisThread;

impl<F: Future + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        spawn_local(async move { drop(future.await) });
    }
}

// The used part of the protocol. Names and numbers are those of `envoy/service/auth/v3/external_auth.proto` and
// `attribute_context.proto`, `envoy/config/core/v3/base.proto` and `google/rpc/status.proto`.

#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(message, optional, tag = "1")]
    attributes: Option<AttributeContext>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeContext {
    #[prost(message, optional, tag = "4")]
    request: Option<AttributeRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct AttributeRequest {
    #[prost(message, optional, tag = "2")]
    http: Option<HttpRequest>,
}

#[derive(Clone, PartialEq, Message)]
struct HttpRequest {
    /// A map in the protocol, whose entries have this encoding.
    #[prost(message, repeated, tag = "3")]
    headers: Vec<Field>,
}

#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<Status>,
    #[prost(message, optional, tag = "3")]
    ok_response: Option<OkResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct OkResponse {
    #[prost(message, repeated, tag = "2")]
    headers: Vec<HeaderValueOption>,
}

#[derive(Clone, PartialEq, Message)]
struct HeaderValueOption {
    #[prost(message, optional, tag = "1")]
    header: Option<Field>,
}

/// A `HeaderValue`, or an entry of a map of strings.
#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}
