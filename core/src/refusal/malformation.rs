//! Why a credential cannot be a key: for the access log, and for answers whose dialect has words for it.
//!
//! Nothing here says anything of a key that exists: prefix, length and checksum are public, as the dialect is.

/// What is wrong with a credential that is refused as `malformed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformation {
    /// Two that differ, in two places or in one.
    TwoCredentials,
    /// Nothing where a credential is to stand.
    Empty,
    /// One place, twice.
    Repeated,
    /// Another authentication scheme than the place is read with, or none.
    WrongScheme,
    /// Characters that no key has, or an encoding that cannot be undone.
    WrongCharacters,
    /// Another beginning than any key has.
    WrongPrefix,
    /// Longer or shorter than a key.
    WrongLength,
    /// A key that was mistyped or made up: its last characters do not fit the others.
    WrongChecksum,
}

impl Malformation {
    /// Each of them.
    pub const ALL: [Self; 8] = [
        Self::TwoCredentials,
        Self::Empty,
        Self::Repeated,
        Self::WrongScheme,
        Self::WrongCharacters,
        Self::WrongPrefix,
        Self::WrongLength,
        Self::WrongChecksum,
    ];

    /// The name in filter state, logs and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::TwoCredentials => "two_credentials",
            Self::Empty => "empty",
            Self::Repeated => "repeated",
            Self::WrongScheme => "wrong_scheme",
            Self::WrongCharacters => "wrong_characters",
            Self::WrongPrefix => "wrong_prefix",
            Self::WrongLength => "wrong_length",
            Self::WrongChecksum => "wrong_checksum",
        }
    }

    /// A sentence for the client that sent it.
    pub fn explanation(self) -> &'static str {
        match self {
            Self::TwoCredentials => "Two different credentials were sent. Send one.",
            Self::Empty => "The credential is empty.",
            Self::Repeated => "The credential was sent more than once. Send it once.",
            Self::WrongScheme => "The authentication scheme is not the expected one, or is missing.",
            Self::WrongCharacters => "The credential has characters that no API key has.",
            Self::WrongPrefix => "The credential does not begin like an API key.",
            Self::WrongLength => "The credential is longer or shorter than an API key.",
            Self::WrongChecksum => "The checksum of the API key is wrong. It may be mistyped or incomplete.",
        }
    }
}

/// What several credentials in one value are, separated by commas as a proxy joins fields (RFC 9110, section 5.3), each
/// with or without a scheme; `None` if the value is not such a list.
pub(crate) fn of_list(value: &[u8]) -> Option<Malformation> {
    let mut parts = value.split(|&c| c == b',').map(|part| {
        let part = part.trim_ascii();
        part.rsplit(|&c| c == b' ').next().unwrap_or_default()
    });
    let first = parts.next()?;
    let rest: Vec<_> = parts.collect();
    if rest.is_empty() || first.is_empty() || rest.iter().any(|part| part.is_empty()) {
        return None;
    }
    let is_same = rest.iter().all(|part| *part == first);
    Some(if is_same { Malformation::Repeated } else { Malformation::TwoCredentials })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_explanations_are_sentences() {
        for malformation in Malformation::ALL {
            assert!(malformation.name().bytes().all(|c| c.is_ascii_lowercase() || c == b'_'));
            assert!(malformation.explanation().ends_with('.'));
        }
    }

    #[test]
    fn a_list_of_credentials_is_one_repeated_or_several() {
        for (value, expected) in [
            ("k, k", Some(Malformation::Repeated)),
            ("Bearer k,Bearer k", Some(Malformation::Repeated)),
            ("k, Bearer k, k", Some(Malformation::Repeated)),
            ("k,l", Some(Malformation::TwoCredentials)),
            ("k", None),
            ("k,", None),
            (",", None),
            ("", None),
        ] {
            assert_eq!(of_list(value.as_bytes()), expected, "{value}");
        }
    }
}
