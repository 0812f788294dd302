//! Finding the one credential of a request, the same for an edge and for a control plane that is asked with a key.

use crate::dialect::{BasicPart, Source};
use crate::refusal::malformation::{self, Malformation};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::borrow::Cow;

/// A header field: name in lower case, value as sent.
pub type Header<'a> = (&'a str, &'a [u8]);

/// What the sources of a dialect hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    /// Nothing in any of them.
    Missing,
    /// Something that cannot be one credential: another scheme, empty, sent twice, or two that differ.
    Malformed(Malformation),
    /// One credential, the same in every source that has one.
    One(Cow<'a, [u8]>),
}

/// The credential that the sources of a dialect hold.
pub fn find<'a>(sources: &[Source], headers: &[Header<'a>]) -> Credential<'a> {
    match one(sources, headers) {
        Ok(Some(credential)) => Credential::One(credential),
        Ok(None) => Credential::Missing,
        Err(malformation) => Credential::Malformed(malformation),
    }
}

fn one<'a>(sources: &[Source], headers: &[Header<'a>]) -> Result<Option<Cow<'a, [u8]>>, Malformation> {
    let mut found: Option<Cow<'a, [u8]>> = None;
    for (n, source) in sources.iter().enumerate() {
        let credential = match source {
            Source::Header { .. } | Source::Basic(_) => {
                let is_first = |name| sources.iter().take(n).all(|earlier| authorization_field(earlier) != Some(name));
                match authorization_field(source) {
                    // One field is read once, in whichever of its schemes it comes.
                    Some(name) if is_first(name) => from_field(sources, name, headers)?,
                    _ => None,
                }
            }
            Source::Query(parameter) => {
                let path = headers.iter().find(|(name, _)| *name == ":path").map(|(_, value)| *value);
                single(query_values(path.unwrap_or_default(), parameter).map(Cow::Owned))?
            }
            Source::Cookie(cookie) => single(cookie_values(headers, cookie).map(Cow::Borrowed))?,
        };
        let Some(credential) = credential else { continue };
        if credential.is_empty() {
            return Err(Malformation::Empty);
        }
        if !credential.iter().all(u8::is_ascii_graphic) {
            return Err(malformation::of_list(&credential).unwrap_or(Malformation::WrongCharacters));
        }
        if found.as_ref().is_some_and(|other| *other != credential) {
            return Err(Malformation::TwoCredentials);
        }
        found = Some(credential);
    }
    Ok(found)
}

/// The header field whose whole value is a credential with or without a scheme.
fn authorization_field(source: &Source) -> Option<&str> {
    match source {
        Source::Header { .. } | Source::Basic(_) => source.header(),
        Source::Query(_) | Source::Cookie(_) => None,
    }
}

/// The credential in a field, in one of the schemes that the sources read from it.
fn from_field<'a>(
    sources: &[Source],
    name: &str,
    headers: &[Header<'a>],
) -> Result<Option<Cow<'a, [u8]>>, Malformation> {
    let values = headers.iter().filter(|(given, _)| *given == name).map(|(_, value)| value.trim_ascii());
    let Some(value) = single(values)? else { return Ok(None) };
    let of_field = || sources.iter().filter(|source| authorization_field(source) == Some(name));
    let read = of_field().find_map(|source| match source {
        Source::Header { scheme: None, .. } => Some(Cow::Borrowed(value)),
        Source::Header { scheme: Some(scheme), .. } => after_scheme(value, scheme).map(Cow::Borrowed),
        Source::Basic(part) => basic(after_scheme(value, "Basic")?, *part).map(Cow::Owned),
        Source::Query(_) | Source::Cookie(_) => None,
    });
    read.map(Some).ok_or_else(|| {
        let schemes = of_field().filter_map(Source::scheme);
        if value.is_empty() || schemes.clone().any(|scheme| value.eq_ignore_ascii_case(scheme.as_bytes())) {
            return Malformation::Empty;
        }
        // In one of the schemes, but not to be read.
        let is_in_scheme = schemes.clone().any(|scheme| after_scheme(value, scheme).is_some());
        if is_in_scheme { Malformation::WrongCharacters } else { Malformation::WrongScheme }
    })
}

