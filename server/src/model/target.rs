//! What a change is meant for: an id, and in which version.

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

#[cfg(test)]
mod tests {
    use super::*;

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
