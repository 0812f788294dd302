//! Keys over the API.

use crate::harness::{Client, NOW_MS, Reader, TestServer, fields, path_of, seconds};
use keyward_core::dialect::Dialect;
use keyward_core::key::environment::Environment;
use keyward_core::wire::entry::Frames;
use keyward_core::wire::page::Page;
use serde_json::{Value, json};

#[test]
fn a_new_key_is_shown_once_and_has_the_dialects_format() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let request = json!({"name": "ci", "owner": "acme", "environment": "test", "scopes": ["read"],
                         "allow_ip": ["192.0.2.1"], "expires_in_s": 3600});
    let answer = client.ask("POST", "/v1/keys", Some(request));
    assert_eq!(answer.header("cache-control"), "no-store");
    let location = answer.header("location").to_owned();
    let created = answer.expect(201);
    let key = created["key"].as_str().unwrap();
    let dialect = Dialect::built_in("keyward").unwrap().unwrap();
    assert_eq!(dialect.format_of(key.as_bytes()).unwrap().environment, Some(Environment::Test));
    assert_eq!(
        (&created["state"], &created["kind"], &created["allow_ip"], &created["expires_at"], &created["revoked_at"]),
        (&json!("active"), &json!("key"), &json!(["192.0.2.1/32"]), &json!("2027-01-15T09:00:00.000Z"), &Value::Null)
    );
    assert_eq!(created["secrets"][0]["hint"].as_str().unwrap(), format!("{}…", &key[..12]));
    for (id, prefix) in [(&created["id"], "key_"), (&created["secrets"][0]["id"], "sec_")] {
        let id = id.as_str().unwrap();
        assert!(id.starts_with(prefix) && id.len() == 24, "{id}");
    }
    let mut shown = client.get(&location).expect(200);
    assert_eq!(shown.get("key"), None);
    shown["key"] = created["key"].clone();
    assert_eq!(shown, created);
}

#[test]
fn all_mistakes_of_a_request_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let request = json!({"owner": "a b", "kind": "x", "scopes": [""], "allow_ip": ["nowhere"], "limit": 1});
    let answer = server.client().ask("POST", "/v1/keys", Some(request));
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.expect(422);
    assert_eq!(fields(&problem), ["name", "owner", "kind", "scopes[0]", "allow_ip[0]", "limit"]);
    assert_eq!(problem["errors"][2]["message"], "expected one of \"key\"");
    assert_eq!(problem["type"], "urn:keyward:problem:invalid");
    assert_eq!(problem["status"], 422);
}

#[test]
fn key_that_no_gateway_would_accept_is_created_only_by_force() {
    for (name, missing) in [("ai-api", "scopes"), ("graph8", "owner")] {
        let dir = tempfile::tempdir().unwrap();
        let server = TestServer::start_as(dir.path(), NOW_MS, |config| {
            config.dialect = Dialect::built_in(name).unwrap().unwrap()
        });
        let client = server.client();
        let ask = |query: &str| client.ask("POST", &format!("/v1/keys{query}"), Some(json!({"name": "a"})));
        for query in ["", "?force=false"] {
            let problem = ask(query).expect(422);
            assert_eq!(fields(&problem), [missing], "{name}");
            assert!(problem["errors"][0]["message"].as_str().unwrap().contains(&format!(" {name} ")), "{problem}");
        }
        assert_eq!(fields(&ask("?force=yes&colour=red").expect(400)), ["force", "colour"]);
        let key = ask("?force=true").expect(201);
        assert_eq!(client.get("/v1/keys").expect(200)["keys"].as_array().unwrap().len(), 1);
        assert_eq!((&key["owner"], &key["scopes"]), (&Value::Null, &json!([])));
    }
}

