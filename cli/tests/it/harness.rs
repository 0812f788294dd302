//! A server inside the test, a server as a process of its own, and a reader of the feed that keeps what it reads.

use crate::database;
use keyward_core::dialect::Dialect;
use keyward_core::key::digest::Digest;
use keyward_core::key::secret::Secret;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::entry::{Body, Frames, KeyRecord};
use keyward_core::wire::page::{Extent, Page};
use keyward_core::{FEED_MEDIA_TYPE, FEED_PATH, MAX_PAGE_BYTES};
use keyward_server::auth::tokens::file::{Audience, Tokens};
use keyward_server::clock::Timestamp;
use keyward_server::console::ConsoleConfig;
use keyward_server::keys::leaks::Leaks;
use keyward_server::serve::{Config, RETENTION_INTERVAL, Server};
use keyward_server::store::{AuditQuery, Location, RETENTION, Store};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use ureq::http::Request;

/// How long anything may take that should be immediate.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) const NOW_MS: u64 = 1_800_000_000_000;

pub(crate) fn seconds(seconds: u64) -> u64 {
    seconds * 1000
}

/// A server inside the test, whose clock the test sets.
pub(crate) struct TestServer {
    pub(crate) address: String,
    pub(crate) now_ms: Arc<AtomicU64>,
    data_dir: PathBuf,
    tokens: Arc<Tokens>,
    leaks: Arc<Leaks>,
    runtime: Runtime,
    end: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

impl TestServer {
    pub(crate) fn start(data_dir: &Path) -> Self {
        Self::start_at(data_dir, NOW_MS)
    }

    pub(crate) fn start_at(data_dir: &Path, now_ms: u64) -> Self {
        Self::start_with(data_dir, now_ms, RETENTION_INTERVAL)
    }

    pub(crate) fn start_with(data_dir: &Path, now_ms: u64, retention_interval: Duration) -> Self {
        Self::start_as(data_dir, now_ms, |config| config.retention_interval = retention_interval)
    }

    pub(crate) fn start_with_leaks(data_dir: &Path, leaks: Leaks) -> Self {
        Self::start_as(data_dir, NOW_MS, |config| config.leaks = leaks)
    }

    /// One of several servers on a PostgreSQL database.
    pub(crate) fn start_on(data_dir: &Path, database_url: &str) -> Self {
        Self::start_as(data_dir, NOW_MS, |config| config.database_url = Some(Secret::new(database_url.to_owned())))
    }

    /// A server of keys as that dialect has them.
    pub(crate) fn start_of(dialect: &str, data_dir: &Path, now_ms: u64, retention_interval: Duration) -> Self {
        Self::start_as(data_dir, now_ms, |config| {
            config.dialect = Dialect::built_in(dialect).unwrap().unwrap();
            config.retention_interval = retention_interval;
        })
    }

    /// One that runs in another way than usual.
    pub(crate) fn start_as(data_dir: &Path, now_ms: u64, change: impl FnOnce(&mut Config)) -> Self {
        let runtime = Runtime::new().unwrap();
        let now_ms = Arc::new(AtomicU64::new(now_ms));
        let clock = Arc::clone(&now_ms);
        let mut config = Config {
            listen: "127.0.0.1:0".to_owned(),
            data_dir: data_dir.to_owned(),
            database_url: database::of_directory(data_dir).map(Secret::new),
            dialect: Dialect::built_in("keyward").unwrap().unwrap(),
            leaks: Leaks::default(),
            clock: Arc::new(move || Timestamp::from_ms(clock.load(Ordering::Relaxed))),
            retention: RETENTION,
            retention_interval: RETENTION_INTERVAL,
            usage_interval: Duration::from_secs(5),
            max_verifications: NonZeroUsize::MIN,
            trusted_proxies: Vec::new(),
            self_service: None,
            console: Some(ConsoleConfig::default()),
        };
        change(&mut config);
        let server = runtime.block_on(Server::start(config)).unwrap();
        let address = format!("http://{}", server.address());
        let (tokens, leaks) = (server.tokens(), server.leaks());
        let (end, ended) = oneshot::channel();
        let running = runtime.spawn(server.run(async { drop(ended.await) }));
        let (end, running) = (Some(end), Some(running));
        Self { address, now_ms, data_dir: data_dir.to_owned(), tokens, leaks, runtime, end, running }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.address, &self.data_dir)
    }

