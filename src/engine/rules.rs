//! Which route requires what. The first rule that matches decides; without a match, no kind of key is accepted.

mod coverage;
mod explain;

pub use explain::{Decides, Explanation, Mismatch};

use keyward_core::dialect::error_shape::ErrorShape;
use std::fmt;
use std::num::NonZeroU32;
use std::rc::Rc;

/// The rules, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// The first match decides.
    pub rules: Vec<Rule>,
    /// Whether upstreams treat `/Admin` as `/admin`; paths are then compared case-insensitively (ASCII letters).
    pub ignore_case: bool,
}

/// Which requests match, and what they require.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The paths.
    pub path: PathMatch,
    /// The methods, GET for HEAD as well; empty for all.
    pub methods: Vec<String>,
    /// The hosts; empty for all.
    pub hosts: Vec<HostMatch>,
    /// Whether the rule also matches paths that an upstream could read in two ways, see [`canonical_path`].
    pub ambiguous_paths: bool,
    /// The route's requirements.
    pub route: Route,
}

/// What a request requires, and the shape of its refusals.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The access that the route allows.
    pub access: Access,
    /// The shape of refusals; `None` for the dialect's default.
    pub errors: Option<Rc<ErrorShape>>,
    /// How much of the key's limits a request consumes.
    pub cost: NonZeroU32,
}

/// A set of paths, compared with the path as Envoy has normalized it, without its query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path.
    Exact(String),
    /// This path and everything below it, by whole segments: `/api` covers `/api/x` and not `/apix`. Stored without a
    /// trailing slash.
    Prefix(String),
    /// Segments, of which `None` matches any non-empty segment.
    Template(Vec<Option<String>>),
}

/// A set of hosts, compared without case and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMatch {
    /// This host, in lower case.
    Exact(String),
    /// Every host below this domain; stored in lower case with its leading dot.
    Below(String),
}

/// What a route requires.
#[derive(Clone, Debug, PartialEq)]
pub enum Access {
    /// No key.
    Public,
    /// A valid key if there is a credential; public without one.
    Optional(Requirement),
    /// A valid key that meets the requirement.
    Key(Requirement),
    /// Authorized by another filter. Without any credential, the response names the resource's metadata.
    Delegated(Option<Rc<ProtectedResource>>),
    /// The metadata of a protected resource, served by the filter itself.
    Metadata(Rc<ProtectedResource>),
}

/// A resource whose callers are authorized by OAuth (RFC 9728).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedResource {
    /// The URL of its metadata (section 3.1).
    pub metadata_url: String,
    /// The metadata, JSON (section 2).
    pub metadata: String,
}

/// What a key must have, and which fields are removed from the request.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Requirement {
    /// The kinds that are accepted; `None` accepts all.
    pub kinds: Option<Vec<String>>,
    /// The required permissions.
    pub scopes: ScopesByMethod,
    /// What is removed from an allowed request.
    pub strip: Strip,
}

/// The permissions that a request needs; all of them are required.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ScopesByMethod {
    /// Permissions of specific methods.
    pub by_method: Vec<(String, Vec<String>)>,
    /// Permissions of all other methods.
    pub otherwise: Vec<String>,
}

/// The parts of a request that rules match.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The method.
    pub method: &'a [u8],
    /// `:authority`.
    pub host: &'a [u8],
    /// `:path`, with or without a query.
    pub path: &'a [u8],
}

/// The route where no rule matches: no kind of key is accepted, so nothing passes and a client without a key learns
/// nothing.
pub const UNMATCHED: Route = Route {
    access: Access::Key(Requirement {
        kinds: Some(Vec::new()),
        scopes: ScopesByMethod { by_method: Vec::new(), otherwise: Vec::new() },
        strip: Strip::IdentityAndCredentials,
    }),
    errors: None,
    cost: NonZeroU32::MIN,
};

/// Which of the client's header fields are removed, besides those that override method or path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strip {
    /// The fields that the filter itself sets.
    Identity,
    /// The fields that the filter sets, and other spellings of a credential source's header field, which an upstream
    /// could take for a credential though they were not read. The checked credential stays.
    IdentityAndUnread,
    /// The fields that the filter sets, and every source of credentials.
    #[default]
    IdentityAndCredentials,
}

