//! What becomes of an SQLite database when its disk, its files or the process's file descriptors fail.
//!
//! Full disks are small file systems of the test's own. Only root may mount them; elsewhere those tests are reported
//! as left out.

use crate::database;
use crate::harness::{Answer, Client, Process, Reader, program, serve, stderr, stdout, until};
use keyward_harness::left_out;
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn start(data_dir: &Path) -> Process {
    Process::start_command(serve(&mut program(), data_dir))
}

/// A start that fails, and how long that took.
fn refused_start(data_dir: &Path) -> (String, Duration) {
    let began = Instant::now();
    let output = serve(&mut program(), data_dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    (stderr(&output).to_owned(), began.elapsed())
}

fn end(mut process: Process) -> String {
    process.signal("TERM");
    assert!(process.wait().1);
    process.log()
}

fn names(client: &Client) -> Vec<String> {
    let listed = client.get("/v1/keys?limit=200").expect(200);
    listed["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap().to_owned()).collect()
}

fn create(client: &Client, name: &str) -> Answer {
    client.ask("POST", "/v1/keys", Some(json!({ "name": name })))
}

fn readiness(client: &Client) -> u16 {
    client.send("GET", "/readyz", None, None).status
}

fn problem(answer: &Answer) -> (u16, String) {
    let kind = answer.json()["type"].as_str().unwrap_or_default().to_owned();
    (answer.status, kind.trim_start_matches("urn:keyward:problem:").to_owned())
}

fn import(client: &Client, first: usize, rows: usize) -> Answer {
    let row = |n: usize| format!("{}\n", json!({"name": format!("imported {n}"), "sha256": format!("{n:064x}")}));
    let body: String = (first..first + rows).map(row).collect();
    let authorization = format!("Bearer {}", client.admin);
    let fields = [("authorization", authorization.as_str()), ("content-type", "application/x-ndjson")];
    client.send_with("POST", "/v1/keys/import", &fields, Some(body.into_bytes()))
}

/// A file system of some size.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, with the reason on standard error, where the test may not mount one.
    fn mount(mib: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m,mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        match mounted {
            Ok(mounted) if mounted.status.success() => Some(Self { dir }),
            _ => {
                left_out("full disks (unit)", "Linux, and root, who may mount a tmpfs");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = File::create(self.dir.path().join("fill")).unwrap();
        for piece in [vec![0; 1 << 20], vec![0; 1 << 12]] {
            while file.write_all(&piece).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.dir.path().join("fill")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.dir.path()).status());
    }
}

/// Copies what a start of the same server needs, without the index of the log, which recovery makes anew.
fn copy_state(from: &Path, to: &Path) {
    for name in ["keyward.db", "keyward.db-wal", "keyward.db-state", "admin-token", "edge-token", "pepper"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// The whole commit is in the WAL when the `-shm` file cannot grow for it, so the next start makes it.
#[test]
fn commit_that_recovery_would_make_is_not_called_unmade() {
    const FRAME_BYTES: u64 = 4096 + 24;
    /// As many frames as the first part of the index has room for.
    const FRAMES: u64 = 4062;
    let Some(disk) = SmallDisk::mount(48) else { return };
    let mut process = start(disk.path());
    let client = Client::new(&process.url, disk.path());
    let wal = disk.path().join("keyward.db-wal");
    let frames = || fs::metadata(&wal).unwrap().len() / FRAME_BYTES;
    let copy = tempfile::tempdir().unwrap();
    let refusal = database::with(&database::sqlite(disk.path()), async |reader| {
        // As long as this reads, the log is not begun anew.
        sqlx::raw_sql("BEGIN; SELECT count(*) FROM head").execute(&mut *reader).await?;
        let mut first = 0;
        while frames() < FRAMES - 200 {
            import(&client, first, 10).expect(200);
            first += 10;
        }
        // Room for the log, and none for its index.
        OpenOptions::new().append(true).open(&wal).unwrap().write_all(&vec![0; 2 << 20]).unwrap();
        disk.fill();
        let refusal = (0..200).find_map(|n| {
            let name = format!("n{n}");
            Some(create(&client, &name)).filter(|answer| answer.status != 201).map(|answer| (name, answer))
        });
        assert_eq!(readiness(&client), 503);
        process.kill();
        copy_state(disk.path(), copy.path());
        Ok(refusal)
    });
    let (name, answer) = refusal.expect("a change that fails");
    let process = start(copy.path());
    let is_made = names(&Client::new(&process.url, copy.path())).contains(&name);
    let (status, kind) = problem(&answer);
    assert_eq!(status, 503);
    assert!(kind == "outcome_unknown" || !is_made, "{kind}, and the change was made; {}", process.log_so_far());
    assert!(is_made, "the fault did not show");
}

#[test]
fn full_disk_is_not_ready_reads_go_on_and_it_passes() {
    let Some(disk) = SmallDisk::mount(12) else { return };
    let process = start(disk.path());
    let client = Client::new(&process.url, disk.path());
    let mut reader = Reader::new(client.clone());
    let made = client.create(json!({"name": "before"}));
    reader.catch_up();
    assert_eq!(readiness(&client), 200);
    disk.fill();
    until(|| readiness(&client) == 503);
    let refusal = import(&client, 0, 5000);
    assert_eq!((refusal.status, refusal.header("retry-after")), (503, "1"), "{}", refusal.json());
    assert_eq!(names(&client), ["before"]);
    assert!(Reader::new(client.clone()).read(0) && reader.record(&made["key"]).is_some());
    let answer = client.send("GET", "/readyz", None, None);
    assert!(answer.json()["detail"].as_str().unwrap().contains("disk is full"), "{}", answer.json());
    disk.make_room();
    until(|| readiness(&client) == 200);
    client.create(json!({"name": "after"}));
    until(|| process.log_so_far().contains("storage recovered; ready"));
    assert!(end(process).contains("not ready"));
}

/// Each of these changes adds some ten pages to the log, together several times what the disk has room for.
#[test]
fn steady_changes_do_not_fill_a_small_disk_with_the_log() {
    let Some(disk) = SmallDisk::mount(24) else { return };
    let process = start(disk.path());
    let clients: Vec<_> = (0..4).map(|_| Client::new(&process.url, disk.path())).collect();
    std::thread::scope(|scope| {
        for (number, client) in clients.iter().enumerate() {
            scope.spawn(move || {
                for limit in 1..=400 {
                    let plan = json!({"limits": [format!("{limit}/h")]});
                    let answer = client.ask("PUT", &format!("/v1/plans/plan-{number}"), Some(plan));
                    assert!(matches!(answer.status, 200 | 201), "{limit}: {}", answer.json());
                }
            });
        }
    });
    assert_eq!(readiness(&clients[0]), 200);
    end(process);
}

#[test]
fn full_disk_is_told_at_once_by_a_start() {
    let Some(disk) = SmallDisk::mount(4) else { return };
    // Whoever has tokens has had a start, or has put them there.
    end(start(disk.path()));
    disk.fill();
    let (said, took) = refused_start(disk.path());
    assert!(said.contains("disk of the data directory is full") || said.contains("No space left"), "{said}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn deleted_or_replaced_files_stop_acknowledgements() {
    let root = tempfile::tempdir().unwrap();
    let (dir, away) = (root.path().join("data"), root.path().join("away"));
    let process = start(&dir);
    let client = Client::new(&process.url, &dir);
    client.create(json!({"name": "before"}));
    let is_refused = |why: &str| {
        let answer = create(&client, "lost");
        assert_eq!(problem(&answer), (503, "unavailable".to_owned()), "{why}");
        assert_eq!(readiness(&client), 503, "{why}");
        assert_eq!(names(&client), ["before"], "{why}");
    };
    fs::rename(&dir, &away).unwrap();
    is_refused("the directory is away");
    fs::create_dir(&dir).unwrap();
    for name in ["keyward.db", "keyward.db-wal", "keyward.db-shm", "lock"] {
        fs::copy(away.join(name), dir.join(name)).unwrap();
    }
    is_refused("the directory was replaced");
    fs::remove_dir_all(&dir).unwrap();
    fs::rename(&away, &dir).unwrap();
    until(|| readiness(&client) == 200);
    for name in ["keyward.db", "keyward.db-wal", "lock"] {
        let (file, kept) = (dir.join(name), root.path().join("kept"));
        fs::rename(&file, &kept).unwrap();
        is_refused(name);
        fs::copy(&kept, &file).unwrap();
        is_refused(name);
        fs::rename(&kept, &file).unwrap();
        until(|| readiness(&client) == 200);
    }
    client.create(json!({"name": "after"}));
    let log = end(process);
    assert!(log.contains("was deleted while the server used it") && log.contains("was replaced"), "{log}");
}

#[test]
fn lost_or_emptied_database_is_refused_with_a_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("keyward.db");
    let process = start(dir.path());
    Client::new(&process.url, dir.path()).create(json!({"name": "a"}));
    end(process);
    let whole = fs::read(&database).unwrap();
    for lost in [None, Some(&b""[..])] {
        match lost {
            None => fs::remove_file(&database).unwrap(),
            Some(left) => fs::write(&database, left).unwrap(),
        }
        let (said, took) = refused_start(dir.path());
        assert!(said.contains("restore a backup") && said.contains("remove") && said.contains("-state"), "{said}");
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    // A database without tables.
    fs::remove_file(&database).unwrap();
    database::run(&format!("{}?mode=rwc", database::sqlite(dir.path())), &["CREATE TABLE t (c)", "DROP TABLE t"]);
    assert!(refused_start(dir.path()).0.contains("restore a backup"));
    fs::write(&database, &whole).unwrap();
    end(start(dir.path()));
    fs::remove_file(&database).unwrap();
    fs::remove_file(dir.path().join("keyward.db-state")).unwrap();
    let process = start(dir.path());
    assert!(names(&Client::new(&process.url, dir.path())).is_empty());
}

#[test]
fn file_that_is_not_our_database_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let process = start(dir.path());
    let client = Client::new(&process.url, dir.path());
    import(&client, 0, 500).expect(200);
    end(process);
    let database = dir.path().join("keyward.db");
    let whole = fs::read(&database).unwrap();
    let other = tempfile::tempdir().unwrap();
    let url = format!("{}?mode=rwc", database::sqlite(other.path()));
    database::run(&url, &["CREATE TABLE cars (c)"]);
    let foreign = fs::read(other.path().join("keyward.db")).unwrap();
    let mut garbled = whole.clone();
    garbled[100..4096].fill(0xff);
    let long_garbage = vec![7; 100_000];
    for (contents, expected) in [
        (&b"garbage"[..], "is not an SQLite database"),
        (&long_garbage, "is not an SQLite database"),
        (&foreign, "of another application"),
        (&whole[..whole.len() / 2], "is damaged or cut short"),
        (&garbled, "is damaged or cut short"),
    ] {
        fs::write(&database, contents).unwrap();
        let (said, took) = refused_start(dir.path());
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(took < Duration::from_secs(5), "{took:?}: {said}");
        assert_eq!(fs::read(&database).unwrap(), contents, "the file stays as it was");
    }
    // The other failures of a start.
    fs::write(&database, &whole).unwrap();
    let process = start(dir.path());
    let port = process.url.trim_start_matches("http://").to_owned();
    let free = tempfile::tempdir().unwrap();
    let taken = program().args(["serve", "--listen", &port, "--data-dir"]).arg(free.path()).output().unwrap();
    assert!(stderr(&taken).contains("in use"), "{}", stderr(&taken));
    let file = free.path().join("file");
    fs::write(&file, "").unwrap();
    let (said, _) = refused_start(&file.join("data"));
    assert!(said.contains("Not a directory"), "{said}");
}

/// Copies the database file alone, and looks for a key in the copy. A copy that is made during a checkpoint has pages of two
/// states and cannot be read, so it does not count.
fn copy_of_the_file_has(from: &Path, to: &Path, name: &'static str) -> bool {
    fs::copy(from.join("keyward.db"), to.join("keyward.db")).unwrap();
    database::with(&format!("{}?immutable=1", database::sqlite(to)), async |copy| {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM keys WHERE name = $1").bind(name);
        Ok(count.fetch_one(copy).await.unwrap_or_default())
    }) == 1
}

#[test]
fn copy_of_the_database_file_alone_has_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = start(dir.path());
    let client = Client::new(&process.url, dir.path());
    import(&client, 0, 100).expect(200);
    client.create(json!({"name": "last"}));
    let copy = tempfile::tempdir().unwrap();
    for name in ["admin-token", "edge-token", "pepper"] {
        fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    // Once nothing is written any more, that is soon so.
    until(|| copy_of_the_file_has(dir.path(), copy.path(), "last"));
    let of_copy = start(copy.path());
    assert!(of_copy.log_so_far().contains("write-ahead log (-wal) missing"), "{}", of_copy.log_so_far());
    assert!(end(of_copy).contains("listening"));
    // A copy that was closed is whole.
    assert!(!end(start(copy.path())).contains("(-wal) missing"));
    process.kill();
    assert!(!end(start(dir.path())).contains("(-wal) missing"), "a log that is there was read");
}

/// Changes that come without a break are copied into the database file every five seconds.
#[test]
fn copy_during_steady_writes_lacks_the_last_seconds_only() {
    let dir = tempfile::tempdir().unwrap();
    let process = start(dir.path());
    let client = Client::new(&process.url, dir.path());
    client.create(json!({"name": "first"}));
    let copied = std::sync::atomic::AtomicBool::new(false);
    let copy = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let stop = Stop(&copied);
            until(|| copy_of_the_file_has(dir.path(), copy.path(), "first"));
            drop(stop);
        });
        let mut limit = 0;
        while !copied.load(std::sync::atomic::Ordering::Relaxed) {
            limit += 1;
            client.ask("PUT", "/v1/plans/pro", Some(json!({"limits": [format!("{limit}/h")]})));
        }
    });
    end(process);
}

