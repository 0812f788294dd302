//! A server that cannot see its database any more, though nothing was said: its connections are there, and silent.

use crate::database::{self, Postgres};
use crate::harness::{Answer, Client, DEADLINE, Reader, TestServer, path_of, until};
use crate::relay::TestRelay;
use keyward_core::FEED_PATH;
use keyward_core::wire::age::{FEED_AGE_HEADER, feed_age_ms};
use keyward_core::wire::cursor::Position;
use keyward_core::wire::page::Page;
use keyward_server::feed::STALE_AFTER;
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// The way to PostgreSQL. What goes over it vanishes once it is cut; after it was mended, new connections come through.
struct Wire {
    url: String,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct State {
    cuts: u32,
    is_cut: bool,
}

impl Wire {
    fn to(url: &str) -> Self {
        let (user, rest) = url.split_once('@').unwrap();
        let (address, database) = rest.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { cuts: 0, is_cut: false }));
        let (address, now) = (address.to_owned(), Arc::clone(&state));
        // The process ends with its threads.
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for connection in listener.incoming().map_while(Result::ok) {
                let begun = *now.lock().unwrap();
                if begun.is_cut {
                    silent.push(connection);
                    continue;
                }
                let server = TcpStream::connect(&address).unwrap();
                for (from, to) in [(&connection, &server), (&server, &connection)] {
                    let (from, to, now) = (from.try_clone().unwrap(), to.try_clone().unwrap(), Arc::clone(&now));
                    std::thread::spawn(move || pass_on(from, to, || *now.lock().unwrap() == begun));
                }
            }
        });
        Self { url: format!("{user}@{here}/{database}"), state }
    }

    fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        *state = State { cuts: state.cuts + 1, is_cut: true };
    }

    fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_whole: impl Fn() -> bool) {
    let mut bytes = [0; 16 << 10];
    loop {
        let count = from.read(&mut bytes).unwrap_or(0);
        if is_whole() && (count == 0 || to.write_all(&bytes[..count]).is_err()) {
            let _ = to.shutdown(Shutdown::Both);
        }
        if count == 0 {
            break;
        }
    }
}

fn poll(client: &Client, position: Position, wait_s: u32) -> Answer {
    let path = format!("{FEED_PATH}?after={position}&wait={wait_s}");
    client.send("GET", &path, Some(&client.edge), None)
}

/// After how long a question whose answer does not come is given up, and its connection.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(40);

fn age(answer: &Answer) -> Duration {
    Duration::from_millis(feed_age_ms(answer.headers.get(FEED_AGE_HEADER).map(|value| value.as_bytes())))
}

#[test]
fn a_server_that_does_not_see_the_database_says_so_and_then_refuses_until_it_sees_it_again() {
    let (postgres, dir) = (Postgres::any(), tempfile::tempdir().unwrap());
    let url = postgres.database();
    let wire = Wire::to(&url);
    let (here, there) = (TestServer::start_on(dir.path(), &wire.url), TestServer::start_on(dir.path(), &url));
    let (here, there) = (here.client(), there.client());
    let relay_dir = tempfile::tempdir().unwrap();
    let relay = TestRelay::start(relay_dir.path(), &here.url, &here.edge);
    let behind_relay = relay.client(&here);
    let mut reader = Reader::new(here.clone());
    reader.catch_up();
    let old = reader.position;
    let key = here.create(json!({"name": "a"}));
    reader.catch_up();
    let position = reader.position;
    until(|| poll(&behind_relay, position, 0).status == 200);
    // The page is in memory afterwards.
    assert_eq!(poll(&here, Position::Nothing, 0).status, 200);
    let (ended, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        // So that connections are in the middle of a question when it comes to pass.
        for _ in 0..8 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    here.get("/v1/keys?limit=1");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _end = OnDrop(|| ended.store(true, Ordering::Relaxed));
        until(|| answered.load(Ordering::Relaxed) > 16);
        wire.cut();
        there.ask("DELETE", &path_of(&key), None).expect(200);
        let revoked = Instant::now();
        // Whether it is served; if so, it tells of its age.
        let served = |position, wait_s| {
            let asked = Instant::now();
            let answer = poll(&here, position, wait_s);
            match answer.status {
                // Told in whole milliseconds.
                200 => assert!(age(&answer) + Duration::from_millis(1) > asked - revoked, "{:?}", age(&answer)),
                status => assert_eq!((status, answer.header("retry-after")), (503, "1")),
            }
            answer.status == 200
        };
        while served(position, 1) || served(Position::Nothing, 0) {
            assert!(revoked.elapsed() < STALE_AFTER + DEADLINE, "it goes on for ever");
        }
        assert!(!served(position, 0) && !served(Position::Nothing, 0));
        assert!(served(old, 0), "what it has beyond the reader it tells");
        let from_relay = poll(&behind_relay, position, 0);
        assert_eq!(from_relay.status, 200, "a relay goes on");
        assert!(age(&from_relay) > STALE_AFTER / 2, "{:?}", age(&from_relay));
        wire.mend();
        let mended = Instant::now();
        until(|| {
            let answer = poll(&here, position, 0);
            answer.status == 200 && Page::decode(&answer.body).unwrap().next() != position
        });
        until(|| poll(&here, Position::Nothing, 0).status == 200);
        // Those that were in the middle of a question have to be given up first.
        while here.get("/v1/keys?limit=1").status != 200 {
            assert!(mended.elapsed() < GIVEN_UP_AFTER + DEADLINE, "it goes on for ever");
        }
        println!("well again after {:?}", mended.elapsed());
    });
    reader.catch_up();
    assert!(reader.record(&key["key"]).unwrap().revoked_at_ms.is_some());
    assert!(age(&poll(&here, reader.position, 0)) < STALE_AFTER);
}

#[test]
fn connections_that_broke_in_the_middle_of_a_question_are_replaced() {
    let (postgres, dir) = (Postgres::any(), tempfile::tempdir().unwrap());
    let url = postgres.database();
    let wire = Wire::to(&url);
    let server = TestServer::start_on(dir.path(), &wire.url);
    let client = server.client();
    let (locked, is_locked) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            database::with(&url, async move |connection| {
                sqlx::raw_sql("BEGIN; LOCK TABLE head IN ACCESS EXCLUSIVE MODE").execute(&mut *connection).await?;
                locked.send(()).unwrap();
                let _ = released.recv();
                sqlx::raw_sql("ROLLBACK").execute(connection).await
            });
        });
        is_locked.recv().unwrap();
        for _ in 0..4 {
            // Those that share the look that breaks may be answered by the next one, which is well.
            scope.spawn(|| assert!([200, 503].contains(&client.get("/readyz").status)));
        }
        // The look that all of these share, and the connection with which the feed is followed.
        database::until_found(
            &url,
            "SELECT CASE WHEN count(*) >= 2 THEN 1::bigint ELSE 0 END FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'keyward' AND wait_event_type = 'Lock'",
        );
        wire.cut();
        drop(release);
        wire.mend();
    });
    let mended = Instant::now();
    while client.get("/readyz").status != 200 || poll(&client, Position::Nothing, 0).status != 200 {
        assert!(mended.elapsed() < 2 * DEADLINE, "it has no connections any more");
    }
    until(|| client.ask("POST", "/v1/keys", Some(json!({"name": "a"}))).status == 201);
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
