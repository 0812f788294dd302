//! A published API-key system as data: where a credential may come from, what a key looks like, and what every refusal
//! looks like. The files are in `contract/dialects`; adding a system is writing one.

use crate::document::{self, Node, Problems};
use crate::error_shape::ErrorShape;
use crate::key_format::KeyFormat;

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
    /// What its refusals look like.
    pub errors: ErrorShape,
}

/// A place in a request that a credential is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The header field's name, in lower case.
    pub header: String,
    /// The name as it is written in messages.
    pub header_as_written: String,
    /// The authentication scheme before the credential, compared without case (RFC 9110, section 11.1).
    pub scheme: Option<String>,
}

const BUILT_IN: [(&str, &str); 3] = [
    ("keyward", include_str!("../dialects/keyward.json")),
    ("exona", include_str!("../dialects/exona.json")),
    ("exograph", include_str!("../dialects/exograph.json")),
];

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
        let formats = fields.required("keys").and_then(|n| some_of(&n, KeyFormat::read));
        let owner_required = fields.optional("owner_required").map_or(Some(false), |n| n.boolean());
        let errors = fields.required("errors").and_then(|n| ErrorShape::read(&n));
        fields.finish();
        Some(Self {
            name: name?.to_owned(),
            sources: sources?,
            formats: formats?,
            owner_required: owner_required?,
            errors: errors?,
        })
    }

    /// The format that a credential has.
    pub fn format_of(&self, credential: &[u8]) -> Option<&KeyFormat> {
        self.formats.iter().find(|format| format.matches(credential))
    }
}

impl Source {
    fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let header = fields.required("header").and_then(|n| token(&n));
        let scheme = match fields.optional("scheme") {
            Some(n) => token(&n).map(Some),
            None => Some(None),
        };
        fields.finish();
        let header = header?;
        Some(Self { header: header.to_ascii_lowercase(), header_as_written: header, scheme: scheme? })
    }
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
    // Every element is read, so that every mistake is told.
    let read: Vec<_> = elements.iter().map(read).collect();
    read.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error_shape::Facts;
    use crate::verdict::Refusal;

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
    fn all_mistakes_of_a_dialect_are_told() {
        let problems = Dialect::parse(br#"{"name": "", "sources": [{"header": "a b"}, {}], "keys": [], "x": 1}"#)
            .unwrap_err()
            .to_string();
        for expected in [
            "name: expected a string that is not empty",
            "sources[0].header: expected a token",
            "sources[1]: \"header\" is missing",
            "keys: expected at least one element",
            "\"errors\" is missing",
            "x: unknown field",
        ] {
            assert!(problems.contains(expected), "{expected}\nin {problems}");
        }
    }
}
