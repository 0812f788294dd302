//! The environment of a key: live or test.

/// Whether a key's requests are real.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Environment {
    /// Real data.
    Live,
    /// A sandbox.
    Test,
}

impl Environment {
    /// The name in key formats, headers and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }

    /// The environment of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Live, Self::Test].into_iter().find(|environment| environment.name() == name)
    }
}
