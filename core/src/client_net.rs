//! A client as throttles tell it apart: by its network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 address, or the first 64 bits of an IPv6 address: one host has a /64 to itself (RFC 6177), and would otherwise be as
/// many clients as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNet(Network);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4([u8; 4]),
    /// The first half of the address.
    V6([u8; 8]),
}

impl ClientNet {
    /// The network of an address; an IPv4 address that is mapped into IPv6 is what it maps.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Network::V6([a, b, c, d, e, f, g, h])
            }
        })
    }

    /// What it is told apart by: four octets, or eight.
    pub fn octets(&self) -> &[u8] {
        match &self.0 {
            Network::V4(octets) => octets,
            Network::V6(octets) => octets,
        }
    }
}

impl fmt::Display for ClientNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Network::V4(octets) => Ipv4Addr::from(octets).fmt(f),
            Network::V6(octets) => {
                let first = u128::from(u64::from_be_bytes(octets)) << 64;
                write!(f, "{}/64", Ipv6Addr::from_bits(first))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> ClientNet {
        ClientNet::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_what_it_maps() {
        for (one, same, another) in
            [("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"), ("192.0.2.1", "::ffff:192.0.2.1", "::c000:201")]
        {
            assert_eq!(of(one), of(same));
            assert_ne!(of(one), of(another));
            assert_ne!(of(one).octets(), of(another).octets());
        }
    }

    #[test]
    fn a_client_is_written_as_its_network() {
        for (address, written) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64"),
            ("::1", "::/64"),
        ] {
            assert_eq!(of(address).to_string(), written);
        }
    }
}
