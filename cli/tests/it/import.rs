//! Keys that another system made.

use crate::database::stored;
use crate::harness::{
    Client, NOW_MS, Process, Reader, TestServer, contains, dialect_with_selectors, program, stderr, stdout, until,
};
use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};
use keyward_core::dialect::Dialect;
use keyward_core::key::digest::Digest;
use keyward_core::key::environment::Environment;
use keyward_core::wire::entry::{Body, KeyRecord};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::mpsc;
use std::time::Instant;
use ureq::SendBody;
use ureq::http::Request;

const JSON_LINES: &str = "application/x-ndjson";

/// Sends the rows as JSON Lines.
fn import(client: &Client, query: &str, rows: &[Value]) -> Value {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    send(client, query, JSON_LINES, &text).expect(200)
}

fn send(client: &Client, query: &str, media_type: &str, text: &str) -> crate::harness::Answer {
    let bearer = format!("Bearer {}", client.admin);
    let headers = [("authorization", bearer.as_str()), ("content-type", media_type)];
    client.send_with("POST", &format!("/v1/keys/import{query}"), &headers, Some(text.into()))
}

fn started() -> (tempfile::TempDir, TestServer) {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_as(dir.path(), NOW_MS, |config| {
        config.dialect = Dialect::parse(dialect_with_selectors().as_bytes()).unwrap();
    });
    (dir, server)
}

fn sha256_of(n: usize) -> String {
    hex::encode(Sha256::digest(n.to_le_bytes()))
}

/// What an edge knows at that address.
fn record(reader: &Reader, digest: Digest) -> Option<&KeyRecord> {
    match reader.known.get(&digest)? {
        (_, Body::Key(record)) => Some(record),
        (_, other) => panic!("a key leads to {other:?}"),
    }
}

fn known(client: &Client) -> Reader {
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    reader
}

fn counts(report: &Value) -> [u64; 3] {
    ["imported", "skipped", "failed"].map(|field| report[field].as_u64().unwrap())
}

fn mistakes(report: &Value) -> Vec<(u64, &str)> {
    let errors = report["errors"].as_array().unwrap().iter();
    errors.map(|error| (error["line"].as_u64().unwrap(), error["field"].as_str().unwrap())).collect()
}

pub(crate) fn argon2id(plaintext: &str) -> String {
    let argon2id = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(8, 1, 1, None).unwrap());
    argon2id.hash_password_with_salt(plaintext.as_bytes(), b"a salt of bytes").unwrap().to_string()
}

pub(crate) fn bcrypt(plaintext: &str) -> String {
    bcrypt::hash_with_salt(plaintext, 4, [7; 16]).unwrap().format_for_version(bcrypt::Version::TwoB)
}

/// A key as another system makes them, in the format of the dialect.
pub(crate) fn key_of_another_server() -> String {
    let (_dir, other) = started();
    other.client().create(json!({"name": "a"}))["key"].as_str().unwrap().to_owned()
}

