//! Requests with and without a key in the background, while a test changes the configuration.

use keyward_harness::http::{self, Request};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// The pause of a client between two requests.
const PAUSE: Duration = Duration::from_millis(2);

/// Two clients, each with one request after the other, each request on a new connection.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    with_key: JoinHandle<Outcomes>,
    without_key: JoinHandle<Outcomes>,
}

/// How often each outcome occurred: a status, or the words of a failure.
pub type Outcomes = BTreeMap<String, usize>;

impl Load {
    /// Starts both clients.
    pub fn start(to: SocketAddr, with_key: Request, without_key: Request) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client = |request: Request| {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            tokio::spawn(async move {
                let mut outcomes = Outcomes::new();
                while !stop.load(Ordering::Relaxed) {
                    let outcome = match http::send(to, &request).await {
                        Ok(answer) => answer.status.to_string(),
                        Err(error) => error.to_string(),
                    };
                    *outcomes.entry(outcome).or_default() += 1;
                    sent.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(PAUSE).await;
                }
                outcomes
            })
        };
        let (with_key, without_key) = (client(with_key), client(without_key));
        Self { stop, sent, with_key, without_key }
    }

    /// The number of requests so far.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops both clients; returns their outcomes with and without a key.
    ///
    /// # Panics
    /// If a client panicked.
    pub async fn stop(self) -> (Outcomes, Outcomes) {
        self.stop.store(true, Ordering::Relaxed);
        (self.with_key.await.expect("the client with a key"), self.without_key.await.expect("the client without a key"))
    }
}