/// Sets the flag when it is dropped, so that a test that fails ends, too.
struct Stop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn lost_or_damaged_log_is_told_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = start(dir.path());
    let client = Client::new(&process.url, dir.path());
    for n in 0..20 {
        client.create(json!({"name": format!("n{n}")}));
    }
    process.kill();
    let (damaged, lost) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for copy in [&damaged, &lost] {
        copy_state(dir.path(), copy.path());
    }
    let wal = damaged.path().join("keyward.db-wal");
    let mut bytes = fs::read(&wal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&wal, bytes).unwrap();
    let log = end(start(damaged.path()));
    assert!(log.contains("is damaged at frame") && log.contains("commits after it are ignored"), "{log}");

    fs::remove_file(lost.path().join("keyward.db-wal")).unwrap();
    fs::write(lost.path().join("keyward.db-state"), state_at(lost.path(), 1000)).unwrap();
    let log = end(start(lost.path()));
    assert!(log.contains("write-ahead log (-wal) missing") && log.contains("committed changes missing"), "{log}");
}

/// The state file as it would be at that change.
fn state_at(data_dir: &Path, sequence: u64) -> String {
    let mut state: Value = serde_json::from_slice(&fs::read(data_dir.join("keyward.db-state")).unwrap()).unwrap();
    state["sequence"] = sequence.into();
    state.to_string()
}

