//! The way to PostgreSQL is encrypted where the URL wants it so, and never less than it wants.

use crate::database::{self, Postgres};
use crate::harness::{Client, Process, program, serve, stderr};
use serde_json::json;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

/// Lets the server speak TLS, with a certificate of its own for 127.0.0.1; returns that.
fn speak_tls(postgres: &Postgres) -> PathBuf {
    let dir = postgres.directory();
    let (certificate, key) = (dir.join("server.crt"), dir.join("server.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=keyward-test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .args([&key, &PathBuf::from("-out"), &certificate])
        .output()
        .expect("openssl is needed to make a certificate");
    assert!(made.status.success(), "{made:?}");
    // PostgreSQL accepts a key that its user alone can read.
    let user = std::fs::metadata(dir.join("data")).unwrap().uid();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    for file in [&certificate, &key] {
        chown(file, Some(user), None).unwrap();
    }
    postgres.run(&[
        &format!("ALTER SYSTEM SET ssl_cert_file = '{}'", certificate.display()),
        &format!("ALTER SYSTEM SET ssl_key_file = '{}'", key.display()),
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    ]);
    // A connection that began before it was read again would be a plain one.
    database::until_found(
        &postgres.url_of("postgres"),
        "SELECT count(*) FROM pg_settings WHERE name = 'ssl' AND setting = 'on'",
    );
    certificate
}

#[test]
fn every_connection_is_encrypted_and_a_certificate_of_nobody_known_is_a_refused_start() {
    let (postgres, dir) = (Postgres::own(), tempfile::tempdir().unwrap());
    let certificate = speak_tls(&postgres);
    let url = postgres.database();
    let verified = format!("{url}?sslmode=verify-full&sslrootcert={}", certificate.display());
    let server = Process::start_on(dir.path(), &verified);
    Client::new(&server.url, dir.path()).create(json!({"name": "a"}));
    // Those that write, read and listen.
    database::until_found(
        &url,
        "SELECT CASE WHEN count(*) >= 4 AND bool_and(ssl) THEN 1::bigint ELSE 0 END FROM pg_stat_ssl
         JOIN pg_stat_activity USING (pid) WHERE application_name = 'keyward' AND datname = current_database()",
    );
    let refused = serve(&mut program(), dir.path())
        .env("KEYWARD_DATABASE_URL", format!("{url}?sslmode=verify-full"))
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("certificate"), "{}", stderr(&refused));
}
