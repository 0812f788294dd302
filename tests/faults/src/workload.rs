//! Clients without pauses: each creates, imports, rotates, revokes and sets a plan, on keys that only it changes, and
//! reports the responses to the oracle.

use crate::oracle::{During, Oracle, Outcome, Secret};
use keyward_core::key::digest::Digest;
use keyward_harness::{Request, Response, http};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockWriteGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The timeout of a request.
const PATIENCE: Duration = Duration::from_secs(4);

/// The number of retries with the same Idempotency-Key if the outcome is unknown.
const RETRIES: u32 = 2;

/// The pause between two changes of a client, so that databases stay small and refusals are not repeated at once.
const PAUSE: Duration = Duration::from_millis(3);

/// The number of keys that a client changes at a time, and of rotations per key.
const KEYS: usize = 20;
const ROTATIONS: u32 = 3;

/// State shared by the clients.
#[derive(Debug)]
pub struct Shared {
    /// The responses.
    oracle: Mutex<Oracle>,
    /// The number of responses by status that no client may receive: a 5xx other than 503.
    unexpected: Mutex<BTreeMap<String, u64>>,
    /// Read-locked during each change, and write-locked to pause them.
    quiet: RwLock<()>,
    token: String,
}

/// The clients, until stopped.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    end: watch::Sender<bool>,
    clients: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Starts one client per address.
    pub fn start(addresses: &[SocketAddr], token: &str, rng: &mut fastrand::Rng) -> Self {
        let shared = Arc::new(Shared {
            oracle: Mutex::default(),
            unexpected: Mutex::default(),
            quiet: RwLock::default(),
            token: token.to_owned(),
        });
        let (end, ended) = watch::channel(false);
        let clients = addresses.iter().enumerate().map(|(number, address)| {
            let client = Client {
                number,
                address: *address,
                rng: rng.fork(),
                shared: Arc::clone(&shared),
                keys: Vec::new(),
                made: 0,
            };
            tokio::spawn(client.run(ended.clone()))
        });
        let clients = clients.collect();
        Self { shared, end, clients }
    }

    /// The oracle with the responses so far.
    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.shared.oracle)
    }

    /// The responses that no client may receive.
    pub fn unexpected(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.unexpected).clone()
    }

    /// Waits until no change is in flight, and blocks new ones while the guard is held.
    pub async fn quiet(&self) -> RwLockWriteGuard<'_, ()> {
        self.shared.quiet.write().await
    }

    /// Stops all clients.
    ///
    /// # Panics
    /// If one of them panicked.
    pub async fn end(self) {
        let _ = self.end.send(true);
        for client in self.clients {
            client.await.expect("a client that does not panic");
        }
    }
}

struct Client {
    number: usize,
    address: SocketAddr,
    rng: fastrand::Rng,
    shared: Arc<Shared>,
    /// Acknowledged keys: name, id, rotations.
    keys: Vec<(String, String, u32)>,
    made: u64,
}

impl Client {
    async fn run(mut self, ended: watch::Receiver<bool>) {
        let shared = Arc::clone(&self.shared);
        while !*ended.borrow() {
            {
                let _changing = shared.quiet.read().await;
                match self.rng.u8(..10) {
                    0..=3 => self.create().await,
                    4..=5 => self.rotate().await,
                    6..=7 => self.revoke().await,
                    8 => self.set_plan().await,
                    _ => self.import().await,
                }
            }
            sleep(PAUSE).await;
        }
    }

    async fn create(&mut self) {
        let name = self.name();
        let body = json!({"name": name, "owner": format!("owner-{}", self.number)});
        let request = Request::new("POST", "/v1/keys").json(&body);
        let (outcome, answer) = self.repeatable(request).await;
        let secret = answer.map(|answer| handed_out(&answer));
        if let Some(secret) = &secret {
            let (id, _) = secret.ids.clone().unwrap_or_default();
            self.keys.push((name.clone(), id, 0));
            if self.keys.len() > KEYS {
                self.keys.remove(0);
            }
        }
        self.oracle().created(&name, outcome, secret);
    }

    async fn rotate(&mut self) {
        let Some(at) = self.any_key() else { return };
        let (name, id, rotations) = &mut self.keys[at];
        *rotations += 1;
        let (name, last) = (name.clone(), *rotations >= ROTATIONS);
        let request = Request::new("POST", &format!("/v1/keys/{id}/rotate"));
        if last {
            self.keys.remove(at);
        }
        let (outcome, answer) = self.repeatable(request).await;
        self.oracle().rotated(&name, outcome, answer.map(|answer| handed_out(&answer)));
    }