impl Rules {
    /// The rules if none are configured.
    pub fn everything_needs_a_key() -> Self {
        let rule = Rule {
            path: PathMatch::prefix("/"),
            methods: Vec::new(),
            hosts: Vec::new(),
            ambiguous_paths: false,
            route: Route { access: Access::Key(Requirement::default()), errors: None, cost: NonZeroU32::MIN },
        };
        Self { rules: vec![rule], ignore_case: false }
    }

    /// The route of a request; `None` if no rule matches, which is [`UNMATCHED`].
    ///
    /// Methods are compared case-sensitively, so a lower-case method, which an upstream may read as upper-case, matches
    /// no rule; nor does an authority that is not a host.
    pub fn route(&self, target: &Target<'_>) -> Option<&Route> {
        self.find(target).map(|(route, _)| route)
    }

    /// The route, and an additional requirement: if a rule decides only because of the trailing slash, the requirement
    /// of the first rule that matches the path as it was sent. So neither spelling requires less than the rules say.
    pub fn find(&self, target: &Target<'_>) -> Option<(&Route, Option<&Requirement>)> {
        let path = target.path.split(|&c| c == b'?' || c == b'#').next().unwrap_or_default();
        let mut canonical = canonical_path(path);
        let spellings = canonical.as_mut().map(Spellings::of);
        let host = host_of(target.host);
        let odd = target.method.iter().any(u8::is_ascii_lowercase) || host.is_none();
        if odd {
            return None;
        }
        let as_sent = |rule: &Rule| {
            let path = match spellings {
                Some(spellings) => spellings,
                None if rule.ambiguous_paths => Spellings { sent: path, respelled: path },
                None => return None,
            };
            rule.matches(target.method, host.as_deref().unwrap_or_default(), path, self.ignore_case)
        };
        let mut matching = self.rules.iter().filter_map(|rule| Some((&rule.route, as_sent(rule)?)));
        let (route, is_as_sent) = matching.next()?;
        if is_as_sent {
            return Some((route, None));
        }
        let also = match matching.find(|(_, is_as_sent)| *is_as_sent) {
            Some((Route { access: Access::Key(requirement), .. }, _)) => Some(requirement),
            _ => None,
        };
        Some((route, also))
    }
}

/// A path with and without a trailing slash, which many upstreams treat alike. A rule that requires a key applies to
/// both spellings; a rule that does not applies only to the path as written.
#[derive(Clone, Copy)]
struct Spellings<'a> {
    sent: &'a [u8],
    respelled: &'a [u8],
}

impl<'a> Spellings<'a> {
    fn of(path: &'a mut Vec<u8>) -> Self {
        if !path.ends_with(b"/") {
            path.push(b'/');
            let without = path.split_last().map_or(&[][..], |(_, without)| without);
            return Self { sent: without, respelled: path };
        }
        Self { sent: path, respelled: path.split_last().map_or(&[][..], |(_, without)| without) }
    }
}

impl Rule {
    /// Whether the rule matches the request, and if so, whether it matches the path as it was sent.
    fn matches(&self, method: &[u8], host: &[u8], path: Spellings<'_>, ignore_case: bool) -> Option<bool> {
        let is_meant =
            self.is_for_method(method) && (self.hosts.is_empty() || self.hosts.iter().any(|given| given.matches(host)));
        if is_meant && self.path.matches(path.sent, ignore_case) {
            return Some(true);
        }
        let is_wide = matches!(self.route.access, Access::Key(_));
        (is_meant && is_wide && self.path.matches(path.respelled, ignore_case)).then_some(false)
    }

    fn is_for_method(&self, method: &[u8]) -> bool {
        // HEAD requires what GET does (RFC 9110, section 9.3.2).
        let is_named = |given: &String| given.as_bytes() == method || (given == "GET" && method == b"HEAD");
        self.methods.is_empty() || self.methods.iter().any(is_named)
    }
}

impl PathMatch {
    /// Matches this path only.
    pub fn exact(path: &str) -> Self {
        Self::Exact(path.to_owned())
    }

    /// Matches a path and everything below it.
    pub fn prefix(path: &str) -> Self {
        Self::Prefix(path.strip_suffix('/').unwrap_or(path).to_owned())
    }

