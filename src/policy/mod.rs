//! The filter's configuration, read so that every mistake is reported at once.

mod digests;
mod document;
mod limits;
mod rules;

pub use digests::DigestSetting;

use crate::engine::policy::Policy;
use crate::engine::rate_limit_headers::RateLimitHeaders;
use crate::engine::redaction::Redaction;
use crate::engine::rules::Rules;
use crate::engine::upstream_headers;
use keyward_core::MAX_WAIT_SECONDS;
use keyward_core::dialect::Dialect;
use keyward_core::document::{Node, Problems, read_value};
use keyward_core::key::limit::Limit;
use rules::Surroundings;

/// A configuration that can be used as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What requests need, and how they are answered.
    pub policy: Policy,
    /// Where the snapshot comes from.
    pub control_plane: ControlPlane,
    /// How the snapshot is kept.
    pub snapshot: SnapshotSettings,
    /// By which digests keys are looked up, in order.
    pub digests: Vec<DigestSetting>,
    /// How many bad keys a client may send, and in which time; `None` for any number.
    pub guessing: Option<Limit>,
    /// The path at which the filter itself says whether it has a snapshot.
    pub readiness_path: Option<String>,
}

/// How the control plane is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlane {
    /// The name of Envoy's cluster.
    pub cluster: String,
    /// The `:authority` of requests to it.
    pub authority: String,
    /// The variable of Envoy's environment that holds the edge token; `None` where a proxy on the way adds it.
    pub token_env: Option<String>,
    /// How long the feed may wait for a change, in seconds.
    pub poll_wait_s: u32,
    /// Whether usage is reported to it.
    pub usage: bool,
}

/// How the snapshot is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// The number of buckets in shared data, as a power of two.
    pub bucket_bits: u32,
    /// How many decoded records each worker keeps.
    pub cache_records: usize,
    /// The number of buckets for the state of limits in shared data, as a power of two.
    pub limit_bucket_bits: u32,
}

/// What the upstream can receive about a key, and in which header field.
const IDENTITY: [(&str, &str); 6] = [
    ("key_id", upstream_headers::KEY_ID),
    ("kind", upstream_headers::KIND),
    ("owner", upstream_headers::OWNER),
    ("plan", upstream_headers::PLAN),
    ("environment", upstream_headers::ENVIRONMENT),
    ("scopes", upstream_headers::SCOPES),
];

const DEFAULT_BUCKETS: u64 = 65_536;
const DEFAULT_LIMIT_BUCKETS: u64 = 4096;
const DEFAULT_CACHE_RECORDS: u64 = 16_384;
const DEFAULT_POLL_WAIT_S: u64 = 2;
/// How much later than requested a healthy feed may respond, in seconds.
const MIN_STALENESS_BEYOND_WAIT_S: u64 = 6;
const DEFAULT_TOKEN_ENV: &str = "KEYWARD_EDGE_TOKEN";

impl Config {
    /// Reads a configuration: JSON, or the binary form of a `google.protobuf.Struct`.
    ///
    /// # Errors
    /// Every mistake in it, with its path.
    pub fn parse(bytes: &[u8]) -> Result<Self, Problems> {
        read_value(&document::read(bytes)?, |node| Self::read(&node))
    }

    fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let dialect = fields.required("dialect").and_then(|n| read_dialect(&n));
        let control_plane = fields.required("control_plane").and_then(|n| ControlPlane::read(&n));
        let snapshot = match fields.optional("snapshot") {
            Some(n) => SnapshotSettings::read(&n),
            None => Some(SnapshotSettings::default()),
        };
        let digests = match fields.optional("digests") {
            Some(n) => digests::read(&n),
            None => Some(vec![DigestSetting::Sha256]),
        };
        let readiness_path = fields.maybe("readiness_path", |n| rules::read_path(n).map(str::to_owned));
        let identity = match fields.optional("identity_headers") {
            Some(n) => n.each(|n| n.one_of(&IDENTITY)),
            None => Some(upstream_headers::FIELDS.to_vec()),
        };
        let rate_limit_headers = match fields.optional("rate_limit_headers") {
            Some(n) => limits::read_headers(&n),
            None => Some(RateLimitHeaders::default()),
        };
        let guessing = fields.maybe("guessing", limits::read_guessing);
        let ignore_case = fields.optional("ignore_path_case").map_or(Some(false), |n| n.boolean());
        let surroundings = Surroundings {
            dialect: dialect.as_ref(),
            readiness_path: readiness_path.as_ref().and_then(Option::as_deref),
            ignore_case: ignore_case.unwrap_or_default(),
        };
        let rules = match fields.optional("rules") {
            Some(n) => rules::read(&n, &surroundings),
            None => Some(Rules { ignore_case: surroundings.ignore_case, ..Rules::everything_needs_a_key() }),
        };
        fields.finish();
        let (control_plane, max_staleness_ms) = control_plane?;
        ignore_case?;
        let dialect = dialect?;
        Some(Self {
            policy: Policy {
                redaction: Redaction::new(&dialect),
                dialect,
                rules: rules?,
                max_staleness_ms,
                identity: identity?,
                rate_limit_headers: rate_limit_headers?,
            },
            control_plane,
            snapshot: snapshot?,
            digests: digests?,
            guessing: guessing?,
            readiness_path: readiness_path?,
        })
    }
}

