//! Credentials that end while a request is under way: revoked, removed from their file, or expired.

use crate::console::Browser;
use crate::database::{HeldWrites, numbers};
use crate::harness::{Answer, Client, NOW_MS, TestServer, change_database, until};
use crate::leaks::{Github, WEBHOOK};
use crate::relay::TestRelay;
use keyward_core::USAGE_PATH;
use keyward_core::wire::usage::{Batch, BatchId, KeyUsage, Verdicts};
use keyward_core::wire::verify::{VERIFY_PATH, VERIFY_REQUEST_TYPE};
use keyward_server::keys::github::GithubKeys;
use keyward_server::serve::SelfService;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// How a credential ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// By somebody else, at whichever server.
    Revoked,
    /// Its line goes from its file, which is read again.
    Removed,
    /// By itself.
    Expired,
}

/// The header fields that show a credential for a body.
type Fields = Box<dyn Fn(&[u8]) -> Vec<(String, String)> + Send>;

/// A credential that can be ended.
struct Credential {
    fields: Fields,
    /// What ends it in the database.
    ended_by: String,
    end: End,
    file: Option<(PathBuf, String)>,
}

/// A request that changes something, if nothing speaks against it.
struct Case {
    method: String,
    path: String,
    media_type: &'static str,
    body: Option<Vec<u8>>,
    idempotency_key: Option<String>,
}

struct Fixture {
    dir: TempDir,
    data_dir: PathBuf,
    server: TestServer,
    client: Client,
    github: Github,
}

/// What must stay as it is where a request is refused.
const NUMBERS: &[&str] = &[
    "SELECT COUNT(*) FROM owners",
    "SELECT COUNT(*) FROM plans",
    "SELECT COUNT(*) FROM keys",
    "SELECT COUNT(*) FROM secrets",
    "SELECT COUNT(*) FROM secrets WHERE not_after IS NOT NULL",
    "SELECT COUNT(*) FROM tokens",
    "SELECT COUNT(*) FROM sessions",
    "SELECT COUNT(*) FROM audit",
    "SELECT COUNT(*) FROM idempotency",
    "SELECT COUNT(*) FROM usage",
    "SELECT COUNT(*) FROM usage_batches",
    "SELECT COUNT(*) FROM reported_usage",
    "SELECT CAST(SUM(version) AS BIGINT) FROM owners",
    "SELECT COUNT(*) FROM keys WHERE paused_at IS NOT NULL",
    "SELECT CAST(COALESCE(SUM(version), 0) AS BIGINT) FROM plans",
    "SELECT sequence FROM head",
];

impl Fixture {
    fn start() -> Self {
        let (dir, github) = (tempfile::tempdir().unwrap(), Github::new());
        let data_dir = dir.path().join(".keyward");
        let server = TestServer::start_as(&data_dir, NOW_MS, |config| {
            config.self_service = Some(SelfService { scope: None });
            config.leaks.github_keys = Some(GithubKeys::load(&github.file(dir.path())).unwrap());
        });
        Self { client: server.client(), data_dir, server, dir, github }
    }

    /// The operations of the description that are not only for reading, with who may call them.
    fn operations(&self) -> Vec<(String, String, String)> {
        let mut operations = Vec::new();
        let description = self.client.get("/v1/openapi.json").expect(200);
        for item in description["paths"].as_object().unwrap().values() {
            for (method, said) in item.as_object().unwrap() {
                if ["get", "head"].contains(&method.as_str()) {
                    continue;
                }
                let caller = said["security"][0].as_object().unwrap().keys().next().unwrap();
                let id = said["operationId"].as_str().unwrap();
                operations.push((id.to_owned(), method.to_uppercase(), caller.clone()));
            }
        }
        assert!(operations.len() >= 20, "{operations:?}");
        operations
    }

