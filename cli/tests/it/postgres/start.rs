//! Opening a PostgreSQL database: what is refused, what is said of it, and several servers that start at once.

use crate::database::{self, Postgres};
use crate::harness::{Client, Process, program, serve, stderr};
use crate::history::History;
use crate::sqlite::NEWER_MIGRATION;
use serde_json::json;
use std::path::Path;

/// What a start says that does not succeed.
fn refusal(dir: &Path, url: &str) -> String {
    let output = serve(&mut program(), dir).env("KEYWARD_DATABASE_URL", url).env("RUST_LOG", "trace").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output).to_owned()
}

#[test]
fn a_start_that_is_refused_says_why_and_nothing_of_the_url() {
    let (postgres, dir) = (Postgres::any(), tempfile::tempdir().unwrap());
    let url = postgres.database();
    let password = "the-password-that-nobody-may-see";
    let (_, address) = url.split_once('@').unwrap();
    database::run(
        &url,
        &["DO $$ BEGIN CREATE ROLE keyward_with_password LOGIN PASSWORD 'another';
           EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"],
    );
    let user = format!("postgres://keyward_with_password:{password}@");
    for (url, why) in [
        (format!("{user}{address}"), "password authentication failed"),
        // Nothing listens on the port of nobody.
        (format!("{user}127.0.0.1:1/keyward"), "Connection refused"),
        (format!("{user}nowhere.invalid/keyward"), "failed to lookup address"),
        (format!("{user}127.0.0.1:port/keyward"), "is not a URL such as"),
        (format!("mysql://root:{password}@127.0.0.1/keyward"), "is not a URL such as"),
        (password.to_owned(), "is not a URL such as"),
        (format!("postgres://127.0.0.1/keyward?pasword={password}"), "has a parameter that is none of"),
        (format!("{user}127.0.0.1/keyward?sslmode={password}"), "is not a URL such as"),
        (postgres.url_of("no_such_database"), "database \"no_such_database\" does not exist"),
        (format!("{url}{}sslmode=require", if url.contains('?') { "&" } else { "?" }), "TLS"),
    ] {
        let said = refusal(dir.path(), &url);
        assert!(said.contains(why), "{why}: {said}");
        assert!(!said.contains("at line") && !said.contains("returned from database"), "{said}");
        assert!(!said.contains(password) && !said.contains(&url) && !said.contains("postgres://keyward"), "{said}");
    }
}

#[test]
fn a_schema_of_a_newer_program_is_a_refused_start() {
    let (postgres, dir) = (Postgres::any(), tempfile::tempdir().unwrap());
    let url = postgres.database();
    Process::start_on(dir.path(), &url).kill();
    let mut again = Process::start_on(dir.path(), &url);
    again.kill();
    assert!(!again.log().contains("already exists"), "{}", again.log());
    assert!(again.log().contains("location=\"PostgreSQL at "), "{}", again.log());
    database::run(&url, &[NEWER_MIGRATION]);
    let said = refusal(dir.path(), &url);
    assert!(said.contains("the database schema 9999 is of a newer Keyward; this version supports up to"), "{said}");
}

#[test]
fn servers_that_start_at_once_on_an_empty_database_make_one_schema_and_one_history() {
    let postgres = Postgres::any();
    for _ in 0..3 {
        let (url, dirs) = (postgres.database(), [(); 4].map(|()| tempfile::tempdir().unwrap()));
        let servers = std::thread::scope(|scope| {
            let starting: Vec<_> = dirs.iter().map(|dir| scope.spawn(|| Process::start_on(dir.path(), &url))).collect();
            starting.into_iter().map(|server| server.join().unwrap()).collect::<Vec<_>>()
        });
        for (server, dir) in servers.iter().zip(&dirs) {
            Client::new(&server.url, dir.path()).create(json!({"name": "a"}));
        }
        assert_eq!(History::check(&url).log.len(), 4);
    }
}