#[test]
fn decision_about_a_key_names_the_first_check_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    client.ask("PUT", "/v1/plans/pro", Some(json!({"limits": ["10/s"]}))).expect(201);
    let new = json!({"name": "a", "owner": "acme", "scopes": ["read"], "allow_ip": ["10.0.0.0/8"], "credits": 5});
    let key = client.create(new);
    let why = |query: &str| client.get(&format!("{}/why{query}", path_of(&key))).expect(200);
    let outcomes = |decision: &Value| {
        let checks = decision["checks"].as_array().unwrap().iter();
        checks.map(|check| check["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let allowed = why("?client=10.1.2.3&scopes=read&kinds=key+other");
    assert_eq!(
        (&allowed["verdict"], &allowed["status"], &allowed["credits_left"]),
        (&json!("allow"), &Value::Null, &json!(5))
    );
    assert_eq!(outcomes(&allowed), ["passed"; 8]);
    assert_eq!(allowed["limits"], json!({"limits": [], "from": "dialect"}));
    let lacking = why("?client=10.1.2.3&scopes=read+write");
    assert_eq!((&lacking["verdict"], &lacking["missing_scope"]), (&json!("insufficient_scope"), &json!("write")));
    assert_eq!(why("?client=192.0.2.1")["verdict"], "forbidden_ip");
    assert_eq!(why("")["verdict"], "forbidden_ip", "the address is unknown");
    assert_eq!(why("?kinds=other")["verdict"], "wrong_kind");
    client.ask("PATCH", &path_of(&key), Some(json!({"plan": "pro", "spent": 5}))).expect(200);
    let spent = why("?client=10.1.2.3");
    assert_eq!(
        (&spent["verdict"], &spent["status"], &spent["credits_left"]),
        (&json!("quota_exhausted"), &json!(402), &json!(0))
    );
    assert_eq!(spent["limits"], json!({"limits": ["10/s"], "from": "plan"}));
    client.ask("POST", &format!("{}/pause", path_of(&key)), None).expect(200);
    let paused = why("?client=10.1.2.3");
    assert_eq!((&paused["verdict"], &paused["status"]), (&json!("paused"), &json!(401)));
    let expected =
        ["passed", "passed", "failed", "not_reached", "not_reached", "not_reached", "not_reached", "not_reached"];
    assert_eq!(outcomes(&paused), expected);
    client.ask("DELETE", &path_of(&key), None).expect(200);
    assert_eq!(why("")["verdict"], "revoked");
    client.get(&format!("{}/why?client=nobody&colour=red", path_of(&key))).expect(400);
    client.get("/v1/keys/key_unknown/why").expect(404);
}

#[test]
fn a_revoked_key_stays_revoked_as_it_was_first() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let key = client.create(json!({"name": "a"}));
    let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
    let first = client.ask("DELETE", &path, None).expect(200);
    assert_eq!((&first["state"], &first["revoked_at"]), (&json!("revoked"), &json!("2027-01-15T08:00:00.000Z")));
    server.advance(seconds(60));
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    assert_eq!(client.ask("DELETE", &path, None).expect(200), first);
    assert!(!reader.read(0), "what changes nothing tells the edges nothing");
    assert!(reader.record(&key["key"]).unwrap().revoked_at_ms.is_some());
    client.ask("POST", &format!("{path}/rotate"), None).expect(409);
    client.ask("DELETE", "/v1/keys/key_unknown", None).expect(404);
}

#[test]
fn a_key_expires_by_itself_and_cannot_be_rotated_then() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let path = format!("/v1/keys/{}", client.create(json!({"name": "a", "expires_in_s": 10}))["id"].as_str().unwrap());
    server.advance(seconds(10));
    assert_eq!(client.get(&path).expect(200)["state"], "expired");
    let problem = client.ask("POST", &format!("{path}/rotate"), None).expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("expired"));
}

#[test]
fn a_rotation_gives_the_old_secret_its_grace_and_no_later_one_prolongs_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let created = client.create(json!({"name": "a", "owner": "acme"}));
    let rotate = format!("/v1/keys/{}/rotate", created["id"].as_str().unwrap());
    let second = client.ask("POST", &rotate, None);
    assert_eq!(second.header("cache-control"), "no-store");
    let second = second.expect(201);
    assert_eq!(second["id"], created["id"]);
    assert_ne!(second["key"], created["key"]);
    let ends = |resource: &Value| {
        let secrets = resource["secrets"].as_array().unwrap();
        secrets.iter().map(|secret| secret["not_after"].clone()).collect::<Vec<_>>()
    };
    let in_a_day = json!("2027-01-16T08:00:00.000Z");
    let mut sorted = ends(&second);
    sorted.sort_by_key(ToString::to_string);
    assert_eq!(sorted, [in_a_day.clone(), Value::Null]);

    server.advance(seconds(3600));
    let third = client.ask("POST", &rotate, Some(json!({"grace_s": 365 * 86_400}))).expect(201);
    assert!(ends(&third).contains(&in_a_day), "a longer grace later does not prolong the first secret");
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let not_after = |key: &Value| reader.record(&key["key"]).unwrap().secret_not_after_ms;
    assert_eq!(not_after(&created), Some(crate::harness::NOW_MS + seconds(86_400)));
    assert_eq!(not_after(&second), Some(crate::harness::NOW_MS + seconds(3600 + 365 * 86_400)));
    assert_eq!(not_after(&third), None);

    let fourth = client.ask("POST", &rotate, Some(json!({"grace_s": 0}))).expect(201);
    reader.catch_up();
    let now = crate::harness::NOW_MS + seconds(3600);
    for ended in [&created, &second, &third] {
        assert_eq!(reader.record(&ended["key"]).unwrap().secret_not_after_ms, Some(now));
    }
    assert_eq!(reader.record(&fourth["key"]).unwrap().secret_not_after_ms, None);
    client.ask("POST", "/v1/keys/key_unknown/rotate", None).expect(404);
}

