//! Conditional requests (RFC 9110, section 13): a key, owner or plan by its id, and the versions that a request is meant for.
//! The ETag is the version.

use axum::extract::FromRequestParts;
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use axum::http::request::Parts;
use std::convert::Infallible;

/// One key, owner or plan that is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its id.
    pub id: String,
    /// In which version; in another one it is left as it is.
    pub expected: Expected,
}

/// Which versions a request is meant for (RFC 9110, section 13.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Expected {
    /// Whatever there is, or nothing.
    #[default]
    Anything,
    /// Whatever there is.
    Something,
    /// Nothing: it is to be made.
    Nothing,
    /// One of these; none at all fits nothing.
    OneOf(Vec<u64>),
}

impl Expected {
    /// Whether what is there, in that version, is what was expected.
    pub fn fits(&self, version: Option<u64>) -> bool {
        match (self, version) {
            (Self::Anything, _) | (Self::Something, Some(_)) | (Self::Nothing, None) => true,
            (Self::OneOf(versions), Some(version)) => versions.contains(&version),
            (Self::Nothing, Some(_)) | (_, None) => false,
        }
    }
}

impl From<String> for Target {
    fn from(id: String) -> Self {
        Self { id, expected: Expected::Anything }
    }
}

/// The versions that `If-Match` permits to change; with `If-None-Match: *` none, so that an existing resource stays.
pub struct IfMatch(pub Expected);

/// The versions that `If-None-Match` names.
pub struct Known(Expected);

/// The ETag of a version.
pub fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

impl Known {
    /// Whether the client knows this version.
    pub fn has(&self, version: u64) -> bool {
        self.0 != Expected::Anything && self.0.fits(Some(version))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let expected = versions(parts, &IF_MATCH, |tag| tag);
        let is_create_only = versions(parts, &IF_NONE_MATCH, |tag| tag) == Expected::Something;
        Ok(Self(match expected {
            expected if !is_create_only => expected,
            Expected::Anything => Expected::Nothing,
            // No resource both exists and does not.
            _ => Expected::OneOf(Vec::new()),
        }))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Known {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // The comparison is weak (RFC 9110, section 13.1.2).
        Ok(Self(versions(parts, &IF_NONE_MATCH, |tag| tag.strip_prefix("W/").unwrap_or(tag))))
    }
}

/// The versions in a field. Malformed tags, and those of no version, are ignored.
fn versions(parts: &Parts, name: &HeaderName, strong: fn(&str) -> &str) -> Expected {
    let mut fields = parts.headers.get_all(name).iter().peekable();
    if fields.peek().is_none() {
        return Expected::Anything;
    }
    // Our tags have no comma; a tag that has one is of no version, however it is split.
    let tags: Vec<_> = fields.filter_map(|field| field.to_str().ok()).flat_map(|field| field.split(',')).collect();
    if tags.iter().any(|tag| tag.trim() == "*") {
        return Expected::Something;
    }
    let version = |tag: &str| {
        let digits = strong(tag.trim()).strip_prefix('"')?.strip_suffix('"')?;
        digits.parse().ok().filter(|version| etag(*version) == strong(tag.trim()))
    };
    Expected::OneOf(tags.into_iter().filter_map(version).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    fn read(fields: &[&str]) -> (Expected, Known) {
        let mut request = Request::builder();
        for field in fields {
            request = request.header(IF_MATCH, *field).header(IF_NONE_MATCH, *field);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        (
            versions(&parts, &IF_MATCH, |tag| tag),
            Known(versions(&parts, &IF_NONE_MATCH, |tag| tag.strip_prefix("W/").unwrap_or(tag))),
        )
    }

    #[test]
    fn every_tag_of_every_field_counts_and_weak_ones_only_for_what_is_known() {
        let (expected, known) = read(&["\"1\", W/\"2\"", "\"3\""]);
        assert_eq!(expected, Expected::OneOf(vec![1, 3]));
        assert_eq!([1, 2, 3, 4].map(|version| known.has(version)), [true, true, true, false]);
    }

    #[test]
    fn a_star_fits_whatever_there_is_and_no_field_at_all_says_nothing() {
        let (expected, known) = read(&["*"]);
        assert!(expected == Expected::Something && known.has(7));
        let (expected, known) = read(&[]);
        assert!(expected == Expected::Anything && !known.has(7));
    }

    #[test]
    fn what_is_no_tag_of_ours_fits_nothing() {
        for field in ["", "3", "\"3", "\"03\"", "\"+3\"", "\"a,b\"", "\"99999999999999999999\"", "'3'"] {
            let (expected, known) = read(&[field]);
            assert!(!expected.fits(Some(3)) && !known.has(3), "{field}");
        }
    }

    #[test]
    fn what_is_expected_fits_what_is_there() {
        let one_of = |versions: &[u64]| Expected::OneOf(versions.to_vec());
        for (expected, nothing, third) in [
            (Expected::Anything, true, true),
            (Expected::Something, false, true),
            (Expected::Nothing, true, false),
            (one_of(&[2, 3]), false, true),
            (one_of(&[2]), false, false),
            (one_of(&[]), false, false),
        ] {
            assert_eq!((expected.fits(None), expected.fits(Some(3))), (nothing, third), "{expected:?}");
        }
    }
}
