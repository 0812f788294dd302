//! Finding the one credential of a request.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyward_contract::dialect::Source;

/// A header field: name in lower case, value as sent.
pub type Header = (String, Vec<u8>);

/// What the sources of a dialect hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// Nothing in any of them.
    Missing,
    /// Something that cannot be one credential: another scheme, empty, sent twice, or two that differ.
    Malformed,
    /// One credential, the same in every source that has one.
    One(&'a [u8]),
}

/// The credential that the sources of a dialect hold.
pub fn find<'a>(sources: &[Source], headers: &'a [Header]) -> Credential<'a> {
    let mut found: Option<&[u8]> = None;
    for source in sources {
        let mut values = headers.iter().filter(|(name, _)| *name == source.header).map(|(_, value)| value);
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return Credential::Malformed;
        }
        let Some(credential) = strip_scheme(value, source.scheme.as_deref()) else { return Credential::Malformed };
        if found.is_some_and(|other| other != credential) {
            return Credential::Malformed;
        }
        found = Some(credential);
    }
    found.map_or(Credential::Missing, Credential::One)
}

/// Whether it is a JSON Web Token: three base64url parts, of which the first is a JSON object with `alg` (RFC 7515,
/// section 3.1).
pub fn is_jwt(credential: &[u8]) -> bool {
    let mut parts = credential.split(|&c| c == b'.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let base64url = |part: &[u8]| part.iter().all(|&c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_');
    if !(header.len() <= MAX_JOSE_HEADER && base64url(header) && base64url(payload) && base64url(signature)) {
        return false;
    }
    let Ok(header) = URL_SAFE_NO_PAD.decode(header) else { return false };
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&header)
        .is_ok_and(|header| header.contains_key("alg"))
}

/// The longest header of a token that is looked into, in characters.
const MAX_JOSE_HEADER: usize = 4096;

/// What stands behind the scheme, one or more spaces apart (RFC 9110, section 11.4); `None` if that is not one
/// credential.
fn strip_scheme<'a>(value: &'a [u8], scheme: Option<&str>) -> Option<&'a [u8]> {
    let value = value.trim_ascii();
    let credential = match scheme {
        None => value,
        Some(scheme) => {
            let (sent, rest) = value.split_at_checked(scheme.len())?;
            if !sent.eq_ignore_ascii_case(scheme.as_bytes()) || !rest.starts_with(b" ") {
                return None;
            }
            rest.trim_ascii_start()
        }
    };
    (!credential.is_empty() && credential.iter().all(u8::is_ascii_graphic)).then_some(credential)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_contract::dialect::Dialect;

    fn headers(pairs: &[(&str, &[u8])]) -> Vec<Header> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect()
    }

    fn found(pairs: &[(&str, &[u8])]) -> Result<Vec<u8>, &'static str> {
        let sources = Dialect::built_in("keyward").unwrap().unwrap().sources;
        match find(&sources, &headers(pairs)) {
            Credential::Missing => Err("missing"),
            Credential::Malformed => Err("malformed"),
            Credential::One(credential) => Ok(credential.to_vec()),
        }
    }

    #[test]
    fn a_credential_is_found_in_either_source_whatever_the_case_and_spaces() {
        for value in ["Bearer abc", "bearer abc", "BEARER abc", "Bearer    abc", "  Bearer abc  "] {
            assert_eq!(found(&[("authorization", value.as_bytes())]), Ok(b"abc".to_vec()), "{value:?}");
        }
        assert_eq!(found(&[("x-api-key", b"abc")]), Ok(b"abc".to_vec()));
        assert_eq!(found(&[("authorization", b"Bearer abc"), ("x-api-key", b"abc")]), Ok(b"abc".to_vec()));
    }

    #[test]
    fn nothing_in_any_source_is_missing() {
        assert_eq!(found(&[]), Err("missing"));
        assert_eq!(found(&[("cookie", b"abc")]), Err("missing"));
    }

    #[test]
    fn what_cannot_be_one_credential_is_malformed() {
        for value in [
            &b""[..],
            b" ",
            b"Bearer",
            b"Bearer ",
            b"Bearer   ",
            b"Bearerabc",
            b"Bearer\tabc",
            b"Basic abc",
            b"abc",
            b"Bearer a b",
            b"Bearer a\xff",
            b"\xff\xfe",
            b"Bearer a,Bearer b c",
        ] {
            assert_eq!(found(&[("authorization", value)]), Err("malformed"), "{value:?}");
        }
        assert_eq!(found(&[("authorization", b"Bearer a"), ("authorization", b"Bearer a")]), Err("malformed"));
        assert_eq!(found(&[("authorization", b"Bearer a"), ("x-api-key", b"b")]), Err("malformed"));
        assert_eq!(found(&[("authorization", b"Basic a"), ("x-api-key", b"a")]), Err("malformed"));
        assert_eq!(found(&[("x-api-key", b"")]), Err("malformed"));
    }

    #[test]
    fn a_jwt_is_told_from_an_opaque_key() {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let jwt = format!("{}.{}.c2ln", part(r#"{"alg":"RS256","typ":"JWT"}"#), part(r#"{"sub":"1"}"#));
        assert!(is_jwt(jwt.as_bytes()));
        // An unsecured token has an empty signature (RFC 7515, appendix A.5).
        assert!(is_jwt(format!("{}..", part(r#"{"alg":"none"}"#)).as_bytes()));
        let opaque = format!("{}.b.c", part(r#"{"typ":"x"}"#));
        for not in ["a.b.c", "kw_live_abc", "", "..", "a.b", &format!("{jwt}.d"), &opaque, "e30.!.c"] {
            assert!(!is_jwt(not.as_bytes()), "{not}");
        }
    }
}
