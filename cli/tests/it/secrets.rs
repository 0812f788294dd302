//! Keys and tokens where none belongs: refused at every door, not repeated, and nowhere to be found afterwards.

use crate::database::stored;
use crate::harness::{Answer, Client, NOW_MS, Process, TestServer, contains, fields};
use keyward_core::dialect::Dialect;
use keyward_core::dialect::secret_recognizer::TOKENS;
use keyward_server::model::{COLUMNS, SECRET_FIELDS};
use keyward_server::random;
use serde_json::{Value, json};
use std::path::Path;

/// A dialect of the operator's own, whose keys nobody else knows.
fn own_dialect() -> String {
    include_str!("../../../core/dialects/keyward.json")
        .replace("kw_live_", "acme-live.")
        .replace("kw_test_", "acme-test.")
}

fn key_of(dialect: &Dialect) -> String {
    let format = dialect.formats.iter().find(|format| format.is_recognizable()).unwrap();
    format.issue(random::fill).unwrap().expose().to_owned()
}

/// A key of every dialect that comes with Keyward and of the own one, and a token of every sort.
fn secrets() -> Vec<String> {
    let built_in = Dialect::built_in_names().map(|name| Dialect::built_in(name).unwrap().unwrap());
    let dialects = built_in.chain([Dialect::parse(own_dialect().as_bytes()).unwrap()]);
    let tokens = TOKENS.map(|(prefix, length)| format!("{prefix}{}", random::base62(length).unwrap()));
    dialects.map(|dialect| key_of(&dialect)).chain(tokens).collect()
}

/// A server of the own dialect, as a process with all that it logs.
fn started(dir: &Path) -> Process {
    let dialect = dir.join("acme.json");
    std::fs::write(&dialect, own_dialect()).unwrap();
    Process::start_with(&dir.join("data"), "trace", &["--dialect", dialect.to_str().unwrap(), "--self-service"])
}

/// Documents with the value in one place of the schema each, and the field that is named for it.
fn documents(api: &Value, schema: &Value, value: &str, path: &str) -> Vec<(Value, String)> {
    if let Some(reference) = schema["$ref"].as_str() {
        return documents(api, api.pointer(reference.trim_start_matches('#')).unwrap(), value, path);
    }
    let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let mut found = Vec::new();
    if !path.is_empty() {
        // Whatever type is expected there.
        found.push((json!(value), path.to_owned()));
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let inner = documents(api, schema, value, &inside(name));
        found.extend(inner.into_iter().map(|(inner, path)| (json!({(name.as_str()): inner}), path)));
    }
    if schema["type"].to_string().contains("object") {
        // As a name, and inside what no schema describes.
        found.push((json!({(value): "x"}), path.to_owned()));
        found.push((json!({"other": [{"deep": value}]}), inside("other[0].deep")));
    }
    if !schema["items"].is_null() {
        let inner = documents(api, &schema["items"], value, &format!("{path}[1]"));
        found.extend(inner.into_iter().map(|(inner, path)| (json!(["a", inner]), path)));
    }
    found
}

/// The answer does not repeat the secret, in whatever form it was sent.
fn assert_silent(answer: &Answer, secret: &str, what: &str) {
    assert!(!contains(&answer.body, secret) && !contains(&answer.body, &secret[5..]), "{what}: {answer:?}");
    let headers = format!("{:?}", answer.headers);
    assert!(!headers.contains(secret), "{what}: {headers}");
}

#[test]
fn every_text_field_of_every_operation_refuses_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = started(dir.path());
    let client = Client::new(&process.url, &dir.path().join("data"));
    let user = client.create(json!({"name": "user", "owner": "acme"}))["key"].as_str().unwrap().to_owned();
    let api = client.get("/v1/openapi.json").expect(200);
    let secrets = secrets();
    let (mut bodies, mut parameters) = (0, 0);
    for secret in &secrets {
        for (path, item) in api["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let caller = operation["security"][0].as_object().and_then(|caller| caller.keys().next());
                let token = match caller.map(String::as_str) {
                    Some("operator") => &client.admin,
                    Some("user") => &user,
                    // Edges report no texts that are kept, and GitHub signs.
                    _ => continue,
                };
                let (method, authorization) = (method.to_uppercase(), format!("Bearer {token}"));
                let what = format!("{method} {path}");
                let of_id = |id: &str| path.replace("{id}", id).replace("{secret_id}", id);
                let send = |path: &str, more: &[(&str, &str)], body: Option<Vec<u8>>| {
                    let mut fields = vec![("authorization", authorization.as_str())];
                    fields.extend_from_slice(more);
                    let answer = client.send_with(&method, path, &fields, body);
                    assert_silent(&answer, secret, &what);
                    answer
                };
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let name = parameter["name"].as_str().unwrap();
                    let encoded: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
                    let longer = format!("a%20{secret}%20b");
                    parameters += 1;
                    match parameter["in"].as_str().unwrap() {
                        "path" => {
                            for id in [secret, &encoded, &longer] {
                                let problem = send(&of_id(id), &[], None).expect(400);
                                assert_eq!(problem["type"], "urn:keyward:problem:secret_in_path", "{what}");
                            }
                        }
                        "query" => {
                            for value in [secret, &encoded, &longer] {
                                let problem =
                                    send(&format!("{}?{name}={value}", of_id("key_1")), &[], None).expect(400);
                                assert_eq!(fields(&problem), [name], "{what}");
                            }
                        }
                        "header" if name == "Idempotency-Key" => {
                            let problem = send(&of_id("key_1"), &[(name, secret)], None).expect(400);
                            assert_eq!(problem["type"], "urn:keyward:problem:secret_in_header", "{what}");
                        }
                        // Compared with versions, and kept nowhere.
                        _ => drop(send(&of_id("key_1"), &[(name, secret)], None)),
                    }
                }
                let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
                if schema.is_null() {
                    continue;
                }
                for value in [secret.clone(), format!(" {secret} "), format!("the key is {secret}, or was")] {
                    for (document, field) in documents(&api, schema, &value, "") {
                        if path == "/v1/leaks" && field.starts_with("keys") {
                            continue;
                        }
                        bodies += 1;
                        let problem = send(&of_id("key_1"), &[], Some(document.to_string().into())).expect(422);
                        assert!(
                            problem["errors"][0]["message"].to_string().contains("looks like a secret"),
                            "{problem}"
                        );
                        assert_eq!(fields(&problem), [field.as_str()], "{what}: {problem}");
                    }
                }
            }
        }
        assert_silent(&client.send("GET", &format!("/nowhere/{secret}"), None, None), secret, "a path of nothing");
    }
    assert!(bodies > 100 * secrets.len() && parameters > 40 * secrets.len(), "{bodies} {parameters}");
    let seen: Vec<_> = ["/v1/keys/export", "/v1/audit?limit=1000", "/v1/keys", "/v1/owners", "/v1/plans", "/v1/tokens"]
        .map(|path| client.get(path))
        .into_iter()
        .flat_map(|answer| answer.body)
        .collect();
    process.signal("TERM");
    process.wait();
    let (log, files) = (process.log(), stored(&dir.path().join("data")));
    for secret in &secrets {
        assert!(!contains(&seen, secret) && !contains(&files, secret) && !log.contains(secret.as_str()), "{secret}");
    }
}