    async fn revoke(&mut self) {
        let Some(at) = self.any_key() else { return };
        let (name, id, _) = self.keys.remove(at);
        let (outcome, _) = self.send(Request::new("DELETE", &format!("/v1/keys/{id}"))).await;
        self.oracle().revoked(&name, outcome);
    }

    async fn set_plan(&mut self) {
        self.made += 1;
        let (plan, limit) = (format!("plan-{}", self.number), self.made);
        let begin = self.oracle().run();
        let body = json!({"limits": [format!("{limit}/h")]});
        let (outcome, _) = self.send(Request::new("PUT", &format!("/v1/plans/{plan}")).json(&body)).await;
        let mut oracle = self.oracle();
        let during = During { begin, end: oracle.run() };
        oracle.plan_set(&plan, limit, outcome, during);
    }

    /// Imports a few rows in one transaction.
    async fn import(&mut self) {
        let rows: Vec<_> = (0..self.rng.usize(1..=20)).map(|_| (self.name(), self.rng.u128(..))).collect();
        let digest = |secret: u128| Digest::of_key(secret.to_string().as_bytes());
        let body: String = rows
            .iter()
            .map(|(name, secret)| format!("{}\n", json!({"name": name, "sha256": hex::encode(digest(*secret).0)})))
            .collect();
        let request = Request::new("POST", "/v1/keys/import")
            .header("content-type", "application/x-ndjson")
            .body(body.into_bytes());
        let (mut outcome, answer) = self.send(request).await;
        if answer.is_some_and(|report| report["imported"] != rows.len()) {
            outcome = Outcome::Unknown;
        }
        let mut oracle = self.oracle();
        for (name, secret) in rows {
            let secret = (outcome == Outcome::Made).then(|| Secret { ids: None, digest: digest(secret) });
            oracle.created(&name, outcome, secret);
        }
    }

    /// Sends a request that is repeatable with its Idempotency-Key, and sometimes repeats it if the outcome is unknown.
    async fn repeatable(&mut self, request: Request) -> (Outcome, Option<Value>) {
        let request = request.header("idempotency-key", format!("{:032x}", self.rng.u128(..)));
        let first = self.send(request.clone()).await;
        if first.0 != Outcome::Unknown || self.rng.bool() {
            return first;
        }
        for _ in 0..RETRIES {
            sleep(Duration::from_millis(200)).await;
            let again = self.send(request.clone()).await;
            // A different refusal says nothing about the first request.
            if again.0 == Outcome::Made {
                return again;
            }
        }
        first
    }

    async fn send(&self, request: Request) -> (Outcome, Option<Value>) {
        let what = request.clone();
        let request = request.bearer(&self.shared.token);
        match timeout(PATIENCE, http::send(self.address, &request)).await {
            Ok(Ok(answer)) => self.outcome(&what, &answer),
            Ok(Err(_)) | Err(_) => (Outcome::Unknown, None),
        }
    }

    fn outcome(&self, request: &Request, answer: &Response) -> (Outcome, Option<Value>) {
        let kind = || match serde_json::from_slice::<Value>(&answer.body) {
            Ok(problem) => problem["type"].as_str().unwrap_or_default().to_owned(),
            Err(_) => String::new(),
        };
        match answer.status {
            200..300 => match serde_json::from_slice(&answer.body) {
                Ok(body) => (Outcome::Made, Some(body)),
                Err(_) => (Outcome::Unknown, None),
            },
            503 if kind().ends_with(":outcome_unknown") => (Outcome::Unknown, None),
            400..500 | 503 => (Outcome::NotMade, None),
            status => {
                let kind_of_answer = format!("{} answered with {status} {}", request.method(), kind());
                *lock(&self.shared.unexpected).entry(kind_of_answer).or_default() += 1;
                (Outcome::Unknown, None)
            }
        }
    }

    fn oracle(&self) -> MutexGuard<'_, Oracle> {
        lock(&self.shared.oracle)
    }

    fn any_key(&mut self) -> Option<usize> {
        (!self.keys.is_empty()).then(|| self.rng.usize(..self.keys.len()))
    }

    fn name(&mut self) -> String {
        self.made += 1;
        format!("client-{}-{}", self.number, self.made)
    }
}

/// The secret in the response to a creation or a rotation: the newest.
fn handed_out(answer: &Value) -> Secret {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let secret = answer["secrets"].as_array().and_then(|secrets| secrets.last()).unwrap_or(&Value::Null);
    Secret {
        ids: Some((text(&answer["id"]), text(&secret["id"]))),
        digest: Digest::of_key(text(&answer["key"]).as_bytes()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