/// The only value. Of several, whether they are the same.
fn single<T: PartialEq>(mut values: impl Iterator<Item = T>) -> Result<Option<T>, Malformation> {
    let first = values.next();
    let mut others = values.peekable();
    if others.peek().is_none() {
        return Ok(first);
    }
    let is_same = others.all(|other| Some(other) == first);
    Err(if is_same { Malformation::Repeated } else { Malformation::TwoCredentials })
}

/// What stands behind the scheme, one or more spaces apart (RFC 9110, section 11.4); `None` if it is another one.
fn after_scheme<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let (sent, rest) = value.split_at_checked(scheme.len())?;
    (sent.eq_ignore_ascii_case(scheme.as_bytes()) && rest.starts_with(b" ")).then(|| rest.trim_ascii_start())
}

/// The wanted part of Basic credentials (RFC 7617, section 2).
fn basic(credentials: &[u8], wanted: BasicPart) -> Option<Vec<u8>> {
    let decoded = STANDARD.decode(credentials).ok()?;
    let colon = decoded.iter().position(|&c| c == b':')?;
    let (username, password) = decoded.split_at_checked(colon)?;
    Some(match wanted {
        BasicPart::Username => username.to_vec(),
        BasicPart::Password => password.get(1..)?.to_vec(),
    })
}

/// The values of a query parameter, decoded.
fn query_values(path: &[u8], parameter: &str) -> impl Iterator<Item = Vec<u8>> {
    query_pairs(path).filter(|(name, _)| *name == parameter.as_bytes()).map(|(_, value)| value)
}

fn query_pairs(path: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let query = path.splitn(2, |&c| c == b'?').nth(1).unwrap_or_default();
    query.split(|&c| c == b'&').map(|pair| {
        let mut parts = pair.splitn(2, |&c| c == b'=');
        (percent_decoded(parts.next().unwrap_or_default()), percent_decoded(parts.next().unwrap_or_default()))
    })
}

/// The path and query without the parameters; `None` if it has none of them.
pub fn without_parameters(path: &[u8], parameters: &[&str]) -> Option<Vec<u8>> {
    let mut halves = path.splitn(2, |&c| c == b'?');
    let (before, query) = (halves.next().unwrap_or_default(), halves.next()?);
    let is_taken = |pair: &&[u8]| {
        let name = percent_decoded(pair.split(|&c| c == b'=').next().unwrap_or_default());
        parameters.iter().any(|parameter| name == parameter.as_bytes())
    };
    let pairs: Vec<&[u8]> = query.split(|&c| c == b'&').collect();
    let kept: Vec<&[u8]> = pairs.iter().filter(|pair| !is_taken(pair)).copied().collect();
    if kept.len() == pairs.len() {
        return None;
    }
    let query = kept.join(&b'&');
    Some(if query.is_empty() { before.to_vec() } else { [before, &query].join(&b'?') })
}

