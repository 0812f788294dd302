//! What every refusal looks like on the wire, compiled from data when the configuration is read.
//!
//! The reply to a refusal is that of its reason, else of the reason as which it is answered ([`Refusal::answered_as`]), else
//! of its class, else a built-in problem document. So a new reason makes no existing dialect invalid.
//!
//! A body is a JSON template. A string that is exactly `"{name}"` becomes the value of that name; inside a longer
//! string, `{name}` becomes its text and `{{` a brace. Names are the answer's own fields (`code`, `message`, …) and
//! the facts that the verdict carries ([`Fact`]). A name that an answer cannot fill is a mistake of the dialect, told
//! when it is read, so rendering cannot fail.

use crate::dialect::rate_limit_fields::{self, Window};
use crate::document::{self, Node, Problems};
use crate::refusal::malformation::Malformation;
use crate::refusal::{Class, Refusal};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

/// The replies to all refusals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorShape {
    content_type: String,
    realm: String,
    request_id_header: Option<String>,
    by_reason: Vec<(Refusal, Reply)>,
    by_class: ByClass,
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
    /// After how many seconds to try again, a number; of the classes `limited` and `unavailable` only.
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
    /// The content type, if it differs from that of the shape.
    content_type: Option<&'static str>,
    body: Vec<Segment>,
}

/// The replies to reasons without a reply of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ByClass {
    unauthenticated: Reply,
    forbidden: Reply,
    limited: Reply,
    quota: Reply,
    unavailable: Reply,
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
        let refusal = self.answered(refusal);
        let reply = self.reply(refusal);
        let content_type = reply.content_type.map_or_else(|| self.content_type.clone(), str::to_owned);
        let mut headers = vec![(Cow::Borrowed("content-type"), content_type)];
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
        self.reply(self.answered(refusal)).status
    }

    /// The refusal that is answered: this one, unless the shape does not name it and it is answered as another one.
    fn answered(&self, refusal: Refusal) -> Refusal {
        let is_named = self.by_reason.iter().any(|(of, _)| *of == refusal);
        refusal.answered_as().filter(|_| !is_named).unwrap_or(refusal)
    }

    fn reply(&self, refusal: Refusal) -> &Reply {
        let own = self.by_reason.iter().find(|(of, _)| *of == refusal);
        own.map_or_else(|| self.by_class.of(refusal.class()), |(_, reply)| reply)
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
        let classes = fields.optional("classes");
        let verdicts = fields.optional("verdicts");
        fields.finish();
        let body = body?;
        let by_class = ByClass::read(classes.as_ref(), &body);
        let by_reason = verdicts.map_or(Some(Vec::new()), |verdicts| read_by_reason(&verdicts, &body));
        Some(Self {
            content_type: content_type?,
            realm: realm?,
            request_id_header: request_id_header?,
            by_reason: by_reason?,
            by_class: by_class?,
        })
    }
}

impl ByClass {
    fn of(&self, class: Class) -> &Reply {
        match class {
            Class::Unauthenticated => &self.unauthenticated,
            Class::Forbidden => &self.forbidden,
            Class::Limited => &self.limited,
            Class::Quota => &self.quota,
            Class::Unavailable => &self.unavailable,
        }
    }

    /// The given replies, and the built-in ones for all other classes.
    fn read(classes: Option<&Node<'_>>, body: &Body<'_>) -> Option<Self> {
        let given = classes.map_or_else(|| Some(Vec::new()), |classes| Some(classes.fields()?.all()))?;
        for (_, node) in given.iter().filter(|(name, _)| Class::from_name(name).is_none()) {
            let known = Class::ALL.map(Class::name).join(", ");
            node.problem(format!("no such class; known: {known}"));
        }
        let read = |class: Class| match given.iter().find(|(name, _)| *name == class.name()) {
            Some((_, node)) => Reply::read(Subject::Class(class), node, body),
            None => Some(Reply::built_in(class)),
        };
        let [unauthenticated, forbidden, limited, quota, unavailable] =
            [Class::Unauthenticated, Class::Forbidden, Class::Limited, Class::Quota, Class::Unavailable].map(read);
        Some(Self {
            unauthenticated: unauthenticated?,
            forbidden: forbidden?,
            limited: limited?,
            quota: quota?,
            unavailable: unavailable?,
        })
    }
}

/// The common body and its node.
type Body<'a> = (Node<'a>, &'a Value);

/// The replies to the named reasons.
fn read_by_reason(verdicts: &Node<'_>, body: &Body<'_>) -> Option<Vec<(Refusal, Reply)>> {
    let given = verdicts.fields()?.all();
    let replies = given.iter().map(|(name, node)| {
        let Some(refusal) = Refusal::from_name(name) else {
            node.problem(format!("no such verdict; known: {}", Refusal::ALL.map(Refusal::name).join(", ")));
            return None;
        };
        // A string names another verdict that is answered alike.
        let node = match node.value().as_str() {
            None => node,
            Some(other) => match given.iter().find(|(name, node)| *name == other && node.value().is_object()) {
                Some((_, target)) => target,
                None => {
                    node.problem("expected an object, or the name of another verdict whose value is an object");
                    return None;
                }
            },
        };
        Some((refusal, Reply::read(Subject::Verdict(refusal), node, body)?))
    });
    // All are read before any error is returned, so that all mistakes are reported.
    replies.collect::<Vec<_>>().into_iter().collect()
}