    /// A request for the operation, with whatever has to be there for it made anew.
    fn case(&self, operation: &str, method: &str) -> Case {
        let client = &self.client;
        let key = client.create(json!({"name": "a", "owner": "acme"}));
        let (id, plaintext) = (key["id"].as_str().unwrap(), key["key"].as_str().unwrap());
        let mut case = Case {
            method: method.to_owned(),
            path: String::new(),
            media_type: "application/json",
            body: None,
            idempotency_key: None,
        };
        let (path, document) = match operation {
            "createKey" => ("/v1/keys".to_owned(), Some(json!({"name": "b"}))),
            "changeKey" => (format!("/v1/keys/{id}"), Some(json!({"name": "b"}))),
            "revokeKey" => (format!("/v1/keys/{id}"), None),
            "rotateKey" => (format!("/v1/keys/{id}/rotate"), Some(json!({"grace_s": 9}))),
            "pauseKey" => (format!("/v1/keys/{id}/pause"), None),
            "resumeKey" => {
                client.ask("POST", &format!("/v1/keys/{id}/pause"), None).expect(200);
                (format!("/v1/keys/{id}/resume"), None)
            }
            "invalidateSecret" => {
                let rotate = json!({"grace_s": 80_000});
                client.ask("POST", &format!("/v1/keys/{id}/rotate"), Some(rotate)).expect(201);
                (format!("/v1/keys/{id}/secrets/{}", key["secrets"][0]["id"].as_str().unwrap()), None)
            }
            "endSession" => {
                Browser::signed_in(&client.url, &client.admin);
                let sessions = client.get("/v1/sessions").expect(200);
                (format!("/v1/sessions/{}", sessions["sessions"][0]["id"].as_str().unwrap()), None)
            }
            "setOwner" => (format!("/v1/owners/of-{id}"), Some(json!({"disabled": true}))),
            "changeOwner" | "revokeKeysOfOwner" => {
                let owner = format!("of-{id}");
                client.create(json!({"name": "c", "owner": owner}));
                match operation {
                    "changeOwner" => (format!("/v1/owners/{owner}"), Some(json!({"disabled": true}))),
                    _ => (format!("/v1/owners/{owner}/revoke-keys"), Some(json!({}))),
                }
            }
            "setPlan" => (format!("/v1/plans/of-{id}"), Some(json!({"limits": ["10/s"]}))),
            "deletePlan" => {
                let path = format!("/v1/plans/of-{id}");
                client.ask("PUT", &path, None).expect(201);
                (path, None)
            }
            "createToken" => ("/v1/tokens".to_owned(), Some(json!({"name": "t", "role": "admin"}))),
            "revokeToken" => {
                let token = client.ask("POST", "/v1/tokens", Some(json!({"name": "t", "role": "viewer"}))).expect(201);
                (format!("/v1/tokens/{}", token["id"].as_str().unwrap()), None)
            }
            "reportLeaks" => ("/v1/leaks".to_owned(), Some(json!({"keys": [plaintext]}))),
            "importKeys" => {
                let sha256 = format!("{:0>64}", hex::encode(&id[id.len() - 16..]));
                case.media_type = "application/x-ndjson";
                ("/v1/keys/import".to_owned(), Some(json!({"name": "i", "sha256": sha256})))
            }
            "reportUsage" => {
                let mut batch_id = [0; 16];
                batch_id.copy_from_slice(&id.as_bytes()[id.len() - 16..]);
                let used = KeyUsage {
                    key_id: id.to_owned(),
                    secret_id: key["secrets"][0]["id"].as_str().unwrap().to_owned(),
                    last_used_ms: Some(NOW_MS),
                    verdicts: Verdicts::from([("allowed".to_owned(), 1)]),
                    credits: 0,
                };
                let batch = Batch { id: BatchId(batch_id), keys: vec![used], others: Verdicts::new(), dropped: 0 };
                case.body = Some(batch.encode());
                (USAGE_PATH.to_owned(), None)
            }
            "undoUsage" => {
                // Something to undo.
                let (told, edge) = (self.case("reportUsage", "POST"), Some(client.edge.as_str()));
                client.send("POST", USAGE_PATH, edge, told.body).expect(200);
                ("/v1/usage/undo".to_owned(), Some(json!({"token": "token-file", "since": "2027-01-01T00:00:00Z"})))
            }
            "verifyKey" => {
                (case.media_type, case.body) = (VERIFY_REQUEST_TYPE, Some(plaintext.into()));
                (VERIFY_PATH.to_owned(), None)
            }
            "createOwnKey" => ("/api-keys".to_owned(), Some(json!({"name": "b"}))),
            "revokeOwnKey" => (format!("/api-keys/{id}"), None),
            "pauseOwnKey" => (format!("/api-keys/{id}/pause"), None),
            "resumeOwnKey" => {
                // One that ends before any key that asks.
                let own = client.create(json!({"name": "own", "owner": "acme", "expires_in_s": 50}));
                let path = format!("/api-keys/{}", own["id"].as_str().unwrap());
                client.send("POST", &format!("{path}/pause"), Some(plaintext), None).expect(200);
                (format!("{path}/resume"), None)
            }
            "rotateOwnKey" => {
                // One that ends before any key that asks.
                let own = client.create(json!({"name": "own", "owner": "acme", "expires_in_s": 50}));
                (format!("/api-keys/{}/rotate", own["id"].as_str().unwrap()), Some(json!({"grace_s": 9})))
            }
            "receiveGithubAlert" => (WEBHOOK.to_owned(), Some(json!([{"token": plaintext, "type": "t"}]))),
            other => panic!(
                "{other} is new: say here how it is called, so that its credential is tested to be checked again"
            ),
        };
        if ["createKey", "rotateKey"].contains(&operation) {
            case.idempotency_key = Some(format!("idempotency-of-{id}"));
        }
        case.path = path;
        case.body = case.body.or(document.map(|document| format!("{document}\n").into_bytes()));
        case
    }

