//! One gateway per dialect with its shipped configuration; every verdict is caused, and every response compared byte
//! for byte; also for HEAD and gRPC, and in the access log.

use super::cases::{self, Case};
use super::page::Page;
use super::records::Records;
use crate::common::SOON;
use crate::feed_double::Feed;
use keyward_core::refusal::malformation::Malformation;
use keyward_harness::http::Connection;
use keyward_harness::{Failure, Gateway, Request, Response, until};
use serde_json::Value;

/// One table: a dialect's, or that of an error shape on a dialect's routes.
pub(crate) struct Subject {
    /// The heading of its section.
    pub(crate) title: &'static str,
    /// Rules inserted before the shipped ones, as a JSON list; empty for none.
    pub(crate) rules: &'static str,
    /// The header field that repeats the request id; empty for none.
    request_id_header: &'static str,
    /// The media type of the responses.
    content_type: &'static str,
    cases: &'static [Case],
}

#[tokio::test]
async fn keyward_answers_every_verdict_as_published() {
    let subject = Subject {
        title: "Verdicts",
        rules: r#"[
  {"path": {"prefix": "/internal"}, "access": "key", "kinds": []},
  {"path": {"prefix": "/v1/admin"}, "access": "key", "scopes": ["admin"]}
]"#,
        request_id_header: "",
        content_type: "application/problem+json",
        cases: &cases::KEYWARD,
    };
    let introduction = "The default, for a service without keys in circulation. A key is `kw_live_` or `kw_test_`, 30 \
        letters and digits, and a checksum of six, so that a mistyped or made-up key is refused without a look-up and \
        secret scanners can recognise one. It is read from `Authorization: Bearer` or `X-API-Key`; refusals are problem \
        details (RFC 9457).";
    run("keyward", introduction, &[subject]).await;
}

#[tokio::test]
async fn exograph_answers_every_verdict_as_published() {
    let subject = Subject {
        title: "Verdicts",
        rules: r#"[
  {"path": {"prefix": "/internal"}, "access": "key", "kinds": []},
  {"path": {"prefix": "/admin"}, "access": "key", "scopes": ["admin"]}
]"#,
        request_id_header: "",
        content_type: "application/json",
        cases: &cases::EXOGRAPH,
    };
    let introduction = "One code for every key that is not accepted, whatever is wrong with it. A key is `exo_key_live_` \
        and 32 letters and digits. It is read from `Authorization: Bearer` or `X-API-Key`, and accepted by the REST API \
        and the MCP endpoint `/api/mcp` alike.";
    run("exograph", introduction, &[subject]).await;
}

#[tokio::test]
async fn exona_answers_every_verdict_as_published() {
    let subject = Subject {
        title: "Verdicts",
        rules: r#"[
  {"path": {"prefix": "/internal"}, "access": "key", "kinds": []},
  {"path": {"prefix": "/v1/admin"}, "access": "key", "scopes": ["admin"]}
]"#,
        request_id_header: "",
        content_type: "application/json",
        cases: &cases::EXONA,
    };
    let introduction = "Live and test keys on one endpoint: the prefix decides which upstream a request reaches. A key is \
        `exo_live_` or `exo_test_` and 36 letters and digits, read from `Authorization: Bearer`. Every error carries the \
        id of its request, which is also in the access log.";
    run("exona", introduction, &[subject]).await;
}

#[tokio::test]
async fn graph8_answers_every_verdict_as_published() {
    let subject = Subject {
        title: "Verdicts",
        rules: r#"[
  {"path": {"prefix": "/api/v1/admin"}, "access": "key", "scopes": ["admin"]}
]"#,
        request_id_header: "",
        content_type: "application/json",
        cases: &cases::GRAPH8,
    };
    let introduction = "Three methods side by side: organization keys on `/api`, write keys from browsers on `/sdk`, and \
        OAuth on `/mcp`. An organization key is opaque, 16 to 256 visible characters; a write key is `wk_` and 40 \
        letters and digits. Both are read from `Authorization: Bearer`, where a JSON Web Token gets an answer of its own. \
        A key without limits of its own is held to 10 requests a second and 200 a minute, both at once.";
    run("graph8", introduction, &[subject]).await;
}

#[tokio::test]
async fn ai_api_answers_every_verdict_as_published() {
    let subject = Subject {
        title: "Verdicts",
        rules: r#"[
  {"path": {"prefix": "/internal"}, "access": "key", "kinds": []}
]"#,
        request_id_header: "",
        content_type: "application/json",
        cases: &cases::AI_API,
    };
    let introduction = "Permissions `read` (which includes generating content), `write`, `webhook`, and `admin`, which \
        holds all others; errors carry details. A key is `sk_` and 40 letters and digits, read from `Authorization: \
        Bearer`.";
    run("ai-api", introduction, &[subject]).await;
}

