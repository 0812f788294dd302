//! One client against the others: with each attack on, what others wait for is measured and held against what they wait
//! without it.

use crate::harness::{Client, NOW_MS, Reader, TestServer};
use keyward_core::wire::usage::{Batch, BatchId, Verdicts};
use keyward_core::wire::verify::VERIFY_PATH;
use keyward_core::{FEED_PATH, USAGE_PATH};
use keyward_server::serve::SelfService;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many requests of an attacker are open at a time.
const ATTACKERS: usize = 32;
/// After how long an attack stops by itself.
const LONGEST_ATTACK: Duration = Duration::from_secs(60);
const ROUNDS: usize = 20;
const ATTEMPTS: usize = 3;
static ALONE: Mutex<()> = Mutex::new(());
/// How much more than twice as long others may wait: what a debug build on a busy machine needs for itself, where decoding a
/// thousand rows of PostgreSQL takes a thread a good part of a second.
const FLOOR: Duration = Duration::from_millis(1000);
/// How long a revocation may take to a reader of the feed, as a rule.
const REVOCATION: Duration = Duration::from_millis(100);

struct Fixture {
    _dir: tempfile::TempDir,
    server: TestServer,
    client: Client,
    /// A key of an owner with 1,000 others.
    crowded: Value,
    /// A key of an owner with two.
    good: Value,
}

/// The longest that each of the others has waited, and how long a revocation took to a reader.
#[derive(Clone, Copy, Debug, Default)]
struct Waits {
    revocation: Duration,
    list: Duration,
    readiness: Duration,
    feed_median: Duration,
}

fn started() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_as(dir.path(), NOW_MS, |config| {
        config.self_service = Some(SelfService { scope: None });
    });
    let mut client = server.client();
    // Made over the API, so that each request has to look its token up in the database.
    let token = |role: &str| {
        let made = client.ask("POST", "/v1/tokens", Some(json!({"name": role, "role": role}))).expect(201);
        text(&made["token"]).to_owned()
    };
    let (admin, edge) = (token("admin"), token("edge"));
    (client.admin, client.edge) = (admin, edge);
    let rows: String = (0..1000_usize)
        .map(|n| {
            let digest = hex::encode(Sha256::digest(n.to_le_bytes()));
            let row = json!({"name": format!("key {n}"), "owner": "crowd", "sha256": digest,
                             "revoked_at": "2027-01-10T00:00:00Z"});
            format!("{row}\n")
        })
        .collect();
    let bearer = format!("Bearer {}", client.admin);
    let fields = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
    let report = client.send_with("POST", "/v1/keys/import", &fields, Some(rows.into())).expect(200);
    assert_eq!(report["imported"], 1000, "{report}");
    let crowded = client.create(json!({"name": "crowded", "owner": "crowd"}));
    let good = client.create(json!({"name": "good", "owner": "good"}));
    client.create(json!({"name": "another", "owner": "good"}));
    Fixture { _dir: dir, server, client, crowded, good }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn timed<T>(longest: &mut Duration, ask: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let answer = ask();
    *longest = started.elapsed().max(*longest);
    answer
}

impl Fixture {
    /// A token that was made over the API.
    fn token(&self, role: &str) -> String {
        let made = self.client.ask("POST", "/v1/tokens", Some(json!({"name": "attacker", "role": role}))).expect(201);
        text(&made["token"]).to_owned()
    }

    fn measure(&self) -> Waits {
        let mut waits = Waits::default();
        let mut arrivals = Vec::new();
        let mut reader = Reader::new(self.client.clone());
        for _ in 0..ROUNDS {
            let key = self.client.create(json!({"name": "victim"}));
            reader.catch_up();
            let path = format!("/v1/keys/{}", text(&key["id"]));
            std::thread::scope(|scope| {
                let revoked_at = scope.spawn(|| {
                    let answer = timed(&mut waits.revocation, || self.client.ask("DELETE", &path, None));
                    answer.expect(200);
                    Instant::now()
                });
                // What the server acknowledges may have reached the reader before.
                while reader.record(&key["key"]).unwrap().revoked_at_ms.is_none() {
                    reader.read(5);
                }
                let arrived = Instant::now();
                arrivals.push(arrived.saturating_duration_since(revoked_at.join().unwrap()));
            });
            let list =
                timed(&mut waits.list, || self.client.send("GET", "/api-keys", Some(text(&self.good["key"])), None));
            assert_eq!(list.expect(200)["keys"].as_array().unwrap().len(), 2);
            for path in ["/readyz", "/healthz"] {
                let answer = timed(&mut waits.readiness, || self.client.send("GET", path, None, None));
                assert_eq!(answer.status, 200, "{path}");
            }
        }
        arrivals.sort();
        waits.feed_median = arrivals[arrivals.len() / 2];
        waits
    }

    /// Measures the others without the attack and with it. A machine that does something else at the moment gets another
    /// chance; an attack that works does so each time.
    fn compare(&self, attack: impl Fn(usize) -> u16 + Sync) {
        // One attack at a time: the others would be part of it.
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut delayed = Vec::new();
        for _ in 0..ATTEMPTS {
            delayed = self.delayed(&attack);
            if delayed.is_empty() {
                return;
            }
        }
        panic!("{delayed:#?}");
    }