/// The values of a cookie (RFC 6265, section 4.2.1), which may stand in several fields.
fn cookie_values<'a>(headers: &[Header<'a>], cookie: &str) -> impl Iterator<Item = &'a [u8]> {
    let fields = headers.iter().filter(|(name, _)| *name == "cookie").map(|(_, value)| *value);
    let pairs = fields.flat_map(|value| value.split(|&c| c == b';'));
    // Many upstreams allow spaces around `=`, and would take another value than one that is read without them.
    pairs.filter_map(move |pair| {
        let (name, value) = pair.split_at_checked(pair.iter().position(|&c| c == b'=')?)?;
        (name.trim_ascii() == cookie.as_bytes()).then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}

/// The cookies of a field without those named; `None` if it has none of them.
pub fn without_cookies(value: &[u8], cookies: &[&str]) -> Option<Vec<u8>> {
    let is_taken = |pair: &&[u8]| {
        let name = pair.split(|&c| c == b'=').next().unwrap_or_default().trim_ascii();
        cookies.iter().any(|cookie| name == cookie.as_bytes())
    };
    let pairs: Vec<&[u8]> = value.split(|&c| c == b';').map(<[u8]>::trim_ascii).collect();
    let kept: Vec<&[u8]> = pairs.iter().filter(|pair| !is_taken(pair)).copied().collect();
    (kept.len() != pairs.len()).then(|| kept.join(&b"; "[..]))
}

/// Percent-encoding undone (RFC 3986, section 2.1); what is no encoding stays as it is.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        let byte = tail.first_chunk::<2>().filter(|_| first == b'%').and_then(|digits| {
            let mut byte = [0];
            hex::decode_to_slice(digits, &mut byte).ok().map(|()| byte)
        });
        match byte {
            Some([byte]) => {
                decoded.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(first);
                rest = tail;
            }
        }
    }
    decoded
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;

    fn found(pairs: &[(&str, &[u8])]) -> Result<Vec<u8>, &'static str> {
        let sources = Dialect::built_in("keyward").unwrap().unwrap().sources;
        found_in(&sources, pairs)
    }

    fn found_in(sources: &[Source], pairs: &[(&str, &[u8])]) -> Result<Vec<u8>, &'static str> {
        match find(sources, pairs) {
            Credential::Missing => Err("missing"),
            Credential::Malformed(_) => Err("malformed"),
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
    fn what_is_wrong_with_a_credential_is_told_apart() {
        use Malformation::{Empty, Repeated, TwoCredentials, WrongCharacters, WrongScheme};
        let sources = Dialect::built_in("keyward").unwrap().unwrap().sources;
        for (pairs, expected) in [
            (&[("authorization", "Bearer a"), ("x-api-key", "b")][..], TwoCredentials),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer b")], TwoCredentials),
            (&[("x-api-key", "a,b c")], TwoCredentials),
            (&[("authorization", "Bearer a, Bearer b")], TwoCredentials),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer a")], Repeated),
            (&[("authorization", "Bearer a, Bearer a")], Repeated),
            (&[("x-api-key", "a, a")], Repeated),
            (&[("x-api-key", "")], Empty),
            (&[("authorization", "Bearer a"), ("x-api-key", " ")], Empty),
            (&[("authorization", "")], Empty),
            (&[("authorization", "bearer")], Empty),
            (&[("authorization", "Bearer  ")], Empty),
            (&[("authorization", "Basic YTpi")], WrongScheme),
            (&[("authorization", "a")], WrongScheme),
            (&[("authorization", "Bearera")], WrongScheme),
            (&[("authorization", "Bearer a b")], WrongCharacters),
            (&[("x-api-key", "\u{e9}")], WrongCharacters),
        ] {
            let headers: Vec<_> = pairs.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            assert_eq!(find(&sources, &headers), Credential::Malformed(expected), "{pairs:?}");
        }
        let basic = [Source::Basic(BasicPart::Password)];
        for (value, expected) in
            [("Basic !", WrongCharacters), ("Basic YQ==", WrongCharacters), ("Basic", Empty), ("Bearer a", WrongScheme)]
        {
            assert_eq!(
                find(&basic, &[("authorization", value.as_bytes())]),
                Credential::Malformed(expected),
                "{value}"
            );
        }
    }

    #[test]
    fn a_query_parameter_is_decoded_and_must_stand_once() {
        let sources = [Source::Query("api_key".into())];
        let found = |path: &[u8]| found_in(&sources, &[(":path", path)]);
        for path in [&b"/?api_key=abc"[..], b"/x?a=1&api_key=abc&b", b"/?api%5Fkey=a%62c", b"/?x=%&api_key=abc"] {
            assert_eq!(found(path), Ok(b"abc".to_vec()), "{path:?}");
        }
        for path in [&b"/"[..], b"/api_key=abc", b"/?a=api_key", b"/?API_KEY=abc"] {
            assert_eq!(found(path), Err("missing"), "{path:?}");
        }
        for path in
            [&b"/?api_key=abc&api_key=abc"[..], b"/?api_key", b"/?api_key=", b"/?api_key=a%20c", b"/?api_key=%ff"]
        {
            assert_eq!(found(path), Err("malformed"), "{path:?}");
        }
    }

    #[test]
    fn a_cookie_is_found_among_others_and_must_stand_once() {
        let sources = [Source::Cookie("key".into())];
        let found = |cookies: &[&[u8]]| {
            let headers: Vec<_> = cookies.iter().map(|value| ("cookie", *value)).collect();
            found_in(&sources, &headers)
        };
        assert_eq!(found(&[b"a=b; key=abc;c=d"]), Ok(b"abc".to_vec()));
        assert_eq!(found(&[b"a=b", b"key=abc"]), Ok(b"abc".to_vec()));
        assert_eq!(found(&[b"a=b; monkey=abc; keys=x"]), Err("missing"));
        assert_eq!(found(&[b"key=abc", b"key=abc"]), Err("malformed"));
        assert_eq!(found(&[b"key="]), Err("malformed"));
    }

    #[test]
    fn a_cookie_is_read_with_spaces_around_its_name_as_an_upstream_would() {
        let sources = [Source::Cookie("key".into())];
        let found = |value: &str| found_in(&sources, &[("cookie", value.as_bytes())]);
        for value in ["key =abc", "a=b;key\t= abc ", "key= abc"] {
            assert_eq!(found(value), Ok(b"abc".to_vec()), "{value:?}");
        }
        assert_eq!(found("key =other; key=abc"), Err("malformed"));
        assert_eq!(found("key; k ey=abc"), Err("missing"));
    }

    #[test]
    fn one_field_is_read_in_any_of_its_schemes() {
        let bearer = Source::Header {
            name: "authorization".into(),
            written: "Authorization".into(),
            scheme: Some("Bearer".into()),
        };
        for (part, credentials) in [(BasicPart::Password, "user:abc"), (BasicPart::Username, "abc:x:y")] {
            let sources = [bearer.clone(), Source::Basic(part)];
            let basic = format!("basic {}", STANDARD.encode(credentials));
            assert_eq!(found_in(&sources, &[("authorization", basic.as_bytes())]), Ok(b"abc".to_vec()));
            assert_eq!(found_in(&sources, &[("authorization", b"Bearer abc")]), Ok(b"abc".to_vec()));
            for bad in [&b"Basic abc"[..], b"Basic !", b"Digest abc", b"abc"] {
                assert_eq!(found_in(&sources, &[("authorization", bad)]), Err("malformed"), "{bad:?}");
            }
        }
    }

    #[test]
    fn what_is_taken_from_a_query_or_a_cookie_leaves_the_rest_as_it_was() {
        let without =
            |path: &str| without_parameters(path.as_bytes(), &["key", "k2"]).map(|p| String::from_utf8(p).unwrap());
        assert_eq!(without("/a?x=1&key=s&y=%20"), Some("/a?x=1&y=%20".into()));
        assert_eq!(without("/a?key=s&%6bey=t&k2"), Some("/a".into()));
        assert_eq!(without("/a?keys=s"), None);
        assert_eq!(without("/key=s"), None);
        let without = |value: &str| without_cookies(value.as_bytes(), &["key"]).map(|p| String::from_utf8(p).unwrap());
        assert_eq!(without("a=b; key=s;c=d"), Some("a=b; c=d".into()));
        assert_eq!(without("key=s"), Some(String::new()));
        assert_eq!(without("a=b; keys=s"), None);
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
