//! A published API-key system as data: where a credential may come from, what a key looks like, and what every refusal
//! looks like. The files are in `core/dialects`; adding a system is writing one.

pub mod credential;
pub mod error_shape;
pub mod key_format;
pub mod rate_limit_fields;
pub mod secret_recognizer;

use crate::dialect::error_shape::ErrorShape;
use crate::dialect::key_format::KeyFormat;
use crate::document::{self, Node, Problems};
use crate::key::limit::{Limit, Limits};
use crate::refusal::malformation::{self, Malformation};
use std::ops::RangeInclusive;

/// One system.
#[derive(Clone, Debug, PartialEq)]
pub struct Dialect {
    /// Its name.
    pub name: String,
    /// Where credentials are read from, and removed; never empty.
    pub sources: Vec<Source>,
    /// What its keys look like; never empty.
    pub formats: Vec<KeyFormat>,
    /// Whether a key must belong to an owner to be accepted.
    pub owner_required: bool,
    /// Whether a new key must name its kind; otherwise it is of the first one.
    pub kind_required: bool,
    /// Whether a new key must have a permission, unless it has those of its owner.
    pub scopes_required: bool,
    /// The permission that holds all others, if there is one.
    pub superscope: Option<String>,
    /// What a key may use that has no limits of its own; empty limits nothing.
    pub limits: Limits,
    /// How long a key that ends by itself may live, in days from its making; `None` does not bound it.
    pub expiry_days: Option<RangeInclusive<u64>>,
    /// What its refusals look like.
    pub errors: ErrorShape,
}

/// A place in a request that a credential is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A header field.
    Header {
        /// Its name, in lower case.
        name: String,
        /// Its name as it is written in messages.
        written: String,
        /// The authentication scheme before the credential, compared without case (RFC 9110, section 11.1).
        scheme: Option<String>,
    },
    /// A part of the `authorization` field's Basic credentials (RFC 7617).
    Basic(BasicPart),
    /// A parameter of the query.
    Query(String),
    /// A cookie (RFC 6265).
    Cookie(String),
}

/// Which part of Basic credentials is the key; the other one is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicPart {
    /// What stands before the first colon.
    Username,
    /// What stands behind it.
    Password,
}

const BUILT_IN: [(&str, &str); 6] = [
    ("keyward", include_str!("../dialects/keyward.json")),
    ("exograph", include_str!("../dialects/exograph.json")),
    ("exona", include_str!("../dialects/exona.json")),
    ("graph8", include_str!("../dialects/graph8.json")),
    ("ai-api", include_str!("../dialects/ai-api.json")),
    ("auxot", include_str!("../dialects/auxot.json")),
];

/// A hundred years.
const MAX_EXPIRY_DAYS: u64 = 100 * 365;

impl Dialect {
    /// The names of the dialects that come with Keyward.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The dialect of that name that comes with Keyward; `None` if there is none.
    pub fn built_in(name: &str) -> Option<Result<Self, Problems>> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(text.as_bytes()))
    }

    /// Reads a dialect file.
    ///
    /// # Errors
    /// Every mistake in it, with its path.
    pub fn parse(text: &[u8]) -> Result<Self, Problems> {
        document::parse(text, |node| Self::read(&node))
    }

    /// Reads a dialect that stands inside another document.
    pub fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let name = fields.required("name").and_then(|n| n.nonempty());
        let _ = fields.optional("summary").and_then(|n| n.string());
        let sources = fields.required("sources").and_then(|n| some_of(&n, Source::read));
        let formats = fields.required("keys").and_then(|n| read_formats(&n));
        let owner_required = fields.optional("owner_required").map_or(Some(false), |n| n.boolean());
        let kind_required = fields.optional("kind_required").map_or(Some(false), |n| n.boolean());
        let scopes_required = fields.optional("scopes_required").map_or(Some(false), |n| n.boolean());
        let superscope = fields.maybe("superscope", |n| n.nonempty().map(str::to_owned));
        let limits = fields.optional("limits").map_or(Some(Limits::default()), |n| read_limits(&n));
        let expiry_days = fields.maybe("expiry_days", read_expiry_days);
        let errors = fields.required("errors").and_then(|n| ErrorShape::read(&n));
        fields.finish();
        Some(Self {
            name: name?.to_owned(),
            sources: sources?,
            formats: formats?,
            owner_required: owner_required?,
            kind_required: kind_required?,
            scopes_required: scopes_required?,
            superscope: superscope?,
            limits: limits?,
            expiry_days: expiry_days?,
            errors: errors?,
        })
    }

    /// The same dialect, as it reads requests for keys that no gateway may accept: nothing is required of a new key.
    pub fn without_requirements(&self) -> Self {
        Self { owner_required: false, kind_required: false, scopes_required: false, ..self.clone() }
    }

    /// The format that a credential has.
    pub fn format_of(&self, credential: &[u8]) -> Option<&KeyFormat> {
        self.formats.iter().find(|format| format.matches(credential))
    }

    /// What is wrong with a credential that has no [format](Self::format_of), by the format whose prefix it has.
    pub fn malformation_of(&self, credential: &[u8]) -> Malformation {
        if let Some(several) = malformation::of_list(credential) {
            return several;
        }
        let has_prefix = |format: &&KeyFormat| credential.starts_with(format.prefix.as_bytes());
        let format = self.formats.iter().filter(has_prefix).max_by_key(|format| format.prefix.len());
        format.and_then(|format| format.malformation_of(credential)).unwrap_or(Malformation::WrongPrefix)
    }

    /// The kinds whose keys one of that kind may look after by self-service: its own, and those that the dialect names.
    pub fn managed_by<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        let formats = self.formats.iter().filter(move |format| format.kind == kind);
        std::iter::once(kind).chain(formats.flat_map(|format| format.manages.iter().map(String::as_str)))
    }

    /// Whether keys of that kind have the permissions of their owner instead of their own.
    pub fn has_owners_scopes(&self, kind: &str) -> bool {
        self.formats.iter().any(|format| format.kind == kind && format.has_owners_scopes)
    }
}

