//! Keys that were found in public.

use crate::database::stored;
use crate::harness::{
    Answer, Client, DEADLINE, NOW_MS, Process, Reader, TestServer, contains, dialect_with_selectors, fields, path_of,
    program, stderr, stdout, until,
};
use hmac::{Hmac, Mac};
use keyward_core::dialect::Dialect;
use keyward_server::keys::github::GithubKeys;
use keyward_server::keys::leaks::Leaks;
use keyward_server::model::OnLeak;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePublicKey, LineEnding};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

pub(crate) const WEBHOOK: &str = "/v1/webhooks/github/secret-scanning";

fn started() -> (tempfile::TempDir, TestServer) {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(&dir.path().join(".keyward"));
    (dir, server)
}

fn report(client: &Client, keys: &[&str]) -> Value {
    let request = json!({"keys": keys, "source": "a scan", "url": "https://user:pw@example.com/a?token=b"});
    client.ask("POST", "/v1/leaks", Some(request)).expect(200)["keys"].clone()
}

fn state(client: &Client, id: &Value) -> Value {
    client.get(&format!("/v1/keys/{}", id.as_str().unwrap())).expect(200)["state"].clone()
}

fn import(client: &Client, rows: &[Value]) {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let bearer = format!("Bearer {}", client.admin);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
    let report = client.send_with("POST", "/v1/keys/import", &headers, Some(text.into())).expect(200);
    assert_eq!(report["imported"], rows.len(), "{report}");
}

#[test]
fn a_leaked_key_is_revoked_everywhere_and_others_are_told_apart_from_it() {
    let (_dir, server) = started();
    let client = server.client();
    let leaked = client.create(json!({"name": "leaked"}));
    let other = client.create(json!({"name": "other"}));
    let key = leaked["key"].as_str().unwrap();
    let changed = format!("{}{}", &key[..key.len() - 1], if key.ends_with('x') { 'y' } else { 'x' });
    let outcomes = report(&client, &[key, &changed, key]);
    let revoked = json!({"known": true, "key_id": leaked["id"], "action": "revoked"});
    assert_eq!(outcomes, json!([revoked, {"known": false, "action": "none"}, revoked]));
    assert_eq!(state(&client, &leaked["id"]), "revoked");
    assert_eq!(state(&client, &other["id"]), "active");
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    assert!(reader.record(&leaked["key"]).unwrap().revoked_at_ms.is_some());
    assert_eq!(report(&client, &[key])[0]["action"], "already_revoked");
}

/// The checksum of keyward's keys: CRC-32 as six base62 digits.
fn crc32_base62(covered: &[u8]) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = crc32fast::hash(covered) as usize;
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[rest % 62];
        rest /= 62;
    }
    String::from_utf8(digits.to_vec()).unwrap()
}