#[test]
fn every_kind_of_hash_leads_an_edge_to_its_key() {
    let (dir, server) = started();
    let client = server.client();
    let plaintext = key_of_another_server();
    let sha256 = Sha256::digest("a");
    let base64 = |bytes: &[u8]| {
        use base64::Engine;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    };
    let (sha512, hmac) = (Sha512::digest("b"), [9; 32]);
    let rows = [
        json!({"name": "plain", "key": plaintext}),
        json!({"name": "sha256", "sha256": hex::encode(sha256), "environment": "test", "owner": "acme"}),
        json!({"name": "sha256 in base64", "sha256": base64(&Sha256::digest("c")), "hint": "…wxyz"}),
        json!({"name": "sha512", "sha512": base64(&sha512)}),
        json!({"name": "hmac", "hmac_sha256": hex::encode_upper(hmac)}),
        json!({"name": "argon2id", "argon2id": argon2id("kw_live_selecto1 rest"), "selector": "kw_live_selecto1"}),
        json!({"name": "bcrypt", "bcrypt": bcrypt("kw_test_selecto2 rest"), "selector": "kw_test_selecto2"}),
    ];
    let report = import(&client, "", &rows);
    assert_eq!(
        report,
        json!({"imported": 7, "skipped": 0, "failed": 0, "dry_run": false, "errors": [], "more_errors": 0})
    );
    let reader = known(&client);
    let expected = [
        (Digest::of_key(plaintext.as_bytes()), Environment::Live, false),
        (Digest(sha256.into()), Environment::Test, false),
        (Digest::of_key(b"c"), Environment::Live, false),
        (Digest::of_sha512(&sha512.into()), Environment::Live, false),
        (Digest::of_hmac_sha256(&hmac), Environment::Live, false),
        (Digest::of_selector(b"kw_live_selecto1"), Environment::Live, true),
        (Digest::of_selector(b"kw_test_selecto2"), Environment::Test, true),
    ];
    for (digest, environment, needs_verification) in expected {
        let record = record(&reader, digest).unwrap();
        assert_eq!((record.environment, record.needs_verification), (Some(environment), needs_verification));
    }
    assert_eq!(record(&reader, Digest(sha256.into())).unwrap().owner.as_deref(), Some("acme"));
    assert!(reader.known.contains_key(&Digest::of_owner("acme")), "the owner is told too");
    let keys = client.get("/v1/keys").expect(200);
    let hint = |name: &str| {
        let key = keys["keys"].as_array().unwrap().iter().find(|key| key["name"] == name).unwrap();
        key["secrets"][0]["hint"].as_str().unwrap().to_owned()
    };
    assert_eq!(hint("plain"), format!("{}…", &plaintext[..16]));
    for (name, expected) in [("sha256", "kw_test_…"), ("sha256 in base64", "…wxyz"), ("argon2id", "kw_live_selecto1…")]
    {
        assert_eq!(hint(name), expected);
    }
    drop(server);
    assert!(!contains(&stored(dir.path()), &plaintext), "no plaintext is kept");
}

#[test]
fn everything_that_a_row_says_is_kept() {
    let (_dir, server) = started();
    let client = server.client();
    let row = json!({
        "id": "key_legacy-7", "name": "ci", "sha256": sha256_of(1), "owner": "acme", "member": "bob", "kind": "key",
        "environment": "live", "scopes": ["read"], "allow_ip": ["192.0.2.1"], "limits": ["10/s"], "credits": 5,
        "metadata": {"team": "ops"}, "created_at": "2020-01-01T00:00:00Z", "expires_at": "2020-02-01T00:00:00Z",
        "revoked_at": "2020-01-15T00:00:00Z", "paused_at": "2020-01-14T00:00:00Z", "hint": "kw_live_abcd…",
    });
    assert_eq!(counts(&import(&client, "", &[row])), [1, 0, 0]);
    let key = client.get("/v1/keys/key_legacy-7").expect(200);
    for (field, value) in [
        ("name", json!("ci")),
        ("owner", json!("acme")),
        ("scopes", json!(["read"])),
        ("allow_ip", json!(["192.0.2.1/32"])),
        ("limits", json!(["10/s"])),
        ("created_at", json!("2020-01-01T00:00:00.000Z")),
        ("expires_at", json!("2020-02-01T00:00:00.000Z")),
        ("revoked_at", json!("2020-01-15T00:00:00.000Z")),
        ("paused_at", json!("2020-01-14T00:00:00.000Z")),
        ("paused_by", json!("operator")),
        ("state", json!("revoked")),
    ] {
        assert_eq!(key[field], value, "{field}");
    }
    assert_eq!(key["secrets"][0]["hint"], "kw_live_abcd…");
    // It ended long ago, so no edge is told of it.
    assert_eq!(record(&known(&client), Digest(Sha256::digest(1_usize.to_le_bytes()).into())), None);
}