    /// Reads the files of tokens and of GitHub's keys again, as a SIGHUP has a server do.
    pub(crate) fn reload(&self) {
        for audience in Audience::ALL {
            self.tokens.reload(audience).unwrap();
        }
        if let Some(keys) = &self.leaks.github_keys {
            keys.reload().unwrap();
        }
    }

    pub(crate) fn advance(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    pub(crate) fn stop(mut self) {
        drop(self.end.take());
        self.runtime.block_on(self.running.take().unwrap()).unwrap();
    }
}

/// The default dialect, of whose keys the first eight characters behind the prefix are a selector.
pub(crate) fn dialect_with_selectors() -> String {
    let mut dialect: Value = serde_json::from_str(include_str!("../../../core/dialects/keyward.json")).unwrap();
    for format in dialect["keys"].as_array_mut().unwrap() {
        format["selector"] = 8.into();
    }
    dialect.to_string()
}

/// Whoever talks to a server, with both tokens.
#[derive(Clone)]
pub(crate) struct Client {
    agent: ureq::Agent,
    pub(crate) url: String,
    pub(crate) admin: String,
    pub(crate) edge: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The document, if the status is the expected one.
    pub(crate) fn expect(self, status: u16) -> Value {
        let document = self.json();
        assert_eq!(self.status, status, "{document}");
        document
    }
}

impl Client {
    pub(crate) fn new(url: &str, data_dir: &Path) -> Self {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).max_idle_connections(0);
        let token = |file| std::fs::read_to_string(data_dir.join(file)).unwrap().trim().to_owned();
        let (admin, edge) = (token("admin-token"), token("edge-token"));
        Self { agent: config.build().new_agent(), url: url.to_owned(), admin, edge }
    }

    /// One that shows these tokens to another server.
    pub(crate) fn at(&self, url: &str, edge: &str) -> Self {
        Self { url: url.to_owned(), edge: edge.to_owned(), ..self.clone() }
    }

    pub(crate) fn send(&self, method: &str, path: &str, token: Option<&str>, body: Option<Vec<u8>>) -> Answer {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let fields: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        self.send_with(method, path, &fields, body)
    }

    /// Sends a request with these header fields.
    pub(crate) fn send_with(&self, method: &str, path: &str, fields: &[(&str, &str)], body: Option<Vec<u8>>) -> Answer {
        self.try_send_with(method, path, fields, body).unwrap()
    }

