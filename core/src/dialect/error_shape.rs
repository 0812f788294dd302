//! What every refusal looks like on the wire, compiled from data when the configuration is read.
//!
//! A body is a JSON template. A string that is exactly `"{name}"` becomes the value of that name; inside a longer
//! string, `{name}` becomes its text and `{{` a brace. Names are the verdict's own fields (`code`, `message`, …) and
//! the facts that the verdict carries ([`Fact`]). A name that a verdict cannot fill is a mistake of the dialect, told
//! when it is read, so rendering cannot fail.

use crate::dialect::rate_limit_fields::{self, Window};
use crate::document::{self, Node, Problems};
use crate::refusal::Refusal;
use crate::refusal::malformation::Malformation;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

/// The replies to all refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorShape {
    content_type: String,
    realm: String,
    request_id_header: Option<String>,
    replies: Vec<(Refusal, Reply)>,
}

/// What a template may ask for beyond the verdict's own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The verdict's name.
    Verdict,
    /// The status, a number.
    Status,
    /// The header that a credential is expected in.
    Header,
    /// The request's id, as the proxy made it; empty if it made none.
    RequestId,
    /// The public id of the key, once its record was found.
    KeyId,
    /// When the key expired (RFC 3339, UTC, whole seconds); of `expired` only.
    ExpiredAt,
    /// The permission that is lacking; of `insufficient_scope` only.
    Scope,
    /// After how many seconds to try again, a number; of `rate_limited` and `unavailable` only.
    RetryAfter,
    /// How many requests the exhausted window allows, a number; of `rate_limited` only.
    Limit,
    /// The length of the exhausted window in seconds, a number; of `rate_limited` only.
    Window,
    /// What is wrong with the credential, a word ([`Malformation::name`]); of `malformed` only.
    Reason,
    /// The same as a sentence ([`Malformation::explanation`]); of `malformed` only.
    Explanation,
}

/// The facts of one refusal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The URL of the route's protected-resource metadata, told in the challenge (RFC 9728, section 5.1); may be empty.
    pub resource_metadata: &'a str,
    /// See [`Fact::Header`].
    pub header: &'a str,
    /// See [`Fact::RequestId`].
    pub request_id: &'a str,
    /// See [`Fact::KeyId`].
    pub key_id: &'a str,
    /// When the key expired, in milliseconds since the Unix epoch.
    pub expired_at_ms: u64,
    /// See [`Fact::Scope`].
    pub scope: &'a str,
    /// See [`Fact::RetryAfter`].
    pub retry_after_s: u64,
    /// See [`Fact::Limit`].
    pub limit: u64,
    /// See [`Fact::Window`].
    pub window_s: u64,
    /// The key's windows, of which one is exhausted; told on every 429.
    pub windows: &'a [Window],
    /// What is wrong with the credential, where it is malformed.
    pub malformation: Option<Malformation>,
}

/// A refusal, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The status code.
    pub status: u16,
    /// Header fields, names in lower case.
    pub headers: Vec<(Cow<'static, str>, String)>,
    /// The body.
    pub body: String,
}