impl ControlPlane {
    /// The control plane, and how stale its snapshot may be, in milliseconds.
    fn read(node: &Node<'_>) -> Option<(Self, Option<u64>)> {
        let mut fields = node.fields()?;
        let cluster = fields.required("cluster").and_then(|n| n.nonempty());
        let authority = fields.optional("authority").map_or(Some("keyward"), |n| n.nonempty());
        let token_env = match fields.optional("token_env") {
            None => Some(Some(DEFAULT_TOKEN_ENV.to_owned())),
            Some(n) if n.value().is_null() => Some(None),
            Some(n) => n.nonempty().map(|name| Some(name.to_owned())),
        };
        let poll_wait_s = fields
            .optional("poll_wait_s")
            .map_or(Some(DEFAULT_POLL_WAIT_S), |n| n.number(1..=u64::from(MAX_WAIT_SECONDS)));
        let max_staleness_s = fields.maybe("max_staleness_s", |n| n.number(1..=u64::from(u32::MAX)));
        let usage = fields.optional("usage").map_or(Some(true), |n| n.boolean());
        if let (Some(wait), Some(Some(staleness))) = (poll_wait_s, max_staleness_s)
            && staleness < wait + MIN_STALENESS_BEYOND_WAIT_S
        {
            node.problem(format!(
                "expected max_staleness_s of at least {}, got {staleness}: without changes the feed answers only every {wait} s \
                 (poll_wait_s)",
                wait + MIN_STALENESS_BEYOND_WAIT_S
            ));
            return None;
        }
        fields.finish();
        let control_plane = Self {
            cluster: cluster?.to_owned(),
            authority: authority?.to_owned(),
            token_env: token_env?,
            poll_wait_s: u32::try_from(poll_wait_s?).ok()?,
            usage: usage?,
        };
        Some((control_plane, max_staleness_s?.map(|seconds| seconds * 1000)))
    }
}

impl SnapshotSettings {
    fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let buckets = fields.optional("buckets").map_or(Some(DEFAULT_BUCKETS), |n| power_of_two(&n));
        let limit_buckets = fields.optional("limit_buckets").map_or(Some(DEFAULT_LIMIT_BUCKETS), |n| power_of_two(&n));
        let cache_records =
            fields.optional("cache_records").map_or(Some(DEFAULT_CACHE_RECORDS), |n| n.number(0..=1 << 20));
        fields.finish();
        Some(Self {
            bucket_bits: buckets?.trailing_zeros(),
            cache_records: usize::try_from(cache_records?).ok()?,
            limit_bucket_bits: limit_buckets?.trailing_zeros(),
        })
    }
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self {
            bucket_bits: DEFAULT_BUCKETS.trailing_zeros(),
            cache_records: DEFAULT_CACHE_RECORDS as usize,
            limit_bucket_bits: DEFAULT_LIMIT_BUCKETS.trailing_zeros(),
        }
    }
}

fn power_of_two(node: &Node<'_>) -> Option<u64> {
    let number = node.number(16..=1 << 20)?;
    if !number.is_power_of_two() {
        node.problem("expected a power of two");
        return None;
    }
    Some(number)
}

