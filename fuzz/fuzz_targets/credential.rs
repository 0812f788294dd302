//! A request's header fields, one per line: any credential found in them is a single one, and none remains in the
//! forwarded fields, except that one where it is kept.

#![no_main]

use keyward_core::dialect::{BasicPart, Dialect, Source};
use keyward_filter::engine::credential::{self, Credential, Header};
use keyward_filter::engine::rules::Strip;
use keyward_filter::engine::upstream_headers;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const NAME: &str = "key";
static DIALECTS: LazyLock<Vec<Dialect>> =
    LazyLock::new(|| Dialect::built_in_names().filter_map(Dialect::built_in).filter_map(Result::ok).collect());

fuzz_target!(|data: &[u8]| {
    let fields: Vec<_> = data.split(|&c| c == b'\n').filter_map(field).collect();
    let headers = borrowed(&fields);
    for dialect in DIALECTS.iter() {
        check(&dialect.sources, &headers);
    }
    let from = |scheme: Option<&str>, name: &str| Source::Header {
        name: name.to_owned(),
        written: name.to_owned(),
        scheme: scheme.map(str::to_owned),
    };
    for part in [BasicPart::Username, BasicPart::Password] {
        let bearer = from(Some("Bearer"), "authorization");
        let all = [bearer, Source::Basic(part), from(None, "x-api-key")];
        check(&all, &headers);
        let cookie = Source::Cookie(NAME.to_owned());
        check(&[Source::Basic(part), Source::Query(NAME.to_owned()), cookie], &headers);
    }
    for (_, value) in &headers {
        if let Some(rest) = credential::without_parameters(value, &[NAME]) {
            assert_eq!(credential::without_parameters(&rest, &[NAME]), None);
        }
        if let Some(rest) = credential::without_cookies(value, &[NAME]) {
            assert_eq!(credential::without_cookies(&rest, &[NAME]), None);
        }
    }
});

/// `name: value`, or `:path: value`.
fn field(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.windows(2).position(|pair| pair == b": ")?;
    let name = std::str::from_utf8(line.get(..colon)?).ok()?.to_ascii_lowercase();
    Some((name, line.get(colon + 2..)?.to_vec()))
}

fn borrowed(fields: &[(String, Vec<u8>)]) -> Vec<Header<'_>> {
    fields.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
}

fn check(sources: &[Source], headers: &[Header<'_>]) {
    if let Credential::One(credential) = credential::find(sources, headers) {
        assert!(!credential.is_empty() && credential.iter().all(u8::is_ascii_graphic));
        let _ = credential::is_jwt(&credential);
        let kept = forwarded(headers, sources, Strip::IdentityAndUnread);
        assert_eq!(credential::find(sources, &borrowed(&kept)), Credential::One(credential), "{kept:?}");
    }
    let forwarded = forwarded(headers, sources, Strip::IdentityAndCredentials);
    let headers = borrowed(&forwarded);
    assert_eq!(credential::find(sources, &headers), Credential::Missing, "{forwarded:?}");
    assert_eq!(upstream_headers::changes(&headers, sources, Strip::IdentityAndCredentials, &[]), [], "{forwarded:?}");
}

fn forwarded(headers: &[Header<'_>], sources: &[Source], strip: Strip) -> Vec<(String, Vec<u8>)> {
    upstream_headers::changed(headers, &upstream_headers::changes(headers, sources, strip, &[]))
}
