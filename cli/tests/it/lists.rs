//! Lists of keys that are sorted, searched and filtered, and the counts that lead to them.

use crate::harness::{Client, NOW_MS, TestServer, path_of, program, seconds};
use keyward_core::USAGE_PATH;
use keyward_core::wire::usage::{Batch, BatchId, KeyUsage, Verdicts};
use keyward_server::keys::leaks::Leaks;
use keyward_server::model::OnLeak;
use serde_json::{Value, json};
use std::path::Path;

/// A server whose keys have each property that lists sort or filter by, and some that have none of them.
struct Fixture {
    server: TestServer,
    client: Client,
    keys: Vec<Value>,
}

/// When the last key was created.
const CREATED: u64 = NOW_MS + NAMES.len() as u64;

const NAMES: [&str; 8] = ["delta", "Alpha", "charlie", "bravo", "alpha", "Écho", "golf", "foxtrot"];

impl Fixture {
    fn start(dir: &Path) -> Self {
        let server = TestServer::start_with_leaks(dir, Leaks { on_leak: OnLeak::Flag, ..Leaks::default() });
        let client = server.client();
        let keys = NAMES.iter().enumerate().map(|(n, name)| {
            server.advance(1);
            let mut new = json!({"name": name, "owner": "acme"});
            if n % 3 == 1 {
                new["expires_in_s"] = (1000 - n).into();
            }
            if n % 2 == 0 {
                new["credits"] = 100.into();
            }
            client.create(new)
        });
        let keys: Vec<Value> = keys.collect();
        server.advance(seconds(10));
        let now = CREATED + seconds(10);
        let fixture = Self { server, client, keys };
        let used = |n: usize, ago_ms: u64, credits: u64| KeyUsage {
            key_id: fixture.id(n).to_owned(),
            secret_id: fixture.keys[n]["secrets"][0]["id"].as_str().unwrap().to_owned(),
            last_used_ms: Some(now - ago_ms),
            verdicts: Verdicts::from([("allow".to_owned(), 100)]),
            credits,
        };
        let used = vec![used(0, 5000, 90), used(2, 9000, 89), used(3, 1000, 0), used(5, 7000, 0)];
        let batch = Batch { id: BatchId([7; 16]), keys: used, others: Verdicts::new(), dropped: 0 };
        fixture.client.send("POST", USAGE_PATH, Some(&fixture.client.edge), Some(batch.encode())).expect(200);
        let post = |path: String, body: Value| fixture.client.ask("POST", &path, Some(body));
        post("/v1/leaks".to_owned(), json!({"keys": [fixture.keys[4]["key"]]})).expect(200);
        post(format!("{}/rotate", path_of(&fixture.keys[6])), json!({"grace_s": 60})).expect(201);
        post(format!("{}/pause", path_of(&fixture.keys[7])), json!({})).expect(200);
        fixture
    }

    fn id(&self, n: usize) -> &str {
        self.keys[n]["id"].as_str().unwrap()
    }

    /// The names in the list, page by page.
    fn names(&self, query: &str, limit: usize) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.client.get(&format!("/v1/keys?limit={limit}{query}{after}")).expect(200);
            let keys = page["keys"].as_array().unwrap();
            assert!(keys.len() <= limit);
            names.extend(keys.iter().map(|key| key["name"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { return names };
            after = format!("&after={next}");
        }
    }

    fn counts(&self, query: &str) -> Value {
        self.client.get(&format!("/v1/keys/counts{query}")).expect(200)
    }
}

#[test]
fn pages_of_each_order_have_every_key_once() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    // Ties and keys without a time follow by id, which is random.
    let position = |n: usize| (fixture.id(n).to_owned(), NAMES[n].to_owned());
    let by = |rank: &dyn Fn(usize) -> i64| {
        let mut order: Vec<_> = (0..NAMES.len()).map(|n| (rank(n), position(n))).collect();
        order.sort();
        order.into_iter().map(|(_, (_, name))| name).collect::<Vec<_>>()
    };
    let uses = [5000, 0, 9000, 1000, 0, 7000, 0, 0];
    let folded = ["delta", "alpha", "charlie", "bravo", "alpha", "écho", "golf", "foxtrot"];
    let mut distinct = folded.to_vec();
    distinct.sort_unstable();
    let orders = [
        ("created", by(&|n| n as i64)),
        ("name", by(&|n| distinct.iter().position(|name| *name == folded[n]).unwrap() as i64)),
        ("last_used", by(&|n| if uses[n] == 0 { i64::MIN } else { -uses[n] })),
        ("expires", by(&|n| if n % 3 == 1 { -(999 * n as i64) } else { i64::MAX })),
    ];
    for (sort, expected) in orders {
        let reversed: Vec<_> = expected.iter().rev().cloned().collect();
        for limit in [1, 3, 100] {
            assert_eq!(fixture.names(&format!("&sort={sort}"), limit), expected, "{sort}");
            assert_eq!(fixture.names(&format!("&sort=-{sort}"), limit), reversed, "-{sort}");
        }
    }
    assert_eq!(fixture.names("", 3), fixture.names("&sort=-created", 100));
    for bad in ["size", "--name", "created,name", ""] {
        fixture.client.get(&format!("/v1/keys?sort={bad}")).expect(400);
    }
    fixture.client.get("/v1/keys?sort=name&after=key_unknown").expect(400);
}