    /// A new credential for that caller, of a kind that ends so; `None` if none does.
    fn credential(&self, caller: &str, end: End) -> Option<Credential> {
        let bearer = |token: &str| -> Fields {
            let value = format!("Bearer {token}");
            Box::new(move |_| vec![("authorization".to_owned(), value.clone())])
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Some(match (caller, end) {
            ("operator" | "edge", End::Revoked | End::Expired) => {
                let role = if caller == "edge" { "edge" } else { "admin" };
                let mut new = json!({"name": "ends", "role": role});
                if end == End::Expired {
                    new["expires_in_s"] = 60.into();
                }
                let made = self.client.ask("POST", "/v1/tokens", Some(new)).expect(201);
                let ended_by = format!("UPDATE tokens SET revoked_at = 1 WHERE id = '{}'", text(&made["id"]));
                Credential { fields: bearer(&text(&made["token"])), ended_by, end, file: None }
            }
            ("operator" | "edge", End::Removed) => {
                let (name, stays) = match caller {
                    "edge" => ("edge-token", &self.client.edge),
                    _ => ("admin-token", &self.client.admin),
                };
                let (path, removed) = (self.data_dir.join(name), "r".repeat(43));
                std::fs::write(&path, format!("{stays}\n{removed}\n")).unwrap();
                self.server.reload();
                let file = Some((path, format!("{stays}\n")));
                Credential { fields: bearer(&removed), ended_by: String::new(), end, file }
            }
            ("user", End::Revoked | End::Expired) => {
                let mut new = json!({"name": "asks", "owner": "acme"});
                if end == End::Expired {
                    new["expires_in_s"] = 60.into();
                }
                let made = self.client.create(new);
                let id = text(&made["id"]);
                let ended_by = format!("UPDATE keys SET revoked_at = 1, version = version + 1 WHERE id = '{id}'");
                Credential { fields: bearer(&text(&made["key"])), ended_by, end, file: None }
            }
            ("github", End::Removed) => {
                let path = self.github.file(self.dir.path());
                self.server.reload();
                let other = std::fs::read_to_string(&path).unwrap().replace(Github::KEY_ID, "another key");
                let github = Github::new();
                let fields = move |body: &[u8]| {
                    let fields = [
                        ("github-public-key-identifier", Github::KEY_ID.to_owned()),
                        ("github-public-key-signature", github.signature(body)),
                    ];
                    fields.map(|(name, value)| (name.to_owned(), value)).to_vec()
                };
                Credential { fields: Box::new(fields), ended_by: String::new(), end, file: Some((path, other)) }
            }
            ("user", End::Removed) | ("github", End::Revoked | End::Expired) => return None,
            (caller, _) => panic!("{caller} is new: say here what credentials it has and how they end"),
        })
    }

    /// Ends the credential, but for what is done in the database.
    fn end(&self, credential: &Credential) {
        if let Some((path, rest)) = &credential.file {
            std::fs::write(path, rest).unwrap();
            self.server.reload();
        }
        if credential.end == End::Expired {
            self.server.advance(60_000);
        }
    }

    fn ended_in_database(credential: &Credential) -> &str {
        if credential.end == End::Revoked { &credential.ended_by } else { "SELECT 1" }
    }

    fn numbers(&self) -> Vec<i64> {
        numbers(&self.data_dir, NUMBERS)
    }
}

impl Case {
    fn fields(&self, credential: &Credential) -> Vec<(String, String)> {
        let mut fields = (credential.fields)(self.body.as_deref().unwrap_or_default());
        fields.extend(self.body.as_ref().map(|_| ("content-type".to_owned(), self.media_type.to_owned())));
        fields.extend(self.idempotency_key.clone().map(|key| ("idempotency-key".to_owned(), key)));
        fields
    }

