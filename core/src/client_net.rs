//! The client's network, by which throttles count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 address, or the /64 of an IPv6 address: one host can have a whole /64 (RFC 6177), and would otherwise count as many
/// clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientNet(Network);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4([u8; 4]),
    /// The first half of the address.
    V6([u8; 8]),
}

impl ClientNet {
    /// The network of an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => Network::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Network::V6([a, b, c, d, e, f, g, h])
            }
        })
    }

    /// The network bits: four octets for IPv4, eight for IPv6.
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
    fn a_64_is_one_client_and_mapped_addresses_are_ipv4() {
        for (one, same, another) in
            [("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"), ("192.0.2.1", "::ffff:192.0.2.1", "::c000:201")]
        {
            assert_eq!(of(one), of(same));
            assert_ne!(of(one), of(another));
            assert_ne!(of(one).octets(), of(another).octets());
        }
    }

    #[test]
    fn a_client_is_displayed_as_its_network() {
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
