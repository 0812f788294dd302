//! The process: its start, its files, its signals, its end.

use crate::database::{numbers, stored};
use crate::harness::{Client, Process, Reader, contains, program, serve, stderr, until};
use keyward_core::wire::cursor::Position;
use keyward_core::wire::page::Page;
use serde_json::json;
use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn everything_that_was_answered_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "info");
    let client = Client::new(&process.url, dir.path());
    let keys: Vec<_> = (0..10).map(|n| client.create(json!({"name": format!("{n}"), "owner": "acme"}))).collect();
    let mut reader = Reader::new(client);
    reader.catch_up();
    process.kill();
    let again = Process::start(dir.path(), "info");
    reader.client = Client::new(&again.url, dir.path());
    assert!(!reader.read(0), "the cursor still fits");
    for key in &keys {
        let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
        assert_eq!(reader.client.get(&path).expect(200)["state"], "active");
    }
}

#[test]
fn a_server_that_is_told_to_end_answers_who_waits_and_ends_well_within_two_seconds() {
    for signal in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(dir.path(), "keyward_server=trace");
        let client = Client::new(&process.url, dir.path());
        let mut reader = Reader::new(client.clone());
        reader.catch_up();
        let position = reader.position;
        let waiting = std::thread::spawn(move || client.feed(position, 60));
        until(|| process.log_so_far().contains("wait=60s"));
        process.signal(signal);
        let (took, well) = process.wait();
        assert!(well && took < Duration::from_secs(2), "{signal}: {took:?}\n{}", process.log());
        let page = waiting.join().unwrap();
        assert_eq!(Page::decode(&page).unwrap().next(), position);
    }
}

/// A request to make a key, on a connection of HTTP/1.1; whether a whole answer came that says it is there, and when it was
/// sent. None where there is no connection to be had.
fn request_key(address: &str, connection: &mut Option<TcpStream>, token: &str, name: &str) -> Option<(bool, Instant)> {
    let body = json!({"name": name}).to_string();
    let request = format!(
        "POST /v1/keys HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = match connection.take() {
        Some(stream) => stream,
        None => TcpStream::connect(address).ok()?,
    };
    let written = stream.write_all(request.as_bytes());
    let sent = Instant::now();
    let mut answer = Vec::new();
    let is_whole = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        head.starts_with("HTTP/1.1 201 ") && length.is_some_and(|length| length == body.len().to_string())
    };
    let mut buffer = [0; 4096];
    while written.is_ok() && !is_whole(&answer) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
    }
    let answered = is_whole(&answer);
    if answered && !contains(&answer, "connection: close") {
        *connection = Some(stream);
    }
    Some((answered, sent))
}

#[test]
fn whatever_is_sent_before_the_end_is_answered_and_later_requests_are_or_do_nothing() {
    for keeps_connection in [true, false, true, false] {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start(dir.path(), "info");
        let client = Client::new(&process.url, dir.path());
        let answered = Arc::new(AtomicUsize::new(0));
        let requesting: Vec<_> = (0..8)
            .map(|thread| {
                let (address, token) = (client.url["http://".len()..].to_owned(), client.admin.clone());
                let answered = Arc::clone(&answered);
                std::thread::spawn(move || {
                    let (mut connection, mut outcomes) = (None, Vec::new());
                    for n in 0.. {
                        let name = format!("{thread}-{n}");
                        let Some((is_answered, sent)) = request_key(&address, &mut connection, &token, &name) else {
                            break;
                        };
                        outcomes.push((name, is_answered, sent));
                        answered.fetch_add(1, Ordering::Relaxed);
                        connection = connection.filter(|_| keeps_connection);
                        if keeps_connection && !is_answered {
                            break;
                        }
                    }
                    outcomes
                })
            })
            .collect();
        until(|| answered.load(Ordering::Relaxed) > 50);
        let signalled = Instant::now();
        process.signal("TERM");
        let (_, well) = process.wait();
        assert!(well, "{}", process.log());
        for (name, is_answered, sent) in requesting.into_iter().flat_map(|thread| thread.join().unwrap()) {
            let made = numbers(dir.path(), &[&format!("SELECT COUNT(*) FROM keys WHERE name = '{name}'")]);
            assert_eq!(made, [i64::from(is_answered)], "{name}: whether it was made, and whether it was answered");
            assert!(is_answered || sent > signalled, "{name} was sent {:?} before the signal", signalled - sent);
        }
    }
}

#[test]
fn a_database_url_that_is_set_to_nothing_starts_nothing_and_a_start_says_where_the_state_is() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let refused = serve(&mut program(), &dir).env("KEYWARD_DATABASE_URL", "").output().unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("KEYWARD_DATABASE_URL is set and empty"), "{refused:?}");
    assert!(!dir.exists());
    let mut server = Process::start_command(serve(&mut program(), &dir));
    server.kill();
    let expected = format!("location=\"SQLite in {}", dir.display());
    assert!(server.log().contains(&expected), "{}", server.log());
}

