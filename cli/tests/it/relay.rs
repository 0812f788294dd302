//! Relays: what they serve, with and without whom they follow.

use crate::harness::{
    Answer, Client, DEADLINE, NOW_MS, Process, Reader, TestServer, contains, contents, program, stderr, until,
};
use keyward_core::FEED_MEDIA_TYPE;
use keyward_core::key::digest::Digest;
use keyward_core::wire::age::{FEED_AGE_HEADER, feed_age_ms};
use keyward_core::wire::cursor::{Cursor, Position, chain};
use keyward_core::wire::entry::{Body, Entry, Frames, KeyRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_core::wire::usage::{Batch, BatchId, KeyUsage, Verdicts};
use keyward_core::wire::verify::{Answer as Verdict, VERIFY_PATH};
use keyward_core::{FEED_PATH, USAGE_PATH};
use keyward_server::auth::tokens::file::{Audience, Tokens};
use keyward_server::clock::Timestamp;
use keyward_server::serve::RETENTION_INTERVAL;
use keyward_server::serve::relay::{Relay, RelayConfig};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A relay inside the test, with a directory of its own.
pub(crate) struct TestRelay {
    address: String,
    dir: PathBuf,
    now_ms: Arc<AtomicU64>,
    tokens: Arc<Tokens>,
    runtime: Runtime,
    end: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl TestRelay {
    /// One that shows that token to its upstream.
    pub(crate) fn start(dir: &Path, upstream: &str, token: &str) -> Self {
        write_token(dir, token);
        Self::start_at(dir, upstream, NOW_MS)
    }

    /// One that has its token already.
    fn start_at(dir: &Path, upstream: &str, now_ms: u64) -> Self {
        let runtime = Runtime::new().unwrap();
        let now_ms = Arc::new(AtomicU64::new(now_ms));
        let clock = Arc::clone(&now_ms);
        let config = RelayConfig {
            listen: "127.0.0.1:0".to_owned(),
            data_dir: dir.to_owned(),
            edge_token_file: None,
            upstream: upstream.to_owned(),
            upstream_token_file: token_file(dir),
            poll_wait: Duration::from_secs(1),
            clock: Arc::new(move || Timestamp::from_ms(clock.load(Ordering::Relaxed))),
        };
        let relay = runtime.block_on(Relay::start(config)).unwrap();
        let (address, tokens) = (format!("http://{}", relay.address()), relay.tokens());
        let (end, ended) = oneshot::channel();
        let running = runtime.spawn(relay.run(async { drop(ended.await) }));
        Self { address, dir: dir.to_owned(), now_ms, tokens, runtime, end: Some(end), running: Some(running) }
    }

    fn edge_token(&self) -> String {
        fs::read_to_string(self.dir.join("edge-token")).unwrap().trim().to_owned()
    }

    /// Whoever talks to it, made from whoever talks to the control plane.
    pub(crate) fn client(&self, of: &Client) -> Client {
        of.at(&self.address, &self.edge_token())
    }

    /// Makes these the tokens of its edges.
    pub(crate) fn replace_tokens(&self, tokens: &str) {
        fs::write(self.dir.join("edge-token"), tokens).unwrap();
        self.tokens.reload(Audience::Edge).unwrap();
    }

    fn stop(mut self) {
        drop(self.end.take());
        self.runtime.block_on(self.running.take().unwrap()).unwrap();
    }
}

fn token_file(dir: &Path) -> PathBuf {
    dir.join("upstream-token")
}

fn write_token(dir: &Path, token: &str) {
    fs::create_dir_all(dir).unwrap();
    fs::write(token_file(dir), token).unwrap();
    fs::set_permissions(token_file(dir), fs::Permissions::from_mode(0o600)).unwrap();
}

/// What a request says, as far as it matters here.
struct Asked {
    method: String,
    path: String,
    authorization: String,
    body: Vec<u8>,
}

/// An upstream that answers as the test says, or not at all.
struct Double {
    url: String,
}

type Said = (u16, Vec<(String, String)>, Vec<u8>);

impl Double {
    /// The process ends with its threads.
    fn start(answer: impl Fn(&Asked) -> Option<Said> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || {
                    let said = read_request(&connection).and_then(|asked| answer(&asked));
                    if let Some(said) = said {
                        drop(write_answer(&connection, &said));
                    }
                });
            }
        });
        Self { url }
    }
}

fn read_request(connection: &TcpStream) -> Option<Asked> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut authorization, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { method, path, authorization, body })
}

fn write_answer(mut connection: &TcpStream, (status, headers, body): &Said) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} As said\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    connection.write_all((head + "\r\n").as_bytes())?;
    connection.write_all(body)
}