fn backup(data_dir: &Path, arguments: &[&str], file: &Path) -> Output {
    program().arg("backup").args(arguments).arg("--data-dir").arg(data_dir).arg(file).output().unwrap()
}

#[test]
fn backup_of_a_running_server_is_complete_private_and_restorable() {
    let dir = tempfile::tempdir().unwrap();
    let process = start(dir.path());
    let client = Client::new(&process.url, dir.path());
    import(&client, 0, 100).expect(200);
    client.create(json!({"name": "kept"}));
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("backup.db");
    let made = backup(dir.path(), &[], &file);
    assert!(made.status.success(), "{}", stderr(&made));
    assert!(stdout(&made).contains("bytes"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 1, "nothing else is left");
    let again = backup(dir.path(), &[], &file);
    assert!(!again.status.success() && stderr(&again).contains("--overwrite"), "{}", stderr(&again));
    client.create(json!({"name": "also kept"}));
    let again = backup(dir.path(), &["--overwrite"], &file);
    assert!(again.status.success(), "{}", stderr(&again));
    let own = backup(dir.path(), &["--overwrite"], &dir.path().join("keyward.db"));
    assert!(!own.status.success() && stderr(&own).contains("of the database itself"), "{}", stderr(&own));
    let none = backup(target.path(), &[], &target.path().join("other"));
    assert!(!none.status.success() && stderr(&none).contains("--data-dir"), "{}", stderr(&none));
    let mut postgres = program();
    postgres.env("KEYWARD_DATABASE_URL", "postgres://a:b@c/d").arg("backup").arg(target.path().join("other"));
    assert!(stderr(&postgres.output().unwrap()).contains("pg_dump"));
    client.create(json!({"name": "later"}));
    end(process);

    fs::rename(&file, dir.path().join("keyward.db")).unwrap();
    let process = start(dir.path());
    let restored = names(&Client::new(&process.url, dir.path()));
    assert!(restored.contains(&"kept".to_owned()) && restored.contains(&"also kept".to_owned()));
    assert!(!restored.contains(&"later".to_owned()));
    let log = end(process);
    assert!(log.contains("committed changes missing"), "{log}");
    assert!(!log.contains("-wal) missing"), "{log}");
}

#[test]
fn files_that_others_can_use_become_private_and_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = start(dir.path());
    process.kill();
    let files = ["keyward.db", "keyward.db-wal", "keyward.db-shm", "lock"].map(|name| dir.path().join(name));
    for (n, file) in files.iter().enumerate() {
        fs::set_permissions(file, Permissions::from_mode(if n % 2 == 0 { 0o666 } else { 0o644 })).unwrap();
    }
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    let process = start(dir.path());
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let log = end(process);
    assert_eq!(log.matches("changed its mode to 600").count(), files.len(), "{log}");
    assert!(log.contains("data directory is writable by others"), "{log}");
}