/// The name of a dialect that comes with Keyward, or a whole dialect in place.
fn read_dialect(node: &Node<'_>) -> Option<Dialect> {
    let Some(name) = node.value().as_str() else { return Dialect::read(node) };
    match Dialect::built_in(name) {
        Some(Ok(dialect)) => Some(dialect),
        Some(Err(problems)) => {
            node.problem(problems.to_string());
            None
        }
        None => {
            let known: Vec<_> = Dialect::built_in_names().collect();
            node.problem(format!(
                "unknown dialect {name:?}: expected one of {}, or a dialect as an object",
                known.join(", ")
            ));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rate_limit_headers::When;
    use crate::engine::rules::{Access, Strip};

    #[test]
    fn smallest_configuration_requires_a_key_everywhere() {
        let config = Config::parse(br#"{"dialect": "keyward", "control_plane": {"cluster": "cp"}}"#).unwrap();
        assert_eq!(config.policy.rules, Rules::everything_needs_a_key());
        assert_eq!(config.control_plane.token_env.as_deref(), Some("KEYWARD_EDGE_TOKEN"));
        assert!(config.control_plane.usage);
        let expected = SnapshotSettings { bucket_bits: 16, cache_records: 16_384, limit_bucket_bits: 12 };
        assert_eq!(config.snapshot, expected);
        assert_eq!(config.digests, [DigestSetting::Sha256]);
        assert_eq!(config.policy.rate_limit_headers, RateLimitHeaders { standard: When::Refused, x: When::Never });
        assert_eq!(config.guessing, None);
    }

    #[test]
    fn rate_limit_headers_and_guessing_are_read() {
        let config = Config::parse(
            br#"{"dialect": "exona", "control_plane": {"cluster": "cp"},
                 "rate_limit_headers": {"standard": "never", "x": "always"}, "guessing": {"failures_per_minute": 60}}"#,
        )
        .unwrap();
        assert_eq!(config.policy.rate_limit_headers, RateLimitHeaders { standard: When::Never, x: When::Always });
        assert_eq!(config.guessing, Some("60/min".parse().unwrap()));
    }

    #[test]
    fn whole_numbers_may_be_floating_point() {
        let config = Config::parse(
            br#"{"dialect": "exona", "control_plane": {"cluster": "cp", "poll_wait_s": 5.0, "max_staleness_s": 60.0,
                 "token_env": null, "usage": false}, "snapshot": {"buckets": 256.0}}"#,
        )
        .unwrap();
        assert_eq!(config.control_plane.poll_wait_s, 5);
        assert_eq!(config.policy.max_staleness_ms, Some(60_000));
        assert_eq!(config.control_plane.token_env, None);
        assert!(!config.control_plane.usage);
        assert_eq!(config.snapshot.bucket_bits, 8);
    }

    #[test]
    fn rules_that_cannot_decide_as_meant_are_rejected() {
        let rejected = |rules: &str| {
            let text = format!(
                r#"{{"dialect": "graph8", "control_plane": {{"cluster": "c"}}, "readiness_path": "/ready", "rules": [{rules}]}}"#
            );
            Config::parse(text.as_bytes()).unwrap_err().to_string()
        };
        const ALL: &str = r#"{"path": {"prefix": "/"}, "access": "key"}"#;
        for (rules, expected) in [
            (
                format!(r#"{ALL}, {{"path": {{"prefix": "/admin"}}, "access": "key", "scopes": ["admin"]}}"#),
                "rules[1]: unreachable: rules[0] (prefix \"/\") matches every request that this rule matches; move this rule \
                 before rules[0], or remove it",
            ),
            (
                format!(r#"{{"path": {{"prefix": "/admin/*"}}, "access": "key", "scopes": ["admin"]}}, {ALL}"#),
                r#"write {"prefix": "/admin"}"#,
            ),
            (
                format!(r#"{{"path": {{"prefix": "/admin/:id"}}, "access": "key", "scopes": ["admin"]}}, {ALL}"#),
                "rules[0].path.prefix",
            ),
            (format!(r#"{{"path": {{"exact": "/ready"}}, "access": "public"}}, {ALL}"#), "rules[0]"),
            (r#"{"path": {"prefix": "/"}, "access": "key", "kinds": ["nonsense"]}"#.to_owned(), "rules[0].kinds[0]"),
        ] {
            let problems = rejected(&rules);
            assert!(problems.contains(expected), "{rules}: {problems}");
            println!("{problems}");
        }
    }

    #[test]
    fn staleness_below_the_poll_interval_is_rejected() {
        let parse = |staleness: u32| {
            let text = format!(
                r#"{{"dialect": "exona", "control_plane": {{"cluster": "c", "poll_wait_s": 5, "max_staleness_s": {staleness}}}}}"#
            );
            Config::parse(text.as_bytes())
        };
        assert!(parse(10).unwrap_err().to_string().contains("of at least 11"));
        assert_eq!(parse(11).unwrap().policy.max_staleness_ms, Some(11_000));
    }

    #[test]
    fn route_for_keys_can_keep_the_credential() {
        let strip = |access: &str, credential: &str| {
            let text = format!(
                r#"{{"dialect": "exona", "control_plane": {{"cluster": "c"}},
                     "rules": [{{"path": {{"prefix": "/"}}, "access": "{access}"{credential}}}]}}"#
            );
            let config = Config::parse(text.as_bytes()).unwrap();
            match &config.policy.rules.rules[0].route.access {
                Access::Key(requirement) | Access::Optional(requirement) => requirement.strip,
                access => panic!("{access:?}"),
            }
        };
        for access in ["key", "optional"] {
            assert_eq!(strip(access, ""), Strip::IdentityAndCredentials);
            assert_eq!(strip(access, r#", "credential": "strip""#), Strip::IdentityAndCredentials);
            assert_eq!(strip(access, r#", "credential": "keep""#), Strip::IdentityAndUnread);
        }
    }

    #[test]
    fn dialect_can_be_an_object() {
        let text = include_str!("../../core/dialects/exograph.json");
        let config = format!(r#"{{"dialect": {text}, "control_plane": {{"cluster": "cp"}}}}"#);
        assert_eq!(Config::parse(config.as_bytes()).unwrap().policy.dialect.name, "exograph");
    }

    #[test]
    fn all_mistakes_are_reported_with_their_paths() {
        let problems = Config::parse(
            br#"{"dialect": "nope", "control_plane": {"authority": "", "poll_wait_s": 61, "usage": 1}, "snapshot": {"buckets": 1000},
                 "readiness_path": "ready", "digests": ["sha512"], "rules": [{"path": {"exact": "/a", "prefix": "/"}, "access": "key"},
                 {"path": {"prefix": "/"}, "access": "none", "scopes": ["a b"]},
                 {"path": {"template": "/{a}:b"}, "access": "key", "scopes": {"*": [], "post": ["a"]}},
                 {"path": {"prefix": "/p"}, "access": "public", "kinds": ["user"]},
                 {"path": {"prefix": "/a%2fb"}, "access": "key", "credential": "leave"},
                 {"path": {"prefix": "/d"}, "access": "delegated", "credential": "keep", "hosts": ["a", "a.example:80"]}], "extra": 1,
                 "rate_limit_headers": {"standard": true, "x": "sometimes", "y": 1}, "guessing": {"failures_per_minute": 0}}"#,
        )
        .unwrap_err()
        .to_string();
        for expected in [
            "dialect: unknown dialect \"nope\": expected one of keyward, exograph, ",
            "control_plane: \"cluster\" is missing",
            "control_plane.authority: expected a string that is not empty",
            "control_plane.poll_wait_s: expected a whole number from 1 to 60",
            "control_plane.usage: expected true or false",
            "rules[4].path.prefix: this path can be read in two ways",
            "snapshot.buckets: expected a power of two",
            "digests: \"sha256\" is missing",
            "readiness_path: expected a path that begins with /",
            "rules[0].path: expected exactly one of",
            "rules[1].access: expected one of",
            "rules[1].scopes[0]: expected a scope",
            "rules[2].path.template: \"{a}:b\" is a pattern of another notation",
            "rules[2].scopes.post: expected a method in capital letters: write \"POST\" (or \"*\"",
            "rules[3]: expected \"kinds\" and \"scopes\" only with the access \"key\" or \"optional\"",
            "rules[4].credential: expected one of \"strip\", \"keep\"",
            "rules[5].credential: expected only with the access \"key\" or \"optional\"",
            "rules[5].hosts[1]: expected a host without its port",
            "rate_limit_headers.standard: expected one of \"never\", \"refused\", \"always\"",
            "rate_limit_headers.x: expected one of \"never\", \"refused\", \"always\"",
            "rate_limit_headers.y: unknown field",
            "guessing.failures_per_minute: expected a whole number from 1 to",
            "extra: unknown field",
        ] {
            assert!(problems.contains(expected), "{expected}\nin {problems}");
        }
    }
}