#[test]
fn a_key_is_found_by_whatever_is_kept_of_it_and_a_known_beginning_with_another_end_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let pepper = "a pepper";
    let leaks =
        Leaks { hmac_pepper: Some(keyward_core::key::secret::Secret::new(pepper.to_owned())), ..Leaks::default() };
    let server = TestServer::start_as(dir.path(), NOW_MS, |config| {
        config.leaks = leaks;
        config.dialect = Dialect::parse(dialect_with_selectors().as_bytes()).unwrap();
    });
    let client = server.client();
    let (argon2id, bcrypt) = (crate::import::key_of_another_server(), crate::import::key_of_another_server());
    let other_end = |key: &str| {
        // Another key of the format, with a checksum that fits, which begins alike.
        let other = crate::import::key_of_another_server();
        let changed = format!("{}{}", &key[..16], &other[16..38]);
        let sum = crc32_base62(changed.as_bytes());
        changed + &sum
    };
    let hmac = Hmac::<Sha256>::new_from_slice(pepper.as_bytes()).unwrap().chain_update("hmac key").finalize();
    import(
        &client,
        &[
            json!({"name": "a", "id": "key_by-sha256", "sha256": hex::encode(Sha256::digest("sha256 key"))}),
            json!({"name": "a", "id": "key_by-sha512", "sha512": hex::encode(Sha512::digest("sha512 key"))}),
            json!({"name": "a", "id": "key_by-hmac", "hmac_sha256": hex::encode(hmac.into_bytes())}),
            json!({"name": "a", "id": "key_by-argon2id", "selector": argon2id[..16],
                   "argon2id": crate::import::argon2id(&argon2id)}),
            json!({"name": "a", "id": "key_by-bcrypt", "selector": bcrypt[..16],
                   "bcrypt": crate::import::bcrypt(&bcrypt)}),
        ],
    );
    let (other_argon2id, other_bcrypt) = (other_end(&argon2id), other_end(&bcrypt));
    let wrong = ["sha256 kez", &other_argon2id, &argon2id[..16], &other_bcrypt];
    for outcome in report(&client, &wrong).as_array().unwrap() {
        assert_eq!(*outcome, json!({"known": false, "action": "none"}));
    }
    let right = ["sha256 key", "sha512 key", "hmac key", &argon2id, &bcrypt];
    let outcomes = report(&client, &right);
    let ids: Vec<_> = outcomes.as_array().unwrap().iter().map(|outcome| outcome["key_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["key_by-sha256", "key_by-sha512", "key_by-hmac", "key_by-argon2id", "key_by-bcrypt"]);
    for id in ids {
        assert_eq!(state(&client, &json!(id)), "revoked", "{id}");
    }
}

#[test]
fn where_it_is_so_configured_a_leaked_key_is_only_marked() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_with_leaks(dir.path(), Leaks { on_leak: OnLeak::Flag, ..Leaks::default() });
    let client = server.client();
    let leaked = client.create(json!({"name": "leaked"}));
    let outcome = &report(&client, &[leaked["key"].as_str().unwrap()])[0];
    assert_eq!((&outcome["key_id"], &outcome["action"]), (&leaked["id"], &json!("flagged")));
    assert_eq!(state(&client, &leaked["id"]), "active");
    let shown = client.get(&path_of(&leaked)).expect(200);
    assert_eq!(shown["secrets"][0]["leaked_at"], shown["created_at"], "the clock stands still");
}

#[test]
fn a_secret_that_was_rotated_away_does_not_end_the_key_that_goes_on() {
    let (_dir, server) = started();
    let client = server.client();
    let first = client.create(json!({"name": "rotated"}));
    let path = format!("/v1/keys/{}/rotate", first["id"].as_str().unwrap());
    client.ask("POST", &path, Some(json!({"grace_s": 60}))).expect(201);
    let second = client.ask("POST", &path, Some(json!({"grace_s": 60}))).expect(201);
    server.advance(60_000);
    assert_eq!(report(&client, &[first["key"].as_str().unwrap()])[0]["action"], "flagged");
    assert_eq!(state(&client, &first["id"]), "active");
    assert_eq!(report(&client, &[second["key"].as_str().unwrap()])[0]["action"], "revoked");
}

#[test]
fn a_report_with_mistakes_and_one_without_a_token_are_refused() {
    let (_dir, server) = started();
    let client = server.client();
    client.ask("POST", "/v1/leaks", Some(json!({"keys": [], "more": 1}))).expect(422);
    client.send("POST", "/v1/leaks", None, Some(b"{\"keys\":[\"a\"]}".to_vec())).expect(401);
    client.send("POST", "/v1/leaks", Some(&client.edge), Some(b"{\"keys\":[\"a\"]}".to_vec())).expect(401);
}

/// GitHub, with a key of its own.
pub(crate) struct Github {
    key: SigningKey,
}

impl Github {
    pub(crate) const KEY_ID: &str = "a key of GitHub";

    pub(crate) fn new() -> Self {
        Self { key: SigningKey::from_slice(&[7; 32]).unwrap() }
    }

    /// What it serves of its keys.
    pub(crate) fn file(&self, dir: &Path) -> std::path::PathBuf {
        let pem = self.key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
        let keys = json!({"public_keys": [{"key_identifier": Self::KEY_ID, "key": pem, "is_current": true}]});
        let path = dir.join("github-keys.json");
        std::fs::write(&path, keys.to_string()).unwrap();
        path
    }

