//! Ports on the loopback interface.

use crate::failure::Context as _;
use crate::{Failure, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use tokio::net::TcpSocket;

/// A free port that stays reserved for this test until dropped, used or not.
///
/// The socket is bound but does not listen: connections are refused, no other process is assigned the port, and a
/// process told to use it can, because both set SO_REUSEADDR. So no other process can take the port in between, even
/// during a restart.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    _socket: TcpSocket,
}

impl ReservedPort {
    /// Reserves a port.
    pub fn new() -> Result<Self> {
        let reserve = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(loopback(0))?;
            Ok::<_, std::io::Error>(Self { port: socket.local_addr()?.port(), _socket: socket })
        };
        reserve().context(|| "a free port".into())
    }

    /// The port number.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The loopback address with this port.
    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }
}

/// A loopback address with this port.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Checks that no process listens on a port. Envoys of one user share a port silently, so a check in advance is the
/// only way. The failure names the port and the variable that changes it.
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
    async fn reserved_port_refuses_connections_until_listening() {
        let reserved = ReservedPort::new().unwrap();
        assert!(std::net::TcpStream::connect(reserved.address()).is_err());
        for _ in 0..2 {
            let listener = TcpListener::bind(reserved.address()).unwrap();
            std::net::TcpStream::connect(reserved.address()).unwrap();
            drop(listener);
        }
    }

    #[tokio::test]
    async fn reserved_port_is_not_assigned_again() {
        let reserved = ReservedPort::new().unwrap();
        for _ in 0..1000 {
            assert_ne!(TcpListener::bind(loopback(0)).unwrap().local_addr().unwrap().port(), reserved.port());
        }
    }

    #[test]
    fn port_in_use_is_reported_with_its_variable() {
        let taken = TcpListener::bind(loopback(0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = ensure_free(port, "the gateway", "KEYWARD_GATEWAY_PORT").unwrap_err().to_string();
        assert!(error.contains(&format!("port {port} for the gateway")), "{error}");
        assert!(error.contains("KEYWARD_GATEWAY_PORT"), "{error}");
        drop(taken);
        ensure_free(port, "the gateway", "KEYWARD_GATEWAY_PORT").unwrap();
    }
}
