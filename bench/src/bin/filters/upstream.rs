//! The real upstream: answers every HTTP/1.1 request alike, in a separate process with as little work as possible.

use keyward_harness::{Failure, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";

const LISTENER: Token = Token(0);

/// Serves until the process exits.
pub(crate) fn serve(address: SocketAddr) -> Result<()> {
    run(address).map_err(|error| Failure::new(format!("the upstream on {address}: {error}")))
}

fn run(address: SocketAddr) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(128);
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: HashMap<Token, Connection> = HashMap::new();
    let mut next = 1;
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() != LISTENER {
                if connections.get_mut(&event.token()).is_some_and(|connection| connection.serve().is_err()) {
                    connections.remove(&event.token());
                }
                continue;
            }
            while let Ok((mut stream, _)) = listener.accept() {
                let token = Token(next);
                next += 1;
                stream.set_nodelay(true)?;
                poll.registry().register(&mut stream, token, Interest::READABLE)?;
                connections.insert(token, Connection { stream, rest: Vec::new() });
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// The beginning of an incomplete request.
    rest: Vec<u8>,
}

impl Connection {
    /// Answers the available requests; an error closes the connection.
    fn serve(&mut self) -> io::Result<()> {
        let mut buffer = [0; 8192];
        loop {
            let length = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.rest.extend_from_slice(&buffer[..length]);
            // Envoy sends a request only after the response to the previous one, and requests of the load have no body.
            if self.rest.ends_with(b"\r\n\r\n") {
                self.rest.clear();
                self.stream.write_all(ANSWER)?;
            }
            if length < buffer.len() {
                return Ok(());
            }
        }
    }
}
