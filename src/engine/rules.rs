//! Which route asks for what. The first rule that matches decides; where none does, no kind of key is enough.

/// The rules, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(pub Vec<Rule>);

/// What the paths it matches ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The paths.
    pub path: PathMatch,
    /// What they ask for.
    pub access: Access,
}

/// A set of paths, compared byte by byte with the path as Envoy has normalised it, without its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path.
    Exact(String),
    /// This path and everything below it, whole segments: `/api` covers `/api/x` and not `/apix`.
    /// Stored without a final slash.
    Prefix(String),
}

/// What a route asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// No key.
    Public,
    /// What another filter checks.
    Delegated,
    /// A key that meets this.
    Key(Requirement),
}

/// What a key must have.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Requirement {
    /// The kinds that are accepted; `None` accepts all.
    pub kinds: Option<Vec<String>>,
    /// The permissions that it needs, all of them.
    pub scopes: Vec<String>,
}

/// What is asked where no rule matches: a key of no kind, so that nothing passes and a stranger learns nothing.
static UNMATCHED: Access = Access::Key(Requirement { kinds: Some(Vec::new()), scopes: Vec::new() });

impl Rules {
    /// The rules where none are configured.
    pub fn everything_needs_a_key() -> Self {
        Self(vec![Rule { path: PathMatch::prefix("/"), access: Access::Key(Requirement::default()) }])
    }

    /// What a request to this path (with or without a query) asks for.
    pub fn access(&self, path_and_query: &[u8]) -> &Access {
        let path = path_and_query.split(|&c| c == b'?' || c == b'#').next().unwrap_or_default();
        let ambiguous = is_ambiguous(path);
        self.0
            .iter()
            .find(|rule| rule.path.matches(path) && (!ambiguous || matches!(rule.access, Access::Key(_))))
            .map_or(&UNMATCHED, |rule| &rule.access)
    }
}

impl PathMatch {
    /// A path and everything below it.
    pub fn prefix(path: &str) -> Self {
        Self::Prefix(path.strip_suffix('/').unwrap_or(path).to_owned())
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            }
        }
    }
}

/// Whether an upstream could read the path differently than it is compared here: such a path never opens a route that
/// asks for no key.
fn is_ambiguous(path: &[u8]) -> bool {
    let has = |needle: &[u8]| path.windows(needle.len()).any(|window| window.eq_ignore_ascii_case(needle));
    path.iter().any(|&c| matches!(c, b';' | b'\\') || !c.is_ascii_graphic())
        || [&b"//"[..], b"%2f", b"%5c", b"%2e", b"%3b", b"%25", b"%00"].into_iter().any(has)
        || path.split(|&c| c == b'/').any(|segment| matches!(segment, b"." | b".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        let rule = |path, access| Rule { path, access };
        let scoped = Requirement { scopes: vec!["admin".to_owned()], kinds: None };
        Rules(vec![
            rule(PathMatch::Exact("/health".into()), Access::Public),
            rule(PathMatch::prefix("/public/"), Access::Public),
            rule(PathMatch::prefix("/mcp"), Access::Delegated),
            rule(PathMatch::prefix("/admin"), Access::Key(scoped)),
            rule(PathMatch::prefix("/v1"), Access::Key(Requirement::default())),
        ])
    }

    fn access(path: &str) -> &'static str {
        match rules().access(path.as_bytes()) {
            Access::Public => "public",
            Access::Delegated => "delegated",
            access if *access == UNMATCHED => "nobody",
            Access::Key(requirement) if requirement.scopes.is_empty() => "key",
            Access::Key(_) => "scoped",
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides_by_whole_segments_and_without_the_query() {
        for (path, expected) in [
            ("/health", "public"),
            ("/health?key=1", "public"),
            ("/health/", "nobody"),
            ("/healthz", "nobody"),
            ("/public", "public"),
            ("/public/a/b?c", "public"),
            ("/publicity", "nobody"),
            ("/mcp/x", "delegated"),
            ("/admin/keys", "scoped"),
            ("/v1/contacts", "key"),
            ("/V1/contacts", "nobody"),
            ("/", "nobody"),
            ("", "nobody"),
            ("*", "nobody"),
        ] {
            assert_eq!(access(path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_path_that_can_be_read_in_two_ways_opens_nothing_without_a_key() {
        for path in [
            "/public/..;/v1/x",
            "/public/%2e%2e/v1",
            "/public/%2E%2e/v1",
            "/public/../v1",
            "/public//v1",
            "/public/a%2fb",
            "/public/a%5Cb",
            "/public/\\v1",
            "/public/%252e",
            "/public/\u{e9}",
            "/mcp/./x",
        ] {
            assert_eq!(access(path), "nobody", "{path:?}");
        }
        assert_eq!(access("/v1/a;b=1"), "key");
    }

    #[test]
    fn without_configuration_every_path_needs_a_key() {
        let rules = Rules::everything_needs_a_key();
        for path in ["/", "/a", "/a/b?c"] {
            assert_eq!(rules.access(path.as_bytes()), &Access::Key(Requirement::default()));
        }
        assert_eq!(rules.access(b"*"), &UNMATCHED);
    }
}
