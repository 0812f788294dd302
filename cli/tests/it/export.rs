//! Every key, without what could lead to its secret.

use crate::harness::{NOW_MS, TestServer, contains, dialect_with_selectors, program, stdout};
use keyward_core::dialect::Dialect;
use keyward_server::keys::csv::Separator;
use keyward_server::keys::import::{Format, Rows};
use serde_json::{Value, json};

fn export(server: &TestServer, query: &str) -> String {
    let answer = server.client().get(&format!("/v1/keys/export{query}"));
    assert_eq!(answer.status, 200);
    String::from_utf8(answer.body).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn started() -> (tempfile::TempDir, TestServer) {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start_as(&dir.path().join(".keyward"), NOW_MS, |config| {
        config.dialect = Dialect::parse(dialect_with_selectors().as_bytes()).unwrap();
    });
    (dir, server)
}

fn import(server: &TestServer, text: String) -> Value {
    let client = server.client();
    let bearer = format!("Bearer {}", client.admin);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/x-ndjson")];
    client.send_with("POST", "/v1/keys/import", &headers, Some(text.into())).expect(200)
}

#[test]
fn an_export_has_every_key_oldest_first_with_everything_but_what_leads_to_its_secret() {
    let (_dir, server) = started();
    let client = server.client();
    let made = client.create(json!({"name": "first", "owner": "acme", "scopes": ["read"], "allow_ip": ["10.0.0.0/8"]}));
    server.advance(1);
    let (digest, hash) = ("ab".repeat(32), crate::import::argon2id("kw_live_selecto1 rest"));
    let rows = [
        json!({"name": "second", "sha256": digest, "metadata": {"a": "b"}, "credits": 5, "limits": [], "member": "bob"}),
        json!({"name": "third", "argon2id": hash, "selector": "kw_live_selecto1"}),
    ];
    import(&server, rows.map(|row| format!("{row}\n")).concat());
    server.advance(1);
    let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
    client.ask("POST", &format!("{path}/pause"), None).expect(200);
    let rotated = client.ask("POST", &format!("{path}/rotate"), None).expect(201);

    let text = export(&server, "");
    let keys = lines(&text);
    assert_eq!(keys.len(), 3);
    let first = &keys[0];
    assert!(first["paused_at"].is_string(), "{first}");
    for field in
        ["id", "owner", "kind", "environment", "scopes", "allow_ip", "limits", "created_at", "expires_at", "paused_at"]
    {
        assert_eq!(first[field], rotated[field], "{field}");
    }
    for (n, secret) in first["secrets"].as_array().unwrap().iter().enumerate() {
        for field in ["id", "hint", "created_at", "not_after"] {
            assert_eq!(secret[field], rotated["secrets"][n][field], "{field}");
        }
    }
    assert_eq!(first["secrets"].as_array().unwrap().len(), 2);
    let second = keys.iter().find(|key| key["name"] == "second").unwrap();
    assert_eq!(
        (&second["metadata"], &second["credits"], &second["spent"], &second["limits"], &second["member"]),
        (&json!({"a": "b"}), &json!(5), &json!(0), &json!([]), &json!("bob"))
    );
    let csv = export(&server, "?format=csv");
    for text in [&text, &csv] {
        for hidden in [made["key"].as_str().unwrap(), rotated["key"].as_str().unwrap(), &digest, &hash, "$argon2"] {
            assert!(!contains(text.as_bytes(), hidden), "{hidden}");
        }
        assert!(!text.contains("digest") && !text.contains("hash"), "{text}");
    }
}

#[test]
fn csv_says_the_same_as_json_lines_and_no_spreadsheet_runs_it() {
    let (_dir, server) = started();
    let rows = [
        json!({"name": "=HYPERLINK(\"http://x\")", "sha256": "aa".repeat(32), "scopes": ["a", "b"], "limits": ["10/s"]}),
        json!({"name": "-1+1, \"quoted\"", "sha256": "bb".repeat(32), "metadata": {"k": "=v,\""}, "owner": "@acme"}),
        json!({"name": "'=guarded already", "sha256": "cc".repeat(32), "limits": [], "expires_at": "2029-01-01T00:00:00Z"}),
    ];
    import(&server, rows.map(|row| format!("{row}\n")).concat());
    let csv = export(&server, "?format=csv");
    assert!(csv.contains("\"'=HYPERLINK(\"\"http://x\"\")\"") && csv.contains(",\"'@acme\","), "{csv}");
    // What an import has a field for is read as JSON Lines tell it.
    let known = |name: &str| !["spent", "last_used_at", "secrets"].contains(&name);
    let records = keyward_server::keys::csv::records(csv.as_bytes(), 1 << 16, Separator::Comma);
    let mut records = records.into_iter().map(|record| record.cells.unwrap());
    let header = records.next().unwrap();
    let mut importable = String::new();
    for cells in std::iter::once(header.clone()).chain(records) {
        let cells = header.iter().zip(&cells).filter(|(name, _)| known(name));
        // The guard is there already, and is not to be put there twice.
        let cells = cells.map(|(_, cell)| keyward_server::keys::csv::unguarded(cell));
        keyward_server::keys::csv::write_record(cells, &mut importable);
    }
    let mut rows = Rows::new(Format::Csv, None);
    let mut read = Vec::new();
    rows.push(importable.as_bytes(), &mut read).unwrap();
    let mut expected = lines(&export(&server, ""));
    assert_eq!(read.len(), 3);
    for (row, expected) in read.into_iter().zip(&mut expected) {
        let expected = expected.as_object_mut().unwrap();
        // What is empty is absent in CSV.
        expected.retain(|name, value| {
            let is_empty_list = value.as_array().is_some_and(Vec::is_empty) && name != "limits";
            known(name) && !value.is_null() && !is_empty_list && *value != json!({})
        });
        assert_eq!(row.document.unwrap().as_object().unwrap(), expected);
    }
}

#[test]
fn more_keys_than_are_read_at_a_time_are_all_there_once_though_some_are_made_meanwhile() {
    let (_dir, server) = started();
    let row = |n: usize| format!("{{\"name\":\"{n}\",\"sha256\":\"{n:064x}\",\"owner\":\"acme\"}}\n");
    import(&server, (0..1234).map(row).collect());
    let keys = lines(&export(&server, "?format=jsonl"));
    let names: std::collections::BTreeSet<_> = keys.iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!((keys.len(), names.len()), (1234, 1234));
}

#[test]
fn an_unknown_format_and_a_token_of_an_edge_are_refused_and_an_empty_server_has_a_header_to_tell() {
    let (_dir, server) = started();
    let client = server.client();
    client.get("/v1/keys/export?format=xml").expect(400);
    client.send("GET", "/v1/keys/export", Some(&client.edge), None).expect(401);
    assert_eq!(export(&server, ""), "");
    assert!(export(&server, "?format=csv").starts_with("id,name,owner,"));
}

#[test]
fn the_command_line_prints_what_the_server_says() {
    let (dir, server) = started();
    server.client().create(json!({"name": "a"}));
    let output = |arguments: &[&str]| {
        let mut command = program();
        command.args(["keys", "export"]).args(arguments).current_dir(dir.path()).env("KEYWARD_URL", &server.address);
        command.output().unwrap()
    };
    assert_eq!(stdout(&output(&[])), export(&server, ""));
    assert_eq!(stdout(&output(&["--format", "csv"])), export(&server, "?format=csv"));
    server.stop();
}