#[test]
fn the_files_of_a_new_server_are_its_owners_alone() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let process = Process::start(&dir, "info");
    Client::new(&process.url, &dir).create(json!({"name": "a"}));
    assert_eq!(mode(&dir), 0o700);
    for file in fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_token_file_that_others_can_read_is_a_refused_start() {
    let dir = tempfile::tempdir().unwrap();
    Process::start(dir.path(), "info").kill();
    fs::set_permissions(dir.path().join("admin-token"), Permissions::from_mode(0o644)).unwrap();
    let output = program().args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("admin-token can be read by others (mode 644)"), "{message}");
}

#[test]
fn a_dialect_that_is_no_dialect_is_a_refused_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mine.json");
    fs::write(&file, "{}").unwrap();
    for (dialect, expected) in
        [("nonsense", "keyward, exograph, exona"), (file.to_str().unwrap(), "\"sources\" is missing")]
    {
        let output = program()
            .args(["serve", "--listen", "127.0.0.1:0", "--dialect", dialect, "--data-dir"])
            .arg(dir.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

#[test]
fn tokens_are_read_again_on_sighup_and_a_bad_file_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "info");
    let mut client = Client::new(&process.url, dir.path());
    let path = dir.path().join("admin-token");
    let new = "n".repeat(43);
    fs::write(&path, format!("{}\n{new}\n", client.admin)).unwrap();
    process.signal("HUP");
    let old = std::mem::replace(&mut client.admin, new.clone());
    until(|| client.get("/v1/keys").status == 200);
    fs::write(&path, &new).unwrap();
    process.signal("HUP");
    client.admin = old;
    until(|| client.get("/v1/keys").status == 401);
    fs::write(&path, "").unwrap();
    process.signal("HUP");
    client.admin = new;
    until(|| process.log_so_far().contains("reload failed; keeping the previous content"));
    assert_eq!(client.get("/v1/keys").status, 200);
    process.kill();
}

#[test]
fn a_token_that_is_removed_ends_its_long_poll_though_the_other_file_is_bad() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "keyward=trace,keyward_server=trace");
    let client = Client::new(&process.url, dir.path());
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let (position, polling) = (reader.position, client.clone());
    let waiting = std::thread::spawn(move || polling.feed(position, 60));
    until(|| process.log_so_far().contains("wait=60s"));
    fs::write(dir.path().join("admin-token"), "").unwrap();
    fs::write(dir.path().join("edge-token"), "n".repeat(43)).unwrap();
    process.signal("HUP");
    until(|| waiting.is_finished());
    assert_eq!(Page::decode(&waiting.join().unwrap()).unwrap().next(), position);
    assert_eq!(client.send("GET", "/v1/edge/feed", Some(&client.edge), None).status, 401);
    assert_eq!(client.get("/v1/keys").status, 200, "the file that cannot be used keeps its tokens");
    process.kill();
}

#[test]
fn no_key_and_no_token_is_in_the_files_or_in_the_log_at_its_most_talkative() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "trace");
    let client = Client::new(&process.url, dir.path());
    let created = client.create(json!({"name": "a", "owner": "acme"}));
    let id = created["id"].as_str().unwrap();
    let rotated = client.ask("POST", &format!("/v1/keys/{id}/rotate"), None).expect(201);
    client.feed(Position::Nothing, 0);
    client.send("GET", "/v1/keys", Some("kwa_a_token_that_is_not_valid_anywhere"), None);
    client.ask("DELETE", &format!("/v1/keys/{id}"), None).expect(200);
    // Somebody takes the key for its id.
    client.ask("DELETE", &format!("/v1/keys/{}", created["key"].as_str().unwrap()), None).expect(400);
    client.ask("GET", &format!("/{}", created["key"].as_str().unwrap()), None).expect(400);
    client.ask("DELETE", "/v1/keys/key_none", None).expect(404);
    let while_running = stored(dir.path());
    process.signal("TERM");
    process.wait();
    let log = process.log();
    assert!(log.contains(&format!("key created key=\"{id}\"")), "{log}");
    assert!(log.contains("route=\"/v1/keys/{id}\"") && log.contains("status=404"), "{log}");
    let keys = [&created, &rotated].map(|answer| answer["key"].as_str().unwrap().to_owned());
    for key in &keys {
        // Past the hint, which may be known.
        let secret = &key[12..];
        assert!(!contains(&while_running, secret) && !contains(&stored(dir.path()), secret));
        assert!(!log.contains(secret));
    }
    for token in [&client.admin, &client.edge, "kwa_a_token_that_is_not_valid_anywhere"] {
        assert!(!log.contains(token));
        fs::read_dir(dir.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| !path.ends_with("admin-token") && !path.ends_with("edge-token"))
            .for_each(|path| {
                assert!(!contains(&fs::read(path).unwrap(), token));
            });
    }
}