    fn send(&self, client: &Client, credential: &Credential) -> Answer {
        let fields = self.fields(credential);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        client.send_with(&self.method, &self.path, &fields, self.body.clone())
    }

    /// Sends the header and half of the body, and the rest after `between`; the status and the body of the answer.
    fn send_in_halves(&self, client: &Client, credential: &Credential, between: impl FnOnce()) -> (u16, Value) {
        let body = self.body.as_ref().unwrap();
        let address = client.url.strip_prefix("http://").unwrap();
        let mut connection = TcpStream::connect(address).unwrap();
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {address}\r\n", self.method, self.path);
        for (name, value) in self.fields(credential) {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n", body.len());
        connection.write_all(head.as_bytes()).unwrap();
        let mut answer = BufReader::new(connection.try_clone().unwrap());
        let mut line = String::new();
        // Whoever asks for the body has accepted the credential.
        answer.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 100"), "{line} {} {}", self.method, self.path);
        answer.read_line(&mut line).unwrap();
        let (first, rest) = body.split_at(body.len() / 2);
        connection.write_all(first).unwrap();
        between();
        // It may be answered already.
        let _ = connection.write_all(rest);
        let mut text = String::new();
        answer.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

/// Whether it was refused by a look at the credential after the first.
fn is_late_refusal(problem: &Value) -> bool {
    let detail = problem["detail"].as_str().unwrap_or_default();
    detail.contains("while the request was being sent") || detail.contains("the token was revoked")
}

const ENDS: [End; 3] = [End::Revoked, End::Removed, End::Expired];

#[test]
fn a_credential_that_ends_before_the_rest_of_a_body_changes_nothing() {
    let fixture = Fixture::start();
    for (operation, method, caller) in fixture.operations() {
        for end in ENDS {
            let case = fixture.case(&operation, &method);
            let Some(credential) = fixture.credential(&caller, end).filter(|_| case.body.is_some()) else { continue };
            let mut before = Vec::new();
            let (status, problem) = case.send_in_halves(&fixture.client, &credential, || {
                before = fixture.numbers();
                change_database(&fixture.data_dir, Fixture::ended_in_database(&credential));
                fixture.end(&credential);
            });
            assert_eq!(status, 401, "{operation} {end:?}: {problem}");
            assert!(is_late_refusal(&problem), "{operation} {end:?}: {problem}");
            assert_eq!(fixture.numbers(), before, "{operation} {end:?}");
        }
    }
}

#[test]
fn a_credential_that_ends_while_a_write_waits_for_its_turn_changes_nothing() {
    let fixture = Fixture::start();
    for (operation, method, caller) in fixture.operations() {
        if operation == "verifyKey" {
            // It writes nothing.
            continue;
        }
        for end in ENDS {
            let mut held_for = Duration::from_millis(100);
            loop {
                let case = fixture.case(&operation, &method);
                let Some(credential) = fixture.credential(&caller, end) else { break };
                let (before, held) = (fixture.numbers(), HeldWrites::of(&fixture.data_dir));
                let answer = std::thread::scope(|scope| {
                    let fields = case.fields(&credential);
                    let (case, client) = (&case, &fixture.client);
                    let answering = scope.spawn(move || {
                        let fields: Vec<_> =
                            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
                        client.send_with(&case.method, &case.path, &fields, case.body.clone())
                    });
                    // Nothing tells that the request has come to where it waits. If it has not, it is refused for another
                    // reason, and this is done again.
                    std::thread::sleep(held_for);
                    fixture.end(&credential);
                    held.release(Fixture::ended_in_database(&credential));
                    answering.join().unwrap()
                });
                let problem = answer.expect(401);
                assert_eq!(fixture.numbers(), before, "{operation} {end:?}");
                if is_late_refusal(&problem) {
                    break;
                }
                held_for *= 2;
                assert!(held_for < Duration::from_secs(4), "{operation} {end:?}: {problem}");
            }
        }
    }
}

#[test]
fn the_same_requests_are_carried_out_where_the_credential_stays() {
    let fixture = Fixture::start();
    for (operation, method, caller) in fixture.operations() {
        let end = if caller == "github" { End::Removed } else { End::Revoked };
        let credential = fixture.credential(&caller, end).unwrap();
        let answer = fixture.case(&operation, &method).send(&fixture.client, &credential);
        assert!((200..300).contains(&answer.status), "{operation}: {answer:?}");
    }
}

/// The least role for an operation: everybody reads, operators change keys and owners, admins the rest.
fn least_role(method: &str, path: &str) -> usize {
    let of_admins = ["/v1/plans", "/v1/sessions", "/v1/tokens", "/v1/usage/undo"];
    match method {
        "GET" => 0,
        _ if of_admins.iter().any(|prefix| path.starts_with(prefix)) => 2,
        _ => 1,
    }
}

/// Every operation, with every role.
#[test]
fn each_role_may_call_its_operations_and_no_others() {
    const ROLES: [&str; 3] = ["viewer", "operator", "admin"];
    let fixture = Fixture::start();
    let tokens = ROLES.map(|role| {
        let made = fixture.client.ask("POST", "/v1/tokens", Some(json!({"name": role, "role": role}))).expect(201);
        made["token"].as_str().unwrap().to_owned()
    });
    let description = fixture.client.get("/v1/openapi.json").expect(200);
    let mut checked = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        for (method, said) in item.as_object().unwrap() {
            let Some(described) = said["security"][0].get("operator") else { continue };
            let (method, least) = (method.to_uppercase(), least_role(&method.to_uppercase(), path));
            assert_eq!(described, &json!([ROLES[least]]), "{method} {path}");
            let operation = said["operationId"].as_str().unwrap();
            for (rank, token) in tokens.iter().enumerate() {
                let value = format!("Bearer {token}");
                let fields: Fields = Box::new(move |_| vec![("authorization".to_owned(), value.clone())]);
                let credential = Credential { fields, ended_by: String::new(), end: End::Revoked, file: None };
                let answer = if method == "GET" {
                    let path = path.replace("{id}", "key_1");
                    fixture.client.send(&method, &path, Some(token), None)
                } else {
                    let case = fixture.case(operation, &method);
                    let before = fixture.numbers();
                    let answer = case.send(&fixture.client, &credential);
                    let is_unchanged = fixture.numbers() == before;
                    assert_eq!(is_unchanged, rank < least, "{} {operation}: {answer:?}", ROLES[rank]);
                    answer
                };
                checked += 1;
                if rank < least {
                    let expected = json!("urn:keyward:problem:insufficient_role");
                    assert_eq!((answer.status, &answer.json()["type"]), (403, &expected), "{operation}");
                } else {
                    assert!(![401, 403].contains(&answer.status), "{} {operation}: {answer:?}", ROLES[rank]);
                }
            }
        }
    }
    assert!(checked >= 90, "{checked}");
}

#[test]
fn an_answer_with_a_plaintext_is_not_repeated_to_a_token_that_was_revoked() {
    let fixture = Fixture::start();
    let credential = fixture.credential("operator", End::Revoked).unwrap();
    let case = fixture.case("createKey", "POST");
    let first = case.send(&fixture.client, &credential).expect(201);
    let (status, again) = case.send_in_halves(&fixture.client, &credential, || {});
    assert_eq!((status, &again["key"]), (201, &first["key"]));
    let (status, problem) = case.send_in_halves(&fixture.client, &credential, || {
        change_database(&fixture.data_dir, &credential.ended_by);
    });
    assert!(status == 401 && is_late_refusal(&problem), "{problem}");
}

#[test]
fn a_token_that_is_revoked_makes_no_other_with_the_rest_of_its_body() {
    let fixture = Fixture::start();
    let new = json!({"name": "thief", "role": "admin"});
    let made = fixture.client.ask("POST", "/v1/tokens", Some(new)).expect(201);
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let value = format!("Bearer {token}");
    let fields = Box::new(move |_: &[u8]| vec![("authorization".to_owned(), value.clone())]);
    let credential = Credential { fields, ended_by: String::new(), end: End::Revoked, file: None };
    let case = fixture.case("createToken", "POST");
    let (status, problem) = case.send_in_halves(&fixture.client, &credential, || {
        fixture.client.ask("DELETE", &format!("/v1/tokens/{id}"), None).expect(200);
    });
    assert_eq!((status, &problem["type"]), (401, &json!("urn:keyward:problem:unauthorized")), "{problem}");
    let log = fixture.client.get("/v1/audit?limit=2").expect(200);
    let actions: Vec<_> = log["entries"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions[0], "token.revoked");
}

#[test]
fn a_relay_hands_nothing_on_for_a_token_that_was_removed() {
    let (fixture, dir) = (Fixture::start(), tempfile::tempdir().unwrap());
    let relay = TestRelay::start(dir.path(), &fixture.client.url, &fixture.client.edge);
    let client = relay.client(&fixture.client);
    for operation in ["reportUsage", "verifyKey"] {
        let (stays, removed) = (&client.edge, "r".repeat(43));
        relay.replace_tokens(&format!("{stays}\n{removed}\n"));
        let case = fixture.case(operation, "POST");
        let value = format!("Bearer {removed}");
        let fields = Box::new(move |_: &[u8]| vec![("authorization".to_owned(), value.clone())]);
        let credential = Credential { fields, ended_by: String::new(), end: End::Removed, file: None };
        let before = fixture.numbers();
        let (status, problem) = case.send_in_halves(&client, &credential, || relay.replace_tokens(stays));
        assert!(status == 401 && is_late_refusal(&problem), "{operation}: {status} {problem}");
        assert_eq!(fixture.numbers(), before);
    }
}

#[test]
fn an_import_stops_with_its_token_and_says_what_is_stored() {
    let fixture = Fixture::start();
    let made = fixture.client.ask("POST", "/v1/tokens", Some(json!({"name": "t", "role": "admin"}))).expect(201);
    let address = fixture.client.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /v1/keys/import HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: \
         application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n",
        made["token"].as_str().unwrap()
    );
    connection.write_all(head.as_bytes()).unwrap();
    // One batch and a row more.
    let rows: String = (0..=10_000).map(|n| format!("{{\"name\":\"n\",\"sha256\":\"{n:064x}\"}}\n")).collect();
    connection.write_all(format!("{:x}\r\n{rows}\r\n", rows.len()).as_bytes()).unwrap();
    let imported = || numbers(&fixture.data_dir, &["SELECT COUNT(*) FROM keys"])[0];
    until(|| imported() == 10_000);
    fixture.server.advance(5000);
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    fixture.client.ask("DELETE", &path, None).expect(200);
    // Nothing more is sent, and it is answered all the same.
    let mut answer = String::new();
    BufReader::new(&connection).read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["type"], "urn:keyward:problem:import_stopped");
    assert!(problem["detail"].as_str().unwrap().contains("stored keys: 10000;"), "{problem}");
    assert_eq!(imported(), 10_000);
}

#[test]
fn an_import_begun_before_is_audited_at_the_time_of_its_batches() {
    let fixture = Fixture::start();
    let case = fixture.case("importKeys", "POST");
    let credential = fixture.credential("operator", End::Revoked).unwrap();
    let begun = fixture.client.get("/v1/audit?limit=1").expect(200)["entries"][0]["at"].clone();
    let (status, _) = case.send_in_halves(&fixture.client, &credential, || {
        fixture.server.advance(5000);
        fixture.client.create(json!({"name": "meanwhile"}));
    });
    assert_eq!(status, 200);
    let log = fixture.client.get("/v1/audit").expect(200);
    let times: Vec<_> = log["entries"].as_array().unwrap().iter().map(|entry| entry["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    assert!(times[0] > begun.as_str().unwrap());
    let keys = fixture.client.get("/v1/keys?limit=2").expect(200);
    assert!(keys["keys"].as_array().unwrap().iter().all(|key| key["created_at"] == times[0]), "{keys}");
}

#[test]
fn an_export_breaks_off_with_its_token() {
    let fixture = Fixture::start();
    let rows: String =
        (0..30_000).map(|n| format!("{{\"name\":\"{}\",\"sha256\":\"{n:064x}\"}}\n", "n".repeat(200))).collect();
    let bearer = format!("Bearer {}", fixture.client.admin);
    let fields = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
    fixture.client.send_with("POST", "/v1/keys/import", &fields, Some(rows.into())).expect(200);
    let made = fixture.client.ask("POST", "/v1/tokens", Some(json!({"name": "t", "role": "viewer"}))).expect(201);
    let address = fixture.client.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let head = format!(
        "GET /v1/keys/export HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        made["token"].as_str().unwrap()
    );
    connection.write_all(head.as_bytes()).unwrap();
    let mut first = [0; 1024];
    connection.read_exact(&mut first).unwrap();
    assert!(first.starts_with(b"HTTP/1.1 200"));
    let path = format!("/v1/tokens/{}", made["id"].as_str().unwrap());
    fixture.client.ask("DELETE", &path, None).expect(200);
    let mut rest = Vec::new();
    // It may end by a reset.
    let _ = connection.read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "{} bytes have come, and an end", rest.len());
}
