//! What `ext_authz` asks: a service that looks the key up in a map and answers with its client, in a process of its own.

use bytes::Bytes;
use http_body_util::Empty;
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use keyward_harness::{Failure, Result};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

/// Serves until the process ends. `keys` has a line with a client and a key for each.
///
/// # Errors
/// If the file cannot be read, or it cannot listen.
pub(crate) async fn serve(address: SocketAddr, keys: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Failure::new(format!("the authorizer on {address}: {error}"));
    let text = std::fs::read_to_string(keys).map_err(failed)?;
    let clients: HashMap<String, HeaderValue> = text
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
                let service = service_fn(move |request| {
                    let answer = answer(&clients, &request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                spawn_local(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        })
        .await
}

fn answer(clients: &HashMap<String, HeaderValue>, request: &Request<Incoming>) -> Response<Empty<Bytes>> {
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = authorization.and_then(|value| value.strip_prefix("Bearer "));
    let mut response = Response::new(Empty::new());
    match key.and_then(|key| clients.get(key)) {
        Some(client) => drop(response.headers_mut().insert("x-client", client.clone())),
        None => *response.status_mut() = StatusCode::UNAUTHORIZED,
    }
    response
}