/// auxot answers every verdict as published, and in the error shapes of two SDKs.
#[tokio::test]
async fn auxot_answers_as_published_and_like_two_sdks() {
    let subjects = [
        Subject {
            title: "Verdicts",
            rules: "",
            request_id_header: "",
            content_type: "application/json",
            cases: &cases::AUXOT,
        },
        Subject {
            title: "Verdicts on Anthropic-compatible routes",
            rules: r#"[
  {"path": {"prefix": "/api/anthropic/internal"}, "errors": "anthropic", "access": "key", "kinds": []},
  {"path": {"prefix": "/api/anthropic/v1/files"}, "errors": "anthropic", "access": "key", "scopes": ["files"]}
]"#,
            request_id_header: "request-id",
            content_type: "application/json",
            cases: &cases::ANTHROPIC,
        },
        Subject {
            title: "Verdicts on OpenAI-compatible routes",
            rules: r#"[
  {"path": {"prefix": "/api/openai/internal"}, "errors": "openai", "access": "key", "kinds": []},
  {"path": {"prefix": "/api/openai/v1/files"}, "errors": "openai", "access": "key", "scopes": ["files"]}
]"#,
            request_id_header: "x-request-id",
            content_type: "application/json",
            cases: &cases::OPENAI,
        },
    ];
    let introduction = "Keys of users, which may do what their user may do at that moment, and keys of teams, which take \
        intake webhooks and calls between services. A key is `user.` or `team.` and 48 letters and digits, read from \
        `Authorization: Bearer` or `x-api-key`. On `/api/anthropic` and `/api/openai` refusals are what those SDKs \
        understand.";
    run("auxot", introduction, &subjects).await;
}

struct Run {
    gateway: Gateway,
    records: Records,
    http1: Connection,
    http2: Connection,
}

async fn run(dialect: &'static str, introduction: &str, subjects: &[Subject]) {
    let feed = Feed::start().await;
    let gateway = Gateway::builder()
        .dialect(dialect)
        .filter(|filter| {
            let rules = filter["rules"].as_array_mut().unwrap();
            for subject in subjects.iter().filter(|subject| !subject.rules.is_empty()) {
                let more: Vec<Value> = serde_json::from_str(subject.rules).unwrap();
                rules.splice(0..0, more);
            }
        })
        .feed_from(feed.address())
        .start()
        .await
        .unwrap();
    let mut workers = gateway.envoy.every_worker().await.unwrap();
    let address = gateway.envoy.gateway();
    let http1 = Connection::open(address).await.unwrap();
    let http2 = Connection::open_http2(address).await.unwrap();
    let mut run = Run { gateway, records: Records::of(dialect), http1, http2 };
    let mut page = Page::begin(dialect, introduction);

    // Without a snapshot every verdict is `unavailable`.
    let mut before = Vec::new();
    for subject in subjects {
        before.push(run.check(subject, &subject.cases[0]).await);
    }
    feed.asked().await;
    feed.send(run.records.snapshot());
    let allowed = Request::get(subjects[0].cases[0].path).bearer(&run.records.credential("valid"));
    workers.until_status(&allowed, 200, SOON).await.unwrap();

    run.allows(subjects[0].cases[0].path, &mut page).await;
    for (subject, unavailable) in subjects.iter().zip(&before) {
        page.section(subject);
        for case in &subject.cases[1..] {
            let answer = run.check(subject, case).await;
            page.verdict(case, &run.credential(case), &answer);
        }
        page.verdict(&subject.cases[0], &run.credential(&subject.cases[0]), unavailable);
        run.refuses_non_keys(dialect, subject).await;
        run.refuses_a_replaced_secret(subject).await;
    }
    run.finds_verdicts_in_the_access_log(subjects).await;
    page.finish();
}

impl Run {
    fn credential(&self, case: &Case) -> String {
        if case.key.is_empty() { String::new() } else { self.records.credential(case.key) }
    }

    fn request(&self, method: &str, case: &Case) -> Request {
        let request = Request::new(method, case.path);
        if case.key.is_empty() { request } else { request.bearer(&self.credential(case)) }
    }