    /// Segments, of which those in braces match any; `None` if a brace is in a segment that is not entirely in braces,
    /// or a segment is ambiguous. An encoded brace is a literal one.
    pub fn template(path: &str) -> Option<Self> {
        let read = |segment: &str| match segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) => (!name.contains(['{', '}'])).then_some(None),
            None if segment.contains(['{', '}']) => None,
            None => canonical_path(segment.as_bytes()).and_then(|literal| String::from_utf8(literal).ok()).map(Some),
        };
        path.split('/').map(read).collect::<Option<_>>().map(Self::Template)
    }

    /// Whether the set contains a path in the form of [`canonical_path`].
    pub fn matches(&self, path: &[u8], ignore_case: bool) -> bool {
        let same = |a: &[u8], b: &str| {
            if ignore_case { a.eq_ignore_ascii_case(b.as_bytes()) } else { a == b.as_bytes() }
        };
        match self {
            Self::Exact(exact) => same(path, exact),
            Self::Prefix(prefix) => path
                .split_at_checked(prefix.len())
                .is_some_and(|(start, rest)| same(start, prefix) && (rest.is_empty() || rest.starts_with(b"/"))),
            Self::Template(segments) => {
                let mut parts = path.split(|&c| c == b'/');
                let all = segments.iter().all(|segment| match (segment, parts.next()) {
                    (_, None) => false,
                    (Some(segment), Some(part)) => same(part, segment),
                    (None, Some(part)) => !part.is_empty(),
                });
                all && parts.next().is_none()
            }
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "exact {path:?}"),
            Self::Prefix(path) => write!(f, "prefix {:?}", if path.is_empty() { "/" } else { path }),
            Self::Template(segments) => {
                let segments: Vec<_> = segments.iter().map(|segment| segment.as_deref().unwrap_or("{…}")).collect();
                write!(f, "template {:?}", segments.join("/"))
            }
        }
    }
}

impl fmt::Display for HostMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(domain) => write!(f, "*{domain}"),
        }
    }
}

impl HostMatch {
    /// `api.example.com`, or `*.example.com` for every host below; `None` if no request could ever match: for a host
    /// with a port, or an invalid host.
    pub fn new(host: &str) -> Option<Self> {
        // With a port appended, so that a host that has one already is rejected.
        let canonical = |name: &str| String::from_utf8(host_of(format!("{name}:0").as_bytes())?).ok();
        let named = |name: &String| !name.is_empty() && name.split('.').all(|label| !label.is_empty());
        match host.strip_prefix("*.") {
            Some(domain) => Some(Self::Below(format!(".{}", canonical(domain).filter(named)?))),
            None => canonical(host).filter(named).map(Self::Exact),
        }
    }

    fn matches(&self, host: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => host == exact.as_bytes(),
            Self::Below(domain) => host.len() > domain.len() && host.ends_with(domain.as_bytes()),
        }
    }
}

impl ScopesByMethod {
    /// The permissions that a method needs. HEAD needs what GET does, unless it is configured separately.
    pub fn of(&self, method: &[u8]) -> &[String] {
        let find = |method: &[u8]| self.by_method.iter().find(|(name, _)| name.as_bytes() == method);
        let found = find(method).or_else(|| if method == b"HEAD" { find(b"GET") } else { None });
        found.map_or(&self.otherwise, |(_, scopes)| scopes)
    }
}

/// The host of an authority in lower case, without its port and the trailing dots of a fully qualified name (RFC 3986,
/// section 3.2.2); `None` if invalid.
fn host_of(authority: &[u8]) -> Option<Vec<u8>> {
    let (host, port) = match authority.iter().position(|&c| c == b']') {
        Some(bracket) => authority.split_at_checked(bracket + 1)?,
        None => authority.split_at(authority.iter().position(|&c| c == b':').unwrap_or(authority.len())),
    };
    let is_port = port.is_empty() || port.strip_prefix(b":").is_some_and(|port| port.iter().all(u8::is_ascii_digit));
    let inside = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]"));
    let is_host = match inside {
        Some(address) => address.iter().all(|&c| c.is_ascii_hexdigit() || b":.".contains(&c)),
        None => host.iter().all(|&c| c.is_ascii_alphanumeric() || b".-_".contains(&c)),
    };
    let mut host = host.to_ascii_lowercase();
    while host.last() == Some(&b'.') {
        host.pop();
    }
    (is_port && is_host).then_some(host)
}

