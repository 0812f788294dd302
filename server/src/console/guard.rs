//! What every page has in common: header fields that bound what a browser does with it, the check of the origin of forms, and no
//! secret in a URL.

use super::Console;
use super::api::Failure;
use super::cookie::host;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderName, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// No inline script, no inline style, nothing from elsewhere, and no page that frames this one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const FIELDS: [(HeaderName, &str); 8] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (CACHE_CONTROL, "no-store"),
    (REFERRER_POLICY, "no-referrer"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(), payment=()"),
];

/// Refuses what no page of ours sends, and adds the header fields.
pub(super) async fn protect(State(console): State<Console>, request: Request, next: Next) -> Response {
    let is_secret_in_url = console.app.secrets.is_in(request.uri().path().as_bytes())
        || request.uri().query().is_some_and(|query| console.app.secrets.is_in(query.as_bytes()));
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = if is_secret_in_url {
        Failure::bad_request("The address contains something that looks like a secret, which proxies and browsers log.")
            .into_response()
    } else if is_change && !is_same_origin(request.headers(), request.uri()) {
        let detail = "The form does not come from this console. Open the console over HTTPS, or on this machine at \
                      localhost, in a current browser.";
        Failure::forbidden(detail).into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in FIELDS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether the browser says that the request comes from a page of this origin. `Sec-Fetch-Site` cannot be set by scripts, and is
/// sent over TLS and to this machine; pages without a referrer send `Origin: null`, so the origin alone would refuse our own forms.
fn is_same_origin(headers: &HeaderMap, uri: &Uri) -> bool {
    let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
    let own = host(headers, uri);
    let is_own = |origin: &[u8]| {
        let authority = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
        authority.is_some_and(|authority| !own.is_empty() && authority.eq_ignore_ascii_case(own.as_bytes()))
    };
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        Some(site) => site == b"same-origin" && origin.is_none_or(|origin| origin == b"null" || is_own(origin)),
        None => origin.is_some_and(is_own),
    }
}

/// The anti-CSRF token of the forms of a page: derived from the cookie, which another site does not know.
pub(super) fn form_token(cookie: &str) -> String {
    // HMAC takes a key of any length.
    Hmac::<Sha256>::new_from_slice(cookie.as_bytes())
        .map(|mac| hex::encode(mac.chain_update(b"keyward form").finalize().into_bytes()))
        .unwrap_or_default()
}

/// Whether a form has the token of this cookie.
pub(super) fn is_form_token(cookie: &str, shown: &str) -> bool {
    form_token(cookie).as_bytes().ct_eq(shown.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_other_origins_are_told_apart() {
        let accepted = |site: Option<&'static str>, origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert("host", HeaderValue::from_static("console.example:8443"));
            for (name, value) in [("sec-fetch-site", site), ("origin", origin)] {
                if let Some(value) = value {
                    headers.insert(name, HeaderValue::from_static(value));
                }
            }
            is_same_origin(&headers, &Uri::default())
        };
        for (site, origin, expected) in [
            (Some("same-origin"), Some("null"), true),
            (Some("same-origin"), None, true),
            (Some("same-origin"), Some("https://console.example:8443"), true),
            (None, Some("https://console.example:8443"), true),
            (Some("same-origin"), Some("https://evil.example"), false),
            (Some("same-site"), Some("https://console.example:8443"), false),
            (Some("cross-site"), None, false),
            (Some("none"), None, false),
            (None, Some("https://console.example"), false),
            (None, Some("https://console.example:8443.evil.example"), false),
            (None, Some("null"), false),
            (None, None, false),
        ] {
            assert_eq!(accepted(site, origin), expected, "{site:?} {origin:?}");
        }
    }

    #[test]
    fn form_token_is_that_of_its_cookie_alone() {
        assert!(is_form_token("a", &form_token("a")));
        assert!(!is_form_token("b", &form_token("a")) && !is_form_token("a", ""));
    }
}