impl Rendered {
    /// The status of a gRPC request's answer: UNAUTHENTICATED, PERMISSION_DENIED, RESOURCE_EXHAUSTED or UNAVAILABLE.
    /// Envoy would map 429 to UNAVAILABLE by itself.
    pub fn grpc_status(&self) -> u32 {
        match self.status {
            401 => 16,
            403 => 7,
            402 | 429 => 8,
            _ => 14,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reply {
    status: u16,
    body: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// As a JSON value: a number, or a string in quotes.
    Value(Fact),
    /// As text inside a JSON string.
    Text(Fact),
}

const BUILT_IN: [(&str, &str); 2] = [
    ("anthropic", include_str!("../../dialects/shapes/anthropic.json")),
    ("openai", include_str!("../../dialects/shapes/openai.json")),
];

impl ErrorShape {
    /// The names of the shapes that come with Keyward beside those of its dialects.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The shape of that name that comes with Keyward; `None` if there is none.
    pub fn built_in(name: &str) -> Option<Result<Self, Problems>> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name)?;
        Some(document::parse(text.as_bytes(), |node| Self::read(&node)))
    }

    /// The answer to a refusal, with the fields that HTTP asks for: `www-authenticate` on every 401 (RFC 9110, section
    /// 15.5.2; its parameters are those of RFC 6750, section 3), `retry-after` on every 429 and 503.
    pub fn render(&self, refusal: Refusal, facts: &Facts<'_>) -> Rendered {
        let Some((_, reply)) = self.replies.iter().find(|(of, _)| *of == refusal) else {
            // `read` makes a reply for every refusal; an answer without a body is still a refusal.
            return Rendered { status: 503, headers: Vec::new(), body: String::new() };
        };
        let mut headers = vec![(Cow::Borrowed("content-type"), self.content_type.clone())];
        if let Some(name) = &self.request_id_header
            && !facts.request_id.is_empty()
            && facts.request_id.bytes().all(|c| c.is_ascii_graphic())
        {
            headers.push((Cow::Owned(name.clone()), facts.request_id.to_owned()));
        }
        if reply.status == 401 || refusal == Refusal::InsufficientScope {
            headers.push(("www-authenticate".into(), self.challenge(refusal, facts)));
        }
        if reply.status == 429 || reply.status == 503 {
            headers.push(("retry-after".into(), facts.retry_after_s.to_string()));
        }
        if reply.status == 429 {
            let fields = rate_limit_fields::standard(facts.windows).into_iter();
            headers.extend(fields.map(|(name, value)| (name.into(), value)));
        }
        let mut body = String::new();
        for segment in &reply.body {
            match segment {
                Segment::Literal(text) => body.push_str(text),
                Segment::Value(fact) => body.push_str(&fact.of(refusal, reply.status, facts).to_string()),
                Segment::Text(fact) => match fact.of(refusal, reply.status, facts) {
                    Value::String(text) => body.push_str(escaped(&text).as_str()),
                    other => body.push_str(&other.to_string()),
                },
            }
        }
        Rendered { status: reply.status, headers, body }
    }

    /// The status of a refusal.
    pub fn status(&self, refusal: Refusal) -> u16 {
        self.replies.iter().find(|(of, _)| *of == refusal).map_or(503, |(_, reply)| reply.status)
    }

    fn challenge(&self, refusal: Refusal, facts: &Facts<'_>) -> String {
        let mut challenge = format!("Bearer realm=\"{}\"", self.realm);
        if let Some(error) = refusal.challenge_error() {
            challenge.push_str(&format!(", error=\"{error}\""));
        }
        if !facts.resource_metadata.is_empty() {
            challenge.push_str(&format!(", resource_metadata=\"{}\"", facts.resource_metadata));
        }
        if refusal == Refusal::InsufficientScope && !facts.scope.is_empty() {
            challenge.push_str(&format!(", scope=\"{}\"", facts.scope));
        }
        challenge
    }

    /// Reads a shape from a dialect.
    pub fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let content_type = fields.required("content_type").and_then(|n| header_text(&n));
        let realm = fields.required("realm").and_then(|n| quotable(&n));
        let body = fields.required("body").map(|n| (n.clone(), n.value()));
        let request_id_header = fields.maybe("request_id_header", field_name);
        let verdicts = fields.required("verdicts");
        fields.finish();
        let (body, verdicts) = (body?, verdicts?);
        let replies = read_replies(&verdicts, body);
        Some(Self {
            content_type: content_type?,
            realm: realm?,
            request_id_header: request_id_header?,
            replies: replies?,
        })
    }
}

fn read_replies(verdicts: &Node<'_>, body: (Node<'_>, &Value)) -> Option<Vec<(Refusal, Reply)>> {
    let given = verdicts.fields()?.all();
    for (name, node) in &given {
        if Refusal::from_name(name).is_none() {
            let known: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
            node.problem(format!("no such verdict; known: {}", known.join(", ")));
        }
    }
    let find = |name: &str| given.iter().find(|(given, _)| *given == name).map(|(_, node)| node);
    let replies = Refusal::ALL.map(|refusal| {
        let Some(node) = find(refusal.name()) else {
            verdicts.problem(format!("{:?} is missing", refusal.name()));
            return None;
        };
        // A string names another verdict that is answered alike.
        let node = match node.value().as_str() {
            None => node,
            Some(other) => match find(other) {
                Some(target) if target.value().is_object() => target,
                _ => {
                    node.problem("expected an object, or the name of another verdict whose value is an object");
                    return None;
                }
            },
        };
        read_reply(refusal, node, &body).map(|reply| (refusal, reply))
    });
    replies.into_iter().collect()
}

