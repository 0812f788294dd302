//! Requirements of pages in browsers: WebSockets (RFC 6455), and responses that other origins may read (CORS).

use crate::common::{SOON, assert_refused};
use keyward_harness::http::{send_bytes, send_websocket};
use keyward_harness::ports::loopback;
use keyward_harness::{EnvoyConfig, Gateway, Request};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A text frame with "Hello", masked: the example of RFC 6455, section 5.7.
const MASKED_HELLO: [u8; 11] = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
/// The same frame as a server sends it.
const HELLO: [u8; 7] = [0x81, 0x05, b'H', b'e', b'l', b'l', b'o'];

/// The response that accepts a WebSocket.
const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

type Seen = Arc<Mutex<Vec<u8>>>;

/// An upstream that accepts WebSockets, or supports none, and every byte that it received.
async fn upstream(takes_websockets: bool) -> (SocketAddr, Seen) {
    let listener = TcpListener::bind(loopback(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let all = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, takes_websockets, Arc::clone(&all)));
        }
    });
    (address, seen)
}

async fn serve(mut stream: TcpStream, takes_websockets: bool, seen: Seen) -> std::io::Result<()> {
    let mut received = Vec::new();
    loop {
        let read = stream.read_buf(&mut received).await?;
        if read == 0 {
            return Ok(());
        }
        seen.lock().unwrap().extend(&received[received.len() - read..]);
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let is_opening = String::from_utf8_lossy(&received[..end]).contains("upgrade: websocket");
            received.drain(..end + 4);
            if is_opening && takes_websockets {
                stream.write_all(ACCEPTED).await?;
            } else {
                stream.write_all(OK).await?;
            }
        } else if let Some((&[0x81, length, mask @ ..], masked)) = received.split_first_chunk::<6>()
            && masked.len() == usize::from(length & 0x7f)
        {
            let text: Vec<u8> = masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            stream.write_all(&[&[0x81, length & 0x7f][..], &text].concat()).await?;
            received.clear();
        }
    }
}

/// A WebSocket handshake and a message each way with the shipped configuration: accepted only with a key, which does
/// not reach the upstream.
#[tokio::test]
async fn websocket_needs_a_key() {
    let (address, seen) = upstream(true).await;
    let gateway = Gateway::builder().upstream_from(address).start().await.unwrap();
    let key = gateway.control_plane.create_named("a key").await.unwrap().key;
    let with_key = Request::get("/socket").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&with_key, 200, SOON).await.unwrap();
    seen.lock().unwrap().clear();
    for refused in [Request::get("/socket"), Request::get("/socket").bearer("not-a-key")] {
        let answer = send_websocket(gateway.envoy.gateway(), &refused, &MASKED_HELLO).await.unwrap();
        assert_eq!(answer.status, 401, "{}", answer.text());
    }
    assert_eq!(*seen.lock().unwrap(), b"");

    let mut stream = TcpStream::connect(gateway.envoy.gateway()).await.unwrap();
    let opening = format!(
        "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {key}\r\n\r\n"
    );
    stream.write_all(opening.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "{}", String::from_utf8_lossy(&head));
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    for _ in 0..3 {
        stream.write_all(&MASKED_HELLO).await.unwrap();
        let mut answer = [0; HELLO.len()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, HELLO);
    }
    let seen = String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
    assert!(seen.contains("x-keyward-key-id") && !seen.contains(&key), "{seen}");
}