#[test]
fn mistakes_are_told_by_line_and_field_and_repeat_nothing_and_the_other_rows_are_taken_in() {
    let dir = tempfile::tempdir().unwrap();
    let dialect = dir.path().join("dialect.json");
    std::fs::write(&dialect, dialect_with_selectors()).unwrap();
    let data_dir = dir.path().join("data");
    let mut process = Process::start_with(&data_dir, "debug", &["--dialect", dialect.to_str().unwrap()]);
    let client = Client::new(&process.url, &data_dir);
    let plaintext = key_of_another_server();
    let secret = "sEcReT";
    let with = |fields: Value| {
        let mut row = json!({"name": "a"});
        row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        row.to_string()
    };
    let cases = [
        (with(json!({"key": format!("{plaintext}x{secret}")})), vec!["key"]),
        (with(json!({"key": plaintext, "environment": "test"})), vec!["key"]),
        (with(json!({"key": plaintext, "hint": secret})), vec!["hint"]),
        (with(json!({"sha256": secret})), vec!["sha256"]),
        (with(json!({"sha256": sha256_of(1), "sha512": secret})), vec![""]),
        (with(json!({})), vec![""]),
        (with(json!({"sha256": sha256_of(1), "selector": secret})), vec!["selector"]),
        (with(json!({"sha256": sha256_of(1), "hint": secret})), vec!["hint"]),
        (with(json!({"argon2id": argon2id(secret)})), vec!["argon2id"]),
        (with(json!({"argon2id": secret, "selector": "short"})), vec!["argon2id", "selector"]),
        (
            with(json!({"argon2id": argon2id(secret).replace("m=8", "m=262145"), "selector": "kw_live_12345678"})),
            vec!["argon2id"],
        ),
        (
            with(json!({"argon2id": argon2id(secret).replace("t=1", "t=21"), "selector": "kw_live_12345678"})),
            vec!["argon2id"],
        ),
        (
            with(json!({"argon2id": argon2id(secret).replace("2id", "2i"), "selector": "kw_live_12345678"})),
            vec!["argon2id"],
        ),
        (
            with(json!({"bcrypt": bcrypt(secret).replace("$04$", "$15$"), "selector": "kw_live_12345678"})),
            vec!["bcrypt"],
        ),
        (
            with(json!({"bcrypt": bcrypt(secret).replace("$2b$", "$2x$"), "selector": "kw_live_12345678"})),
            vec!["bcrypt"],
        ),
        (with(json!({"bcrypt": bcrypt(secret), "selector": "other_secret"})), vec!["selector"]),
        (with(json!({"sha256": sha256_of(1), secret: 1})), vec![""]),
        (
            with(json!({"sha256": sha256_of(1), "metadata": {(format!("{secret}!")): 1}, "plan": "x y"})),
            vec!["plan", "metadata", "metadata"],
        ),
        (
            with(json!({"sha256": sha256_of(1), "created_at": "2999-01-01T00:00:00Z", "id": "a b"})),
            vec!["id", "created_at"],
        ),
        (format!("{{\"name\": {secret}"), vec![""]),
        (format!("[\"{secret}\"]"), vec![""]),
        (json!({"sha256": sha256_of(1), "owner": "a b"}).to_string(), vec!["name", "owner"]),
        (with(json!({"sha256": sha256_of(1), "plan": "no-such-plan"})), vec!["plan"]),
        (with(json!({"sha256": sha256_of(2)})), vec![]),
    ];
    let text: String = cases.iter().map(|(row, _)| format!("{row}\n")).collect();
    let answer = send(&client, "", JSON_LINES, &text);
    assert!(!contains(&answer.body, secret) && !contains(&answer.body, &plaintext), "{}", answer.json());
    let report = answer.expect(200);
    let expected: Vec<_> =
        cases.iter().zip(1..).flat_map(|((_, fields), line)| fields.iter().map(move |field| (line, *field))).collect();
    assert_eq!(mistakes(&report), expected, "{report:#}");
    assert_eq!(counts(&report), [1, 0, cases.len() as u64 - 1]);
    process.signal("TERM");
    process.wait();
    let (log, files) = (process.log(), stored(&data_dir));
    for hidden in [secret, &plaintext, &sha256_of(2)] {
        assert!(!log.contains(hidden) && !contains(&files, hidden), "{hidden}");
    }
}