/// The way to an upstream that the test can close, and lead elsewhere.
#[derive(Clone)]
struct Door {
    leads_to: Arc<Mutex<Option<Client>>>,
    url: Arc<str>,
}

impl Door {
    fn to(upstream: &Client) -> Self {
        let leads_to = Arc::new(Mutex::new(Some(upstream.clone())));
        let target = Arc::clone(&leads_to);
        let double = Double::start(move |asked| {
            let upstream = target.lock().unwrap().clone()?;
            let said = pass_on(&upstream, asked)?;
            // What was on its way when the door closed does not come through.
            target.lock().unwrap().is_some().then_some(said)
        });
        Self { leads_to, url: double.url.into() }
    }

    fn close(&self) {
        *self.leads_to.lock().unwrap() = None;
    }

    fn open_to(&self, upstream: &Client) {
        *self.leads_to.lock().unwrap() = Some(upstream.clone());
    }
}

fn pass_on(upstream: &Client, asked: &Asked) -> Option<Said> {
    let body = (asked.method == "POST").then(|| asked.body.clone());
    let fields = [("authorization", asked.authorization.as_str())];
    let answer = upstream.try_send_with(&asked.method, &asked.path, &fields, body).ok()?;
    let kept = ["content-type", "retry-after", FEED_AGE_HEADER];
    let headers = kept.iter().filter(|name| !answer.header(name).is_empty());
    let headers = headers.map(|name| ((*name).to_owned(), answer.header(name).to_owned())).collect();
    Some((answer.status, headers, answer.body))
}

fn page_of(body: Vec<u8>) -> Option<Said> {
    Some((200, vec![("content-type".to_owned(), FEED_MEDIA_TYPE.to_owned())], body))
}

fn ready(client: &Client) -> Answer {
    client.send("GET", "/readyz", None, None)
}

/// Waits until the relay serves what the control plane has.
fn until_level(relay: &Client, centre: &Client) {
    let mut at_centre = Reader::new(centre.clone());
    at_centre.catch_up();
    let Position::Changes { seen, .. } = at_centre.position else { panic!("{:?}", at_centre.position) };
    until(|| {
        let answer = ready(relay);
        answer.status == 200 && answer.json()["sequence"] == seen.sequence
    });
}

/// What an edge knows that begins here.
fn all(client: &Client) -> Reader {
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    reader
}

fn revoke(centre: &Client, key: &Value) {
    centre.ask("DELETE", &format!("/v1/keys/{}", key["id"].as_str().unwrap()), None).expect(200);
}

/// Reads until the key is revoked there.
fn until_revoked(reader: &mut Reader, key: &Value) -> Duration {
    let started = Instant::now();
    while reader.record(&key["key"]).is_none_or(|record| record.revoked_at_ms.is_none()) {
        assert!(started.elapsed() < DEADLINE, "the revocation does not come through");
        reader.read(5);
    }
    started.elapsed()
}

/// A control plane, and a relay behind a door.
struct Region {
    centre: TestServer,
    door: Door,
    relay: TestRelay,
    _dirs: [tempfile::TempDir; 2],
}

impl Region {
    fn start() -> Self {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let centre = TestServer::start(dirs[0].path());
        let client = centre.client();
        let door = Door::to(&client);
        let relay = TestRelay::start(dirs[1].path(), &door.url, &client.edge);
        Self { centre, door, relay, _dirs: dirs }
    }

    fn clients(&self) -> (Client, Client) {
        let centre = self.centre.client();
        (centre.clone(), self.relay.client(&centre))
    }
}

#[test]
fn an_edge_ends_with_the_same_at_the_control_plane_at_a_relay_and_at_a_relay_of_that() {
    let region = Region::start();
    let (centre, first) = region.clients();
    let dir = tempfile::tempdir().unwrap();
    let second = TestRelay::start(dir.path(), &region.relay.address, &first.edge);
    let second = second.client(&centre);
    centre.create(json!({"name": "first"}));
    until_level(&second, &centre);
    let mut followers: Vec<_> = [&centre, &first, &second].map(all).into();
    let put = |path: &str, document: Value| assert!(centre.ask("PUT", path, Some(document)).status < 300);
    for round in 0..30 {
        let key = centre.create(json!({"name": format!("{round}"), "owner": format!("o{}", round % 3)}));
        match round % 5 {
            0 => revoke(&centre, &key),
            1 => put(&format!("/v1/owners/o{}", round % 3), json!({"disabled": round % 2 == 0})),
            2 => put("/v1/plans/p", json!({"limits": [format!("{}/s", round + 1)]})),
            3 => followers[round % 3].catch_up(),
            _ => {}
        }
    }
    until_level(&first, &centre);
    until_level(&second, &centre);
    let expected = all(&centre);
    for reader in &mut followers {
        reader.catch_up();
        assert_eq!(reader.snapshot_pages, 1, "the changes are enough");
        assert_eq!((reader.position, &reader.known), (expected.position, &expected.known));
    }
    for client in [&first, &second] {
        assert_eq!(all(client).known, expected.known);
    }
}

