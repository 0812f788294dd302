//! Writers that never rest, and remember exactly what they were promised.

use crate::harness::Client;
use crate::history::History;
use keyward_core::key::digest::Digest;
use keyward_core::wire::entry::Body;
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};

/// What was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promise {
    /// The key's digest.
    pub(crate) digest: Digest,
    /// Whether its revocation was acknowledged too.
    pub(crate) revoked: bool,
}

/// Writers at work.
pub(crate) struct Load {
    ended: Arc<AtomicBool>,
    promises: Arc<Mutex<Vec<Promise>>>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// One writer for each list of clients; it goes on with the next client where one does not answer.
    pub(crate) fn start(writers: Vec<Vec<Client>>) -> Self {
        let (ended, promises) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let writers = writers
            .into_iter()
            .map(|clients| {
                let (ended, promises) = (Arc::clone(&ended), Arc::clone(&promises));
                spawn(move || write(&clients, &ended, &promises))
            })
            .collect();
        Self { ended, promises, writers }
    }

    /// How much was acknowledged so far.
    pub(crate) fn so_far(&self) -> usize {
        self.promises.lock().unwrap().len()
    }

    /// Waits for the last answers, and tells what was acknowledged.
    pub(crate) fn end(self) -> Vec<Promise> {
        self.ended.store(true, Ordering::Relaxed);
        self.writers.into_iter().for_each(|writer| writer.join().unwrap());
        std::mem::take(&mut self.promises.lock().unwrap())
    }
}

fn write(clients: &[Client], ended: &AtomicBool, promises: &Mutex<Vec<Promise>>) {
    let mut clients = clients.iter().cycle();
    let mut client = clients.next().unwrap();
    for n in 0_u32.. {
        if ended.load(Ordering::Relaxed) {
            return;
        }
        let Some(answer) =
            client.try_ask("POST", "/v1/keys", Some(json!({"name": "n", "owner": format!("o{}", n % 5)})))
        else {
            client = clients.next().unwrap();
            continue;
        };
        // Whoever is told to try again does.
        if answer.status == 503 {
            assert_eq!(answer.header("retry-after"), "1");
            continue;
        }
        let key = answer.expect(201);
        let digest = Digest::of_key(key["key"].as_str().unwrap().as_bytes());
        let revoked = n % 3 == 0
            && client
                .try_ask("DELETE", &format!("/v1/keys/{}", key["id"].as_str().unwrap()), None)
                .is_some_and(|answer| answer.status == 200);
        promises.lock().unwrap().push(Promise { digest, revoked });
    }
}

/// Panics unless everything that was promised is there. What was done though the answer was lost may be there too.
pub(crate) fn check(promises: &[Promise], history: &History) {
    for promise in promises {
        let Some((_, Body::Key(record))) = history.state.get(&promise.digest) else { panic!("{promise:?} is lost") };
        assert!(record.revoked_at_ms.is_some() || !promise.revoked, "{promise:?} is not revoked");
    }
}