    /// Causes a verdict with GET, HEAD and gRPC, and returns the first response.
    async fn check(&mut self, subject: &Subject, case: &Case) -> Response {
        let get = self.request("GET", case);
        if case.verdict == "rate_limited" && self.http1.send(&get).await.unwrap().status != 200 {
            // Another table has used up the key's limit.
            assert_ne!(subject.title, "Verdicts");
        }
        let answer = self.http1.send(&get).await.unwrap();
        assert_answer(&answer, subject, case);

        let head = self.http1.send(&self.request("HEAD", case)).await.unwrap();
        assert_eq!((head.status, head.text().as_str()), (case.status, ""), "HEAD: {}", case.verdict);
        assert_eq!(head.header("www-authenticate").unwrap_or_default(), case.challenge);

        let grpc = self.request("POST", case).header("content-type", "application/grpc").header("te", "trailers");
        let answered = self.http2.send(&grpc).await.unwrap();
        let grpc_status = match case.status {
            401 => "16",
            403 => "7",
            402 | 429 => "8",
            _ => "14",
        };
        assert_eq!(answered.status, 200, "{answered:?}");
        assert_eq!(answered.header("content-type").as_deref(), Some("application/grpc"), "{}", case.verdict);
        assert_eq!(answered.header("grpc-status").as_deref(), Some(grpc_status), "{}", case.verdict);
        assert_eq!(answered.header("grpc-message").as_deref(), Some(case.verdict));
        answer
    }

    /// An allowed request reaches the upstream without its key and with the identity.
    async fn allows(&mut self, path: &str, page: &mut Page) {
        self.gateway.upstream().take_seen();
        let key = self.records.credential("valid");
        let answer = self.http1.send(&Request::get(path).bearer(&key)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let seen = self.gateway.upstream().take_seen();
        assert_eq!(seen.len(), 1);
        assert!(seen[0].header("authorization").is_empty() && seen[0].header("x-api-key").is_empty(), "{seen:?}");
        let identity = seen[0].headers.iter().filter(|(name, _)| name.starts_with("x-keyward-"));
        let identity: Vec<_> =
            identity.map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into_owned())).collect();
        assert_eq!(seen[0].header("x-keyward-key-id"), ["key_valid"]);
        page.allowed(path, &key, &identity);
    }

    /// Every credential that cannot be a key is answered as `malformed`.
    async fn refuses_non_keys(&mut self, dialect: &str, subject: &Subject) {
        let case = subject.cases.iter().find(|case| case.verdict == "malformed").unwrap();
        let (key, other) = (self.records.credential("valid"), self.records.credential("unknown"));
        let get = || Request::get(case.path);
        use Malformation::{
            Empty, Repeated, TwoCredentials, WrongCharacters, WrongChecksum, WrongLength, WrongPrefix, WrongScheme,
        };
        let mut requests = vec![
            ("another scheme", WrongScheme, get().header("authorization", format!("Basic {key}"))),
            ("without a scheme", WrongScheme, get().header("authorization", &key)),
            ("a scheme without a credential", Empty, get().header("authorization", "Bearer")),
            ("an empty field", Empty, get().header("authorization", "")),
            (
                "two credentials in one field",
                WrongCharacters,
                get().header("authorization", format!("Bearer {key} {other}")),
            ),
            ("too long", WrongLength, get().bearer(&key.repeat(8))),
            ("too short", WrongLength, get().bearer(&key[..8])),
            (
                "not ASCII",
                WrongCharacters,
                get().header("authorization", [format!("Bearer {key}").as_bytes(), &[0xe9]].concat()),
            ),
            ("sent twice", Repeated, get().bearer(&key).bearer(&key)),
            ("two that differ", TwoCredentials, get().bearer(&key).bearer(&other)),
        ];
        if dialect != "graph8" {
            requests.push(("another prefix", WrongPrefix, get().bearer(&format!("zz{}", &key[2..]))));
            requests.push(("one character more", WrongLength, get().bearer(&format!("{key}x"))));
            requests.push(("one character less", WrongLength, get().bearer(&key[..key.len() - 1])));
            requests.push(("another alphabet", WrongCharacters, get().bearer(&format!("{}!", &key[..key.len() - 1]))));
        }
        if dialect == "keyward" {
            let last = if key.ends_with('0') { '1' } else { '0' };
            requests.push((
                "another checksum",
                WrongChecksum,
                get().bearer(&format!("{}{last}", &key[..key.len() - 1])),
            ));
        }
        if ["keyward", "exograph", "auxot"].contains(&dialect) {
            requests.push(("two sources that differ", TwoCredentials, get().bearer(&key).header("x-api-key", &other)));
            requests.push(("X-API-Key with a non-key", WrongPrefix, get().header("x-api-key", "not-a-key")));
            for allowed in [get().header("x-api-key", &key), get().bearer(&key).header("x-api-key", &key)] {
                assert_eq!(self.http1.send(&allowed).await.unwrap().status, 200);
            }
        }
        // The published response is that for a wrong prefix; a dialect with texts per reason has others for the rest.
        for (what, reason, request) in requests {
            let answer = self.http1.send(&request).await.unwrap();
            assert_eq!(answer.status, 401, "{what}: {}", answer.text());
            let body = case.body.replace(WrongPrefix.name(), reason.name());
            let body = body.replace(WrongPrefix.explanation(), reason.explanation());
            assert_answer(&answer, subject, &Case { body: body.leak(), ..*case });
        }
    }

    /// A secret past its grace period is `revoked`.
    async fn refuses_a_replaced_secret(&mut self, subject: &Subject) {
        let case = subject.cases.iter().find(|case| case.verdict == "revoked").unwrap();
        let body = case.body.replace("key_revoked", "key_replaced");
        let request = Request::get(case.path).bearer(&self.records.credential("replaced"));
        let answer = self.http1.send(&request).await.unwrap();
        let id = if body.contains("{request_id}") { request_id(&answer) } else { String::new() };
        assert_eq!(answer.text(), body.replace("{request_id}", &id));
    }

    /// The access log has the verdict, and the key's id if known.
    async fn finds_verdicts_in_the_access_log(&self, subjects: &[Subject]) {
        let cases = || subjects.iter().flat_map(|subject| subject.cases);
        until("every verdict is in the access log", SOON, async || {
            let log = self.gateway.envoy.access_log()?;
            for case in cases() {
                let knows_key = !["unavailable", "missing", "jwt", "malformed", "unknown"].contains(&case.verdict);
                let key_id = if knows_key { format!("key_{}", case.key).into() } else { Value::Null };
                let is_told = |line: &Value| {
                    line["verdict"] == case.verdict
                        && line["reason"].is_null() == (case.verdict != "malformed")
                        && line["path"] == case.path
                        && line["status"] == case.status
                        && line["key_id"] == key_id
                };
                if !log.iter().any(is_told) {
                    return Err(Failure::new(format!("{} {} {key_id} is missing", case.verdict, case.path)));
                }
            }
            let allowed = |line: &Value| line["verdict"] == "allow" && line["key_id"] == "key_valid";
            if log.iter().any(allowed) { Ok(()) } else { Err(Failure::new("allow is missing")) }
        })
        .await
        .unwrap();
    }
}