    pub(crate) fn signature(&self, body: &[u8]) -> String {
        use base64::Engine;
        let signature: Signature = self.key.sign(body);
        base64::engine::general_purpose::STANDARD.encode(signature.to_der())
    }

    fn alert(&self, client: &Client, body: &str) -> Answer {
        Self::send(client, Some(Self::KEY_ID), Some(&self.signature(body.as_bytes())), body)
    }

    fn send(client: &Client, key_id: Option<&str>, signature: Option<&str>, body: &str) -> Answer {
        let headers = [("Github-Public-Key-Identifier", key_id), ("Github-Public-Key-Signature", signature)];
        let headers: Vec<_> = headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        client.send_with("POST", WEBHOOK, &headers, Some(body.into()))
    }
}

fn started_with_github() -> (tempfile::TempDir, TestServer, Github) {
    let (dir, github) = (tempfile::tempdir().unwrap(), Github::new());
    let github_keys = Some(GithubKeys::load(&github.file(dir.path())).unwrap());
    let server = TestServer::start_with_leaks(&dir.path().join(".keyward"), Leaks { github_keys, ..Leaks::default() });
    (dir, server, github)
}

#[test]
fn an_alert_that_github_has_signed_revokes_and_is_answered_in_its_shape_without_the_token() {
    let (_dir, server, github) = started_with_github();
    let client = server.client();
    let leaked = client.create(json!({"name": "leaked"}));
    let key = leaked["key"].as_str().unwrap();
    let mut matches =
        vec![json!({"token": key, "type": "keyward_key", "url": "https://github.com/o/r", "source": "content",
                                  "a field of tomorrow": 1})];
    matches.extend((0..250).map(|n| json!({"token": format!("kw_live_{n}"), "type": "keyward_key", "url": ""})));
    let answer = github.alert(&client, &json!(matches).to_string());
    assert!(!contains(&answer.body, key));
    let feedback = answer.expect(200);
    let feedback = feedback.as_array().unwrap();
    assert_eq!(feedback.len(), 251);
    assert_eq!(
        feedback[0],
        json!({"token_hash": hex::encode(Sha256::digest(key)), "token_type": "keyward_key", "label": "true_positive"})
    );
    assert!(feedback[1..].iter().all(|feedback| feedback["label"] == "false_positive"));
    assert_eq!(state(&client, &leaked["id"]), "revoked");
}

#[test]
fn what_github_has_not_signed_is_refused_alike_and_changes_nothing() {
    let (_dir, server, github) = started_with_github();
    let client = server.client();
    let leaked = client.create(json!({"name": "leaked"}));
    let body = json!([{"token": leaked["key"], "type": "t"}]).to_string();
    let signature = github.signature(body.as_bytes());
    let other = Github { key: SigningKey::from_slice(&[8; 32]).unwrap() }.signature(body.as_bytes());
    let id = Some(Github::KEY_ID);
    let refused = [
        Github::send(&client, id, Some(&signature), &body.replace('t', "u")),
        Github::send(&client, id, Some(&other), &body),
        Github::send(&client, id, Some("not base64"), &body),
        Github::send(&client, id, None, &body),
        Github::send(&client, Some("unknown"), Some(&signature), &body),
        Github::send(&client, None, Some(&signature), &body),
        // What is no JSON is not looked at before its signature is.
        Github::send(&client, id, Some(&signature), "{"),
    ];
    let refused: Vec<_> = refused.into_iter().map(|answer| answer.expect(401)).collect();
    assert!(refused.iter().all(|problem| *problem == refused[0]), "{refused:?}");
    assert_eq!(state(&client, &leaked["id"]), "active");
    github.alert(&client, "{}").expect(400);
    let too_long = format!("[{}]", " ".repeat(1 << 20));
    let refused = Github::send(&client, id, Some(&signature), &too_long).expect(413);
    assert_eq!(refused["type"], "urn:keyward:problem:too_large");
    let long = format!("[{}]", " ".repeat(1 << 19));
    assert_eq!(github.alert(&client, &long).expect(200), json!([]));
}