impl Source {
    /// The header field that it is read from, in lower case; `None` for the query.
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Header { name, .. } => Some(name),
            Self::Basic(_) => Some("authorization"),
            Self::Cookie(_) => Some("cookie"),
            Self::Query(_) => None,
        }
    }

    /// The authentication scheme that it is read in, if it has one.
    pub fn scheme(&self) -> Option<&str> {
        match self {
            Self::Header { scheme, .. } => scheme.as_deref(),
            Self::Basic(_) => Some("Basic"),
            Self::Query(_) | Self::Cookie(_) => None,
        }
    }

    /// The place, as it is named in messages.
    pub fn written(&self) -> &str {
        match self {
            Self::Header { written, .. } => written,
            Self::Basic(_) => "Authorization",
            Self::Cookie(name) | Self::Query(name) => name,
        }
    }

    fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let header = fields.optional("header").map(|n| token(&n));
        let scheme = fields.optional("scheme").map(|n| token(&n));
        let basic = fields
            .optional("basic")
            .map(|n| n.one_of(&[("username", BasicPart::Username), ("password", BasicPart::Password)]));
        let query = fields.optional("query").map(|n| n.nonempty().map(str::to_owned));
        let cookie = fields.optional("cookie").map(|n| token(&n));
        fields.finish();
        match (header, scheme, basic, query, cookie) {
            (Some(name), scheme, None, None, None) => {
                let scheme = match scheme {
                    Some(scheme) => Some(scheme?),
                    None => None,
                };
                let written = name?;
                Some(Self::Header { name: written.to_ascii_lowercase(), written, scheme })
            }
            (None, None, Some(part), None, None) => part.map(Self::Basic),
            (None, None, None, Some(parameter), None) => parameter.map(Self::Query),
            (None, None, None, None, Some(cookie)) => cookie.map(Self::Cookie),
            _ => {
                node.problem(
                    "expected exactly one of \"header\" (with or without \"scheme\"), \"basic\", \"query\", \"cookie\"",
                );
                None
            }
        }
    }
}

/// Limits as in `["10/s", "200/min"]`.
///
/// Every mistake is told at its place.
pub fn read_limits(node: &Node<'_>) -> Option<Limits> {
    let read = |n: &Node<'_>| match n.string()?.parse::<Limit>() {
        Ok(limit) => Some(limit),
        Err(error) => {
            n.problem(error.to_string());
            None
        }
    };
    match Limits::new(node.each(read)?) {
        Ok(limits) => Some(limits),
        Err(error) => {
            node.problem(error.to_string());
            None
        }
    }
}

/// The formats; what each manages is a kind of one of them.
fn read_formats(node: &Node<'_>) -> Option<Vec<KeyFormat>> {
    let formats = some_of(node, KeyFormat::read)?;
    let kinds: Vec<&str> = formats.iter().map(|format| format.kind.as_str()).collect();
    let mut are_known = true;
    for kind in formats.iter().flat_map(|format| &format.manages).filter(|kind| !kinds.contains(&kind.as_str())) {
        node.problem(format!("unknown kind {kind:?} in \"manages\": expected a kind of this dialect"));
        are_known = false;
    }
    are_known.then_some(formats)
}

/// `{"min": 1, "max": 365}`.
fn read_expiry_days(node: &Node<'_>) -> Option<RangeInclusive<u64>> {
    let mut fields = node.fields()?;
    let mut days = |name| fields.required(name).and_then(|n| n.number(0..=MAX_EXPIRY_DAYS));
    let (min, max) = (days("min"), days("max"));
    fields.finish();
    let (min, max) = (min?, max?);
    if min > max {
        node.problem("expected min ≤ max");
        return None;
    }
    Some(min..=max)
}

/// A token (RFC 9110, section 5.6.2).
fn token(node: &Node<'_>) -> Option<String> {
    let text = node.nonempty()?;
    if !text.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)) {
        node.problem("expected a token: letters, digits and !#$%&'*+-.^_`|~");
        return None;
    }
    Some(text.to_owned())
}