/// Envoy forwards nothing until the upstream has accepted the WebSocket: the data would otherwise be a request to an
/// upstream without WebSockets that no filter has seen.
#[tokio::test]
async fn nothing_is_smuggled_behind_a_handshake() {
    let (address, seen) = upstream(false).await;
    let gateway = Gateway::builder().upstream_from(address).start().await.unwrap();
    let key = gateway.control_plane.create_named("a key").await.unwrap().key;
    let with_key = Request::get("/").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&with_key, 200, SOON).await.unwrap();
    let smuggled = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nauthorization: Bearer {key}\r\n\r\n\
         DELETE /smuggled HTTP/1.1\r\nhost: x\r\nx-keyward-owner: root\r\n\r\n"
    );
    let answer = send_bytes(gateway.envoy.gateway(), smuggled.as_bytes()).await.unwrap();
    assert_eq!(answer.status, 200);
    // Anything in flight has arrived once a later request has.
    gateway.envoy.every_worker().await.unwrap().until_status(&with_key, 200, SOON).await.unwrap();
    let seen = String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
    assert!(seen.contains("upgrade: websocket") && !seen.contains("smuggled"), "{seen}");
}

/// Public routes accept no WebSockets, which would outlast the limits there, and no route accepts other protocols.
#[tokio::test]
async fn public_and_other_upgrades_are_refused() {
    let gateway = Gateway::start().await.unwrap();
    let key = gateway.control_plane.create_named("a key").await.unwrap().key;
    let with_key = Request::get("/socket").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&with_key, 200, SOON).await.unwrap();
    gateway.upstream().take_seen();
    let answer = send_websocket(gateway.envoy.gateway(), &Request::get("/health"), b"").await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    let upgrade_to = |protocol: &str| with_key.clone().header("connection", "upgrade").header("upgrade", protocol);
    let answer = gateway.envoy.send(&upgrade_to("other")).await.unwrap();
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(gateway.upstream().take_seen(), []);
    // Envoy ignores an upgrade to HTTP/2, in accordance with RFC 9113, section 3.1.
    let answer = gateway.envoy.send(&upgrade_to("h2c")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(gateway.upstream().take_seen()[0].header("upgrade").is_empty());
}

/// With the commented-out lines of the shipped file, a preflight is answered without a key, and a page of the named
/// origin can read responses and refusals; other origins cannot.
#[tokio::test]
async fn cors_of_the_shipped_file_answers_preflights() {
    const ORIGIN: &str = "https://app.example";
    let gateway = Gateway::builder().config(EnvoyConfig::shipped_with("CORS")).start().await.unwrap();
    let key = gateway.control_plane.create_named("a key").await.unwrap().key;
    let with_key = Request::get("/items").bearer(&key);
    gateway.envoy.every_worker().await.unwrap().until_status(&with_key, 200, SOON).await.unwrap();
    gateway.upstream().take_seen();
    let allowed = "access-control-allow-origin";
    let preflight = |origin: &str| {
        let request = Request::new("OPTIONS", "/items").header("origin", origin);
        request
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization")
    };
    let answer = gateway.envoy.send(&preflight(ORIGIN)).await.unwrap();
    assert_eq!((answer.status, answer.header(allowed).as_deref()), (200, Some(ORIGIN)));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert!(answer.header("access-control-allow-methods").unwrap().contains("POST"));
    let elsewhere = gateway.envoy.send(&preflight("https://elsewhere.example")).await.unwrap();
    assert_eq!((elsewhere.status, elsewhere.header(allowed)), (401, None));

    let refused = gateway.envoy.send(&Request::get("/items").header("origin", ORIGIN)).await.unwrap();
    assert_refused(&refused, 401, "missing");
    assert_eq!(refused.header(allowed).as_deref(), Some(ORIGIN));
    assert_eq!(gateway.upstream().take_seen(), []);
    let answer = gateway.envoy.send(&with_key.clone().header("origin", ORIGIN)).await.unwrap();
    assert_eq!((answer.status, answer.header(allowed).as_deref()), (200, Some(ORIGIN)));
    assert!(answer.header("access-control-expose-headers").unwrap().contains("retry-after"));
    let answer = gateway.envoy.send(&with_key.header("origin", "https://elsewhere.example")).await.unwrap();
    assert_eq!((answer.status, answer.header(allowed)), (200, None));
}