impl Reply {
    fn read(subject: Subject, node: &Node<'_>, body: &Body<'_>) -> Option<Self> {
        let mut status = None;
        let mut body = body.clone();
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
        let mut template = Template { subject, own: Some(&own), node: &body.0, out: Vec::new(), ok: true };
        template.value(body.1);
        template.ok.then_some(Self { status, content_type: None, body: template.out })
    }

    /// A problem document (RFC 9457) that does not reveal the reason, as the dialect may hide it on purpose.
    fn built_in(class: Class) -> Self {
        let (status, title, detail) = match class {
            Class::Unauthenticated => (401, "Unauthorized", "A valid API key is required."),
            Class::Forbidden => (403, "Forbidden", "The API key may not be used for this request."),
            Class::Limited => (429, "Too Many Requests", "Too many requests. Try again later."),
            Class::Quota => (402, "Payment Required", "What the API key may use is used up."),
            Class::Unavailable => {
                (503, "Service Unavailable", "API keys cannot be checked at the moment. Try again later.")
            }
        };
        let code = class.name();
        let beginning = format!(
            r#"{{"type":"about:blank","title":"{title}","status":{status},"detail":"{detail}","code":"{code}","request_id":"#
        );
        let body = vec![Segment::Literal(beginning), Segment::Value(Fact::RequestId), Segment::Literal("}".to_owned())];
        Self { status, content_type: Some("application/problem+json"), body }
    }
}

/// What a reply is for.
#[derive(Clone, Copy)]
enum Subject {
    Verdict(Refusal),
    Class(Class),
}

impl Subject {
    fn knows(self, fact: Fact) -> bool {
        match self {
            Self::Verdict(refusal) => fact.is_known_for(refusal),
            Self::Class(class) => fact.is_known_in(class),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict(refusal) => write!(f, "the verdict {:?}", refusal.name()),
            Self::Class(class) => write!(f, "the class {:?}", class.name()),
        }
    }
}

