//! A closed loop of requests: each connection has a fixed number in flight, and sends the next when a response arrives.
//!
//! One thread on non-blocking sockets that writes prepared bytes, so that it costs a fraction of Envoy's processing.
//! Every response's status is checked, and an unexpected one fails the run, because a fast refusal would look like a
//! fast filter.

mod http1;
mod http2;

use http1::Http1;
use http2::Http2;
use keyward_harness::{Failure, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// The timeout of a response.
const PATIENCE: Duration = Duration::from_secs(10);

/// The protocol between client and Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1, kept alive, without pipelining.
    Http1,
    /// HTTP/2 without TLS, with prior knowledge.
    Http2,
}

/// A GET.
#[derive(Clone, Debug)]
pub struct Get {
    /// Its path.
    pub path: &'static str,
    /// The `authorization` header field.
    pub authorization: String,
}

/// The order of requests.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// In sequence, repeated.
    InTurn,
    /// Random, uniformly distributed.
    Uniform,
}

/// The result of a run.
#[derive(Clone, Copy, Debug)]
pub struct Ran {
    /// The number of responses.
    pub answers: u64,
    /// From the first request to the last response.
    pub took: Duration,
}

/// Connections to one gateway, idle or in a run.
pub struct Load {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    requests: Vec<Vec<u8>>,
    random: u64,
    turn: usize,
    expected: u16,
}

struct Connection {
    stream: TcpStream,
    codec: Codec,
    unsent: Vec<u8>,
    streams: usize,
}

enum Codec {
    Http1(Http1),
    Http2(Http2),
}

impl Load {
    /// Opens the connections.
    pub fn open(gateway: SocketAddr, protocol: Protocol, requests: &[Get], expected: u16) -> Result<Self> {
        // Enough requests in flight to keep one worker busy whatever the round-trip time of the upstream.
        let (connections, streams) = match protocol {
            Protocol::Http1 => (64, 1),
            Protocol::Http2 => (4, 16),
        };
        let poll = Poll::new().map_err(failed)?;
        let mut opened = Vec::new();
        for token in 0..connections {
            let stream = std::net::TcpStream::connect(gateway).map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            stream.set_nonblocking(true).map_err(failed)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(token), interest).map_err(failed)?;
            let (codec, unsent) = match protocol {
                Protocol::Http1 => (Codec::Http1(Http1::default()), Vec::new()),
                Protocol::Http2 => (Codec::Http2(Http2::default()), Http2::preface()),
            };
            opened.push(Connection { stream, codec, unsent, streams });
        }
        let authority = gateway.to_string();
        let encode = match protocol {
            Protocol::Http1 => Http1::request,
            Protocol::Http2 => Http2::request,
        };
        Ok(Self {
            poll,
            events: Events::with_capacity(128),
            connections: opened,
            requests: requests.iter().map(|request| encode(request, &authority)).collect(),
            random: 0x9e37_79b9_7f4a_7c15,
            turn: 0,
            expected,
        })
    }

    /// The number of different requests.
    pub fn variety(&self) -> u64 {
        self.requests.len() as u64
    }

    /// Sends until `proceed`, called with the responses so far, returns false, and waits for every response. Fails on
    /// an unexpected status, a closed connection or a timeout.
    pub fn run(&mut self, order: Order, mut proceed: impl FnMut(u64) -> bool) -> Result<Ran> {
        let began = Instant::now();
        let (mut answers, mut under_way) = (0, 0);
        for at in 0..self.connections.len() {
            let streams = self.connections[at].streams;
            self.send(at, streams, order)?;
            under_way += streams;
        }
        let mut received = vec![0; 64 * 1024];
        while under_way > 0 {
            self.poll.poll(&mut self.events, Some(PATIENCE)).or_else(interrupted)?;
            if self.events.is_empty() {
                return Err(Failure::new(format!("{under_way} requests without a response after {PATIENCE:?}")));
            }
            let proceeds = proceed(answers);
            let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            for at in ready {
                let ended = self.connections[at].receive(&mut received, self.expected)?;
                answers += ended as u64;
                under_way -= ended;
                let next = if proceeds { ended } else { 0 };
                self.send(at, next, order)?;
                under_way += next;
            }
        }
        Ok(Ran { answers, took: began.elapsed() })
    }

    fn send(&mut self, at: usize, count: usize, order: Order) -> Result<()> {
        for _ in 0..count {
            let next = match order {
                Order::InTurn => self.turn,
                Order::Uniform => {
                    // xorshift64 (Marsaglia, 2003).
                    self.random ^= self.random << 13;
                    self.random ^= self.random >> 7;
                    self.random ^= self.random << 17;
                    (self.random % self.requests.len() as u64) as usize
                }
            };
            self.turn = (self.turn + 1) % self.requests.len();
            let connection = &mut self.connections[at];
            let begin = connection.unsent.len();
            connection.unsent.extend_from_slice(&self.requests[next]);
            if let Codec::Http2(http2) = &mut connection.codec {
                http2.begin(&mut connection.unsent[begin..]);
            }
        }
        self.connections[at].flush()
    }
}

impl Connection {
    /// Reads the available bytes; returns the number of completed responses.
    fn receive(&mut self, buffer: &mut [u8], expected: u16) -> Result<usize> {
        let mut ended = 0;
        loop {
            let length = match self.stream.read(buffer) {
                Ok(0) => return Err(Failure::new("Envoy closed a connection")),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(ended),
                Err(error) => return Err(failed(error)),
            };
            ended += match &mut self.codec {
                Codec::Http1(http1) => http1.receive(&buffer[..length], expected)?,
                Codec::Http2(http2) => http2.receive(&buffer[..length], expected, &mut self.unsent)?,
            };
            // Readiness is reported once for all available bytes, and a short read means that there are no more.
            if length < buffer.len() {
                return Ok(ended);
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(length) => drop(self.unsent.drain(..length)),
                // The socket reports when there is room.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

fn failed(error: io::Error) -> Failure {
    Failure::new(format!("a connection to Envoy: {error}"))
}

fn interrupted(error: io::Error) -> Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(failed(error)) }
}
