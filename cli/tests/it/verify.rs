//! Keys of which only a password hash is kept, and the question whether a credential is one.

use crate::database::stored;
use crate::harness::{Answer, Client, NOW_MS, Process, Reader, TestServer, contains, program, seconds, stdout, until};
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::{Body, KeyRecord};
use keyward_core::wire::verify::{Answer as Verdict, VERIFY_PATH};
use keyward_server::serve::RETENTION_INTERVAL;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// What every key of the dialect begins with that is public.
const SELECTOR_LENGTH: usize = "user.".len() + 16;

fn server(dir: &Path) -> TestServer {
    TestServer::start_of("auxot", dir, NOW_MS, RETENTION_INTERVAL)
}

fn create(client: &Client) -> Value {
    client.create(json!({"name": "a", "kind": "user", "owner": "acme"}))
}

fn ask(client: &Client, credential: &str) -> Answer {
    client.send("POST", VERIFY_PATH, Some(&client.edge), Some(credential.into()))
}

fn verdict(client: &Client, credential: &Value) -> Verdict {
    let answer = ask(client, credential.as_str().unwrap());
    assert_eq!((answer.status, answer.header("cache-control")), (200, "no-store"), "{answer:?}");
    Verdict::decode(&answer.body).unwrap()
}

fn right(key: &Value) -> Verdict {
    let secrets = key["secrets"].as_array().unwrap();
    let hint = format!("{}…", &key["key"].as_str().unwrap()[..SELECTOR_LENGTH]);
    let secret = secrets.iter().find(|secret| secret["hint"] == hint.as_str()).unwrap();
    Verdict::Right { secret_id: secret["id"].as_str().unwrap().to_owned() }
}

/// What an edge knows of the key.
fn record<'a>(reader: &'a Reader, key: &Value) -> Option<&'a KeyRecord> {
    let selector = &key["key"].as_str().unwrap().as_bytes()[..SELECTOR_LENGTH];
    match reader.known.get(&Digest::of_selector(selector)) {
        Some((_, Body::Key(record))) => Some(record),
        Some(other) => panic!("a key leads to {other:?}"),
        None => None,
    }
}

#[test]
fn an_edge_finds_a_key_by_its_selector_and_asks_whether_the_rest_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let client = server.client();
    let key = create(&client);
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    assert!(record(&reader, &key).unwrap().needs_verification);
    assert_eq!(reader.record(&key["key"]), None, "nothing leads from the SHA-256 of the key");
    assert_eq!(verdict(&client, &key["key"]), right(&key));
    let text = key["key"].as_str().unwrap();
    let end = if text.ends_with('a') { "b" } else { "a" };
    for wrong in [format!("{}{end}", &text[..text.len() - 1]), text.replacen("user.", "team.", 1), text[1..].to_owned()]
    {
        assert_eq!(verdict(&client, &json!(wrong)), Verdict::Wrong, "{wrong}");
    }
    assert_eq!(verdict(&client, &json!("")), Verdict::Wrong);
}

#[test]
fn only_edges_may_ask() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let client = server.client();
    let key = create(&client)["key"].as_str().unwrap().to_owned();
    for token in [None, Some(&*client.admin), Some(&*key)] {
        let answer = client.send("POST", VERIFY_PATH, token, Some(key.clone().into()));
        assert_eq!(answer.status, 401, "{token:?}");
    }
    assert_eq!(client.send("GET", VERIFY_PATH, Some(&client.edge), None).status, 405);
    assert_eq!(ask(&client, &"a".repeat(70_000)).expect(413)["type"], "urn:keyward:problem:too_large");
}

#[test]
fn whoever_finds_every_place_taken_is_told_to_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let client = server.client();
    let key = create(&client)["key"].as_str().unwrap().to_owned();
    // Each is another question, though all are about one secret.
    let all_at_once = || {
        std::thread::scope(|scope| {
            let wrong = (10..).map(|n| format!("{}{n}", &key[..key.len() - 2])).filter(|wrong| *wrong != key);
            let client = &client;
            let asking: Vec<_> = wrong.take(20).map(|wrong| scope.spawn(move || ask(client, &wrong))).collect();
            asking.into_iter().map(|asking| asking.join().unwrap()).collect::<Vec<_>>()
        })
    };
    until(|| {
        let answers = all_at_once();
        let (told, busy): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        assert!(told.iter().all(|answer| Verdict::decode(&answer.body) == Ok(Verdict::Wrong)));
        for answer in &busy {
            assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
            assert_eq!(answer.json()["type"], "urn:keyward:problem:busy");
        }
        !told.is_empty() && !busy.is_empty()
    });
}

