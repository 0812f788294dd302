//! What is about the files of an SQLite database: the lock, copies of them, a full disk, another program's locks, and
//! what is left of a server that is killed. `kill -9` shows what the process can lose, not what a loss of power can.

use crate::database;
use crate::feed::leads_to_a_snapshot;
use crate::harness::{Client, NOW_MS, Process, Reader, TestServer, program, serve, stderr, until};
use crate::history::History;
use crate::load::{self, Load};
use keyward_core::FEED_PATH;
use keyward_core::wire::age::FEED_AGE_HEADER;
use keyward_core::wire::cursor::Position;
use serde_json::json;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[test]
fn a_second_server_on_the_same_directory_is_a_refused_start() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Process::start(dir.path(), "info");
    let output = program().args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("another server uses this data directory"), "{}", stderr(&output));
}

#[test]
fn pages_of_a_server_that_shares_its_database_with_nobody_have_no_age() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_as(dir.path(), NOW_MS, |config| config.database_url = None);
    let mut reader = Reader::new(server.client());
    reader.catch_up();
    let behind = reader.position;
    reader.client.create(json!({"name": "a"}));
    reader.catch_up();
    for position in [Position::Nothing, behind, reader.position] {
        let path = format!("{FEED_PATH}?after={position}");
        let answer = reader.client.send("GET", &path, Some(&reader.client.edge), None);
        assert_eq!((answer.status, answer.headers.get(FEED_AGE_HEADER)), (200, None), "{position:?}");
    }
}

#[test]
fn a_restored_database_is_noticed_before_and_after_it_has_grown_again() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("keyward.db");
    let saved = dir.path().join("saved.db");
    let server = TestServer::start(dir.path());
    let kept = server.client().create(json!({"name": "kept"}));
    server.stop();
    std::fs::copy(&database, &saved).unwrap();

    let server = TestServer::start(dir.path());
    let lost = server.client().create(json!({"name": "lost"}));
    let mut reader = Reader::new(server.client());
    reader.catch_up();
    assert!(reader.record(&lost["key"]).is_some());
    // A reader of a long run of changes knows states from beyond the change that it has come to.
    let Position::Changes { seen, .. } = reader.position else { panic!("{:?}", reader.position) };
    let behind = Position::Changes { applied: 1, seen };
    assert!(!leads_to_a_snapshot(&server, behind));
    server.stop();
    restore(&saved, &database);

    let server = TestServer::start(dir.path());
    assert!(leads_to_a_snapshot(&server, reader.position));
    assert!(leads_to_a_snapshot(&server, behind), "what it applied fits, what it saw does not");
    let other = server.client().create(json!({"name": "other"}));
    assert!(leads_to_a_snapshot(&server, reader.position));
    reader.client = server.client();
    reader.catch_up();
    assert!(reader.record(&lost["key"]).is_none(), "what the restored database does not know is gone");
    assert!(reader.record(&kept["key"]).is_some() && reader.record(&other["key"]).is_some());
}

fn restore(saved: &Path, database: &Path) {
    for rest in ["keyward.db-wal", "keyward.db-shm"] {
        let _ = std::fs::remove_file(database.with_file_name(rest));
    }
    std::fs::copy(saved, database).unwrap();
}

#[test]
fn a_schema_of_a_newer_program_is_a_refused_start() {
    let dir = tempfile::tempdir().unwrap();
    Process::start(dir.path(), "info").kill();
    database::run(&database::sqlite(dir.path()), &[NEWER_MIGRATION]);
    let output = serve(&mut program(), dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("the database schema 9999 is of a newer Keyward; this version supports up to"),
        "{}",
        stderr(&output)
    );
}

/// As a later version would have left it.
pub(crate) const NEWER_MIGRATION: &str = "INSERT INTO _sqlx_migrations \
    (version, description, success, checksum, execution_time) VALUES (9999, 'later', true, '', 0)";

/// An edge that goes on whatever happens to the server.
fn follow(client: &Arc<Mutex<Client>>, ended: &AtomicBool) -> Reader {
    let mut reader = Reader::new(client.lock().unwrap().clone());
    while !ended.load(Ordering::Relaxed) {
        let client = client.lock().unwrap().clone();
        if let Some(page) = client.try_feed(reader.position, 1) {
            reader.apply(&page);
        }
    }
    reader.client = client.lock().unwrap().clone();
    reader.catch_up();
    reader
}