#[test]
fn every_field_of_an_import_but_those_of_secrets_refuses_one_by_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = started(dir.path());
    let client = Client::new(&process.url, &dir.path().join("data"));
    let authorization = format!("Bearer {}", client.admin);
    let send = |media_type: &str, text: String| {
        let fields = [("authorization", authorization.as_str()), ("content-type", media_type)];
        client.send_with("POST", "/v1/keys/import", &fields, Some(text.into()))
    };
    let own = key_of(&Dialect::parse(own_dialect().as_bytes()).unwrap());
    let secrets = secrets();
    let names = || COLUMNS.iter().map(|column| column.name).filter(|name| !SECRET_FIELDS.contains(name));
    for secret in &secrets {
        let row = |column: &str| {
            let mut row = json!({"name": "a", "sha256": "ab".repeat(32)});
            row[column] = match column {
                "metadata" => json!({"note": format!("it is {secret}")}),
                "scopes" | "allow_ip" | "limits" => json!([secret]),
                _ => json!(secret),
            };
            row
        };
        let text: String = names().map(|name| format!("{}\n", row(name))).collect();
        let answer = send("application/x-ndjson", text);
        assert_silent(&answer, secret, "rows");
        let report = answer.expect(200);
        assert_eq!((&report["imported"], report["failed"].as_u64()), (&json!(0), Some(names().count() as u64)));
        let errors = report["errors"].as_array().unwrap();
        for (n, name) in names().enumerate() {
            let of_line: Vec<_> = errors.iter().filter(|error| error["line"] == n as u64 + 1).collect();
            assert!(of_line[0]["message"].as_str().unwrap().contains("looks like a secret"), "{name}: {of_line:?}");
            assert_eq!(of_line[0]["field"].as_str().unwrap().trim_end_matches("[0]"), name);
        }
        let answer = send("text/csv", format!("name;sha256;owner\na;{};{secret}\n", "ab".repeat(32)));
        assert_silent(&answer, secret, "a cell");
        assert_eq!(answer.expect(200)["errors"][0]["field"], "owner");
    }
    // Where it belongs it is taken, and not kept.
    let report = send("application/x-ndjson", json!({"name": "a", "key": own}).to_string()).expect(200);
    assert_eq!(report["imported"], 1, "{report}");
    process.signal("TERM");
    process.wait();
    let (log, files) = (process.log(), stored(&dir.path().join("data")));
    for secret in secrets.iter().chain([&own]) {
        assert!(!contains(&files, secret) && !log.contains(secret.as_str()), "{secret}");
    }
}

#[test]
fn a_key_in_the_query_is_taken_where_the_dialect_has_it_there() {
    let dir = tempfile::tempdir().unwrap();
    let text = own_dialect().replace(r#"{"header": "X-API-Key"}"#, r#"{"query": "api_key"}"#);
    let server = TestServer::start_as(dir.path(), NOW_MS, |config| {
        config.dialect = Dialect::parse(text.as_bytes()).unwrap();
        config.self_service = Some(keyward_server::serve::SelfService { scope: None });
    });
    let client = server.client();
    let key = client.create(json!({"name": "a", "owner": "acme"}))["key"].as_str().unwrap().to_owned();
    client.send("GET", &format!("/api-keys?api_key={key}"), None, None).expect(200);
    let problem = client.send("GET", &format!("/api-keys?api_key={key}&after={key}"), None, None).expect(400);
    assert_eq!(fields(&problem), ["after"]);
    let problem = client.get(&format!("/v1/keys?api_key={key}")).expect(400);
    assert_eq!(fields(&problem), ["api_key"]);
}