fn read_reply(refusal: Refusal, node: &Node<'_>, (body_node, default_body): &(Node<'_>, &Value)) -> Option<Reply> {
    let mut status = None;
    let mut body = (body_node.clone(), *default_body);
    let mut own = Map::new();
    for (name, field) in node.fields()?.all() {
        match name {
            "status" => status = field.number(400..=599),
            "body" => body = (field.clone(), field.value()),
            _ => {
                own.insert(name.to_owned(), field.value().clone());
            }
        }
    }
    let Some(status) = status.and_then(|status| u16::try_from(status).ok()) else {
        node.problem("\"status\" is missing or wrong");
        return None;
    };
    let mut template = Template { refusal, own: Some(&own), node: &body.0, out: Vec::new(), ok: true };
    template.value(body.1);
    template.ok.then_some(Reply { status, body: template.out })
}

struct Template<'a, 'b> {
    refusal: Refusal,
    own: Option<&'a Map<String, Value>>,
    node: &'a Node<'b>,
    out: Vec<Segment>,
    ok: bool,
}

impl<'a> Template<'a, '_> {
    fn value(&mut self, value: &Value) {
        match value {
            Value::Object(map) => {
                self.literal("{");
                for (n, (name, value)) in map.iter().enumerate() {
                    let comma = if n == 0 { "" } else { "," };
                    self.literal(&format!("{comma}{}:", Value::String(name.clone())));
                    self.value(value);
                }
                self.literal("}");
            }
            Value::Array(elements) => {
                self.literal("[");
                for (n, value) in elements.iter().enumerate() {
                    self.literal(if n == 0 { "" } else { "," });
                    self.value(value);
                }
                self.literal("]");
            }
            Value::String(text) => self.string(text),
            other => self.literal(&other.to_string()),
        }
    }

    fn string(&mut self, text: &str) {
        if let Some(name) = placeholder(text) {
            if let Some(value) = self.own.and_then(|own| own.get(name)) {
                return self.own_value(value);
            }
            if let Some(fact) = self.fact(name) {
                self.out.push(Segment::Value(fact));
            }
            return;
        }
        self.literal("\"");
        self.text(text);
        self.literal("\"");
    }

    /// A verdict's own field may ask for facts, but not for other fields: no loops.
    fn own_value(&mut self, value: &Value) {
        let own = self.own.take();
        self.value(value);
        self.own = own;
    }

    fn text(&mut self, text: &str) {
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            self.literal(&escaped(before));
            if let Some(after) = after.strip_prefix('{') {
                self.literal("{");
                rest = after;
                continue;
            }
            let Some((name, after)) = after.split_once('}') else {
                self.problem("a `{` without its `}`; write `{{` for a brace");
                return;
            };
            rest = after;
            match self.own.and_then(|own| own.get(name)) {
                Some(Value::String(own)) => {
                    let outer = self.own.take();
                    self.text(own);
                    self.own = outer;
                }
                Some(other) => self.literal(&escaped(&other.to_string())),
                None => {
                    if let Some(fact) = self.fact(name) {
                        self.out.push(Segment::Text(fact));
                    }
                }
            }
        }
        self.literal(&escaped(rest));
    }

    fn fact(&mut self, name: &str) -> Option<Fact> {
        let fact = Fact::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, fact)| fact);
        match fact {
            Some(fact) if fact.is_known_for(self.refusal) => Some(fact),
            Some(_) => {
                self.problem(&format!("`{{{name}}}` is not known for the verdict {:?}", self.refusal.name()));
                None
            }
            None => {
                self.problem(&format!(
                    "`{{{name}}}` is neither a field of the verdict {:?} nor a fact",
                    self.refusal.name()
                ));
                None
            }
        }
    }

    fn literal(&mut self, text: &str) {
        match self.out.last_mut() {
            Some(Segment::Literal(last)) => last.push_str(text),
            _ => self.out.push(Segment::Literal(text.to_owned())),
        }
    }

    fn problem(&mut self, message: &str) {
        self.ok = false;
        self.node.problem(message);
    }
}