#[test]
fn a_rotation_tells_of_what_it_changes_and_at_most_five_secrets_are_valid_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let rotate = format!("/v1/keys/{}/rotate", client.create(json!({"name": "a"}))["id"].as_str().unwrap());
    for _ in 0..4 {
        let mut reader = Reader::new(client.clone());
        reader.catch_up();
        client.ask("POST", &rotate, None).expect(201);
        let page = client.feed(reader.position, 0);
        assert_eq!(Frames::new(Page::decode(&page).unwrap().entries).count(), 2, "the new one, and the one before");
        server.advance(1);
    }
    let mut reader = Reader::new(client.clone());
    reader.catch_up();
    let problem = client.ask("POST", &rotate, None).expect(409);
    assert!(problem["detail"].as_str().unwrap().contains("5 valid secrets"), "{problem}");
    assert!(!reader.read(0), "a refused rotation changes nothing");
    client.ask("POST", &rotate, Some(json!({"grace_s": 0}))).expect(201);
    client.ask("POST", &rotate, None).expect(201);
}

#[test]
fn a_list_goes_on_where_it_stopped_though_keys_are_made_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for n in 0..5 {
        client.create(json!({"name": format!("key {n}")}));
        server.advance(1);
    }
    let mut names = Vec::new();
    let mut path = "/v1/keys?limit=2".to_owned();
    loop {
        let page = client.get(&path).expect(200);
        names.extend(page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()));
        client.create(json!({"name": "later"}));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/keys?limit=2&after={next}");
    }
    assert_eq!(names, ["key 4", "key 3", "key 2", "key 1", "key 0"]);
}

#[test]
fn a_list_has_only_the_owner_and_the_state_that_were_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    client.create(json!({"name": "active", "owner": "acme"}));
    client.create(json!({"name": "expired", "owner": "acme", "expires_in_s": 1}));
    let revoked = client.create(json!({"name": "revoked", "owner": "globex"}));
    client.ask("DELETE", &format!("/v1/keys/{}", revoked["id"].as_str().unwrap()), None).expect(200);
    server.advance(seconds(1));
    let names = |query: &str| {
        let page = client.get(&format!("/v1/keys{query}")).expect(200);
        let mut names: Vec<_> =
            page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    for state in ["active", "expired", "revoked"] {
        assert_eq!(names(&format!("?state={state}")), [state]);
    }
    assert_eq!(names("?owner=acme"), ["active", "expired"]);
    assert_eq!(names("?owner=acme&state=revoked"), [""; 0]);
    assert_eq!(names("").len(), 3);
}

