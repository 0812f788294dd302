//! Simulated edges without Envoy: thousands of long polls on the feed of one control plane, each on its own connection.
//!
//! Each edge follows the feed as the filter does, with the filter's backoff and the timeouts and keepalives of
//! `envoy/envoy.yaml`, but applies a page only to its position. So ten thousand edges fit beside the control plane on
//! one machine, on a few threads.

mod edge;
mod transport;

pub use transport::Protocol;

use crate::failure::Context as _;
use crate::{Failure, Result, until};
use edge::{Edge, Place};
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::Position;
use keyward_core::wire::entry::Body;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};

/// Options of the simulation.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The number of edges.
    pub edges: usize,
    /// The protocol of the edges.
    pub protocol: Protocol,
    /// What each edge stores.
    pub memory: Memory,
    /// The maximum wait of a poll at the control plane, in seconds: the filter's `poll_wait_s`.
    pub wait_s: u32,
    /// The number of threads.
    pub threads: usize,
    /// How many edges open their first connection per second; `None` for all at once. After a failure, each edge backs
    /// off as the filter does.
    pub openings_per_s: Option<NonZeroU32>,
}

/// What an edge stores of the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Only the position.
    Position,
    /// The position, and the version of every entry.
    Versions,
    /// The position, and every entry.
    Entries,
}

/// The entries of an edge: version and state by subject; `None` for an unreadable state.
pub type Entries = BTreeMap<Digest, (u64, Option<Body>)>;

/// The time at which an edge had applied everything up to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The time of the page.
    pub at: Instant,
    /// The sequence.
    pub applied: u64,
}

/// Counters of all edges together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Opened connections.
    pub connections: u64,
    /// Applied pages.
    pub pages: u64,
    /// The bytes of the applied pages.
    pub page_bytes: u64,
    /// Polls without a response, or that failed for lack of a connection.
    pub unanswered: u64,
    /// Polls answered with a status other than 200.
    pub refused: u64,
    /// Pages that did not follow on the request.
    pub unfit: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    pages: AtomicU64,
    page_bytes: AtomicU64,
    unanswered: AtomicU64,
    refused: AtomicU64,
    unfit: AtomicU64,
}

/// State shared by the edges.
#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    authorization: String,
    options: Options,
    counters: Counters,
    /// The sequence of the latest change of each subject, as seen by one edge.
    versions: Mutex<HashMap<Digest, u64>>,
}

/// Edges that follow one control plane until dropped.
#[derive(Debug)]
pub struct Edges {
    shared: Arc<Shared>,
    edges: Vec<Arc<Edge>>,
    runtime: Option<Runtime>,
}

impl Edges {
    /// Starts to follow the control plane at `address`, which need not be running yet, with this edge token.
    pub fn start(address: SocketAddr, token: &str, options: Options) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(options.threads)
            .thread_name("edges")
            .enable_all()
            .build()
            .context(|| "threads for the edges".into())?;
        let shared = Arc::new(Shared {
            address,
            authorization: format!("Bearer {token}"),
            options,
            counters: Counters::default(),
            versions: Mutex::default(),
        });
        let edges: Vec<_> = (0..options.edges).map(|_| Arc::new(Edge::default())).collect();
        for (number, edge) in (0..).zip(&edges) {
            runtime.spawn(edge::follow(Arc::clone(edge), Arc::clone(&shared), number));
        }
        Ok(Self { shared, edges, runtime: Some(runtime) })
    }

    /// The number of edges that have applied everything up to this sequence.
    pub fn that_have(&self, sequence: u64) -> usize {
        self.edges.iter().filter(|edge| edge.applied().is_some_and(|applied| applied >= sequence)).count()
    }

    /// Waits until all edges have applied everything up to this sequence.
    pub async fn until_all_have(&self, sequence: u64, limit: Duration) -> Result<()> {
        let what = format!("every edge has change {sequence}");
        until(&what, limit, async || match self.that_have(sequence) {
            all if all == self.edges.len() => Ok(()),
            some => Err(Failure::new(format!("{some} of {} have it; {:?}", self.edges.len(), self.counts()))),
        })
        .await
    }

    /// The position of each edge.
    pub fn positions(&self) -> Vec<Position> {
        self.edges.iter().map(|edge| edge.place().position).collect()
    }

    /// The versions of each edge's entries by subject, if stored.
    pub fn versions(&self) -> Vec<BTreeMap<Digest, u64>> {
        let versions = |entries: &Entries| entries.iter().map(|(subject, (version, _))| (*subject, *version)).collect();
        self.edges.iter().map(|edge| versions(&edge.place().entries)).collect()
    }

    /// The entries of each edge, if stored.
    pub fn entries(&self) -> Vec<Entries> {
        self.edges.iter().map(|edge| edge.place().entries.clone()).collect()
    }

    /// The times at which the edges received a change, since the last `forget_arrivals`; edges without it are omitted.
    pub fn arrivals_of(&self, sequence: u64) -> Vec<Instant> {
        let first = |place: MutexGuard<'_, Place>| {
            let index = place.arrivals.partition_point(|arrival| arrival.applied < sequence);
            place.arrivals.get(index).map(|arrival| arrival.at)
        };
        self.edges.iter().filter_map(|edge| first(edge.place())).collect()
    }

    /// Clears the arrival times, so that long runs need little memory.
    pub fn forget_arrivals(&self) {
        self.edges.iter().for_each(|edge| edge.place().arrivals.clear());
    }

    /// The sequence of a key's latest change, if the edges received one.
    pub fn sequence_of(&self, subject: &Digest) -> Option<u64> {
        self.shared.versions.lock().unwrap_or_else(PoisonError::into_inner).get(subject).copied()
    }

    /// The counters so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let [connections, pages, page_bytes, unanswered, refused, unfit] = [
            &counters.connections,
            &counters.pages,
            &counters.page_bytes,
            &counters.unanswered,
            &counters.refused,
            &counters.unfit,
        ]
        .map(|counter| counter.load(Ordering::Relaxed));
        Counts { connections, pages, page_bytes, unanswered, refused, unfit }
    }
}

impl Drop for Edges {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waited for: the drop may happen where blocking is not allowed.
            runtime.shutdown_background();
        }
    }
}