/// The canonical form in which rules compare paths; `None` if an upstream could read the path in two ways. An ambiguous
/// path matches only rules that allow ambiguity: it could name what another rule guards.
///
/// Percent-encoded visible characters are decoded, since upstreams do that. Characters that would change the path's
/// structure if decoded make it ambiguous (`/`, `\\`, `.`, `;`, `%`, `?`, `#`), and so do control characters, spaces at
/// the end of a segment, empty and dot segments, and a literal `;` or `\\`. Bytes beyond ASCII stay encoded, in upper
/// case.
pub fn canonical_path(path: &[u8]) -> Option<Vec<u8>> {
    let mut canonical = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&c, tail)) = rest.split_first() {
        rest = tail;
        match c {
            b'%' => {
                let (digits, tail) = rest.split_first_chunk::<2>()?;
                let mut byte = [0];
                hex::decode_to_slice(digits, &mut byte).ok()?;
                rest = tail;
                match byte {
                    [b'/' | b'\\' | b'.' | b';' | b'%' | b'?' | b'#' | 0..=0x1f | 0x7f] => return None,
                    [byte @ ..0x80] => canonical.push(byte),
                    _ => canonical.extend([[b'%'].as_slice(), &digits.to_ascii_uppercase()].concat()),
                }
            }
            b';' | b'\\' => return None,
            _ if !c.is_ascii_graphic() => return None,
            _ => canonical.push(c),
        }
    }
    let segments = || canonical.split(|&c| c == b'/');
    let last = segments().count().saturating_sub(1);
    let odd = segments().enumerate().any(|(n, segment)| match segment {
        // The segments before the first slash and after the last are empty.
        [] => n != 0 && n != last,
        b"." | b".." => true,
        [b' ', ..] | [.., b' '] => true,
        _ => false,
    });
    (!odd).then_some(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: PathMatch, access: Access) -> Rule {
        let route = Route { access, errors: None, cost: NonZeroU32::MIN };
        Rule { path, methods: Vec::new(), hosts: Vec::new(), ambiguous_paths: false, route }
    }

    fn key(scope: &str) -> Access {
        let scopes = ScopesByMethod { by_method: Vec::new(), otherwise: vec![scope.to_owned()] };
        Access::Key(Requirement { scopes, ..Requirement::default() })
    }

    fn rules() -> Rules {
        Rules {
            rules: vec![
                rule(PathMatch::exact("/health"), Access::Public),
                rule(PathMatch::prefix("/public/"), Access::Public),
                rule(PathMatch::prefix("/mcp"), Access::Delegated(None)),
                rule(PathMatch::template("/keys/{id}/secrets/{secret}").unwrap(), key("template")),
                rule(PathMatch::prefix("/admin"), key("admin")),
                rule(PathMatch::prefix("/v1"), key("v1")),
            ],
            ignore_case: false,
        }
    }

    fn name(route: &Route) -> String {
        match &route.access {
            Access::Public => "public".into(),
            Access::Delegated(_) => "delegated".into(),
            _ if *route == UNMATCHED => "unmatched".into(),
            Access::Key(requirement) => requirement.scopes.otherwise.join(" "),
            other => panic!("{other:?}"),
        }
    }

    fn access(rules: &Rules, path: &str) -> String {
        name(rules.route(&Target { method: b"GET", host: b"h", path: path.as_bytes() }).unwrap_or(&UNMATCHED))
    }

    #[test]
    fn first_match_decides_by_segments_without_query() {
        for (path, expected) in [
            ("/health", "public"),
            ("/health?key=1", "public"),
            ("/health/", "unmatched"),
            ("/health/x", "unmatched"),
            ("/healthz", "unmatched"),
            ("/public", "public"),
            ("/public/a/b?c", "public"),
            ("/publicity", "unmatched"),
            ("/mcp/x", "delegated"),
            ("/keys/1/secrets/2", "template"),
            ("/keys//secrets/2", "unmatched"),
            ("/keys/1/secrets/2/", "template"),
            ("/keys/1/secrets/2/3", "unmatched"),
            ("/keys/1/secrets/", "unmatched"),
            ("/keys/1/secrets", "unmatched"),
            ("/admin/keys", "admin"),
            ("/v1/contacts", "v1"),
            ("/V1/contacts", "unmatched"),
            ("/", "unmatched"),
            ("", "unmatched"),
            ("*", "unmatched"),
        ] {
            assert_eq!(access(&rules(), path), expected, "{path:?}");
        }
    }

    /// A rule that requires a key applies with and without a trailing slash; one that does not, only as written.
    #[test]
    fn key_rules_cover_both_slash_spellings() {
        for written in ["/a/b", "/a/b/"] {
            let template = PathMatch::template(&written.replace('a', "{x}")).unwrap();
            for path in [PathMatch::exact(written), PathMatch::prefix(written), template] {
                let rules = |access| Rules { rules: vec![rule(path.clone(), access)], ignore_case: false };
                for sent in ["/a/b", "/a/b/"] {
                    assert_eq!(access(&rules(key("guarded")), sent), "guarded", "{path:?}");
                    let is_open = access(&rules(Access::Public), sent) == "public";
                    assert_eq!(is_open, matches!(path, PathMatch::Prefix(_)) || sent == written, "{path:?}");
                }
                assert_eq!(access(&rules(key("guarded")), "/a/bc"), "unmatched");
                assert_eq!(access(&rules(key("guarded")), "/a"), "unmatched");
            }
        }
        let root = Rules { rules: vec![rule(PathMatch::exact("/"), key("root"))], ignore_case: false };
        assert_eq!((access(&root, "/"), access(&root, "/a")), ("root".into(), "unmatched".into()));
    }

    #[test]
    fn neither_spelling_requires_less_than_the_rules_say() {
        let rules = |paths: [PathMatch; 2]| {
            let [first, second] = paths;
            Rules { rules: vec![rule(first, key("list")), rule(second, key("admin"))], ignore_case: false }
        };
        let asked = |rules: &Rules, path: &str| {
            let found = rules.find(&Target { method: b"GET", host: b"h", path: path.as_bytes() });
            let (route, also) = found.unwrap();
            let of = |requirement: &Requirement| requirement.scopes.otherwise.join("");
            let Access::Key(requirement) = &route.access else { panic!("{route:?}") };
            [Some(requirement), also].into_iter().flatten().map(of).collect::<Vec<_>>().join(" and ")
        };
        let below = rules([PathMatch::exact("/reports"), PathMatch::prefix("/reports")]);
        for (path, expected) in [("/reports", "list"), ("/reports/", "list and admin"), ("/reports/x", "admin")] {
            assert_eq!(asked(&below, path), expected, "{path}");
        }
        let both = rules([PathMatch::exact("/a/"), PathMatch::exact("/a")]);
        assert_eq!((asked(&both, "/a/").as_str(), asked(&both, "/a").as_str()), ("list", "list and admin"));
        let mut opened = both;
        opened.rules[1].route.access = Access::Public;
        assert_eq!(asked(&opened, "/a"), "list", "one rule does not waive what another requires");
    }

    #[test]
    fn template_segments_are_in_braces_entirely_or_not() {
        for never in ["/users/{id}:purge", "/{id}.json", "/a{id}", "/{a}{b}", "/{", "/}"] {
            assert_eq!(PathMatch::template(never), None, "{never}");
        }
    }

    #[test]
    fn case_can_be_ignored() {
        let rules = Rules { ignore_case: true, ..rules() };
        for (path, expected) in [("/HEALTH", "public"), ("/Admin/x", "admin"), ("/Keys/A/Secrets/b", "template")] {
            assert_eq!(access(&rules, path), expected, "{path:?}");
        }
    }

    #[test]
    fn ambiguous_path_matches_only_rules_that_allow_it() {
        let mut lenient = rules();
        lenient.rules.push(Rule { ambiguous_paths: true, ..rule(PathMatch::prefix("/v1/files"), key("files")) });
        for path in [
            "/admin%0a",
            "/admin%09",
            "/admin%20",
            "/admin%20/x",
            "/admin%7f",
            "/admin%23",
            "/admin%3fx",
            "/admin%",
            "/admin%4",
            "/admin%zz",
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
            "/admin;x/users",
            "/v1/a;b=1",
        ] {
            assert_eq!(access(&lenient, path), "unmatched", "{path:?}");
        }
        assert_eq!(access(&lenient, "/v1/files/a%2Fb;c"), "files");
        assert_eq!(access(&lenient, "/v1/a%20b"), "v1");
    }

    #[test]
    fn decoded_characters_are_compared_decoded() {
        let mut rules = rules();
        for path in ["/v1/batch:run", "/users/@me", "/a$b", "/caf%C3%A9"] {
            rules.rules.insert(0, rule(PathMatch::prefix(path), key("special")));
        }
        for path in ["/v1/batch:run", "/v1/batch%3arun", "/v1/batch%3Arun", "/users/%40me/x", "/a%24b", "/caf%c3%a9"] {
            assert_eq!(access(&rules, path), "special", "{path:?}");
        }
    }

    #[test]
    fn lower_case_method_or_invalid_host_matches_no_rule() {
        let route = |method: &str, host: &str| {
            name(
                rules()
                    .route(&Target { method: method.as_bytes(), host: host.as_bytes(), path: b"/v1" })
                    .unwrap_or(&UNMATCHED),
            )
        };
        assert_eq!(route("DELETE", "t"), "v1");
        assert_eq!(route("M-SEARCH", "[::1]:80"), "v1");
        for (method, host) in [("delete", "t"), ("Delete", "t"), ("GET", "t:80:80"), ("GET", "t%2e"), ("GET", "a b")] {
            assert_eq!(route(method, host), "unmatched", "{method} {host}");
        }
    }

    #[test]
    fn unmatchable_host_is_rejected() {
        for never in
            ["", ".", "*.", "*", "a.example:80", "*.example.com:8080", "::1", "[::1]:80", "a/b", "a b", "*.*.a", "[a"]
        {
            assert_eq!(HostMatch::new(never), None, "{never}");
        }
        for (host, authority) in
            [("A.example.", "a.EXAMPLE:80"), ("*.Example.com", "b.a.example.com."), ("[::1]", "[::1]:80")]
        {
            let authority = host_of(authority.as_bytes()).unwrap();
            assert!(HostMatch::new(host).is_some_and(|host| host.matches(&authority)), "{host}");
        }
    }

    #[test]
    fn methods_and_hosts_narrow_a_rule() {
        let mut rules = rules();
        rules.rules[5].methods = vec!["POST".into()];
        rules.rules[5].hosts = ["api.Example.com.", "*.example.org"].map(|host| HostMatch::new(host).unwrap()).into();
        let access = |method: &str, host: &str| {
            name(
                rules
                    .route(&Target { method: method.as_bytes(), host: host.as_bytes(), path: b"/v1" })
                    .unwrap_or(&UNMATCHED),
            )
        };
        for host in
            ["api.example.com", "API.example.COM:8080", "api.example.com.", "api.example.com..:80", "a.b.example.org"]
        {
            assert_eq!(access("POST", host), "v1", "{host}");
        }
        for host in ["example.com", "xapi.example.com", "example.org", ".example.org", "[::1]:80", ""] {
            assert_eq!(access("POST", host), "unmatched", "{host}");
        }
        assert_eq!(access("GET", "api.example.com"), "unmatched");
        assert_eq!(access("HEAD", "api.example.com"), "unmatched");
        assert_eq!(access("post", "api.example.com"), "unmatched");
        rules.rules[5].methods = vec!["GET".into()];
        rules.rules[5].hosts = Vec::new();
        let head = Target { method: b"HEAD", host: b"t", path: b"/v1" };
        assert_eq!(name(rules.route(&head).unwrap_or(&UNMATCHED)), "v1", "HEAD shows what GET would");
    }

    #[test]
    fn scopes_depend_on_the_method_with_head_read_as_get() {
        let scopes =
            ScopesByMethod { by_method: vec![("GET".into(), vec!["read".into()])], otherwise: vec!["write".into()] };
        assert_eq!(scopes.of(b"GET"), ["read"]);
        assert_eq!(scopes.of(b"HEAD"), ["read"]);
        assert_eq!(scopes.of(b"DELETE"), ["write"]);
        assert_eq!(scopes.of(b"get"), ["write"]);
    }

    #[test]
    fn without_configuration_every_path_needs_a_key() {
        let rules = Rules::everything_needs_a_key();
        let access = |path: &[u8]| {
            let route = rules.route(&Target { method: b"GET", host: b"h", path });
            route.unwrap_or(&UNMATCHED).access.clone()
        };
        for path in [&b"/"[..], b"/a", b"/a/b?c"] {
            assert_eq!(access(path), Access::Key(Requirement::default()));
        }
        assert_eq!(access(b"*"), UNMATCHED.access);
    }
}