fn some_of<T>(node: &Node<'_>, read: impl Fn(&Node<'_>) -> Option<T>) -> Option<Vec<T>> {
    let elements = node.list()?;
    if elements.is_empty() {
        node.problem("expected at least one element");
        return None;
    }
    node.each(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::error_shape::Facts;
    use crate::refusal::Refusal;

    #[test]
    fn every_dialect_that_comes_with_keyward_can_be_read_and_bears_its_name() {
        for name in Dialect::built_in_names() {
            let dialect = Dialect::built_in(name).unwrap().unwrap_or_else(|problems| panic!("{name}: {problems}"));
            assert_eq!(dialect.name, name);
        }
        assert!(Dialect::built_in("nonsense").is_none());
    }

    #[test]
    fn every_body_that_comes_with_keyward_is_json() {
        for name in Dialect::built_in_names() {
            let dialect = Dialect::built_in(name).unwrap().unwrap();
            for refusal in Refusal::ALL {
                let body = dialect.errors.render(refusal, &Facts { request_id: "a\"b\\c", ..Facts::default() }).body;
                serde_json::from_str::<serde_json::Value>(&body)
                    .unwrap_or_else(|error| panic!("{name}: {error}: {body}"));
            }
        }
    }

    #[test]
    fn the_keys_of_the_published_examples_have_their_formats() {
        let exona = Dialect::built_in("exona").unwrap().unwrap();
        assert!(exona.format_of(b"exo_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx").is_some());
        let exograph = Dialect::built_in("exograph").unwrap().unwrap();
        assert!(exograph.format_of(b"exo_key_live_a1b2c3d4e5f6g7h8i9j0k1l2m3n4o5p6").is_some());
        assert!(exograph.format_of(b"exo_live_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx").is_none());
    }

    #[test]
    fn what_is_wrong_with_the_shape_of_a_key_is_told_apart() {
        use Malformation::{Repeated, TwoCredentials, WrongCharacters, WrongChecksum, WrongLength, WrongPrefix};
        let dialect = Dialect::built_in("keyward").unwrap().unwrap();
        let body = "a".repeat(36);
        for (credential, expected) in [
            ("nonsense".to_owned(), WrongPrefix),
            ("kw_prod_x".to_owned(), WrongPrefix),
            ("kw_live_short".to_owned(), WrongLength),
            (format!("kw_test_{body}a"), WrongLength),
            (format!("kw_live_{}", body.replacen('a', "-", 1)), WrongCharacters),
            (format!("kw_live_{body}"), WrongChecksum),
            (format!("kw_live_{body},kw_live_{body}"), Repeated),
            (format!("kw_live_{body},kw_test_{body}"), TwoCredentials),
        ] {
            assert!(dialect.format_of(credential.as_bytes()).is_none());
            assert_eq!(dialect.malformation_of(credential.as_bytes()), expected, "{credential}");
        }
    }

    #[test]
    fn a_dialect_may_bound_how_long_a_key_lives() {
        let expiry_days = |name| Dialect::built_in(name).unwrap().unwrap().expiry_days;
        assert_eq!(expiry_days("graph8"), Some(1..=365));
        assert_eq!(expiry_days("keyward"), None);
        for (bounds, expected) in [
            (r#"{"min": 3, "max": 2}"#, "expiry_days: expected min ≤ max"),
            (r#"{"min": 1}"#, "expiry_days: \"max\" is missing"),
            (r#"{"min": 1, "max": 36501}"#, "expiry_days.max: expected a whole number from 0 to 36500"),
        ] {
            let problems = Dialect::parse(format!(r#"{{"expiry_days": {bounds}}}"#).as_bytes()).unwrap_err();
            assert!(problems.to_string().contains(expected), "{problems}");
        }
    }

    #[test]
    fn a_key_manages_its_own_kind_and_those_that_the_dialect_names() {
        let managed = |dialect: &str, kind| {
            let dialect = Dialect::built_in(dialect).unwrap().unwrap();
            dialect.managed_by(kind).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(managed("graph8", "write"), ["write"]);
        assert_eq!(managed("graph8", "api"), ["api"]);
        assert_eq!(managed("auxot", "user"), ["user", "team"]);
        assert_eq!(managed("auxot", "team"), ["team"]);
        let format = r#"{"kind": "a", "manages": ["b"], "prefix": "a_", "alphabet": "hex", "length": 64}"#;
        let problems = Dialect::parse(format!(r#"{{"keys": [{format}]}}"#).as_bytes()).unwrap_err();
        let expected = "keys: unknown kind \"b\" in \"manages\": expected a kind of this dialect";
        assert!(problems.to_string().contains(expected), "{problems}");
    }

    #[test]
    fn all_mistakes_of_a_dialect_are_told() {
        let problems = Dialect::parse(br#"{"name": "", "sources": [{"header": "a b"}, {}], "keys": [], "x": 1}"#)
            .unwrap_err()
            .to_string();
        for expected in [
            "name: expected a string that is not empty",
            "sources[0].header: expected a token",
            "sources[1]: expected exactly one of \"header\"",
            "keys: expected at least one element",
            "\"errors\" is missing",
            "x: unknown field",
        ] {
            assert!(problems.contains(expected), "{expected}\nin {problems}");
        }
    }
}