#[test]
fn filters_find_the_keys_and_counts_agree_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let sorted = |query: &str| {
        let mut names = fixture.names(query, 100);
        names.sort();
        names
    };
    let time = |ms: u64| {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
        humantime::format_rfc3339_millis(time).to_string()
    };
    let now = CREATED + seconds(10);
    for (query, expected) in [
        ("&leaked=true".to_owned(), vec!["alpha"]),
        ("&in_rotation=true".to_owned(), vec!["golf"]),
        ("&low_credits=true".to_owned(), vec!["delta"]),
        ("&used=true".to_owned(), vec!["bravo", "charlie", "delta", "Écho"]),
        ("&used=false&state=active".to_owned(), vec!["Alpha", "alpha", "golf"]),
        (format!("&used_after={}", time(now - 5000)), vec!["bravo", "delta"]),
        (
            format!("&unused_since={}", time(now - 4000)),
            vec!["Alpha", "alpha", "charlie", "delta", "foxtrot", "golf", "Écho"],
        ),
        (format!("&unused_since={}&used=true", time(now - 8000)), vec!["charlie"]),
        (format!("&expires_after={}", time(CREATED + 995_000)), vec!["Alpha", "alpha"]),
        (format!("&expires_before={}", time(CREATED + 995_000)), vec!["foxtrot"]),
        ("&state=paused".to_owned(), vec!["foxtrot"]),
    ] {
        let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(sorted(&query), expected, "{query}");
    }
    for flag in ["leaked", "in_rotation", "low_credits", "used"] {
        let both = [true, false].map(|wanted| sorted(&format!("&{flag}={wanted}")).len());
        assert_eq!(both.iter().sum::<usize>(), NAMES.len(), "{flag}");
        fixture.client.get(&format!("/v1/keys?{flag}=yes")).expect(400);
    }

    fixture.client.ask("DELETE", &path_of(&fixture.keys[2]), None).expect(200);
    fixture.server.advance(seconds(985));
    // The key `foxtrot`, which was paused, has expired meanwhile, and the grace period of `golf` is over.
    let now = CREATED + seconds(995);
    let counts = fixture.counts("?expiring_within_s=60&unused_for_s=990");
    let of = |query: &str| json!(sorted(query).len());
    for (name, query) in [
        ("total", String::new()),
        ("active", "&state=active".to_owned()),
        ("paused", "&state=paused".to_owned()),
        ("revoked", "&state=revoked".to_owned()),
        ("expired", "&state=expired".to_owned()),
        ("expiring", format!("&state=active&expires_before={}", time(now + 60_000))),
        ("unused", format!("&state=active&unused_since={}", time(now - 990_000))),
        ("never_used", "&state=active&used=false".to_owned()),
        ("low_credits", "&state=active&low_credits=true".to_owned()),
        ("in_rotation", "&state=active&in_rotation=true".to_owned()),
        ("leaked", "&leaked=true".to_owned()),
    ] {
        assert_eq!(counts[name], of(&query), "{name}: {counts}");
    }
    let expected =
        [("total", 8), ("active", 6), ("revoked", 1), ("expired", 1), ("paused", 0), ("expiring", 2), ("leaked", 1)];
    for (name, number) in expected {
        assert_eq!(counts[name], json!(number), "{name}: {counts}");
    }
    fixture.client.get("/v1/keys/counts?unused_for_s=0&colour=red").expect(400);
}