/// Begins to send an alert of that length, with these fields.
fn begin_alert(client: &Client, fields: &str, length: usize) -> TcpStream {
    let address = client.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    connection.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!("POST {WEBHOOK} HTTP/1.1\r\nhost: {address}\r\n{fields}content-length: {length}\r\n\r\n");
    connection.write_all(head.as_bytes()).unwrap();
    connection
}

#[test]
fn what_cannot_be_signed_by_github_is_refused_before_its_body_comes() {
    let (_dir, server, github) = started_with_github();
    let signature = github.signature(b"[]");
    let of_github = format!("github-public-key-identifier: {}\r\n", Github::KEY_ID);
    for fields in [
        String::new(),
        of_github.clone(),
        format!("{of_github}github-public-key-signature: none\r\n"),
        format!("github-public-key-identifier: other\r\ngithub-public-key-signature: {signature}\r\n"),
    ] {
        let mut connection = begin_alert(&server.client(), &fields, 1 << 20);
        let mut status = [0; 12];
        connection.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 401", "{fields}");
    }
}

#[test]
fn alerts_that_never_end_take_no_more_memory_than_is_meant_for_alerts_and_only_for_a_while() {
    const MOST: usize = 32 << 20;
    let (_dir, server, github) = started_with_github();
    let client = server.client();
    let signature = github.signature(b"[]");
    let fields =
        format!("github-public-key-identifier: {}\r\ngithub-public-key-signature: {signature}\r\n", Github::KEY_ID);
    // Of those that come at once some are refused at the end, and what they held is free again: so ever smaller ones follow.
    let mut begun = Vec::new();
    let mut fill = |bytes: usize| {
        let mut connection = begin_alert(&client, &fields, 1 << 20);
        if connection.write_all(&vec![b' '; bytes]).is_ok() {
            begun.push(connection);
        }
    };
    (0..MOST >> 20).for_each(|_| fill((1 << 20) - 1));
    let alert = format!("[{}]", " ".repeat(100));
    until(|| {
        (6..20).rev().for_each(|bits| fill(1 << bits));
        let answer = github.alert(&client, &alert);
        let is_full = answer.status == 503;
        assert!(!is_full || answer.header("retry-after") == "1");
        is_full
    });
    drop(begun);
    until(|| github.alert(&client, &alert).status == 200);
}

#[test]
fn without_githubs_keys_there_is_nothing_for_its_alerts() {
    let (_dir, server) = started();
    let github = Github::new();
    github.alert(&server.client(), "[]").expect(404);
}

#[test]
fn no_plaintext_of_a_report_is_logged_or_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "debug");
    let client = Client::new(&process.url, dir.path());
    let leaked = client.create(json!({"name": "leaked"}));
    let key = leaked["key"].as_str().unwrap();
    let request =
        json!({"keys": [key, "kw_live_unknown"], "source": format!("pasted {key}"), "url": format!("https://x/{key}")});
    let refused = client.ask("POST", "/v1/leaks", Some(request)).expect(422);
    assert_eq!(fields(&refused), ["source", "url"]);
    let request =
        json!({"keys": [key, "kw_live_unknown"], "source": "kw_live_unknown", "url": "https://x/?kw_live_unknown"});
    client.ask("POST", "/v1/leaks", Some(request)).expect(200);
    process.signal("TERM");
    process.wait();
    let (log, files) = (process.log(), stored(dir.path()));
    assert!(log.contains("leaked key reported"), "{log}");
    for hidden in [key, "kw_live_unknown"] {
        assert!(!log.contains(hidden) && !contains(&files, hidden), "{hidden}");
    }
}