#[test]
fn a_hundred_mistakes_are_told_and_the_others_counted() {
    let (_dir, server) = started();
    let rows: Vec<_> = (0..150).map(|n| json!({"name": "a", "sha256": n, "kind": n})).collect();
    let report = import(&server.client(), "", &rows);
    assert_eq!((counts(&report), report["more_errors"].as_u64()), ([0, 0, 150], Some(200)));
    assert_eq!(mistakes(&report).len(), 100);
}

#[test]
fn what_is_there_already_is_a_mistake_or_passed_over_and_another_key_of_its_id_is_always_a_mistake() {
    let (_dir, server) = started();
    let client = server.client();
    let rows = [
        json!({"name": "a", "sha256": sha256_of(1), "id": "key_one"}),
        json!({"name": "b", "sha256": sha256_of(2)}),
        json!({"name": "c", "sha256": sha256_of(2)}),
        json!({"name": "d", "sha256": sha256_of(3), "id": "key_one"}),
    ];
    let report = import(&client, "", &rows);
    assert_eq!((counts(&report), mistakes(&report)), ([2, 0, 2], vec![(3, "sha256"), (4, "id")]));
    let report = import(&client, "?on_conflict=fail", &rows);
    assert_eq!(mistakes(&report), [(1, "sha256"), (2, "sha256"), (3, "sha256"), (4, "id")]);
    let report = import(&client, "?on_conflict=skip", &rows);
    assert_eq!((counts(&report), mistakes(&report)), ([0, 3, 1], vec![(4, "id")]));
    let made = client.create(json!({"name": "made here", "owner": "acme"}));
    let key = made["key"].as_str().unwrap();
    let rows = [
        json!({"name": "a", "key": key}),
        json!({"name": "an owner's address", "sha256": hex::encode(Digest::of_owner("acme").0)}),
    ];
    assert_eq!(mistakes(&import(&client, "", &rows)), [(1, "key"), (2, "sha256")]);
}

#[test]
fn a_dry_run_tells_everything_and_changes_nothing() {
    let (_dir, server) = started();
    let client = server.client();
    let before = known(&client).position;
    let rows = [
        json!({"name": "a", "sha256": sha256_of(1), "owner": "acme"}),
        json!({"name": "b", "sha256": sha256_of(1)}),
        json!({"name": "c", "sha256": "x"}),
    ];
    let report = import(&client, "?dry_run=true", &rows);
    assert_eq!((counts(&report), &report["dry_run"]), ([1, 0, 2], &json!(true)));
    assert_eq!(mistakes(&report), [(2, "sha256"), (3, "sha256")]);
    assert_eq!(known(&client).position, before);
    assert_eq!(client.get("/v1/keys").expect(200)["keys"], json!([]));
    client.get("/v1/owners/acme").expect(404);
}

#[test]
fn a_body_of_another_kind_a_header_without_sense_and_a_query_are_refused_whole() {
    let (_dir, server) = started();
    let client = server.client();
    send(&client, "", "application/json", "{}").expect(415);
    let problem = send(&client, "", "text/csv", "name,kw_live_secret\na,b\n").expect(422);
    assert!(problem.to_string().contains("header[2]") && !problem.to_string().contains("secret\""), "{problem}");
    let problem = send(&client, "?dry_run=1&on_conflict=x&y=z", JSON_LINES, "").expect(400);
    assert_eq!(problem["errors"].as_array().unwrap().len(), 3);
    let unauthorized = client.send("POST", "/v1/keys/import", Some(&client.edge), Some(vec![]));
    unauthorized.expect(401);
    assert_eq!(counts(&import(&client, "", &[])), [0, 0, 0]);
}

/// Hands out what it is sent, and waits for more.
struct Fed(mpsc::Receiver<Vec<u8>>, Vec<u8>);

impl Read for Fed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.1.is_empty() {
            self.1 = self.0.recv().unwrap_or_default();
        }
        let length = buffer.len().min(self.1.len());
        buffer[..length].copy_from_slice(&self.1.drain(..length).collect::<Vec<_>>());
        Ok(length)
    }
}