#[test]
fn a_revocation_comes_through_two_relays_while_an_edge_waits() {
    let region = Region::start();
    let (centre, first) = region.clients();
    let dir = tempfile::tempdir().unwrap();
    let second = TestRelay::start(dir.path(), &region.relay.address, &first.edge);
    let second = second.client(&centre);
    let key = centre.create(json!({"name": "a"}));
    until_level(&second, &centre);
    let mut edge = all(&second);
    assert!(edge.record(&key["key"]).is_some());
    let waiting = std::thread::spawn(move || {
        edge.read(60);
        edge
    });
    revoke(&centre, &key);
    let mut edge = waiting.join().unwrap();
    until_revoked(&mut edge, &key);
    assert_eq!(edge.snapshot_pages, 1);
}

#[test]
fn a_relay_that_starts_without_its_upstream_serves_what_it_had_and_says_how_old_it_is() {
    let mut region = Region::start();
    let (centre, relay) = region.clients();
    let (kept, revoked) = (centre.create(json!({"name": "a"})), centre.create(json!({"name": "b"})));
    revoke(&centre, &revoked);
    until_level(&relay, &centre);
    let edge = all(&relay);
    region.door.close();
    let dir = region.relay.dir.clone();
    region.relay.stop();
    region.relay = TestRelay::start_at(&dir, &region.door.url, NOW_MS + 3_600_000);
    let (_, relay) = region.clients();
    let after = all(&relay);
    assert_eq!(after.known, edge.known);
    assert!(after.record(&kept["key"]).is_some() && after.record(&revoked["key"]).unwrap().revoked_at_ms.is_some());
    let mut edge = Reader { client: relay.clone(), ..edge };
    edge.catch_up();
    assert_eq!(edge.snapshot_pages, 1, "its place is known after the restart");
    assert!(age_ms(&relay) >= 3_600_000);
    assert!(ready(&relay).expect(200)["age_ms"].as_u64().unwrap() >= 3_600_000);

    region.door.open_to(&centre);
    until(|| age_ms(&relay) < 10_000);
    let new = centre.create(json!({"name": "new"}));
    until_level(&relay, &centre);
    edge.catch_up();
    assert!(edge.record(&new["key"]).is_some() && edge.snapshot_pages == 1);
}

/// How old a page is by its own account.
fn age_ms(relay: &Client) -> u64 {
    let answer = relay.send("GET", FEED_PATH, Some(&relay.edge), None);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header(FEED_AGE_HEADER).parse().unwrap()
}

#[test]
fn the_ages_of_relays_add_up_and_a_clock_that_was_set_back_makes_them_endless() {
    let mut region = Region::start();
    let (centre, first) = region.clients();
    let dir = tempfile::tempdir().unwrap();
    until_level(&first, &centre);
    region.door.close();
    let first_dir = region.relay.dir.clone();
    region.relay.stop();
    region.relay = TestRelay::start_at(&first_dir, &region.door.url, NOW_MS + 60_000);
    let (_, first) = region.clients();
    let second = TestRelay::start(dir.path(), &region.relay.address, &first.edge);
    let second_client = second.client(&centre);
    until_level(&second_client, &first);
    assert!(age_ms(&second_client) >= 60_000, "as old as the first, though it was told just now");
    let of_centre = centre.send("GET", FEED_PATH, Some(&centre.edge), None);
    assert!(feed_age_ms(of_centre.headers.get(FEED_AGE_HEADER).map(|value| value.as_bytes())) < 10_000);
    assert_eq!(second.now_ms.load(Ordering::Relaxed), NOW_MS);

    let first_dir = region.relay.dir.clone();
    region.relay.stop();
    region.relay = TestRelay::start_at(&first_dir, &region.door.url, NOW_MS - 600_000);
    let (_, first) = region.clients();
    assert_eq!(age_ms(&first), u64::MAX);
    assert!(ready(&first).expect(200)["age_ms"].is_null());
}