#[test]
fn the_command_line_reads_leaked_keys_from_a_file_or_the_standard_input() {
    let (dir, server) = started();
    let client = server.client();
    let [first, second] = ["a", "b"].map(|name| client.create(json!({"name": name})));
    let file = dir.path().join("leaked");
    std::fs::write(&file, format!("\nunknown\n  {}\n", first["key"].as_str().unwrap())).unwrap();
    let run = |arguments: &[&str], stdin: std::process::Stdio| {
        let mut command = program();
        command.args(["keys", "report-leak"]).args(arguments).current_dir(dir.path());
        command.env("KEYWARD_URL", &server.address).stdin(stdin).output().unwrap()
    };
    let told = run(&["leaked", "--source", "a scan"], std::process::Stdio::null());
    let id = first["id"].as_str().unwrap();
    assert_eq!(
        stdout(&told),
        format!("line 2  not a key of this server\nline 3  {id}  revoked\n"),
        "{}",
        stderr(&told)
    );
    assert_eq!(told.status.code(), Some(3));
    assert!(stderr(&told).contains("lines without a key of this server: 1 of 2"), "{}", stderr(&told));
    std::fs::write(&file, second["key"].as_str().unwrap()).unwrap();
    let told = run(&["-", "--json"], std::fs::File::open(&file).unwrap().into());
    let outcome = &serde_json::from_slice::<Value>(&told.stdout).unwrap()["keys"][0];
    assert_eq!((&outcome["key_id"], &outcome["line"]), (&second["id"], &json!(1)));
    assert_eq!(told.status.code(), Some(0));
    for (missing, says) in [("missing", "No such file"), (".", "directory"), ("empty", "the file is empty")] {
        std::fs::write(dir.path().join("empty"), "").unwrap();
        let refused = run(&[missing], std::process::Stdio::null());
        assert_eq!(refused.status.code(), Some(4), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(says) && !stderr(&refused).contains("http"), "{}", stderr(&refused));
    }
}

#[test]
fn leaked_keys_are_found_in_every_encoding_and_inside_other_text() {
    let (dir, server) = started();
    let client = server.client();
    let file = dir.path().join("leaked");
    let run = |contents: &[u8]| {
        std::fs::write(&file, contents).unwrap();
        let mut command = program();
        command.args(["keys", "report-leak", "leaked"]).current_dir(dir.path()).env("KEYWARD_URL", &server.address);
        command.output().unwrap()
    };
    let utf16 = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    type Shape<'a> = &'a dyn Fn(&str) -> Vec<u8>;
    let shapes: [Shape<'_>; 12] = [
        &|key| format!("\u{feff}{key}\r\n").into_bytes(),
        &|key| format!("{key}\r").into_bytes(),
        &|key| utf16(&format!("\u{feff}{key}\r\n")),
        &|key| utf16(key),
        &|key| [b"caf\xe9 ".to_vec(), key.as_bytes().to_vec()].concat(),
        &|key| format!("\"{key}\",").into_bytes(),
        &|key| format!("  {key} \t").into_bytes(),
        &|key| format!("export API_KEY='{key}'").into_bytes(),
        &|key| json!({"key": key}).to_string().into_bytes(),
        &|key| format!("a;{key};b").into_bytes(),
        &|key| format!("https://example.com/?key={key}&a=b").into_bytes(),
        &|key| format!("x{key}.").into_bytes(),
    ];
    for (n, shape) in shapes.iter().enumerate() {
        let made = client.create(json!({"name": "a"}));
        let told = run(&shape(made["key"].as_str().unwrap()));
        let expected = format!("line 1  {}  revoked\n", made["id"].as_str().unwrap());
        assert_eq!((stdout(&told), told.status.code()), (expected.as_str(), Some(0)), "{n}: {}", stderr(&told));
        assert_eq!(state(&client, &made["id"]), "revoked");
    }
    // Several on a line are all reported, and a line that is wrong costs no other.
    let [first, second] = ["a", "b"].map(|name| client.create(json!({"name": name})));
    let [one, other] = [&first, &second].map(|key| key["key"].as_str().unwrap());
    let told = run(format!("no key here\n{}\n{one},{other}\n", "x".repeat(70_000)).as_bytes());
    let [first, second] = [&first, &second].map(|key| key["id"].as_str().unwrap());
    assert_eq!(
        stdout(&told),
        format!(
            "line 1  no key found on this line\nline 2  expected at most 65536 bytes\n\
             line 3  {first}  revoked\nline 3  {second}  revoked\n"
        )
    );
    assert_eq!(told.status.code(), Some(3));
}