    /// What others waited for too long.
    fn delayed(&self, attack: &(impl Fn(usize) -> u16 + Sync)) -> Vec<String> {
        let quiet = self.measure();
        let (ended, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
        let begun = Instant::now();
        let attacked = std::thread::scope(|scope| {
            let ends = Ends(&ended);
            for n in 0..ATTACKERS {
                let (ended, answered) = (&ended, &answered);
                scope.spawn(move || {
                    while !ended.load(Ordering::Relaxed) && begun.elapsed() < LONGEST_ATTACK {
                        let status = attack(n);
                        assert!([200, 201, 400, 404, 409, 429, 503].contains(&status), "{status}");
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while answered.load(Ordering::Relaxed) < ATTACKERS && begun.elapsed() < LONGEST_ATTACK {
                std::thread::yield_now();
            }
            let attacked = self.measure();
            drop(ends);
            attacked
        });
        println!("{} requests of the attacker; without it {quiet:?}, with it {attacked:?}", answered.into_inner());
        let mut delayed = Vec::new();
        for (what, quiet, attacked) in [
            ("an operator's revocation", quiet.revocation, attacked.revocation),
            ("another user's list", quiet.list, attacked.list),
            ("/readyz and /healthz", quiet.readiness, attacked.readiness),
        ] {
            if attacked > 2 * quiet + FLOOR {
                delayed.push(format!("{what}: {attacked:?} and without the attack {quiet:?}"));
            }
        }
        if attacked.feed_median > REVOCATION.max(2 * quiet.feed_median) {
            delayed.push(format!("a revocation took {:?} to a reader", attacked.feed_median));
        }
        delayed
    }

    fn status(&self, method: &str, path: &str, token: &str, body: Option<Vec<u8>>) -> u16 {
        self.client.send(method, path, Some(token), body).status
    }
}

/// Ends the attack, also where a measurement panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_user_who_lists_many_keys() {
    let fixture = started();
    let key = text(&fixture.crowded["key"]);
    fixture.compare(|_| fixture.status("GET", "/api-keys?limit=500", key, None));
    fixture.server.stop();
}

#[test]
fn a_user_who_makes_and_rotates_keys() {
    let fixture = started();
    let key = text(&fixture.crowded["key"]);
    fixture.compare(|n| match n % 3 {
        0 => fixture.status("POST", "/api-keys", key, Some(br#"{"name": "n"}"#.to_vec())),
        1 => fixture.status("DELETE", "/api-keys/key_none", key, None),
        _ => fixture.status("POST", "/api-keys/key_none/rotate", key, None),
    });
}

#[test]
fn an_operator_who_lists_all_keys() {
    let fixture = started();
    let token = fixture.token("viewer");
    fixture.compare(|n| match n % 2 {
        0 => fixture.status("GET", "/v1/keys?limit=1000", &token, None),
        _ => fixture.status("GET", "/v1/usage", &token, None),
    });
}

#[test]
fn an_operator_who_makes_keys() {
    let fixture = started();
    let token = fixture.token("admin");
    fixture.compare(|_| fixture.status("POST", "/v1/keys", &token, Some(br#"{"name": "n"}"#.to_vec())));
}

#[test]
fn an_edge_that_asks_and_reports_without_pause() {
    let fixture = started();
    let token = fixture.token("edge");
    let ids = AtomicUsize::new(0);
    fixture.compare(|n| match n % 3 {
        0 => fixture.status("GET", &format!("{FEED_PATH}?wait=0"), &token, None),
        1 => {
            let id = u128::try_from(ids.fetch_add(1, Ordering::Relaxed)).unwrap().to_le_bytes();
            let batch = Batch {
                id: BatchId(id),
                keys: Vec::new(),
                others: Verdicts::from([("missing".into(), 1)]),
                dropped: 0,
            };
            fixture.status("POST", USAGE_PATH, &token, Some(batch.encode()))
        }
        _ => fixture.status("POST", VERIFY_PATH, &token, Some(b"user.0123456789abcdef.wrong".to_vec())),
    });
}

/// A caller that is over its bound is told so, and when to come again.
#[test]
fn who_asks_too_much_is_told_429_and_others_are_answered() {
    let fixture = started();
    let key = text(&fixture.crowded["key"]);
    let statuses: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..64)
            .map(|_| scope.spawn(|| fixture.client.send("GET", "/api-keys?limit=1000", Some(key), None)))
            .collect();
        asking.into_iter().map(|asking| asking.join().unwrap()).collect()
    });
    for answer in &statuses {
        if answer.status != 200 {
            // Sent away by the queue of lists, or by that of look-ups in the dialect's own words.
            assert!([429, 503].contains(&answer.status), "{answer:?}");
            assert_eq!(answer.header("retry-after"), "1");
        }
    }
    assert!(statuses.iter().any(|answer| answer.status == 200));
}
