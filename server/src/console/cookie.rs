//! The cookies of the console, and whether the browser speaks TLS.

use axum::http::header::{COOKIE, HOST};
use axum::http::{HeaderMap, HeaderValue, Uri};
use std::net::{IpAddr, Ipv6Addr};

/// A cookie: the value is a secret of 256 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cookie {
    /// The session.
    Session,
    /// Ties the form of the sign-in to the browser that asked for it.
    SignIn,
}

impl Cookie {
    /// Its name. The prefix `__Host-` makes browsers refuse the cookie unless it comes over TLS, for this host alone
    /// (RFC 6265bis, section 4.1.3.2).
    fn name(self, is_secure: bool) -> &'static str {
        match (self, is_secure) {
            (Self::Session, true) => "__Host-keyward-session",
            (Self::Session, false) => "keyward-session",
            (Self::SignIn, true) => "__Host-keyward-sign-in",
            (Self::SignIn, false) => "keyward-sign-in",
        }
    }

    /// The value in the request, if there is exactly one.
    pub(super) fn read<'h>(self, headers: &'h HeaderMap, uri: &Uri) -> Option<&'h str> {
        let name = self.name(is_secure(headers, uri));
        let fields = headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
        let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let mut values = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (Some(value), None) if !value.is_empty() => Some(value),
            _ => None,
        }
    }

    /// The `Set-Cookie` that sets it.
    pub(super) fn set(self, value: &str, headers: &HeaderMap, uri: &Uri) -> Option<HeaderValue> {
        self.written(value, "", headers, uri)
    }

    /// The `Set-Cookie` that removes it.
    pub(super) fn removed(self, headers: &HeaderMap, uri: &Uri) -> Option<HeaderValue> {
        self.written("", "; Max-Age=0", headers, uri)
    }

    fn written(self, value: &str, end: &str, headers: &HeaderMap, uri: &Uri) -> Option<HeaderValue> {
        let is_secure = is_secure(headers, uri);
        let secure = if is_secure { "; Secure" } else { "" };
        let name = self.name(is_secure);
        HeaderValue::try_from(format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{end}")).ok()
    }
}

/// What proxies add to requests.
const PROXY_FIELDS: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];

/// Whether the browser speaks TLS. A proxy that terminates TLS says so, and a host that is not this machine is expected to be
/// behind one: a header that claims TLS only makes the cookie stricter, and a browser without TLS drops a `Secure` cookie.
pub(super) fn is_secure(headers: &HeaderMap, uri: &Uri) -> bool {
    let forwarded =
        headers.get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"));
    // A proxy may have replaced the host by that of this machine.
    let is_proxied = PROXY_FIELDS.iter().any(|name| headers.contains_key(*name));
    forwarded || is_proxied || !is_this_machine(host(headers, uri))
}

/// The host and port that the browser asked.
pub(super) fn host<'h>(headers: &'h HeaderMap, uri: &'h Uri) -> &'h str {
    let named = headers.get(HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| uri.authority().map(|authority| authority.as_str())).unwrap_or_default()
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    match name.parse() {
        Ok(IpAddr::V4(address)) => address.is_loopback(),
        Ok(IpAddr::V6(address)) => address == Ipv6Addr::LOCALHOST,
        Err(_) => name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn cookie_is_secure_everywhere_but_on_this_machine_without_tls() {
        for (host, proto, expected) in [
            ("127.0.0.1:8081", None, false),
            ("[::1]:8081", None, false),
            ("localhost", None, false),
            ("Console.localhost:1", None, false),
            ("localhost", Some("https"), true),
            ("console.example", None, true),
            ("localhost.example", None, true),
            ("192.0.2.1:8081", None, true),
        ] {
            let mut headers = headers(&[("host", host)]);
            if let Some(proto) = proto {
                headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
            }
            let set = Cookie::Session.set("v", &headers, &Uri::default()).unwrap();
            let set = set.to_str().unwrap();
            let prefix = if expected { "__Host-" } else { "" };
            let end = if expected { "; Secure" } else { "" };
            assert_eq!(set, format!("{prefix}keyward-session=v; Path=/; HttpOnly; SameSite=Strict{end}"), "{host}");
        }
        for field in PROXY_FIELDS {
            let headers = headers(&[("host", "127.0.0.1:8081"), (field, "192.0.2.1")]);
            assert!(is_secure(&headers, &Uri::default()), "{field}");
        }
    }

    #[test]
    fn value_that_comes_twice_is_none() {
        let read = |fields: &[(&'static str, &'static str)]| {
            let mut all = vec![("host", "localhost")];
            all.extend_from_slice(fields);
            Cookie::Session.read(&headers(&all), &Uri::default()).map(str::to_owned)
        };
        assert_eq!(read(&[("cookie", "a=b; keyward-session=1;c")]).as_deref(), Some("1"));
        assert_eq!(read(&[("cookie", "keyward-session=1; keyward-session=2")]), None);
        assert_eq!(read(&[("cookie", "keyward-session=1"), ("cookie", "keyward-session=1")]), None);
        assert_eq!(read(&[("cookie", "__Host-keyward-session=1")]), None);
        assert_eq!(read(&[("cookie", "keyward-session=")]), None);
    }
}
