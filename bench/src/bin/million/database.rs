//! The databases: imported once, and kept in `.keyward/bench` for later runs.

use keyward_core::dialect::Dialect;
use keyward_core::key::digest::Digest;
use keyward_harness::ports::ReservedPort;
use keyward_harness::{ControlPlane, Failure, Result, artifacts};
use serde_json::json;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The number of keys in the small database, with which requests are made.
pub(crate) const FIRST: usize = 1000;

/// Keys from this number on are revoked.
const REVOKED_FROM: usize = 900;

/// The owner of the revoked keys.
const FORMER_OWNER: &str = "former";

/// Incremented with every change of the databases' content.
const LAYOUT: u32 = 1;

static DIALECT: LazyLock<Dialect> =
    LazyLock::new(|| Dialect::built_in("keyward").and_then(std::result::Result::ok).expect("a dialect of that name"));

/// The nth key, derived from its number.
pub(crate) fn key(n: usize) -> String {
    let mut drawn = 0;
    let random = |bytes: &mut [u8]| {
        for chunk in bytes.chunks_mut(Digest::LENGTH) {
            drawn += 1;
            chunk.copy_from_slice(&Digest::of_key(format!("{n} {drawn}").as_bytes()).0[..chunk.len()]);
        }
        Ok::<_, Failure>(())
    };
    DIALECT.formats[0].issue(random).expect("no failure").expose().to_owned()
}

/// The expected status for the nth key, with either database: 200 or 401.
pub(crate) fn expected_status(n: usize) -> u16 {
    if n < REVOKED_FROM { 200 } else { 401 }
}

/// A key in no database.
pub(crate) fn unknown_key(n: usize) -> String {
    key(usize::MAX - n)
}

/// A row of an import; owners, plans and limits are distributed as in a service of some size.
pub(crate) fn row(n: usize, owner: Option<&str>) -> String {
    let of_many = format!("owner-{}", n % 1000);
    let owner = match owner {
        Some(owner) => owner,
        None if (REVOKED_FROM..FIRST).contains(&n) => FORMER_OWNER,
        None => &of_many,
    };
    let mut row = json!({
        "name": format!("key {n}"),
        "sha256": hex(&Digest::of_key(key(n).as_bytes())),
        "owner": owner,
        "environment": "live",
        "scopes": ["orders:read", "orders:write"],
    });
    match n % 4 {
        0 => row["plan"] = "pro".into(),
        1 => row["limits"] = json!(["1000/s"]),
        _ => {}
    }
    format!("{row}\n")
}

/// The directory of a database with the first `keys` keys, created if missing.
pub(crate) async fn with_keys(keys: usize) -> Result<PathBuf> {
    let dir = bench_dir().join(format!("keys-{keys}"));
    let made = dir.join(format!("made-{LAYOUT}"));
    if made.exists() {
        return Ok(dir);
    }
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", dir.display()));
    if dir.exists() {
        std::fs::remove_dir_all(&dir).map_err(failed)?;
    }
    std::fs::create_dir_all(&dir).map_err(failed)?;
    println!("importing {keys} keys into {}", dir.display());
    let started = Instant::now();
    let port = ReservedPort::new()?;
    let mut plane = ControlPlane::on(port.port(), &dir, "keyward", &dir.join("import.log"))?;
    plane.start().await?;
    begin(&plane).await?;
    import(&plane, 0..keys, None).await?;
    revoke_all(&plane, FORMER_OWNER).await?;
    plane.stop().await?;
    println!("imported in {:.1} s", started.elapsed().as_secs_f64());
    std::fs::write(made, "").map_err(failed)?;
    Ok(dir)
}

/// A copy of the small database, to be changed.
pub(crate) async fn small_copy(name: &str) -> Result<PathBuf> {
    let from = with_keys(FIRST).await?;
    let to = bench_dir().join(name);
    let failed = |error: std::io::Error| Failure::new(format!("{}: {error}", to.display()));
    if to.exists() {
        std::fs::remove_dir_all(&to).map_err(failed)?;
    }
    std::fs::create_dir_all(&to).map_err(failed)?;
    for file in std::fs::read_dir(&from).map_err(failed)? {
        let file = file.map_err(failed)?;
        std::fs::copy(file.path(), to.join(file.file_name())).map_err(failed)?;
    }
    Ok(to)
}

/// Imports rows with the command-line client, as an operator does.
pub(crate) async fn import(plane: &ControlPlane, rows: Range<usize>, owner: Option<&str>) -> Result<()> {
    let (url, data_dir) = (format!("http://{}", plane.address()), plane.data_dir().to_owned());
    let (count, owner) = (rows.len(), owner.map(str::to_owned));
    let importing = tokio::task::spawn_blocking(move || import_now(&url, &data_dir, rows, owner.as_deref()));
    let printed = importing.await.map_err(|error| Failure::new(error.to_string()))??;
    let expected = format!("imported {count}, skipped 0, failed 0");
    if printed.trim() == expected {
        Ok(())
    } else {
        Err(Failure::new(format!("expected {expected:?}, got {printed:?}")))
    }
}

fn import_now(url: &str, data_dir: &Path, rows: Range<usize>, owner: Option<&str>) -> Result<String> {
    let failed = |error: std::io::Error| Failure::new(format!("keyward keys import: {error}"));
    let mut command = Command::new(artifacts::keyward()?);
    command.args(["keys", "import", "-"]).env("KEYWARD_URL", url).env("KEYWARD_DATA_DIR", data_dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut importing = command.spawn().map_err(failed)?;
    let mut input = BufWriter::new(importing.stdin.take().ok_or_else(|| Failure::new("no standard input"))?);
    for n in rows {
        input.write_all(row(n, owner).as_bytes()).map_err(failed)?;
    }
    input.flush().map_err(failed)?;
    drop(input);
    let output = importing.wait_with_output().map_err(failed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Creates the plan that the rows name.
async fn begin(plane: &ControlPlane) -> Result<()> {
    let plan = json!({"limits": ["1000/s", "50000/min"]});
    expect_success("PUT /v1/plans/pro", &plane.api("PUT", "/v1/plans/pro", Some(&plan)).await?)
}

/// Revokes all keys of an owner.
pub(crate) async fn revoke_all(plane: &ControlPlane, owner: &str) -> Result<()> {
    let path = format!("/v1/owners/{owner}/revoke-keys");
    expect_success(&path, &plane.api("POST", &path, Some(&json!({}))).await?)
}

fn expect_success(what: &str, answer: &keyward_harness::Response) -> Result<()> {
    let fine = (200..300).contains(&answer.status);
    if fine { Ok(()) } else { Err(Failure::new(format!("{what}: {} {}", answer.status, answer.text()))) }
}

fn hex(digest: &Digest) -> String {
    digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The directory of databases, logs and results.
pub(crate) fn bench_dir() -> PathBuf {
    artifacts::root().join(".keyward/bench")
}

/// The deadline for slow steps on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);