#[test]
fn others_write_between_the_batches_and_a_file_that_breaks_off_leaves_what_came_before() {
    let (_dir, server) = started();
    let client = server.client();
    let (feed, fed) = mpsc::channel();
    let sender = client.clone();
    let importing = std::thread::spawn(move || {
        let request = Request::post(format!("{}/v1/keys/import", sender.url))
            .header("authorization", format!("Bearer {}", sender.admin))
            .header("content-type", JSON_LINES)
            .body(SendBody::from_owned_reader(Fed(fed, Vec::new())));
        ureq::agent().run(request.unwrap()).unwrap().body_mut().read_to_string().unwrap()
    });
    let rows = |from: usize, to: usize| -> Vec<u8> {
        let row = |n| format!("{{\"name\":\"imported\",\"sha256\":\"{}\"}}\n", sha256_of(n));
        (from..to).map(row).collect::<String>().into_bytes()
    };
    feed.send(rows(0, 10_500)).unwrap();
    // One batch is full; the next waits for more.
    until(|| known(&client).known.len() >= 10_000);
    assert_eq!(client.create(json!({"name": "meanwhile"}))["name"], "meanwhile");
    feed.send(rows(10_500, 11_000)).unwrap();
    drop(feed);
    let report: Value = serde_json::from_str(&importing.join().unwrap()).unwrap();
    assert_eq!(counts(&report), [11_000, 0, 0]);
    assert_eq!(known(&client).known.len(), 11_001);
}

#[test]
fn twenty_thousand_rows_take_a_statement_for_hundreds_of_them() {
    const ROWS: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "keyward_server=trace");
    let client = Client::new(&process.url, dir.path());
    let rows: Vec<_> =
        (0..ROWS).map(|n| json!({"name": "a", "sha256": sha256_of(n), "owner": format!("owner-{}", n % 7)})).collect();
    assert_eq!(counts(&import(&client, "", &rows)), [ROWS as u64, 0, 0]);
    process.signal("TERM");
    process.wait();
    let statements = process.log().lines().filter(|line| line.contains("statement executed")).count();
    // Of each of four tables, 500 rows at a time.
    assert!((4 * ROWS / 500..5 * ROWS / 500).contains(&statements), "{statements} statements");
}

/// Runs the command line on a file in the directory whose `.keyward` belongs to the server.
fn run(server: &TestServer, dir: &Path, arguments: &[&str], stdin: &str) -> Output {
    let mut command = program();
    command.args(["keys", "import"]).args(arguments).current_dir(dir).env("KEYWARD_URL", &server.address);
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who does not read it closes it.
    let _ = running.stdin.take().unwrap().write_all(stdin.as_bytes());
    running.wait_with_output().unwrap()
}

#[test]
fn the_command_line_tells_mistakes_as_a_compiler_does_and_ends_with_three() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(&dir.path().join(".keyward"));
    let file = dir.path().join("old keys.csv");
    std::fs::write(&file, format!("name,sha256,scopes\na,{},read write\nb,x,\n", sha256_of(1))).unwrap();
    let output = run(&server, dir.path(), &["old keys.csv", "--dry-run"], "");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(stdout(&output), "would be imported 1, skipped 0, failed 1\n");
    let output = run(&server, dir.path(), &["old keys.csv"], "");
    assert_eq!(
        stderr(&output),
        "old keys.csv:3: sha256: expected 32 bytes in hexadecimal or base64\n\
         keyward: some rows were not imported: correct them, and import the file again with --on-conflict skip\n"
    );
    let again = run(
        &server,
        dir.path(),
        &["-", "--format", "csv", "--on-conflict", "skip", "--json"],
        &format!("sha256,name\n{},a\n", sha256_of(1)),
    );
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout).unwrap()["skipped"], 1);
    assert_eq!(server.client().get("/v1/keys").expect(200)["keys"][0]["scopes"], json!(["read", "write"]));
}