/// Asserts that a response matches the table.
#[track_caller]
fn assert_answer(answer: &Response, subject: &Subject, case: &Case) {
    let context = format!("{}: {}: {answer:?}", subject.title, case.verdict);
    assert_eq!(answer.status, case.status, "{context}");
    assert_eq!(answer.header("content-type").as_deref(), Some(subject.content_type), "{context}");
    assert_eq!(answer.header("www-authenticate").unwrap_or_default(), case.challenge, "{context}");
    let retry_after = answer.header("retry-after").unwrap_or_default();
    match case.status {
        429 => {
            let seconds: u64 = retry_after.parse().unwrap();
            assert!((1..=60).contains(&seconds), "{context}");
            assert_eq!(answer.header("ratelimit-policy").as_deref(), Some(r#""1/min";q=1;w=60"#), "{context}");
            assert_eq!(answer.header("ratelimit"), Some(format!(r#""1/min";r=0;t={seconds}"#)), "{context}");
        }
        503 => assert_eq!(retry_after, "1", "{context}"),
        _ => assert_eq!(retry_after, "", "{context}"),
    }
    if case.status != 429 {
        assert!(answer.header("ratelimit").is_none() && answer.header("ratelimit-policy").is_none(), "{context}");
    }
    let id = if case.body.contains("{request_id}") { request_id(answer) } else { String::new() };
    for name in ["request-id", "x-request-id"] {
        let id_in_header = answer.header(name);
        assert_eq!(id_in_header.is_some(), name == subject.request_id_header, "{context}");
        assert!(id.is_empty() || id_in_header.is_none_or(|given| given == id), "{context}");
    }
    let expected = case.body.replace("{request_id}", &id).replace("{retry_after}", &retry_after);
    assert_eq!(answer.text(), expected, "{context}");
}

/// The request id in a body: a UUID generated by Envoy.
#[track_caller]
fn request_id(answer: &Response) -> String {
    let body = answer.json();
    let id = body.get("request_id").or_else(|| body.pointer("/error/request_id")).and_then(Value::as_str).unwrap();
    assert_eq!(id.len(), 36, "{id}");
    id.to_owned()
}
