//! Edges without Envoy: thousands of long polls on the feed of one control plane, each on a connection of its own.
//!
//! Each follows the feed as the filter does, with the filter's own pauses after a failure and the timeouts and keepalives of
//! `envoy/envoy.yaml`, but applies a page to nothing but its position. So ten thousand fit beside the control plane on one
//! machine, on a few threads of their own.

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

/// How edges are to be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many there are.
    pub edges: usize,
    /// What they speak.
    pub protocol: Protocol,
    /// What they keep.
    pub memory: Memory,
    /// How long the control plane may keep a poll waiting, in seconds: the filter's `poll_wait_s`.
    pub wait_s: u32,
    /// On how many threads they run.
    pub threads: usize,
    /// How many open their first connection in a second; `None` if all do at once. After a failure each waits as the filter
    /// does.
    pub openings_per_s: Option<NonZeroU32>,
}

/// What an edge keeps of what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Where it stands.
    Position,
    /// That, and the version of every entry.
    Versions,
    /// That, and every entry as it came.
    Entries,
}

/// What an edge knows: the version and the state of each subject; `None` for a state that it cannot read.
pub type Entries = BTreeMap<Digest, (u64, Option<Body>)>;

/// When an edge had applied all up to a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When the page was there.
    pub at: Instant,
    /// The sequence.
    pub applied: u64,
}

/// What all edges together have met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that were opened.
    pub connections: u64,
    /// Pages that were applied.
    pub pages: u64,
    /// The bytes of those.
    pub page_bytes: u64,
    /// Polls that ended without an answer, or could not begin for want of a connection.
    pub unanswered: u64,
    /// Polls that were answered with another status than 200.
    pub refused: u64,
    /// Pages that did not follow.
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

/// What edges share.
#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    authorization: String,
    options: Options,
    counters: Counters,
    /// The versions of what has changed, as one of the edges was told: the sequences of the changes.
    versions: Mutex<HashMap<Digest, u64>>,
}

/// Edges that follow one control plane until they are dropped.
#[derive(Debug)]
pub struct Edges {
    shared: Arc<Shared>,
    edges: Vec<Arc<Edge>>,
    runtime: Option<Runtime>,
}

impl Edges {
    /// Begins to follow the control plane at `address`, which need not run yet, with that edge token.
    ///
    /// # Errors
    /// When there are no threads to be had.
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

    /// How many have applied all up to this sequence.
    pub fn that_have(&self, sequence: u64) -> usize {
        self.edges.iter().filter(|edge| edge.applied().is_some_and(|applied| applied >= sequence)).count()
    }

    /// Waits until all have applied all up to this sequence.
    ///
    /// # Errors
    /// When they have not within `limit`.
    pub async fn until_all_have(&self, sequence: u64, limit: Duration) -> Result<()> {
        let what = format!("every edge has change {sequence}");
        until(&what, limit, async || match self.that_have(sequence) {
            all if all == self.edges.len() => Ok(()),
            some => Err(Failure::new(format!("{some} of {} have it; {:?}", self.edges.len(), self.counts()))),
        })
        .await
    }

    /// Where each stands.
    pub fn positions(&self) -> Vec<Position> {
        self.edges.iter().map(|edge| edge.place().position).collect()
    }

    /// What each knows, the version of each entry by its subject, if that is kept.
    pub fn versions(&self) -> Vec<BTreeMap<Digest, u64>> {
        let versions = |entries: &Entries| entries.iter().map(|(subject, (version, _))| (*subject, *version)).collect();
        self.edges.iter().map(|edge| versions(&edge.place().entries)).collect()
    }

    /// What each knows, if that is kept.
    pub fn entries(&self) -> Vec<Entries> {
        self.edges.iter().map(|edge| edge.place().entries.clone()).collect()
    }

    /// When each had a change, since arrivals were last forgotten; those that have not are left out.
    pub fn arrivals_of(&self, sequence: u64) -> Vec<Instant> {
        let first = |place: MutexGuard<'_, Place>| {
            let index = place.arrivals.partition_point(|arrival| arrival.applied < sequence);
            place.arrivals.get(index).map(|arrival| arrival.at)
        };
        self.edges.iter().filter_map(|edge| first(edge.place())).collect()
    }

    /// Forgets when what arrived, so that long runs need little memory.
    pub fn forget_arrivals(&self) {
        self.edges.iter().for_each(|edge| edge.place().arrivals.clear());
    }

    /// The sequence of the last change of a key, if the edges were told of one.
    pub fn sequence_of(&self, subject: &Digest) -> Option<u64> {
        self.shared.versions.lock().unwrap_or_else(PoisonError::into_inner).get(subject).copied()
    }

    /// What they have met so far.
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
            // Not waited for: this may be dropped where nothing may block.
            runtime.shutdown_background();
        }
    }
}