#[test]
fn a_relay_that_has_heard_nothing_serves_nothing_and_no_empty_snapshot() {
    let region = Region::start();
    region.door.close();
    region.relay.stop();
    let dir = tempfile::tempdir().unwrap();
    let centre = region.centre.client();
    let relay = TestRelay::start(dir.path(), &region.door.url, &centre.edge);
    let client = relay.client(&centre);
    for path in [FEED_PATH.to_owned(), format!("{FEED_PATH}?after=00&wait=1"), "/readyz".to_owned()] {
        let answer = client.send("GET", &path, Some(&client.edge), None);
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{path}: {answer:?}");
    }
    assert_eq!(client.send("GET", "/healthz", None, None).status, 200);
    let key = centre.create(json!({"name": "a"}));
    region.door.open_to(&centre);
    until_level(&client, &centre);
    assert!(all(&client).record(&key["key"]).is_some());
}

#[test]
fn a_control_plane_without_keys_is_a_complete_snapshot_at_its_relay_too() {
    let region = Region::start();
    let (centre, relay) = region.clients();
    until_level(&relay, &centre);
    let edge = all(&relay);
    assert_eq!((edge.known.len(), edge.position), (0, all(&centre).position));
}

#[test]
fn a_restored_control_plane_is_followed_with_a_snapshot_and_its_edges_follow_the_relay() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let start = || TestServer::start_as(dirs[0].path(), NOW_MS, |config| config.database_url = None);
    let (database, saved) = (dirs[0].path().join("keyward.db"), dirs[0].path().join("saved"));
    let server = start();
    let kept = server.client().create(json!({"name": "kept"}));
    server.stop();
    fs::copy(&database, &saved).unwrap();

    let server = start();
    let centre = server.client();
    let lost = centre.create(json!({"name": "lost"}));
    let door = Door::to(&centre);
    let relay = TestRelay::start(dirs[1].path(), &door.url, &centre.edge);
    let client = relay.client(&centre);
    until_level(&client, &centre);
    let mut edge = all(&client);
    assert!(edge.record(&lost["key"]).is_some());
    door.close();
    server.stop();
    for suffix in ["-wal", "-shm"] {
        drop(fs::remove_file(dirs[0].path().join(format!("keyward.db{suffix}"))));
    }
    fs::copy(&saved, &database).unwrap();

    let server = start();
    let centre = server.client();
    door.open_to(&centre);
    let new = centre.create(json!({"name": "new"}));
    until_level(&client, &centre);
    let started = Instant::now();
    while edge.record(&new["key"]).is_none() {
        assert!(started.elapsed() < DEADLINE);
        edge.read(5);
    }
    assert!(edge.record(&lost["key"]).is_none() && edge.record(&kept["key"]).is_some());
    assert_eq!((&edge.known, edge.snapshot_pages), (&all(&centre).known, 2));
}

#[test]
fn an_edge_can_be_moved_between_the_control_plane_and_its_relay_without_a_snapshot() {
    let region = Region::start();
    let (centre, relay) = region.clients();
    centre.create(json!({"name": "first"}));
    until_level(&relay, &centre);
    let mut edge = all(&centre);
    for round in 0..6 {
        let key = centre.create(json!({"name": format!("{round}")}));
        edge.client = if round % 2 == 0 { relay.clone() } else { centre.clone() };
        until_level(&relay, &centre);
        edge.catch_up();
        revoke(&centre, &key);
        until_revoked(&mut edge, &key);
    }
    until_level(&relay, &centre);
    assert_eq!((&edge.known, edge.snapshot_pages), (&all(&centre).known, 1));
}

#[test]
fn an_edge_that_knows_more_than_a_relay_is_not_taken_back_in_time() {
    let region = Region::start();
    let (centre, relay) = region.clients();
    let key = centre.create(json!({"name": "a", "owner": "acme"}));
    until_level(&relay, &centre);
    region.door.close();
    assert!(centre.ask("PUT", "/v1/owners/acme", Some(json!({"disabled": true}))).status < 300);
    let mut edge = all(&centre);
    let known = edge.known.clone();
    edge.client = relay.clone();
    for wait in [0, 1] {
        let path = format!("{FEED_PATH}?after={}&wait={wait}", edge.position);
        let answer = relay.send("GET", &path, Some(&relay.edge), None);
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{answer:?}");
    }
    assert!(all(&relay).record(&key["key"]).is_some(), "whoever knows nothing is served all the same");
    region.door.open_to(&centre);
    edge.read(10);
    assert_eq!((&edge.known, edge.snapshot_pages), (&known, 1));
}