/// A program that can write nowhere but where it is told to. `None` where the test may not make it so.
fn confined(work: &Path) -> Option<Command> {
    let script =
        "mount -t tmpfs -o ro tmpfs /var/tmp && mount -t tmpfs -o ro tmpfs /tmp && cd /tmp && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]);
    let mut probe = Command::new("unshare");
    let probe = probe.args(["--mount", "sh", "-c", script, "true"]).current_dir(work).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        left_out("a read-only root (unit)", "Linux, and root, who may mount file systems");
        return None;
    }
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KEYWARD_")) {
        command.env_remove(name);
    }
    command.env_remove("TMPDIR").arg(program().get_program());
    Some(command)
}

#[test]
fn only_the_data_directory_needs_to_be_writable() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (Some(mut of_server), Some(mut of_relay)) = (confined(root.path()), confined(root.path())) else { return };
    let dir: PathBuf = root.path().join("data");
    let process = Process::start_command(serve(&mut of_server, &dir));
    let client = Client::new(&process.url, &dir);
    import(&client, 0, 50).expect(200);
    import(&client, 1000, 15_000).expect(200);
    let relay_dir = root.path().join("relay");
    let token = dir.join("edge-token");
    of_relay.args(["relay", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&relay_dir);
    of_relay.args(["--upstream", &process.url, "--upstream-token-file"]).arg(&token);
    let relay = Process::start_command(&mut of_relay);
    let is_ready = || {
        let answer = ureq::get(format!("{}/readyz", relay.url)).config().http_status_as_error(false).build().call();
        answer.is_ok_and(|answer| answer.status() == 200)
    };
    let began = Instant::now();
    while !is_ready() {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", relay.log_so_far());
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn without_file_descriptors_changes_are_a_503_or_made() {
    let dir = tempfile::tempdir().unwrap();
    let process = start(dir.path());
    let client = Client::new(&process.url, dir.path());
    let key = client.create(json!({"name": "a"}));
    let id = key["id"].as_str().unwrap();
    let pid = process.id().to_string();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // One more, for a connection.
    let limit = |most: String| {
        let status = Command::new("prlimit").arg(format!("--nofile={most}:")).args(["--pid", &pid]).status();
        assert!(status.unwrap().success());
    };
    limit((open + 1).to_string());
    let answers = [
        client.ask("POST", &format!("/v1/keys/{id}/rotate"), Some(json!({}))),
        import(&client, 0, 200),
        create(&client, "b"),
        client.get("/v1/keys"),
        client.get("/v1/audit"),
        client.ask("DELETE", &format!("/v1/keys/{id}"), None),
        client.send("GET", "/readyz", None, None),
    ];
    for answer in answers {
        assert!(answer.status < 300 || answer.status == 503, "{}: {}", answer.status, answer.json());
        if answer.status == 503 {
            assert!(!answer.header("retry-after").is_empty());
        }
    }
    // With none left connections wait, and no processor time goes into asking for them again and again.
    limit(open.to_string());
    let waiting = std::net::TcpStream::connect(process.url.trim_start_matches("http://")).unwrap();
    let before = process.resources();
    std::thread::sleep(Duration::from_secs(2));
    let after = process.resources();
    let seconds = |said: &str| said.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap();
    assert!(seconds(&after) <= seconds(&before) + 1, "{before}; {after}");
    limit("1024".to_owned());
    drop(waiting);
    until(|| readiness(&client) == 200);
}

/// The most memory that the process has had, in KiB.
fn peak_kib(process: &Process) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn memory_of_an_import_does_not_grow_with_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let process = start(dir.path());
    let client = Client::new(&process.url, dir.path());
    let start_kib = peak_kib(&process);
    // As many as the changes that are kept in memory for edges.
    import(&client, 0, 66_000).expect(200);
    let first_kib = peak_kib(&process);
    import(&client, 1_000_000, 66_000).expect(200);
    let second_kib = peak_kib(&process);
    println!("VmHWM: {start_kib} KiB at the start, {first_kib} after 66,000 rows, {second_kib} after as many more");
    assert!(second_kib < first_kib + (48 << 10), "{first_kib} KiB, then {second_kib} KiB");
    assert!(second_kib < start_kib + (200 << 10), "{start_kib} KiB, then {second_kib} KiB");
}