impl Fact {
    const ALL: [(&'static str, Self); 12] = [
        ("verdict", Self::Verdict),
        ("status", Self::Status),
        ("header", Self::Header),
        ("request_id", Self::RequestId),
        ("key_id", Self::KeyId),
        ("expired_at", Self::ExpiredAt),
        ("scope", Self::Scope),
        ("retry_after", Self::RetryAfter),
        ("limit", Self::Limit),
        ("window", Self::Window),
        ("reason", Self::Reason),
        ("explanation", Self::Explanation),
    ];

    fn is_known_for(self, refusal: Refusal) -> bool {
        match self {
            Self::Verdict | Self::Status | Self::Header | Self::RequestId => true,
            Self::KeyId => refusal.knows_key(),
            Self::ExpiredAt => refusal == Refusal::Expired,
            Self::Scope => refusal == Refusal::InsufficientScope,
            Self::RetryAfter => matches!(refusal, Refusal::RateLimited | Refusal::Unavailable),
            Self::Limit | Self::Window => refusal == Refusal::RateLimited,
            Self::Reason | Self::Explanation => refusal == Refusal::Malformed,
        }
    }

    fn of(self, refusal: Refusal, status: u16, facts: &Facts<'_>) -> Value {
        match self {
            Self::Verdict => refusal.name().into(),
            Self::Status => status.into(),
            Self::Header => facts.header.into(),
            Self::RequestId => facts.request_id.into(),
            Self::KeyId => facts.key_id.into(),
            Self::ExpiredAt => rfc3339(facts.expired_at_ms).into(),
            Self::Scope => facts.scope.into(),
            Self::RetryAfter => facts.retry_after_s.into(),
            Self::Limit => facts.limit.into(),
            Self::Window => facts.window_s.into(),
            Self::Reason => facts.malformation.map_or("malformed", Malformation::name).into(),
            Self::Explanation => facts
                .malformation
                .map_or("The credential is not a well-formed API key.", Malformation::explanation)
                .into(),
        }
    }
}

/// A time in milliseconds since the Unix epoch as RFC 3339 in UTC, whole seconds; clamped to the year 9999.
pub fn rfc3339(ms: u64) -> String {
    const LAST_SECOND: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs((ms / 1000).min(LAST_SECOND));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// `name` if the text is exactly `{name}`.
fn placeholder(text: &str) -> Option<&str> {
    let name = text.strip_prefix('{')?.strip_suffix('}')?;
    (!name.is_empty() && name.bytes().all(|c| c.is_ascii_lowercase() || c == b'_')).then_some(name)
}

/// The text as it stands between the quotes of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = Value::String(text.to_owned()).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}

fn header_text(node: &Node<'_>) -> Option<String> {
    let text = node.nonempty()?;
    if !text.bytes().all(|c| (b' '..=b'~').contains(&c)) {
        node.problem("expected visible ASCII characters and spaces only");
        return None;
    }
    Some(text.to_owned())
}

/// The name of a header field, in lower case.
fn field_name(node: &Node<'_>) -> Option<String> {
    let name = node.nonempty()?;
    if !name.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-') {
        node.problem("expected the name of a header field: small letters, digits and -");
        return None;
    }
    Some(name.to_owned())
}

/// Text that stands between quotes in a header field without escapes (RFC 9110, section 5.6.4).
fn quotable(node: &Node<'_>) -> Option<String> {
    let text = header_text(node)?;
    if text.contains(['"', '\\']) {
        node.problem("expected no quotes and no backslashes");
        return None;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;

    fn shape(change: impl FnOnce(&mut Value)) -> Result<ErrorShape, String> {
        let mut value = serde_json::json!({
            "content_type": "application/json",
            "realm": "test",
            "body": {"error": {"code": "{code}", "message": "{message}", "n": 1}},
            "verdicts": {
                "unknown": {"status": 401, "code": "invalid", "message": "No such key"},
                "unavailable": {"status": 503, "code": "later", "message": "Try again in {retry_after} s"},
                "expired": {"status": 401, "code": "expired", "message": {"at": "{expired_at}", "key": "{key_id}"}},
                "rate_limited": {"status": 429, "code": "{limit}", "message": "a \"{window}\" {{"},
            },
        });
        for refusal in Refusal::ALL {
            let verdicts = value["verdicts"].as_object_mut().unwrap();
            verdicts.entry(refusal.name()).or_insert("unknown".into());
        }
        change(&mut value);
        document::read_value(&value, |node| ErrorShape::read(&node)).map_err(|problems| problems.to_string())
    }

    fn body(refusal: Refusal, facts: &Facts<'_>) -> String {
        shape(|_| {}).unwrap().render(refusal, facts).body
    }

    #[test]
    fn bodies_are_filled_in_the_authors_order() {
        assert_eq!(
            body(Refusal::Unknown, &Facts::default()),
            r#"{"error":{"code":"invalid","message":"No such key","n":1}}"#
        );
        let facts = Facts { key_id: "k\"1", expired_at_ms: 1_704_067_200_999, ..Facts::default() };
        assert_eq!(
            body(Refusal::Expired, &facts),
            r#"{"error":{"code":"expired","message":{"at":"2024-01-01T00:00:00Z","key":"k\"1"},"n":1}}"#
        );
        let facts = Facts { limit: 10, window_s: 60, ..Facts::default() };
        assert_eq!(body(Refusal::RateLimited, &facts), r#"{"error":{"code":10,"message":"a \"60\" {","n":1}}"#);
    }

    #[test]
    fn a_verdict_can_be_answered_like_another() {
        assert_eq!(body(Refusal::Jwt, &Facts::default()), body(Refusal::Unknown, &Facts::default()));
    }

    #[test]
    fn a_401_has_a_challenge_and_no_error_code_where_no_credential_was_sent() {
        let shape = shape(|_| {}).unwrap();
        let challenge = |refusal| {
            let rendered = shape.render(refusal, &Facts::default());
            rendered.headers.into_iter().find(|(name, _)| name == "www-authenticate").map(|(_, value)| value)
        };
        assert_eq!(challenge(Refusal::Missing).as_deref(), Some("Bearer realm=\"test\""));
        assert_eq!(challenge(Refusal::Unknown).as_deref(), Some("Bearer realm=\"test\", error=\"invalid_token\""));
        assert_eq!(challenge(Refusal::Unavailable), None);
    }

    #[test]
    fn a_503_and_a_429_say_when_to_come_back() {
        let facts = Facts { retry_after_s: 7, ..Facts::default() };
        for refusal in [Refusal::Unavailable, Refusal::RateLimited] {
            let rendered = shape(|_| {}).unwrap().render(refusal, &facts);
            assert!(rendered.headers.contains(&("retry-after".into(), "7".to_owned())), "{rendered:?}");
        }
    }

    #[test]
    fn a_shape_can_tell_the_requests_id_in_a_header_too() {
        let shape = shape(|value| value["request_id_header"] = "request-id".into()).unwrap();
        let headers = |request_id| shape.render(Refusal::Missing, &Facts { request_id, ..Facts::default() }).headers;
        assert!(headers("r1").contains(&("request-id".into(), "r1".to_owned())));
        // An id can be what the client sent.
        for not_told in ["", "a\0", "a\r\nb: c", "\u{e9}"] {
            assert!(!headers(not_told).iter().any(|(name, _)| name == "request-id"), "{not_told:?}");
        }
    }

    #[test]
    fn a_429_tells_the_windows_as_structured_fields() {
        let window = |limit: &str, remaining, reset_s| Window { limit: limit.parse().unwrap(), remaining, reset_s };
        let windows = [window("10/s", 0, 1), window("200/min", 190, 60)];
        let rendered =
            shape(|_| {}).unwrap().render(Refusal::RateLimited, &Facts { windows: &windows, ..Facts::default() });
        let field = |name| rendered.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str());
        assert_eq!(field("ratelimit-policy"), Some(r#""10/s";q=10;w=1, "200/min";q=200;w=60"#));
        assert_eq!(field("ratelimit"), Some(r#""10/s";r=0;t=1, "200/min";r=190;t=60"#));
    }

    #[test]
    fn mistakes_are_told_with_their_paths() {
        let problems = shape(|value| {
            value["verdicts"]["unknown"]["message"] = "{key_id}".into();
            value["verdicts"]["expired"]["status"] = 200.into();
            value["verdicts"]["missing"] = "jwt".into();
            value["verdicts"]["nonsense"] = "unknown".into();
            value["realm"] = "a\"b".into();
            value["x"] = 1.into();
        })
        .unwrap_err();
        for expected in [
            "`{key_id}` is not known for the verdict \"unknown\"",
            "verdicts.expired.status: expected a whole number from 400 to 599",
            "verdicts.missing: expected an object, or the name",
            "verdicts.nonsense: no such verdict",
            "realm: expected no quotes",
            "x: unknown field",
        ] {
            assert!(problems.contains(expected), "{expected}\nin {problems}");
        }
        let problems = shape(|value| value["body"]["error"]["code"] = "x {".into()).unwrap_err();
        assert!(problems.contains("body: a `{` without its `}`"), "{problems}");
        let problems = shape(|value| value["body"]["error"]["code"] = "{nope}".into()).unwrap_err();
        assert!(problems.contains("`{nope}` is neither a field"), "{problems}");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