#[test]
fn search_finds_beginnings_of_ids_and_hints() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let key = &fixture.keys[3];
    let hint = key["secrets"][0]["hint"].as_str().unwrap().trim_end_matches('…');
    let secret = key["secrets"][0]["id"].as_str().unwrap();
    for search in [fixture.id(3), &fixture.id(3)[..12], hint, secret] {
        assert_eq!(fixture.names(&format!("&search={search}"), 100), ["bravo"], "{search}");
    }
    for all in ["key_", "kw_live_", "k"] {
        assert_eq!(fixture.names(&format!("&search={all}&sort=name"), 3).len(), NAMES.len(), "{all}");
    }
    for none in ["key_!", "%25", "_", "sec_", "bravo"] {
        assert_eq!(fixture.names(&format!("&search={none}"), 100), [""; 0], "{none}");
    }
    // A whole key is never searched for, since it would be in the access log.
    let refused = fixture.client.get(&format!("/v1/keys?search={}", key["key"].as_str().unwrap()));
    assert_eq!(refused.status, 400, "{refused:?}");
}

#[test]
fn audit_log_is_filtered_by_actor_action_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Fixture::start(dir.path());
    let client = &fixture.client;
    let token = client.ask("POST", "/v1/tokens", Some(json!({"name": "t", "role": "operator"}))).expect(201);
    fixture.server.advance(seconds(60));
    client.send("POST", &format!("{}/pause", path_of(&fixture.keys[0])), token["token"].as_str(), None).expect(200);
    let actor = format!("token:{}", token["id"].as_str().unwrap());
    let found = |query: &str| {
        let page = client.get(&format!("/v1/audit?limit=1000{query}")).expect(200);
        page["entries"].as_array().unwrap().clone()
    };
    let mine = found(&format!("&actor={actor}"));
    assert_eq!((mine.len(), &mine[0]["action"]), (1, &json!("key.paused")));
    assert_eq!(found("&action=key.paused").len(), 2);
    assert_eq!(found("&action=key.paused&actor=token-file").len(), 1);
    assert_eq!(found(&format!("&since={}", mine[0]["at"].as_str().unwrap())), mine);
    let earlier = found(&format!("&until={}", mine[0]["at"].as_str().unwrap()));
    assert_eq!(earlier.len() + 1, found("").len());
    client.get("/v1/audit?since=yesterday").expect(400);
}

#[test]
fn command_line_has_the_same_lists() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join(".keyward");
    let fixture = Fixture::start(&data_dir);
    let run = |arguments: &[&str]| {
        let mut command = program();
        command.args(arguments).arg("--json").current_dir(dir.path()).env("KEYWARD_URL", &fixture.server.address);
        let output = command.output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let names = |arguments: &[&str]| {
        let list = run(&[&["keys", "list"], arguments].concat());
        let keys = list["keys"].as_array().unwrap().iter();
        keys.map(|key| key["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&["--sort", "-name"]), fixture.names("&sort=-name", 100));
    assert_eq!(names(&["--leaked"]), ["alpha"]);
    assert_eq!(names(&["--in-rotation"]), ["golf"]);
    assert_eq!(names(&["--low-credits"]), ["delta"]);
    assert_eq!(names(&["--never-used", "--state", "paused"]), ["foxtrot"]);
    assert_eq!(names(&["--search", fixture.id(1)]), ["Alpha"]);
    let counts = run(&["keys", "count", "--expiring-within", "1h", "--unused-for", "90d"]);
    assert_eq!((&counts["total"], &counts["paused"], &counts["expiring"]), (&json!(8), &json!(1), &json!(2)));
    let entries = run(&["audit", "--action", "key.paused", "--actor", "token-file"]);
    assert_eq!(entries["entries"].as_array().unwrap().len(), 1);
}