#[test]
fn an_edge_of_a_later_history_is_not_taken_back_though_its_head_has_a_number_that_the_relay_has_too() {
    let region = Region::start();
    let (centre, relay) = region.clients();
    centre.create(json!({"name": "a"}));
    until_level(&relay, &centre);
    let edge = all(&relay);
    region.door.close();
    let Position::Changes { applied, mut seen } = edge.position else { panic!("{:?}", edge.position) };
    seen.chain[0] ^= 1;
    let path = format!("{FEED_PATH}?after={}&wait=0", Position::Changes { applied, seen });
    let answer = relay.send("GET", &path, Some(&relay.edge), None);
    assert_eq!(answer.status, 503, "{answer:?}");
}

#[test]
fn a_relay_led_to_another_control_plane_hands_its_edges_over_with_a_snapshot() {
    let region = Region::start();
    let (centre, relay) = region.clients();
    let lost = centre.create(json!({"name": "lost"}));
    until_level(&relay, &centre);
    let mut edge = all(&relay);
    let other_dir = tempfile::tempdir().unwrap();
    let other = TestServer::start(other_dir.path());
    let other_client = other.client();
    let new = other_client.create(json!({"name": "new"}));
    write_token(&region.relay.dir, &other_client.edge);
    region.door.close();
    let dir = region.relay.dir.clone();
    region.relay.stop();
    region.door.open_to(&other_client);
    let moved = TestRelay::start_at(&dir, &region.door.url, NOW_MS);
    let moved = moved.client(&centre);
    edge.client = moved;
    let started = Instant::now();
    while edge.record(&new["key"]).is_none() {
        assert!(started.elapsed() < DEADLINE);
        edge.read(5);
    }
    assert!(edge.record(&lost["key"]).is_none());
    assert_eq!(edge.known, all(&other_client).known);
}

