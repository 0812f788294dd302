//! Ports on the loopback interface.

use crate::failure::Context as _;
use crate::{Failure, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use tokio::net::TcpSocket;

/// A free port that stays this test's until it is dropped, used or not.
///
/// The socket is bound but does not listen: connections are refused, nobody else is given the port, and a process that
/// is told to use it can, because it and this one set SO_REUSEADDR. So nothing can slip in between, not even while a
/// process is restarted.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// Reserves one.
    ///
    /// # Errors
    /// When none is left.
    pub fn new() -> Result<Self> {
        let reserve = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(loopback(0))?;
            Ok::<_, std::io::Error>(Self { port: socket.local_addr()?.port(), _socket: socket })
        };
        reserve().context(|| "a free port".into())
    }

    /// Its number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// It on the loopback interface.
    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }
}

/// A port on the loopback interface.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Makes sure that nobody listens on a port. Envoys of one user share a port without a word, so asking before is the only way.
///
/// # Errors
/// A sentence with the port and how to choose another.
pub fn ensure_free(port: u16, what: &str, variable: &str) -> Result<()> {
    match TcpListener::bind(loopback(port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(format!(
            "port {port} for {what} cannot be used ({error}); choose another with {variable}=<port>"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reserved_port_refuses_connections_and_can_be_listened_on() {
        let reserved = ReservedPort::new().unwrap();
        assert!(std::net::TcpStream::connect(reserved.address()).is_err());
        for _ in 0..2 {
            let listener = TcpListener::bind(reserved.address()).unwrap();
            std::net::TcpStream::connect(reserved.address()).unwrap();
            drop(listener);
        }
    }

    #[tokio::test]
    async fn a_reserved_port_is_given_to_nobody_else() {
        let reserved = ReservedPort::new().unwrap();
        for _ in 0..1000 {
            assert_ne!(TcpListener::bind(loopback(0)).unwrap().local_addr().unwrap().port(), reserved.port());
        }
    }

    #[test]
    fn a_port_in_use_is_told_with_the_variable_that_changes_it() {
        let taken = TcpListener::bind(loopback(0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let told = ensure_free(port, "the gateway", "KEYWARD_GATEWAY_PORT").unwrap_err().to_string();
        assert!(told.contains(&format!("port {port} for the gateway")), "{told}");
        assert!(told.contains("KEYWARD_GATEWAY_PORT"), "{told}");
        drop(taken);
        ensure_free(port, "the gateway", "KEYWARD_GATEWAY_PORT").unwrap();
    }
}
