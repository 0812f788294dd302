//! The client address of a request: the peer of the connection, or behind a trusted proxy the entry of `x-forwarded-for` that
//! this proxy appended.

use crate::net::connections::Peer;
use axum::http::{Extensions, HeaderMap, HeaderName};
use ipnet::IpNet;
use std::net::IpAddr;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies whose `x-forwarded-for` is trusted.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts the proxies in these networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// The client's address; `None` if a trusted proxy does not name one.
    pub fn client(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        let peer = peer(extensions)?;
        if !self.0.iter().any(|network| network.contains(&peer)) {
            return Some(peer);
        }
        // Entries before the last one come from the client or from untrusted proxies.
        let fields = headers.get_all(X_FORWARDED_FOR).iter().next_back()?;
        let last = fields.to_str().ok()?.rsplit(',').next()?;
        last.trim().parse::<IpAddr>().ok().map(|address| address.to_canonical())
    }

    /// The address to which failures are attributed: the client's, or that of a proxy which names none.
    pub fn counted(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        self.client(extensions, headers).or_else(|| peer(extensions))
    }
}

fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<Peer>().map(|Peer(address)| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, forwarded: &[&str]) -> Option<String> {
        let trusted = TrustedProxies::new(vec!["10.0.0.0/8".parse().unwrap()]);
        let mut extensions = Extensions::new();
        extensions.insert(Peer(peer.parse().unwrap()));
        let headers = forwarded.iter().map(|value| (X_FORWARDED_FOR, value.parse().unwrap())).collect();
        trusted.client(&extensions, &headers).map(|address| address.to_string())
    }

    #[test]
    fn a_header_of_somebody_who_is_not_trusted_says_nothing() {
        for forwarded in [&[][..], &["192.0.2.1"], &["10.0.0.1"]] {
            assert_eq!(client("198.51.100.1", forwarded).as_deref(), Some("198.51.100.1"), "{forwarded:?}");
        }
    }

    #[test]
    fn of_a_trusted_proxys_entries_the_last_is_taken() {
        for forwarded in
            [&["192.0.2.1"][..], &["203.0.113.9, 192.0.2.1"], &["203.0.113.9", "x, 192.0.2.1 "], &["::ffff:192.0.2.1"]]
        {
            assert_eq!(client("10.1.2.3", forwarded).as_deref(), Some("192.0.2.1"), "{forwarded:?}");
            assert_eq!(client("::ffff:10.1.2.3", forwarded).as_deref(), Some("192.0.2.1"), "{forwarded:?}");
        }
    }

    #[test]
    fn where_a_trusted_proxy_says_nothing_the_address_is_not_known() {
        for forwarded in [&[][..], &[""], &["192.0.2.1, unknown"], &["192.0.2.1", ""]] {
            assert_eq!(client("10.1.2.3", forwarded), None, "{forwarded:?}");
        }
        assert_eq!(TrustedProxies::default().client(&Extensions::new(), &HeaderMap::new()), None);
    }
}