#[test]
fn a_wrong_token_for_the_upstream_is_told_and_a_new_one_is_read_on_a_signal() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let server = TestServer::start(dirs[0].path());
    let centre = server.client();
    let key = centre.create(json!({"name": "a"}));
    write_token(dirs[1].path(), "kwe_not_the_one_that_is_accepted_here");
    let relay = relay_process(dirs[1].path(), &centre.url, "info");
    let edge_token = fs::read_to_string(dirs[1].path().join("edge-token")).unwrap();
    let client = centre.at(&relay.url, edge_token.trim());
    until(|| relay.log_so_far().contains("token refused"));
    assert_eq!(ready(&client).status, 503);
    assert!(!relay.log_so_far().contains("accepted_here"));
    write_token(dirs[1].path(), &centre.edge);
    relay.signal("HUP");
    until_level(&client, &centre);
    assert!(all(&client).record(&key["key"]).is_some());
    assert_eq!(ready(&client).expect(200)["upstream"], "ok");
    for file in ["edge-token", "relay.db"] {
        assert_eq!(fs::metadata(dirs[1].path().join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert!(!contains(&contents(dirs[1].path()), key["key"].as_str().unwrap()), "no key is on a relay's disk");
}

/// A relay as a process of its own, which has its token already.
fn relay_process(dir: &Path, upstream: &str, log_level: &str) -> Process {
    let mut command = program();
    command.args(["relay", "--listen", "127.0.0.1:0", "--poll-wait", "1s", "--upstream", upstream, "--data-dir"]);
    command.arg(dir).arg("--upstream-token-file").arg(token_file(dir)).env("RUST_LOG", log_level);
    Process::start_command(&mut command)
}

const EPOCH: u64 = 77;

fn frame(subject: u8, version: u64) -> Vec<u8> {
    let record = KeyRecord { key_id: format!("key_{version}"), ..KeyRecord::default() };
    let mut frame = Vec::new();
    Entry { subject: Digest([subject; 32]), version, body: Body::Key(record) }.encode(&mut frame).unwrap();
    frame
}

/// In the digest of the only record.
fn with_a_flipped_bit(page: &[u8]) -> Vec<u8> {
    let mut damaged = page.to_vec();
    let entries = Page::decode(page).unwrap().entries.len();
    let place = damaged.len() - entries + 5;
    damaged[place] ^= 0x10;
    damaged
}

#[test]
fn a_page_that_cannot_be_believed_is_refused_and_nothing_of_it_served() {
    let begin = Cursor { epoch: EPOCH, sequence: 1, chain: [1; 16] };
    let changed = frame(2, 2);
    let after = Cursor { epoch: EPOCH, sequence: 2, chain: chain(&begin.chain, &changed) };
    let at = Position::Changes { applied: 1, seen: begin };
    let snapshot = {
        let entries = frame(1, 1);
        Page {
            summary: None,
            answers: Position::Nothing,
            head: begin,
            extent: Extent::Snapshot { end: None },
            entries: &entries,
        }
        .encode()
    };
    let changes = |answers, head, entries: &[u8]| {
        Page { summary: None, answers, head, extent: Extent::Changes { to: 2 }, entries }.encode()
    };
    let good = changes(at, after, &changed);
    let elsewhere = Position::Changes { applied: 1, seen: Cursor { chain: [2; 16], ..begin } };
    let changes_beyond_its_head =
        Page { summary: None, answers: at, head: after, extent: Extent::Changes { to: 3 }, entries: &changed }.encode();
    let bad = vec![
        b"<html>".to_vec(),
        good[..good.len() - 1].to_vec(),
        with_a_flipped_bit(&good),
        changes_beyond_its_head,
        vec![b' '; keyward_core::MAX_PAGE_BYTES + 1],
        changes(elsewhere, after, &changed),
        changes(at, Cursor { epoch: EPOCH + 1, ..after }, &changed),
        changes(at, Cursor { chain: [3; 16], ..after }, &changed),
        changes(at, after, &[]),
        changes(at, after, &frame(2, 1)),
        changes(at, after, &frame(2, 3)),
    ];
    let (next, count) = (Arc::new(AtomicUsize::new(0)), bad.len());
    let asked_for = Arc::clone(&next);
    let told = good.clone();
    // Every bad page once, with a snapshot whenever one is wanted; then the good one.
    let double = Double::start(move |asked| {
        if asked.path.contains("after=00&") {
            return page_of(snapshot.clone());
        }
        if asked.path.contains(&format!("after={at}&")) {
            let n = asked_for.fetch_add(1, Ordering::SeqCst);
            return page_of(bad.get(n).unwrap_or(&told).clone());
        }
        let position: Position = asked.path.split(['=', '&']).nth(1)?.parse().ok()?;
        let Position::Changes { applied, seen } = position else { return None };
        page_of(
            Page {
                summary: None,
                answers: position,
                head: seen,
                extent: Extent::Changes { to: applied },
                entries: &[],
            }
            .encode(),
        )
    });
    let dir = tempfile::tempdir().unwrap();
    write_token(dir.path(), "kwe_any");
    let relay = relay_process(dir.path(), &double.url, "info");
    let centre_dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(centre_dir.path());
    let token = fs::read_to_string(dir.path().join("edge-token")).unwrap();
    let client = server.client().at(&relay.url, token.trim());
    until(|| {
        let bytes = client.try_feed(Position::Nothing, 0);
        let Some(bytes) = bytes else { return false };
        let page = Page::decode(&bytes).unwrap();
        let versions: Vec<_> = Frames::new(page.entries).map(|frame| frame.unwrap().version).collect();
        match page.head {
            head if head == begin => assert_eq!(versions, [1]),
            head => assert_eq!((head, &versions[..]), (after, &[1, 2][..])),
        }
        page.head == after
    });
    assert!(next.load(Ordering::SeqCst) > count, "all of them came");
    let log = relay.log_so_far();
    for told in [
        "not a feed page",
        "damaged in transit",
        "framing",
        "too large",
        "does not continue",
        "do not belong to the history",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
}

#[test]
fn an_entry_with_a_critical_field_that_nobody_knows_is_passed_on_as_it_is() {
    let mut entry = frame(1, 1);
    let length = u16::from_le_bytes([entry[0], entry[1]]) + 4;
    entry[..2].copy_from_slice(&length.to_le_bytes());
    entry.extend_from_slice(&[0x7e, 1, 0, 0xaa]);
    assert!(Frames::new(&entry).all(|frame| frame.unwrap().decode().is_err()), "it cannot be read here");
    let head = Cursor { epoch: EPOCH, sequence: 1, chain: chain(&[0; 16], &entry) };
    let expected = entry.clone();
    let double = Double::start(move |asked| {
        if !asked.path.contains("after=00&") {
            return None;
        }
        let extent = Extent::Snapshot { end: None };
        page_of(Page { summary: None, answers: Position::Nothing, head, extent, entries: &entry }.encode())
    });
    let dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(dir.path(), &double.url, "kwe_any");
    let centre_dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(centre_dir.path());
    let client = relay.client(&server.client());
    until(|| ready(&client).status == 200);
    let bytes = client.feed(Position::Nothing, 0);
    assert_eq!(Page::decode(&bytes).unwrap().entries, expected);
}

#[test]
fn usage_is_handed_on_and_counts_once_by_whichever_way_it_comes() {
    let region = Region::start();
    let (centre, relay) = region.clients();
    let key = centre.create(json!({"name": "a"}));
    let used = KeyUsage {
        key_id: key["id"].as_str().unwrap().to_owned(),
        secret_id: key["secrets"][0]["id"].as_str().unwrap().to_owned(),
        last_used_ms: Some(NOW_MS),
        verdicts: Verdicts::from([("allow".to_owned(), 3)]),
        credits: 3,
    };
    let batch = |id| Batch { id: BatchId([id; 16]), keys: vec![used.clone()], others: Verdicts::new(), dropped: 0 };
    let tell = |client: &Client, id| client.send("POST", USAGE_PATH, Some(&client.edge), Some(batch(id).encode()));
    let there = tell(&relay, 1);
    assert_eq!((there.status, there.header("content-type")), (200, "application/json"), "{there:?}");
    assert_eq!(there.body, tell(&centre, 1).body);
    region.door.close();
    let away = tell(&relay, 2);
    assert_eq!((away.status, away.header("retry-after")), (503, "1"), "{away:?}");
    region.door.open_to(&centre);
    for _ in 0..2 {
        assert_eq!(tell(&relay, 2).status, 200);
    }
    let path = format!("/v1/keys/{}/usage", key["id"].as_str().unwrap());
    assert_eq!(centre.get(&path).expect(200)["totals"]["allow"], 6, "each batch once");
    let bad = relay.send("POST", USAGE_PATH, Some(&relay.edge), Some(b"no batch".to_vec()));
    assert_eq!(bad.expect(400)["type"], "urn:keyward:problem:invalid_usage");
    assert_eq!(relay.send("POST", USAGE_PATH, Some(&relay.edge), Some(vec![b' '; 65 << 10])).status, 413);
    assert_eq!(relay.send("POST", USAGE_PATH, Some("nobody's"), Some(batch(3).encode())).status, 401);
}

#[test]
fn verifications_are_handed_on_and_no_credential_is_in_a_log() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let server = TestServer::start_of("auxot", dirs[0].path(), NOW_MS, RETENTION_INTERVAL);
    let centre = server.client();
    let key = centre.create(json!({"name": "a", "kind": "user", "owner": "acme"}));
    let door = Door::to(&centre);
    write_token(dirs[1].path(), &centre.edge);
    let mut process = relay_process(dirs[1].path(), &door.url, "trace");
    let token = fs::read_to_string(dirs[1].path().join("edge-token")).unwrap();
    let relay = centre.at(&process.url, token.trim());
    let plaintext = key["key"].as_str().unwrap();
    let ask = |credential: &str| relay.send("POST", VERIFY_PATH, Some(&relay.edge), Some(credential.into()));
    let secret_id = key["secrets"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(Verdict::decode(&ask(plaintext).body), Ok(Verdict::Right { secret_id }));
    let last = if plaintext.ends_with('a') { "b" } else { "a" };
    let wrong = format!("{}{last}", &plaintext[..plaintext.len() - 1]);
    assert_eq!(Verdict::decode(&ask(&wrong).body), Ok(Verdict::Wrong));
    door.close();
    let away = ask(plaintext);
    assert_eq!((away.status, away.header("retry-after")), (503, "1"), "{away:?}");
    process.signal("TERM");
    assert!(process.wait().1);
    let log = process.log();
    assert!(log.contains("route=\"/v1/edge/verify\""), "{log}");
    for secret in [plaintext, &plaintext[10..], token.trim(), &centre.edge] {
        assert!(!log.contains(secret));
    }
}

#[test]
fn what_is_the_operators_is_not_served_by_a_relay_and_it_says_so() {
    let region = Region::start();
    let (centre, relay) = region.clients();
    for (method, path) in [("GET", "/v1/keys"), ("POST", "/v1/keys"), ("GET", "/v1/openapi.json"), ("GET", "/nothing")]
    {
        let problem = relay.send(method, path, Some(&centre.admin), None).expect(404);
        assert_eq!(problem["type"], "urn:keyward:problem:not_available_on_relay", "{path}");
    }
    for token in [None, Some(centre.edge.as_str()), Some("")] {
        assert_eq!(relay.send("GET", FEED_PATH, token, None).status, 401, "another server's token");
    }
}

/// Keys with so many scopes that some hundred of them do not fit one page.
fn many_large_keys(centre: &Client, keys: usize) {
    let scopes: Vec<_> = (0..300).map(|n| format!("{n:0>60}")).collect();
    for n in 0..keys {
        centre.create(json!({"name": format!("{n}"), "scopes": scopes}));
    }
}

#[test]
fn a_relay_that_is_killed_in_a_snapshot_serves_the_old_state_or_none_and_then_the_new_one() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [old, new] = [0, 1].map(|n| TestServer::start(dirs[n].path()));
    let kept = old.client().create(json!({"name": "kept"}));
    many_large_keys(&new.client(), 120);
    let leads_to = Arc::new(Mutex::new(new.client()));
    let (target, may_end) = (Arc::clone(&leads_to), Arc::new(AtomicBool::new(false)));
    let (pages, ends) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&may_end));
    let counted = Arc::clone(&pages);
    // A snapshot is told up to its last page, which does not come until it may.
    let double = Double::start(move |asked| {
        let upstream = target.lock().unwrap().clone();
        let authorization = format!("Bearer {}", upstream.edge);
        let said = pass_on(
            &upstream,
            &Asked { method: "GET".into(), path: asked.path.clone(), authorization, body: Vec::new() },
        )?;
        let page = Page::decode(&said.2).unwrap();
        let is_last = page.extent == Extent::Snapshot { end: None } && page.answers != Position::Nothing;
        if is_last && !ends.load(Ordering::SeqCst) {
            counted.fetch_add(1, Ordering::SeqCst);
            return None;
        }
        Some(said)
    });
    let relay_dir = dirs[2].path();
    write_token(relay_dir, "kwe_any");
    let mut process = relay_process(relay_dir, &double.url, "info");
    until(|| pages.load(Ordering::SeqCst) > 0);
    let token = fs::read_to_string(relay_dir.join("edge-token")).unwrap();
    let client = |process: &Process| old.client().at(&process.url, token.trim());
    assert_eq!(ready(&client(&process)).status, 503, "nothing of a part is served");
    process.kill();
    let mut process = relay_process(relay_dir, &double.url, "info");
    pages.store(0, Ordering::SeqCst);
    until(|| pages.load(Ordering::SeqCst) > 0);
    assert_eq!(client(&process).try_feed(Position::Nothing, 0), None, "nor after it was killed");

    *leads_to.lock().unwrap() = old.client();
    until_level(&client(&process), &old.client());
    *leads_to.lock().unwrap() = new.client();
    pages.store(0, Ordering::SeqCst);
    until(|| pages.load(Ordering::SeqCst) > 0);
    process.kill();
    let process = relay_process(relay_dir, &double.url, "info");
    let served = all(&client(&process));
    assert_eq!((served.known.len(), served.record(&kept["key"]).is_some()), (1, true), "the old state as a whole");

    may_end.store(true, Ordering::SeqCst);
    until_level(&client(&process), &new.client());
    assert_eq!(all(&client(&process)).known, all(&new.client()).known);
}

