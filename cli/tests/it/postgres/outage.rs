//! PostgreSQL goes away and comes back.

use crate::database::{self, Postgres};
use crate::harness::{Client, Reader, TestServer, until};
use crate::history::History;
use crate::load::{self, Load};
use keyward_core::wire::page::Page;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a request may take that cannot be carried out.
const SOON: Duration = Duration::from_secs(8);

fn is_ready(client: &Client) -> bool {
    client.get("/readyz").status == 200
}

#[test]
fn an_export_waits_for_its_reader_longer_than_a_connection_may_be_silent_elsewhere() {
    let (postgres, dir) = (Postgres::any(), tempfile::tempdir().unwrap());
    let url = postgres.database();
    let server = TestServer::start_on(dir.path(), &url);
    // More than what the connection holds on its way.
    database::run(
        &url,
        &["INSERT INTO keys (id, name, kind, scopes, allow_ip, created_at)
           SELECT 'key_' || n, repeat('n', 10000), 'key', '[]', '[]', n FROM generate_series(1, 4000) AS n"],
    );
    let client = server.client();
    let address = client.url.strip_prefix("http://").unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let request = format!(
        "GET /v1/keys/export HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        client.admin
    );
    connection.write_all(request.as_bytes()).unwrap();
    database::until_found(
        &url,
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'
         AND clock_timestamp() - state_change > INTERVAL '5.2 s'",
    );
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"\r\n0\r\n\r\n"), "{} bytes", answer.len());
}

#[test]
fn while_postgresql_is_away_the_feed_goes_on_and_afterwards_everything_does_by_itself() {
    let (mut postgres, dir) = (Postgres::own(), tempfile::tempdir().unwrap());
    // With this, a crash would undo whatever was acknowledged in the seconds before it.
    let careless = ["ALTER SYSTEM SET synchronous_commit = off", "ALTER SYSTEM SET wal_writer_delay = '10s'"];
    postgres.run(&[careless[0], careless[1], "SELECT pg_reload_conf()"]);
    let url = postgres.database();
    let servers = [TestServer::start_on(dir.path(), &url), TestServer::start_on(dir.path(), &url)];
    let clients: Vec<_> = servers.iter().map(TestServer::client).collect();
    let mut reader = Reader::new(clients[0].clone());
    reader.catch_up();
    let behind = reader.position;
    for n in 0..10 {
        clients[n % 2].create(json!({"name": "before"}));
    }
    reader.catch_up();
    let position = reader.position;
    let load = Load::start(vec![vec![clients[0].clone()], vec![clients[1].clone()]]);
    until(|| load.so_far() > 20);
    reader.catch_up();
    postgres.crash();
    let crashed = Instant::now();

    for client in &clients {
        let asked = Instant::now();
        let refusal = client.get("/v1/keys");
        assert_eq!((refusal.status, refusal.header("retry-after")), (503, "1"));
        let refusal = client.ask("POST", "/v1/keys", Some(json!({"name": "meanwhile"})));
        assert_eq!((refusal.status, refusal.header("retry-after")), (503, "1"));
        assert!(asked.elapsed() < 2 * SOON, "{:?}", asked.elapsed());
        assert!(!is_ready(client));
        assert_eq!(client.get("/healthz").status, 200);
    }
    // What is in memory is served.
    for old in [behind, position] {
        assert!(Page::decode(&clients[0].feed(old, 0)).unwrap().next() != old);
    }
    // And who knows all there is waits as ever.
    while let Some(page) = clients[0].try_feed(reader.position, 1) {
        if !reader.apply(&page) {
            break;
        }
    }
    let asked = Instant::now();
    let waited = clients[0].try_feed(reader.position, 2);
    // The machine may be so slow that it was out of sight for too long to say that there is nothing new.
    assert!(waited.is_none_or(|page| Page::decode(&page).unwrap().next() == reader.position));
    assert!(asked.elapsed() >= Duration::from_secs(2));

    let away = crashed.elapsed();
    postgres.start_again();
    let back = Instant::now();
    let promised = load.so_far();
    until(|| clients.iter().all(is_ready) && load.so_far() > promised + 20);
    println!("away for {away:?}, well again after {:?}", back.elapsed());
    let promises = load.end();
    reader.catch_up();
    let history = History::check(&url);
    load::check(&promises, &history);
    reader.client = clients[1].clone();
    reader.catch_up();
    assert_eq!((reader.known, reader.snapshot_pages), (history.state, 1));
}