#[test]
fn a_rotation_gives_a_selector_of_its_own_and_what_has_ended_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let client = server.client();
    let first = create(&client);
    let path = format!("/v1/keys/{}", first["id"].as_str().unwrap());
    let second = client.ask("POST", &format!("{path}/rotate"), Some(json!({"grace_s": 60}))).expect(201);
    assert_eq!((verdict(&client, &first["key"]), verdict(&client, &second["key"])), (right(&first), right(&second)));
    assert_ne!(right(&first), right(&second));
    server.advance(seconds(60));
    assert_eq!((verdict(&client, &first["key"]), verdict(&client, &second["key"])), (Verdict::Wrong, right(&second)));
    client.ask("DELETE", &path, None).expect(200);
    assert_eq!(verdict(&client, &second["key"]), Verdict::Wrong);
    let mut reader = Reader::new(client);
    reader.catch_up();
    for key in [&first, &second] {
        assert!(record(&reader, key).unwrap().revoked_at_ms.is_some());
    }
}

#[test]
fn edges_forget_a_selector_thirty_days_after_its_key_was_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let server = server(dir.path());
    let client = server.client();
    let (gone, kept) = (create(&client), create(&client));
    client.ask("DELETE", &format!("/v1/keys/{}", gone["id"].as_str().unwrap()), None).expect(200);
    server.stop();
    let later = NOW_MS + 31 * seconds(86_400);
    let server = TestServer::start_of("auxot", dir.path(), later, Duration::from_millis(1));
    let mut reader = Reader::new(server.client());
    until(|| {
        reader.catch_up();
        record(&reader, &gone).is_none()
    });
    assert!(record(&reader, &kept).is_some());
    assert_eq!(verdict(&server.client(), &kept["key"]), right(&kept));
}

#[test]
fn neither_the_key_nor_its_sha_256_is_in_the_files_or_in_the_log_at_its_most_talkative() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start_with(dir.path(), "trace", &["--dialect", "auxot"]);
    let client = Client::new(&process.url, dir.path());
    let created = create(&client);
    let rotate = format!("/v1/keys/{}/rotate", created["id"].as_str().unwrap());
    let rotated = client.ask("POST", &rotate, None).expect(201);
    for key in [&created, &rotated] {
        assert_eq!(verdict(&client, &key["key"]), right(key));
    }
    let mut files = stored(dir.path());
    process.signal("TERM");
    process.wait();
    files.extend(stored(dir.path()));
    let log = process.log();
    assert!(contains(&files, "$argon2id$v=19$m=19456,t=2,p=1$"));
    for key in [&created, &rotated] {
        let key = key["key"].as_str().unwrap();
        assert!(contains(&files, &key[..SELECTOR_LENGTH]), "what is public of it is there");
        let secret = &key[SELECTOR_LENGTH..];
        assert!(!contains(&files, secret) && !log.contains(secret));
        let sha256 = Digest::of_key(key.as_bytes()).0;
        assert!(!files.windows(sha256.len()).any(|window| window == sha256));
        for hex in [hex::encode(sha256), hex::encode_upper(sha256)] {
            assert!(!contains(&files, &hex) && !log.contains(&hex));
        }
    }
    assert!(!log.contains("$argon2id$"));
}

#[test]
fn the_capacity_for_verifications_is_measured_by_a_command() {
    let arguments = ["measure-verifications", "--max-verifications", "1", "--duration", "1ms"];
    let measured = program().args(arguments).output().unwrap();
    let words: Vec<_> = stdout(&measured).split_whitespace().collect();
    assert!(matches!(words[..], [n, "verifications", "a", "second,", "1", "at", "once"] if n != "0"), "{measured:?}");
}