#[test]
fn a_file_that_is_not_there_and_a_token_that_is_not_valid_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(&dir.path().join(".keyward"));
    std::fs::write(dir.path().join("empty.csv"), "").unwrap();
    for (file, says) in
        [("missing.jsonl", "No such file"), (".", "directory"), ("empty.csv", "the file is empty"), ("-", "empty")]
    {
        let refused = run(&server, dir.path(), &[file], "");
        let said = stderr(&refused);
        assert!(refused.status.code() == Some(4) && said.contains(says) && said.contains(file), "{refused:?}");
        assert!(!said.contains("http://"), "it is no answer of the server: {said}");
    }
    let large = format!("{{\"name\":\"a\",\"sha256\":\"{}\"}}\n", sha256_of(1)).repeat(100_000);
    std::fs::write(dir.path().join(".keyward/admin-token"), "w".repeat(43)).unwrap();
    let refused = run(&server, dir.path(), &["-"], &large);
    assert!(refused.status.code() == Some(1) && stderr(&refused).contains("(401)"), "{}", stderr(&refused));
    assert_eq!(run(&server, dir.path(), &["-", "--format", "xml"], "").status.code(), Some(2));
}

#[test]
fn files_of_every_program_and_name_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(&dir.path().join(".keyward"));
    let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let csv = |n: usize| format!("\"name\",\"sha256\",\"owner\"\r\n\"a, é\",\"{}\",\"acme\"\r\n", sha256_of(n));
    let row = |n: usize| json!({"name": "a, é", "sha256": sha256_of(n), "owner": "acme"}).to_string();
    let files = [
        // PowerShell 7 and 5.1.
        ("KEYS.CSV", format!("\u{feff}{}", csv(0)).into_bytes(), ""),
        ("type.csv", format!("#TYPE System.Object\r\n{}", csv(1)).into_bytes(), ""),
        ("unicode.csv", utf16(&format!("\u{feff}{}", csv(2))), "decoded from UTF-16LE"),
        (
            "excel.Csv",
            format!("name;sha256;owner\r\na, é;{};acme\r\n", sha256_of(3)).into_bytes(),
            "separator: semicolon",
        ),
        ("tabs.TSV", format!("name\tsha256\towner\ra, é\t{}\tacme\r", sha256_of(4)).into_bytes(), "separator: tab"),
        ("no-name", csv(5).into_bytes(), ""),
        ("text.txt", format!("name\tsha256\towner\na, é\t{}\tacme\n", sha256_of(6)).into_bytes(), "separator: tab"),
        ("rows.JSONL", format!("\u{feff}{}\r\n", row(7)).into_bytes(), ""),
        ("rows.ndjson", row(8).into_bytes(), ""),
        ("rows.Json", format!("[\n  {}\n]\n", row(9)).into_bytes(), ""),
        ("rows", utf16(&row(10)), "decoded from UTF-16LE"),
    ];
    for (name, contents, says) in &files {
        std::fs::write(dir.path().join(name), contents).unwrap();
        let output = run(&server, dir.path(), &[name], "");
        assert_eq!(stdout(&output), "imported 1, skipped 0, failed 0\n", "{name}: {}", stderr(&output));
        assert!(stderr(&output).contains(says) && says.is_empty() == stderr(&output).is_empty(), "{}", stderr(&output));
    }
    let keys = server.client().get("/v1/keys").expect(200)["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), files.len());
    assert!(keys.iter().all(|key| key["name"] == "a, é" && key["owner"] == "acme"), "{keys:?}");
    // One that says otherwise, and one in an encoding that cannot be told.
    std::fs::write(dir.path().join("said.csv"), format!("name\tsha256\na;b\t{}\n", sha256_of(20))).unwrap();
    let refused = run(&server, dir.path(), &["said.csv", "--separator", "semicolon"], "");
    assert!(refused.status.code() == Some(1) && stderr(&refused).contains("header[1]"), "{}", stderr(&refused));
    let latin =
        [b"name,sha256\ncaf\xe9,".to_vec(), format!("{}\nb,{}\n", sha256_of(21), sha256_of(22)).into_bytes()].concat();
    std::fs::write(dir.path().join("latin.csv"), latin).unwrap();
    let output = run(&server, dir.path(), &["latin.csv"], "");
    assert_eq!((stdout(&output), output.status.code()), ("imported 1, skipped 0, failed 1\n", Some(3)));
    assert!(
        stderr(&output).contains("latin.csv:2: expected UTF-8, got another encoding, such as Windows-1252"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_row_without_the_owner_that_its_dialect_needs_is_refused_by_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_as(dir.path(), NOW_MS, |config| {
        config.dialect = Dialect::built_in("graph8").unwrap().unwrap();
    });
    let rows =
        [json!({"name": "a", "sha256": sha256_of(1)}), json!({"name": "b", "sha256": sha256_of(2), "owner": "o"})];
    let report = import(&server.client(), "", &rows);
    assert_eq!((counts(&report), mistakes(&report)), ([1, 0, 1], vec![(1, "owner")]));
}

#[test]
#[ignore = "takes a minute; `make bench-import` runs it in a release build"]
fn a_million_rows() {
    const ROWS: usize = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let process = Process::start(dir.path(), "info");
    let mut command = program();
    command.args(["keys", "import", "-"]).env("KEYWARD_URL", &process.url).env("KEYWARD_DATA_DIR", dir.path());
    let mut importing = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    let mut rows = std::io::BufWriter::new(importing.stdin.take().unwrap());
    for n in 0..ROWS {
        writeln!(rows, r#"{{"name":"key {n}","sha256":"{}","owner":"owner-{}"}}"#, sha256_of(n), n % 1000).unwrap();
    }
    drop(rows);
    let output = importing.wait_with_output().unwrap();
    let took = started.elapsed();
    assert_eq!(stdout(&output), "imported 1000000, skipped 0, failed 0\n", "{}", stderr(&output));
    let database = std::fs::metadata(dir.path().join("keyward.db")).unwrap().len();
    println!(
        "{ROWS} rows of SHA-256 in {:.1} s, {:.0} rows a second; the database has {} MiB",
        took.as_secs_f64(),
        ROWS as f64 / took.as_secs_f64(),
        database >> 20
    );
    println!("{}", process.resources());
}

#[test]
fn the_audit_log_leads_from_every_owner_and_key_to_the_import() {
    let (_dir, server) = started();
    let client = server.client();
    client.create(json!({"name": "before", "owner": "known"}));
    let row = |n: usize, owner: &str| json!({"name": "n", "sha256": sha256_of(n), "owner": owner});
    let mut own = row(0, "acme");
    own["id"] = "key_of_the_other_system".into();
    let rows = [own, row(1, "acme"), row(2, "known"), row(3, "globex"), row(1, "refused")];
    assert_eq!(counts(&import(&client, "", &rows)), [4, 0, 1]);

    let about = |subject: &str| {
        let log = client.get(&format!("/v1/audit?subject={subject}")).expect(200);
        let entries = log["entries"].as_array().unwrap().clone();
        entries.into_iter().map(|entry| (entry["action"].as_str().unwrap().to_owned(), entry["details"].clone()))
    };
    for owner in ["acme", "globex", "known"] {
        let entries: Vec<_> = about(owner).collect();
        assert_eq!(entries, [("owner.created".to_owned(), json!({"disabled": false}))], "{owner}");
    }
    assert_eq!(about("refused").count(), 0);
    let keys = client.get("/v1/keys").expect(200);
    let imported = keys["keys"].as_array().unwrap().iter().filter(|key| key["name"] == "n");
    let of: Vec<_> = imported
        .map(|key| {
            let id = key["id"].as_str().unwrap();
            let entries: Vec<_> = about(id).collect();
            let [(action, details)] = entries.as_slice() else { panic!("{id}: {entries:?}") };
            assert_eq!(action, if id == "key_of_the_other_system" { "key.imported" } else { "keys.imported" });
            details["import"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(of.len(), 4);
    assert!(of.iter().all(|import| *import == of[0]));
    let import: Vec<_> = about(&of[0]).collect();
    assert_eq!(
        import,
        [("keys.imported".to_owned(), json!({"imported": 4, "skipped": 0, "first_line": 1, "last_line": 5}))]
    );
    let log = client.get("/v1/audit").expect(200);
    let sequences: Vec<_> =
        log["entries"].as_array().unwrap().iter().map(|entry| entry["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (1..=sequences.len() as u64).rev().collect::<Vec<_>>());
}
