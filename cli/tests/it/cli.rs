//! The command line, as its users type it.

use crate::harness::{NOW_MS, Reader, TestServer, program, stderr, stdout};
use keyward_core::wire::cursor::Position;
use keyward_server::serve::RETENTION_INTERVAL;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the program in a directory whose `.keyward` belongs to the server.
fn run(server: &TestServer, dir: &Path, arguments: &[&str]) -> Output {
    program().args(arguments).current_dir(dir).env("KEYWARD_URL", &server.address).output().unwrap()
}

fn document(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn started() -> (tempfile::TempDir, TestServer) {
    let dir = tempfile::tempdir().unwrap();
    let server = TestServer::start(&dir.path().join(".keyward"));
    (dir, server)
}

#[test]
fn key_is_created_shown_rotated_listed_and_revoked() {
    let (dir, server) = started();
    let run = |arguments: &[&str]| run(&server, dir.path(), arguments);
    let created = document(&run(&[
        "keys",
        "create",
        "--name",
        "ci",
        "--owner",
        "acme",
        "--kind",
        "key",
        "--env",
        "test",
        "--scope",
        "read",
        "--scope",
        "write",
        "--allow-ip",
        "10.0.0.0/8",
        "--expires-in",
        "30d",
        "--json",
    ]));
    let id = created["id"].as_str().unwrap();
    assert!(created["key"].as_str().unwrap().starts_with("kw_test_"));
    assert_eq!(
        (&created["scopes"], &created["expires_at"]),
        (&json!(["read", "write"]), &json!("2027-02-14T08:00:00.000Z"))
    );

    let shown = document(&run(&["keys", "show", id, "--json"]));
    assert_eq!(shown["name"], "ci");
    let text = run(&["keys", "show", id]);
    assert!(stdout(&text).contains("acme") && stdout(&text).contains("secret"), "{text:?}");

    server.advance(1000);
    let rotated = document(&run(&["keys", "rotate", id, "--grace", "0s", "--json"]));
    assert_ne!(rotated["key"], created["key"]);
    assert_eq!(rotated["secrets"].as_array().unwrap().len(), 2);

    let list = run(&["keys", "list", "--owner", "acme"]);
    let hint = rotated["secrets"][1]["hint"].as_str().unwrap();
    assert!(rotated["key"].as_str().unwrap().starts_with(hint.trim_end_matches('…')), "{rotated}");
    let line = stdout(&list).lines().find(|line| line.starts_with(id)).unwrap();
    assert!(stdout(&list).starts_with("ID ") && line.contains(hint), "{list:?}");
    let shown = run(&["keys", "show", id]);
    assert!(stdout(&shown).contains("  rotated out since ") && stdout(&shown).contains("  valid\n"), "{shown:?}");
    for (command, state) in [("pause", "paused"), ("resume", "active")] {
        assert_eq!(document(&run(&["keys", command, id, "--json"]))["state"], state);
    }
    assert_eq!(document(&run(&["keys", "revoke", id, "--json"]))["state"], "revoked");
    assert_eq!(document(&run(&["keys", "list", "--state", "active", "--json"])), json!({"keys": [], "next": null}));
}

#[test]
fn only_the_key_is_on_stdout() {
    let (dir, server) = started();
    let created = run(&server, dir.path(), &["keys", "create", "--name", "a"]);
    let lines: Vec<_> = stdout(&created).lines().collect();
    assert!(matches!(lines[..], [key] if key.starts_with("kw_live_")), "{lines:?}");
    assert!(stderr(&created).contains("not shown again"));
}

#[test]
fn key_that_cannot_be_printed_is_named_by_its_id() {
    let (dir, server) = started();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let into = |arguments: &[&str], stdout: Stdio| {
        let mut command = program();
        command.args(arguments).current_dir(dir.path()).env("KEYWARD_URL", &server.address);
        command.stdout(stdout).output().unwrap()
    };
    let broken_pipe = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    for stdout in [full().into(), broken_pipe().into()] {
        let lost = into(&["keys", "create", "--name", "a"], stdout);
        let keys = server.client().get("/v1/keys").expect(200);
        assert_eq!(lost.status.code(), Some(1));
        let message = stderr(&lost);
        assert!(message.contains("cannot be printed") && message.contains("revoke it"), "{message}");
        let ids: Vec<_> = keys["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap()).collect();
        assert!(ids.iter().any(|id| message.contains(id)), "{message}");
    }
    let list = into(&["keys", "list"], broken_pipe().into());
    assert_eq!(list.status.code(), Some(0));

    let mut command = program();
    command.args(["keys", "create", "--name", "a"]).current_dir(dir.path()).env("KEYWARD_URL", &server.address);
    let shown = command.stderr(full()).output().unwrap();
    assert_eq!(shown.status.code(), Some(0), "only the words about it are lost");
}

#[test]
fn list_has_all_pages() {
    let (dir, server) = started();
    let client = server.client();
    for n in 0..230 {
        client.create(json!({"name": format!("{n}")}));
    }
    let list = document(&run(&server, dir.path(), &["keys", "list", "--json"]));
    assert_eq!(list["keys"].as_array().unwrap().len(), 230);
}

#[test]
fn owner_is_disabled_and_enabled() {
    let (dir, server) = started();
    server.client().create(json!({"name": "a", "owner": "acme/ops?"}));
    for (command, disabled) in [("disable", true), ("enable", false)] {
        let owner = document(&run(&server, dir.path(), &["owners", command, "acme/ops?", "--json"]));
        assert_eq!(owner["disabled"], disabled);
    }
    let text = run(&server, dir.path(), &["owners", "disable", "acme/ops?"]);
    assert!(stdout(&text).contains("true"), "{text:?}");
}

#[test]
fn permissions_of_an_owner_are_set_emptied_and_removed() {
    let (dir, server) = started();
    let run = |arguments: &[&str]| run(&server, dir.path(), arguments);
    server.client().create(json!({"name": "a", "owner": "acme"}));
    for (arguments, permissions) in
        [(&["--scope", "read"][..], json!(["read"])), (&[], json!([])), (&["--any"], Value::Null)]
    {
        let permit = [&["owners", "permit", "acme", "--json"][..], arguments].concat();
        assert_eq!(document(&run(&permit))["permissions"], permissions);
        assert_eq!(document(&run(&["owners", "show", "acme", "--json"]))["permissions"], permissions);
    }
    assert_eq!(run(&["owners", "permit", "acme", "--any", "--scope", "read"]).status.code(), Some(2));
}

#[test]
fn url_is_neither_repeated_nor_in_help() {
    for arguments in [&["keys", "list"][..], &["keys", "list", "--help"], &["owners", "show", "acme"]] {
        let output = program().args(arguments).env("KEYWARD_URL", "http://user:passw0rd@host").output().unwrap();
        let help = arguments.contains(&"--help");
        assert_eq!(output.status.code(), Some(if help { 0 } else { 2 }), "{output:?}");
        assert!(!stdout(&output).contains("passw0rd") && !stderr(&output).contains("passw0rd"), "{output:?}");
    }
    let output = program().args(["keys", "list", "--url", "ftp://passw0rd"]).output().unwrap();
    assert!(output.status.code() == Some(2) && !stderr(&output).contains("passw0rd"), "{output:?}");
}

#[test]
fn refusal_names_server_and_fields_and_exits_with_1() {
    let (dir, server) = started();
    let refused = run(&server, dir.path(), &["keys", "create", "--name", "", "--scope", "a b", "--allow-ip", "x"]);
    assert_eq!(refused.status.code(), Some(1));
    let message = stderr(&refused);
    for expected in [&server.address[..], "name: ", "scopes[0]: ", "allow_ip[0]: "] {
        assert!(message.contains(expected), "{message}");
    }
    let unknown = run(&server, dir.path(), &["keys", "show", "key_unknown"]);
    assert_eq!(unknown.status.code(), Some(1));
}

#[test]
fn unreachable_server_exits_with_1_and_wrong_usage_2() {
    let (dir, server) = started();
    let url = server.address.clone();
    server.stop();
    let unreachable = program().args(["keys", "list", "--url", &url]).current_dir(dir.path()).output().unwrap();
    assert_eq!(unreachable.status.code(), Some(1));
    assert!(stderr(&unreachable).contains(&url));
    for wrong in [&["keys", "create"][..], &["keys", "rotate", "key_1", "--grace", "999ms"], &["nonsense"]] {
        assert_eq!(program().args(wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn key_instead_of_an_id_is_neither_sent_nor_repeated() {
    let (dir, server) = started();
    let created = document(&run(&server, dir.path(), &["keys", "create", "--name", "a", "--json"]));
    // One that lacks its end cannot be told from other words.
    let key = created["key"].as_str().unwrap();
    for key in [key, &key[..key.len() - 1]] {
        for command in ["show", "revoke", "rotate", "pause", "resume"] {
            let refused = run(&server, dir.path(), &["keys", command, key]);
            assert_eq!(refused.status.code(), Some(2), "{command}");
            assert!(!stderr(&refused).contains(&key[..12]), "{refused:?}");
        }
    }
}

#[test]
fn secret_in_an_argument_is_neither_used_nor_repeated() {
    let (dir, server) = started();
    let client = server.client();
    let key = client.create(json!({"name": "a"}))["key"].as_str().unwrap().to_owned();
    let head = client.feed(Position::Nothing, 0);
    let listen = format!("--listen={key}");
    let found_at = format!("https://paste.example/?key={key}");
    for (arguments, at) in [
        (&["relay", "--upstream", "http://127.0.0.1:1", "--upstream-token-file", &client.edge][..], 5),
        (&["keys", "report-leak", &key], 3),
        (&["keys", "report-leak", "-", "--found-at", &found_at], 5),
        (&["keys", "import", &key], 3),
        (&["serve", "--github-keys", &client.admin], 3),
        (&["serve", "--dialect", &key], 3),
        (&["serve", &listen], 2),
        (&["keys", "create", "--name", "a", "--owner", &key], 6),
        (&["keys", "create", "--name", &key], 4),
        (&["keys", "create", "--name", "a", "--expires-in", &key], 6),
        (&["plans", "set", &key], 3),
        (&[&key], 1),
    ] {
        let refused = run(&server, dir.path(), arguments);
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = format!("{}{}", stdout(&refused), stderr(&refused));
        assert!(said.contains(&format!("argument {at} holds")), "{said}");
        assert!([&key, &client.edge, &client.admin].iter().all(|secret| !said.contains(&secret[..12])), "{said}");
    }
    for (variable, arguments) in [
        ("KEYWARD_UPSTREAM_TOKEN_FILE", &["relay", "--upstream", "http://127.0.0.1:1"][..]),
        ("KEYWARD_LISTEN", &["serve"]),
        ("KEYWARD_CONTROL_PORT", &["keys", "list"]),
    ] {
        let refused = program().args(arguments).current_dir(dir.path()).env(variable, &client.edge).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = format!("{}{}", stdout(&refused), stderr(&refused));
        assert!(said.contains(variable) && !said.contains(&client.edge[..12]), "{said}");
    }
    assert_eq!(client.feed(Position::Nothing, 0), head, "the server was asked for nothing");
}

#[test]
fn token_of_the_environment_precedes_the_file() {
    let (dir, server) = started();
    let list = |token: Option<&str>, directory: &Path| {
        let mut command = program();
        command.args(["keys", "list"]).current_dir(directory).env("KEYWARD_URL", &server.address);
        if let Some(token) = token {
            command.env("KEYWARD_ADMIN_TOKEN", token);
        }
        command.output().unwrap()
    };
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(list(None, dir.path()).status.code(), Some(0));
    assert_eq!(list(Some(&server.client().admin), elsewhere.path()).status.code(), Some(0));
    let refused = list(Some("a-token-that-is-wrong"), dir.path());
    assert_eq!(refused.status.code(), Some(1));
    assert!(!stderr(&refused).contains("a-token-that-is-wrong"));
    let without = list(None, elsewhere.path());
    assert_eq!(without.status.code(), Some(1));
    assert!(stderr(&without).contains("KEYWARD_ADMIN_TOKEN") && stderr(&without).contains("admin-token"));
}

#[test]
fn control_port_and_data_directory_are_used_alone() {
    let (dir, server) = started();
    let port = server.address.rsplit(':').next().unwrap();
    let output = program()
        .args(["keys", "list", "--json"])
        .env("KEYWARD_CONTROL_PORT", port)
        .env("KEYWARD_DATA_DIR", dir.path().join(".keyward"))
        .output()
        .unwrap();
    assert_eq!(document(&output)["keys"], json!([]));
}

#[test]
fn help_explains_exit_codes() {
    let help = program().arg("--help").output().unwrap();
    for line in ["  0  success", "  1  refused, or failed", "  2  wrong usage"] {
        assert!(stdout(&help).contains(line), "{help:?}");
    }
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = program().args(["completions", shell]).output().unwrap();
        assert_eq!(script.status.code(), Some(0), "{script:?}");
        for word in ["keyward", "serve", "rotate", "grace"] {
            assert!(stdout(&script).contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(program().args(["completions", "cmd"]).output().unwrap().status.code(), Some(2));
    let complete = "source /dev/stdin; COMP_WORDS=(keyward keys ro); COMP_CWORD=2; _keyward keyward ro keys; echo \"${COMPREPLY[@]}\"";
    let script = program().args(["completions", "bash"]).output().unwrap();
    let mut bash =
        Command::new("bash").args(["-c", complete]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(&script.stdout).unwrap();
    let completed = bash.wait_with_output().unwrap();
    assert_eq!(stdout(&completed).trim(), "rotate", "{completed:?}");
}

#[test]
fn openapi_of_an_unknown_dialect_is_an_error() {
    let refused = program().args(["openapi", "--dialect", "nonsense"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("nonsense"), "{refused:?}");
}

#[test]
fn key_is_changed_and_one_of_its_secrets_ended() {
    let (dir, server) = started();
    let run = |arguments: &[&str]| run(&server, dir.path(), arguments);
    document(&run(&["plans", "set", "pro", "--limit", "10/s", "--credits", "9", "--json"]));
    let create = ["keys", "create", "--name", "ci", "--owner", "acme", "--member", "ann", "--plan", "pro", "--json"];
    let created = document(&run(&[&create[..], &["--meta", "team=core=x", "--meta", "gone=1"]].concat()));
    assert_eq!((&created["member"], &created["credits"]), (&json!("ann"), &json!(9)));
    assert_eq!(created["metadata"], json!({"gone": "1", "team": "core=x"}));
    let id = created["id"].as_str().unwrap();
    let change = ["keys", "change", id, "--json"];
    let set = [
        "--name",
        "cd",
        "--no-member",
        "--scope",
        "read",
        "--allow-ip",
        "10.0.0.0/8",
        "--limit",
        "5/s",
        "--no-plan",
        "--credits",
        "3",
        "--meta",
        "new=",
        "--no-meta",
        "gone",
        "--expires-in",
        "1d",
    ];
    let changed = document(&run(&[&change[..], &set].concat()));
    let expected = json!({"name": "cd", "member": null, "scopes": ["read"], "allow_ip": ["10.0.0.0/8"], "limits": ["5/s"],
        "plan": null, "credits": 3, "metadata": {"new": "", "team": "core=x"}, "expires_at": "2027-01-16T08:00:00.000Z"});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&changed[field], value, "{field}");
    }
    let take_back = ["--no-scope", "--any-ip", "--default-limits", "--unbounded", "--never-expires"];
    let changed = document(&run(&[&change[..], &take_back].concat()));
    for (field, value) in [
        ("scopes", json!([])),
        ("allow_ip", json!([])),
        ("limits", Value::Null),
        ("credits", Value::Null),
        ("expires_at", Value::Null),
    ] {
        assert_eq!(changed[field], value, "{field}");
    }
    for (filter, value, found) in [
        ("--member", "ann", 0),
        ("--plan", "pro", 0),
        ("--kind", "key", 1),
        ("--env", "live", 1),
        ("--name", "CD", 1),
        ("--created-after", "2027-01-15T08:00:00Z", 1),
        ("--created-before", "2027-01-15T08:00:00Z", 0),
        ("--expires-before", "2030-01-01T00:00:00Z", 0),
    ] {
        let list = document(&run(&["keys", "list", "--json", filter, value]));
        assert_eq!(list["keys"].as_array().unwrap().len(), found, "{filter}");
    }
    document(&run(&["keys", "rotate", id, "--json"]));
    let first = created["secrets"][0]["id"].as_str().unwrap();
    let ended = document(&run(&["keys", "end-secret", id, first, "--json"]));
    let secrets = ended["secrets"].as_array().unwrap();
    assert_eq!(secrets.iter().find(|secret| secret["id"] == first).unwrap()["state"], "rotated_out");
    let refused = run(&["keys", "end-secret", id, &created["key"].as_str().unwrap()[..20]]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(!stderr(&refused).contains("kw_live_"));
    let text = run(&["keys", "show", id]);
    assert!(stdout(&text).contains("metadata") && stdout(&text).contains("rotated out since 2027"), "{text:?}");
}

#[test]
fn owners_are_set_and_listed_and_their_keys_revoked() {
    let (dir, server) = started();
    let run = |arguments: &[&str]| run(&server, dir.path(), arguments);
    let set = document(&run(&["owners", "set", "acme", "--kind", "team", "--scope", "read", "--disabled", "--json"]));
    assert_eq!((&set["kind"], &set["disabled"], &set["permissions"]), (&json!("team"), &json!(true), &json!(["read"])));
    document(&run(&["owners", "set", "globex", "--json"]));
    let list = |arguments: &[&str]| {
        let list = document(&run(&[&["owners", "list", "--json"], arguments].concat()));
        list["owners"]
            .as_array()
            .unwrap()
            .iter()
            .map(|owner| owner["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&[]), ["acme", "globex"]);
    assert_eq!(list(&["--kind", "team"]), ["acme"]);
    assert_eq!(list(&["--disabled", "false"]), ["globex"]);
    assert!(stdout(&run(&["owners", "list"])).starts_with("ID "));
    for member in ["ann", "bob"] {
        server.client().create(json!({"name": "a", "owner": "acme", "member": member}));
    }
    let revoked = run(&["owners", "revoke-keys", "acme", "--member", "ann"]);
    assert_eq!(stdout(&revoked), "revoked       1\n");
    assert_eq!(document(&run(&["owners", "revoke-keys", "acme", "--json"])), json!({"revoked": 1}));
}

#[test]
fn plans_are_set_listed_shown_deleted_and_audited() {
    let (dir, server) = started();
    let run = |arguments: &[&str]| run(&server, dir.path(), arguments);
    document(&run(&["plans", "set", "pro", "--limit", "10/s", "--json"]));
    assert_eq!(document(&run(&["plans", "show", "pro", "--json"]))["limits"], json!(["10/s"]));
    let list = run(&["plans", "list"]);
    assert!(stdout(&list).starts_with("ID ") && stdout(&list).contains("pro"), "{list:?}");
    assert_eq!(document(&run(&["plans", "list", "--json"]))["plans"].as_array().unwrap().len(), 1);
    let deleted = run(&["plans", "delete", "pro"]);
    assert_eq!((deleted.status.code(), stdout(&deleted)), (Some(0), ""));
    assert_eq!(run(&["plans", "delete", "pro"]).status.code(), Some(1));
    let log = document(&run(&["audit", "--subject", "pro", "--json"]));
    assert_eq!(log["entries"][0]["action"], "plan.deleted");
    let text = run(&["audit", "--limit", "1"]);
    assert!(stdout(&text).starts_with("SEQUENCE ") && stdout(&text).contains("plan.deleted"), "{text:?}");
    assert!(!stdout(&text).contains("plan.created"));
}

#[test]
fn name_with_bidirectional_characters_is_escaped_in_text() {
    let (dir, server) = started();
    let run = |arguments: &[&str]| run(&server, dir.path(), arguments);
    let created = server.client().create(json!({"name": "pay\u{202e}moc.elgoog\u{200b}"}));
    let id = created["id"].as_str().unwrap();
    for arguments in [&["keys", "list"][..], &["keys", "show", id]] {
        let text = run(arguments);
        assert!(stdout(&text).contains("pay\\u{202e}moc.elgoog\\u{200b}"), "{text:?}");
        assert!(!stdout(&text).contains(['\u{202e}', '\u{200b}']), "{text:?}");
    }
    assert_eq!(document(&run(&["keys", "show", id, "--json"]))["name"], "pay\u{202e}moc.elgoog\u{200b}");
    // A message can repeat a value, too.
    let refused = run(&["owners", "set", "a", "--kind", "\u{202e}team"]);
    assert!(refused.status.code() == Some(1) && !stderr(&refused).contains('\u{202e}'), "{refused:?}");
}

#[test]
fn create_without_an_owner_that_the_dialect_requires_says_so() {
    for dialect in ["graph8", "auxot"] {
        let dir = tempfile::tempdir().unwrap();
        let server = TestServer::start_of(dialect, &dir.path().join(".keyward"), NOW_MS, RETENTION_INTERVAL);
        let refused = run(&server, dir.path(), &["keys", "create", "--name", "x"]);
        assert_eq!((refused.status.code(), stdout(&refused)), (Some(1), ""));
        let message = stderr(&refused);
        assert!(message.contains("(422)") && message.contains("\n  owner: is required"), "{message}");
        assert!(message.contains(dialect), "{message}");
        let kinds = run(&server, dir.path(), &["keys", "create", "--name", "x", "--owner", "o", "--kind", "nonsense"]);
        assert!(kinds.status.code() == Some(1) && stderr(&kinds).contains("\n  kind: expected one of "), "{kinds:?}");
    }
}

/// A stand-in for a network that loses the answers to the first `lost` requests, and then lets all pass.
fn losing(server: &TestServer, lost: usize) -> String {
    let upstream = server.address.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (n, client) in listener.incoming().enumerate() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(&upstream).unwrap());
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || drop(std::io::copy(&mut from_client, &mut to_server)));
            if n < lost {
                // It was carried out once there is an answer, of which the client gets nothing.
                let _ = server.read(&mut [0; 1]).unwrap();
                let _ = client.shutdown(Shutdown::Both);
            } else {
                drop(std::io::copy(&mut server, &mut client));
            }
        }
    });
    address
}

#[test]
fn create_with_lost_responses_is_retried_and_made_once() {
    let (dir, server) = started();
    let create = |address: &str| {
        let mut command = program();
        command.args(["keys", "create", "--name", "a", "--json"]).current_dir(dir.path());
        command.env("KEYWARD_URL", address).output().unwrap()
    };
    let created = document(&create(&losing(&server, 3)));
    let keys = server.client().get("/v1/keys").expect(200);
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    assert_eq!(keys["keys"][0]["id"], created["id"]);
    let mut reader = Reader::new(server.client());
    reader.catch_up();
    assert!(reader.record(&created["key"]).is_some());
}