#[test]
fn a_relay_that_cannot_start_says_why_and_shows_no_token() {
    let dir = tempfile::tempdir().unwrap();
    let run = |upstream: &str, token_file: &Path| {
        let mut command = program();
        command.args(["relay", "--listen", "127.0.0.1:0", "--upstream", upstream, "--data-dir"]).arg(dir.path());
        command.arg("--upstream-token-file").arg(token_file).output().unwrap()
    };
    write_token(dir.path(), "kwe_secret");
    for url in ["ftp://x", "127.0.0.1:1", "http://user:password@host"] {
        let output = run(url, &token_file(dir.path()));
        assert_eq!(output.status.code(), Some(2), "{url}: {}", stderr(&output));
        assert!(!stderr(&output).contains("password"), "{}", stderr(&output));
    }
    let output = run("http://127.0.0.1:1", Path::new("/nonexistent/token"));
    assert!(output.status.code() == Some(1) && stderr(&output).contains("/nonexistent/token"), "{}", stderr(&output));
    fs::set_permissions(token_file(dir.path()), fs::Permissions::from_mode(0o644)).unwrap();
    let output = run("http://127.0.0.1:1", &token_file(dir.path()));
    assert!(output.status.code() == Some(1) && stderr(&output).contains("644"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("kwe_secret"));

    fs::remove_file(token_file(dir.path())).unwrap();
    write_token(dir.path(), "kwa_secret");
    let output = run("http://127.0.0.1:1", &token_file(dir.path()));
    assert!(
        output.status.code() == Some(1) && stderr(&output).contains("an edge token (kwe_…)"),
        "{}",
        stderr(&output)
    );
    assert!(!stderr(&output).contains("kwa_secret"));
    fs::remove_file(token_file(dir.path())).unwrap();
    write_token(dir.path(), "kwe_secret");
    fs::write(dir.path().join("keyward.db"), "").unwrap();
    let before = fs::read_dir(dir.path()).unwrap().count();
    let output = run("http://127.0.0.1:1", &token_file(dir.path()));
    assert!(output.status.code() == Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("got that of a control plane"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before, "nothing is made there");
}