/// The names of the keys that a query finds, in order.
fn names(client: &Client, query: &str) -> Vec<String> {
    let page = client.get(&format!("/v1/keys{query}")).expect(200);
    let mut names: Vec<_> =
        page["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_list_has_only_what_every_filter_lets_through() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    client.ask("PUT", "/v1/plans/pro", None).expect(201);
    client.create(json!({"name": "a", "owner": "acme", "member": "ann", "plan": "pro"}));
    client.create(json!({"name": "b", "owner": "acme", "member": "bob", "environment": "test"}));
    server.advance(seconds(60));
    client.create(json!({"name": "c", "owner": "acme", "member": "ann", "expires_in_s": 60}));
    let (start, middle) = ("2027-01-15T08:00:00Z", "2027-01-15T09:01:00%2B01:00");
    for (query, expected) in [
        ("?member=ann".to_owned(), &["a", "c"][..]),
        ("?plan=pro".to_owned(), &["a"]),
        ("?plan=other".to_owned(), &[]),
        ("?kind=key".to_owned(), &["a", "b", "c"]),
        ("?environment=test".to_owned(), &["b"]),
        (format!("?created_after={middle}"), &["c"]),
        (format!("?created_before={middle}"), &["a", "b"]),
        (format!("?created_after={start}&created_before={start}"), &[]),
        ("?expires_before=2027-01-15T08:02:00Z".to_owned(), &[]),
        ("?expires_before=2027-01-15T08:02:01Z".to_owned(), &["c"]),
        ("?owner=acme&member=ann&state=active&name=A".to_owned(), &["a"]),
    ] {
        assert_eq!(names(&client, &query), expected, "{query}");
    }
}

#[test]
fn a_part_of_a_name_is_found_in_either_case_and_means_nothing_but_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    for name in
        ["Nightly build", "100% é", "a_b", "axb!", "back\\slash", "it's", "ÉMILE", "ΣΟΦΙΑ", "cafe\u{301}", "ﬁlter"]
    {
        client.create(json!({"name": name}));
    }
    for (part, expected) in [
        ("NIGHT", &["Nightly build"][..]),
        ("%25", &["100% é"]),
        ("%C3%A9", &["100% é", "cafe\u{301}", "ÉMILE"]),
        // Capital letters beyond ASCII, on both databases alike,
        ("%C3%A9mile", &["ÉMILE"]),
        ("%CF%83%CE%BF%CF%86", &["ΣΟΦΙΑ"]),
        // however accents are composed, and whatever is written as one sign.
        ("CAF%C3%89", &["cafe\u{301}"]),
        ("filter", &["ﬁlter"]),
        ("_", &["a_b"]),
        ("!", &["axb!"]),
        ("%5C", &["back\\slash"]),
        ("'", &["it's"]),
        ("a%25", &[]),
    ] {
        assert_eq!(names(&client, &format!("?name={part}")), expected, "{part}");
    }
}

#[test]
fn a_new_key_has_its_member_plan_credits_and_metadata() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let bare = client.create(json!({"name": "a"}));
    assert_eq!(
        (&bare["member"], &bare["plan"], &bare["credits"], &bare["metadata"], &bare["spent"]),
        (&Value::Null, &Value::Null, &Value::Null, &json!({}), &json!(0))
    );
    client.ask("PUT", "/v1/plans/pro", Some(json!({"credits": 50}))).expect(201);
    let request = json!({"name": "a", "owner": "acme", "member": "ann", "plan": "pro", "metadata": {"team": "é"}});
    let key = client.create(request.clone());
    assert_eq!(
        (&key["member"], &key["plan"], &key["credits"], &key["metadata"]),
        (&json!("ann"), &json!("pro"), &json!(50), &json!({"team": "é"}))
    );
    for (credits, expected) in [(json!(7), json!(7)), (Value::Null, json!(50)), (json!(0), json!(0))] {
        let mut request = request.clone();
        request["credits"] = credits;
        assert_eq!(client.create(request)["credits"], expected);
    }
}

#[test]
fn a_plan_that_is_not_there_is_told_with_all_other_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let client = server.client();
    let problem = client.ask("POST", "/v1/keys", Some(json!({"name": "", "plan": "pro"}))).expect(422);
    assert_eq!(fields(&problem), ["name", "plan"]);
    let key = client.create(json!({"name": "a"}));
    for wrong in [json!("pro"), json!("two words"), json!("a\0b"), json!("p".repeat(129)), json!(5)] {
        let problem = client.ask("PATCH", &path_of(&key), Some(json!({"plan": wrong}))).expect(422);
        assert_eq!(fields(&problem), ["plan"]);
    }
}

#[test]
fn all_mistakes_of_a_query_are_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(dir.path());
    let problem = server.client().get("/v1/keys?limit=0&state=odd&colour=red&owner=a&owner=b").expect(400);
    let mut wrong = fields(&problem);
    wrong.sort_unstable();
    assert_eq!(wrong, ["colour", "limit", "owner", "state"]);
    let problem = server.client().get("/v1/keys?after=key_unknown").expect(400);
    assert_eq!(fields(&problem), ["after"]);
    let odd = "?environment=prod&name=&owner=%00&created_after=monday&expires_before=1";
    let problem = server.client().get(&format!("/v1/keys{odd}")).expect(400);
    assert_eq!(fields(&problem), ["owner", "environment", "name", "created_after", "expires_before"]);
}