    /// The answer, unless the server goes away before it is complete.
    pub(crate) fn try_send_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, ureq::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let answer = match body {
            Some(body) => self.agent.run(request.body(body).unwrap()),
            None => self.agent.run(request.body(()).unwrap()),
        };
        let mut answer = answer?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Ok(Answer { status, headers, body: answer.body_mut().read_to_vec()? })
    }

    /// As [`Self::ask`], of a server that may go away.
    pub(crate) fn try_ask(&self, method: &str, path: &str, document: Option<Value>) -> Option<Answer> {
        let body = document.map(|document| document.to_string().into_bytes());
        let authorization = format!("Bearer {}", self.admin);
        self.try_send_with(method, path, &[("authorization", authorization.as_str())], body).ok()
    }

    pub(crate) fn ask(&self, method: &str, path: &str, document: Option<Value>) -> Answer {
        self.send(method, path, Some(&self.admin), document.map(|document| document.to_string().into_bytes()))
    }

    /// The same with further headers.
    pub(crate) fn ask_with(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        document: Option<Value>,
    ) -> Answer {
        let authorization = format!("Bearer {}", self.admin);
        let mut fields = vec![("authorization", authorization.as_str())];
        fields.extend_from_slice(headers);
        self.send_with(method, path, &fields, document.map(|document| document.to_string().into_bytes()))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None)
    }

    pub(crate) fn create(&self, document: Value) -> Value {
        self.ask("POST", "/v1/keys", Some(document)).expect(201)
    }

    pub(crate) fn feed(&self, position: Position, wait_s: u32) -> Vec<u8> {
        self.try_feed(position, wait_s).expect("a server that stays")
    }

    /// A page of a server that may go away, or lose its database.
    pub(crate) fn try_feed(&self, position: Position, wait_s: u32) -> Option<Vec<u8>> {
        let path = format!("{FEED_PATH}?after={position}&wait={wait_s}");
        let authorization = format!("Bearer {}", self.edge);
        let answer = self.try_send_with("GET", &path, &[("authorization", authorization.as_str())], None).ok()?;
        if answer.status == 503 {
            return None;
        }
        assert_eq!((answer.status, answer.header("content-type")), (200, FEED_MEDIA_TYPE));
        assert!(answer.body.len() <= MAX_PAGE_BYTES);
        Some(answer.body)
    }
}

/// An edge: follows the feed and knows what it was told.
pub(crate) struct Reader {
    pub(crate) client: Client,
    pub(crate) position: Position,
    pub(crate) known: BTreeMap<Digest, (u64, Body)>,
    pub(crate) snapshot_pages: usize,
}

impl Reader {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, position: Position::Nothing, known: BTreeMap::new(), snapshot_pages: 0 }
    }

    /// Reads until there is nothing new.
    pub(crate) fn catch_up(&mut self) {
        while self.read(0) {}
    }

    /// Reads one page; whether there was anything in it.
    pub(crate) fn read(&mut self, wait_s: u32) -> bool {
        let bytes = self.client.feed(self.position, wait_s);
        self.apply(&bytes)
    }

    /// Takes a page; whether there was anything in it.
    pub(crate) fn apply(&mut self, bytes: &[u8]) -> bool {
        let page = Page::decode(bytes).unwrap();
        if let Extent::Snapshot { end } = page.extent {
            let start = page.start();
            self.snapshot_pages += 1;
            self.known.retain(|subject, _| *subject < start || end.is_some_and(|end| *subject >= end));
        }
        for frame in Frames::new(page.entries) {
            let frame = frame.unwrap();
            match frame.decode().unwrap() {
                Body::Removed => drop(self.known.remove(&frame.subject)),
                body => drop(self.known.insert(frame.subject, (frame.version, body))),
            }
        }
        let news = page.next() != self.position;
        self.position = page.next();
        news
    }

    /// What is known of a plaintext key.
    pub(crate) fn record(&self, key: &Value) -> Option<&KeyRecord> {
        match self.known.get(&Digest::of_key(key.as_str().unwrap().as_bytes())) {
            Some((_, Body::Key(record))) => Some(record),
            Some(other) => panic!("a key leads to {other:?}"),
            None => None,
        }
    }
}

/// The path of a key.
pub(crate) fn path_of(key: &Value) -> String {
    format!("/v1/keys/{}", key["id"].as_str().unwrap())
}

/// Where the mistakes are of which a problem document tells.
pub(crate) fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect()
}

/// The program as a process of its own.
pub(crate) struct Process {
    pub(crate) url: String,
    child: Child,
    log: Arc<Mutex<String>>,
    reading: Option<std::thread::JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(data_dir: &Path, log_level: &str) -> Self {
        Self::start_with(data_dir, log_level, &[])
    }