#[test]
fn whatever_was_acknowledged_is_whole_after_two_hundred_kills_and_an_edge_needs_one_snapshot() {
    const KILLS: u32 = 200;
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "warn,keyward_server::serve=info");
    let client = Arc::new(Mutex::new(Client::new(&process.url, dir.path())));
    let ended = Arc::new(AtomicBool::new(false));
    let following = std::thread::spawn({
        let (client, ended) = (Arc::clone(&client), Arc::clone(&ended));
        move || follow(&client, &ended)
    });
    let mut promises = Vec::new();
    for n in 0..KILLS {
        let now = client.lock().unwrap().clone();
        let load = Load::start(vec![vec![now]; 3]);
        // Spread over 50 ms, without a pattern.
        let delay = Duration::from_micros(u64::from(n.wrapping_mul(2_654_435_761) % 50_000));
        let started = Instant::now();
        until(|| started.elapsed() >= delay);
        process.kill();
        promises.extend(load.end());
        process = Process::start(dir.path(), "warn,keyward_server::serve=info");
        client.lock().unwrap().url.clone_from(&process.url);
    }
    ended.store(true, Ordering::Relaxed);
    let reader = following.join().unwrap();
    process.kill();
    let history = History::check(&database::sqlite(dir.path()));
    println!("{} acknowledged, {} changes", promises.len(), history.log.len());
    assert!(promises.len() > 50, "{} were acknowledged", promises.len());
    load::check(&promises, &history);
    assert_eq!(reader.snapshot_pages, 1);
    assert_eq!(reader.known, history.state);
}

#[test]
fn a_full_disk_is_a_503_leaves_nothing_half_and_passes_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    // A file that may grow no further is what a program sees of a full disk, and needs no disk of one's own. What is
    // ignored stays so in the program that is executed.
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" XFSZ; exec prlimit --fsize=600000: "$0" "$@""#]).arg(program().get_program());
    let mut process = Process::start_command(serve(&mut command, dir.path()));
    let client = Client::new(&process.url, dir.path());
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let scopes: Vec<_> = (0..300).map(|n| format!("{n:0>60}")).collect();
    let key = json!({"name": "large", "scopes": scopes});
    let mut made = 0;
    let refusal = loop {
        let answer = client.ask("POST", "/v1/keys", Some(key.clone()));
        if answer.status != 201 {
            break answer;
        }
        made += 1;
    };
    assert_eq!((refusal.status, refusal.header("retry-after")), (503, "1"));
    assert!(made > 0);
    assert_eq!(refusal.json()["type"], "urn:keyward:problem:unavailable");
    // What is there can be read, and edges go on.
    assert_eq!(client.get("/v1/keys?limit=200").expect(200)["keys"].as_array().unwrap().len(), made);
    reader.catch_up();
    assert_eq!(reader.known.len(), made);
    let unlimited = Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &process.id().to_string()]).status();
    assert!(unlimited.unwrap().success());
    let answer = client.ask("POST", "/v1/keys", Some(key));
    assert_eq!(answer.status, 201, "{}", process.log_so_far());
    reader.catch_up();
    process.signal("TERM");
    assert!(process.wait().1);
    let history = History::check(&database::sqlite(dir.path()));
    assert_eq!((reader.known, reader.snapshot_pages), (history.state, 1));
    assert_eq!(history.log.len(), made + 1);
}

#[test]
fn a_database_that_another_program_has_locked_is_a_503_until_it_lets_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(dir.path(), "info");
    let client = Client::new(&process.url, dir.path());
    client.create(json!({"name": "before"}));
    database::with(&database::sqlite(dir.path()), async |other| {
        sqlx::raw_sql("BEGIN EXCLUSIVE").execute(&mut *other).await?;
        let refusal = client.ask("POST", "/v1/keys", Some(json!({"name": "meanwhile"})));
        assert_eq!((refusal.status, refusal.header("retry-after")), (503, "1"));
        assert_eq!(refusal.json()["type"], "urn:keyward:problem:unavailable");
        assert_eq!(client.get("/v1/keys").expect(200)["keys"].as_array().unwrap().len(), 1);
        sqlx::raw_sql("ROLLBACK").execute(other).await?;
        Ok(())
    });
    client.create(json!({"name": "after"}));
    process.kill();
    assert_eq!(History::check(&database::sqlite(dir.path())).log.len(), 2);
}