struct Template<'a, 'b> {
    subject: Subject,
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
            Some(fact) if self.subject.knows(fact) => Some(fact),
            Some(_) => {
                self.problem(&format!("`{{{name}}}` is not known for {}", self.subject));
                None
            }
            None => {
                self.problem(&format!("`{{{name}}}` is neither a field of {} nor a fact", self.subject));
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
            Self::RetryAfter => matches!(refusal.class(), Class::Limited | Class::Unavailable),
            Self::Limit | Self::Window => refusal == Refusal::RateLimited,
            Self::Reason | Self::Explanation => refusal == Refusal::Malformed,
        }
    }

    /// Whether it is known for all reasons of the class, including future ones.
    fn is_known_in(self, class: Class) -> bool {
        match self {
            Self::Verdict | Self::Status | Self::Header | Self::RequestId => true,
            Self::KeyId => matches!(class, Class::Forbidden | Class::Limited | Class::Quota),
            Self::RetryAfter => matches!(class, Class::Limited | Class::Unavailable),
            Self::ExpiredAt | Self::Scope | Self::Limit | Self::Window | Self::Reason | Self::Explanation => false,
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
        node.problem("expected the name of a header field: lowercase letters, digits and -");
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
    fn a_pause_without_words_is_answered_as_revoked() {
        let facts = Facts { key_id: "key_1", ..Facts::default() };
        let words = |name: &str| serde_json::json!({"status": 401, "code": "{verdict}", "message": name});
        let render = |named: &[&str]| {
            let shape = least(|value| {
                let all = named.iter().map(|name| ((*name).to_owned(), words(name)));
                value["verdicts"] = Value::Object(all.collect());
            });
            let shape = shape.unwrap();
            (shape.render(Refusal::Paused, &facts), shape.render(Refusal::Revoked, &facts))
        };
        let (paused, revoked) = render(&["revoked"]);
        assert_eq!(paused, revoked);
        assert!(paused.body.contains(r#""code":"revoked""#), "{}", paused.body);
        let (paused, revoked) = render(&["revoked", "paused"]);
        assert!(paused.body.contains(r#""code":"paused""#) && paused != revoked, "{}", paused.body);
        let (paused, revoked) = render(&[]);
        assert_eq!(paused, revoked);
    }

    #[test]
    fn a_verdict_can_be_answered_like_another() {
        assert_eq!(body(Refusal::Jwt, &Facts::default()), body(Refusal::Unknown, &Facts::default()));
    }

    /// The shape with required fields only.
    fn least(change: impl FnOnce(&mut Value)) -> Result<ErrorShape, String> {
        shape(|value| {
            value.as_object_mut().unwrap().remove("verdicts");
            change(value);
        })
    }

    fn classes() -> Value {
        serde_json::json!({
            "unauthenticated": {"status": 401, "code": "who", "message": "Send {header}"},
            "forbidden": {"status": 403, "code": "no", "message": "{key_id} may not"},
            "limited": {"status": 429, "code": "slow", "message": "{key_id}: {retry_after} s"},
            "quota": {"status": 402, "code": "spent", "message": "{key_id}"},
            "unavailable": {"status": 503, "code": "later", "message": "{retry_after} s"},
        })
    }

    #[test]
    fn classes_alone_answer_every_reason() {
        let shape = least(|value| value["classes"] = classes()).unwrap();
        let facts = Facts { header: "X-Key", key_id: "key_1", retry_after_s: 7, ..Facts::default() };
        for refusal in Refusal::ALL {
            let (status, code, message) = match refusal.class() {
                Class::Unauthenticated => (401, "who", "Send X-Key"),
                Class::Forbidden => (403, "no", "key_1 may not"),
                Class::Limited => (429, "slow", "key_1: 7 s"),
                Class::Quota => (402, "spent", "key_1"),
                Class::Unavailable => (503, "later", "7 s"),
            };
            let expected = format!(r#"{{"error":{{"code":"{code}","message":"{message}","n":1}}}}"#);
            let rendered = shape.render(refusal, &facts);
            assert_eq!((rendered.status, rendered.body), (status, expected), "{}", refusal.name());
            assert_eq!(rendered.headers[0], ("content-type".into(), "application/json".to_owned()));
        }
    }

    #[test]
    fn without_replies_the_built_in_ones_are_used() {
        let shape = least(|_| {}).unwrap();
        for refusal in Refusal::ALL {
            let (status, title) = match refusal.class() {
                Class::Unauthenticated => (401, "Unauthorized"),
                Class::Forbidden => (403, "Forbidden"),
                Class::Limited => (429, "Too Many Requests"),
                Class::Quota => (402, "Payment Required"),
                Class::Unavailable => (503, "Service Unavailable"),
            };
            let rendered = shape.render(refusal, &Facts { request_id: "r\"1", ..Facts::default() });
            assert_eq!((rendered.status, shape.status(refusal)), (status, status), "{}", refusal.name());
            assert_eq!(rendered.headers[0], ("content-type".into(), "application/problem+json".to_owned()));
            let body: Value = serde_json::from_str(&rendered.body).unwrap();
            assert_eq!((&body["status"], &body["title"]), (&status.into(), &title.into()), "{body}");
            assert_eq!(
                (&body["code"], &body["request_id"]),
                (&refusal.class().name().into(), &"r\"1".into()),
                "{body}"
            );
            let says_its_reason = rendered.body.contains(&format!("{:?}", refusal.name()));
            assert!(!says_its_reason || refusal.name() == refusal.class().name(), "{body}");
        }
    }

    /// A file that names every reason but one stands for an older file after a reason was added.
    #[test]
    fn a_new_reason_keeps_existing_files_valid() {
        for added in Refusal::ALL {
            let all_but_it = |value: &mut Value| {
                for refusal in Refusal::ALL {
                    value["verdicts"][refusal.name()] =
                        serde_json::json!({"status": 418, "code": "own", "message": ""});
                }
                value["verdicts"].as_object_mut().unwrap().remove(added.name());
            };
            let older = shape(all_but_it).unwrap();
            for refusal in Refusal::ALL.into_iter().filter(|refusal| *refusal != added) {
                assert_eq!(older.status(refusal), 418);
            }
            assert_eq!(older.reply(added), &Reply::built_in(added.class()));
            let older = shape(|value| {
                all_but_it(value);
                value["classes"] = classes();
            });
            assert_eq!(older.unwrap().reply(added), least(|value| value["classes"] = classes()).unwrap().reply(added));
        }
    }

    #[test]
    fn facts_of_a_class_are_known_for_its_reasons() {
        for (name, fact) in Fact::ALL {
            for refusal in Refusal::ALL.into_iter().filter(|refusal| fact.is_known_in(refusal.class())) {
                assert!(fact.is_known_for(refusal), "{name} {}", refusal.name());
            }
        }
    }

    #[test]
    fn mistakes_in_classes_are_reported_with_paths() {
        let problems = least(|value| {
            value["classes"] = classes();
            value["classes"]["unauthenticated"]["message"] = "{key_id}".into();
            value["classes"]["limited"]["message"] = "{window}".into();
            value["classes"]["quota"] = "limited".into();
            value["classes"]["unavailable"]["status"] = 200.into();
            value["classes"]["nonsense"] = 1.into();
        })
        .unwrap_err();
        for expected in [
            "`{key_id}` is not known for the class \"unauthenticated\"",
            "`{window}` is not known for the class \"limited\"",
            "classes.quota: expected an object",
            "classes.unavailable.status: expected a whole number from 400 to 599",
            "classes.nonsense: no such class; known: unauthenticated, forbidden, limited, quota, unavailable",
        ] {
            assert!(problems.contains(expected), "{expected}\nin {problems}");
        }
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