    /// With these arguments as well.
    pub(crate) fn start_with(data_dir: &Path, log_level: &str, arguments: &[&str]) -> Self {
        let mut command = program();
        if let Some(url) = database::of_directory(data_dir) {
            command.env("KEYWARD_DATABASE_URL", url);
        }
        Self::start_command(serve(&mut command, data_dir).args(arguments).env("RUST_LOG", log_level))
    }

    /// One of several servers on a PostgreSQL database.
    pub(crate) fn start_on(data_dir: &Path, database_url: &str) -> Self {
        Self::start_command(serve(&mut program(), data_dir).env("KEYWARD_DATABASE_URL", database_url))
    }

    /// Starts it by a command whose process becomes the server.
    pub(crate) fn start_command(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (tell, told) = mpsc::channel();
        let (lines, kept) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        let reading = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, address)) = line.split_once("listening address=") {
                    drop(tell.send(address.trim().to_owned()));
                }
                *kept.lock().unwrap() += &(line + "\n");
            }
        });
        let address = told.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("no start: {}", log.lock().unwrap()));
        Self { url: format!("http://{address}"), child, log, reading: Some(reading) }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// The processor time and the memory that it has taken.
    pub(crate) fn resources(&self) -> String {
        let read = |file| std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let status = read("status");
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        // The fields behind the name, which stands in parentheses (proc_pid_stat(5)): utime and stime are 14 and 15.
        let stat = read("stat");
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().unwrap()).sum();
        format!("the server took {} s of processor time; {peak}", ticks / 100)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the end, and tells how long it took and whether it was a good one.
    pub(crate) fn wait(&mut self) -> (Duration, bool) {
        let started = Instant::now();
        while started.elapsed() < DEADLINE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (started.elapsed(), status.success());
            }
            std::thread::yield_now();
        }
        panic!("it does not end");
    }

    /// What was logged until now.
    pub(crate) fn log_so_far(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// All that was logged; only once the process has ended is it all.
    pub(crate) fn log(&mut self) -> String {
        if let Some(reading) = self.reading.take() {
            reading.join().unwrap();
        }
        self.log.lock().unwrap().clone()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The arguments to serve on any port.
pub(crate) fn serve<'a>(command: &'a mut Command, data_dir: &Path) -> &'a mut Command {
    command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir)
}

/// The program, in an environment that says nothing about any other server.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KEYWARD_")) {
        command.env_remove(name);
    }
    command
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Waits for the condition.
pub(crate) fn until(mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < DEADLINE, "it does not come to pass");
        std::thread::yield_now();
    }
}

/// Changes the database of a server that runs, in a way that no route does.
pub(crate) fn change_database(data_dir: &Path, change: &str) {
    let url = database::of_directory(data_dir).unwrap_or_else(|| database::sqlite(data_dir));
    database::run(&url, &[change]);
}

/// The audit log of a server that has ended, the newest first: who did what, to what.
pub(crate) fn audited(data_dir: &Path) -> Vec<String> {
    let location = match database::of_directory(data_dir) {
        Some(url) => Location::Postgres(Secret::new(url)),
        None => Location::Directory(data_dir.to_owned()),
    };
    let entries = Runtime::new().unwrap().block_on(async {
        let store = Store::open(&location).await.unwrap();
        store.audit(&AuditQuery { limit: 100, ..AuditQuery::default() }).await.unwrap().items
    });
    entries.iter().map(|entry| format!("{} {} {}", entry.actor, entry.action, entry.subject)).collect()
}

/// Makes every look-up of a token fail.
pub(crate) fn hide_tokens(data_dir: &Path) {
    change_database(data_dir, "ALTER TABLE tokens RENAME TO tokens_away");
}

/// Every byte of every file in a directory. What a running server makes and removes there may be gone once it was seen.
pub(crate) fn contents(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for file in std::fs::read_dir(dir).unwrap() {
        match std::fs::File::open(file.unwrap().path()) {
            Ok(mut file) => drop(file.read_to_end(&mut bytes).unwrap()),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}"),
        }
    }
    bytes
}

pub(crate) fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
