//! Fair queues for reads and writes, so that no caller blocks others.
//!
//! Classes of callers do not wait for each other: look-ups of tokens and keys, the feed, operators, users, and long operations have
//! database connections of their own. Of the writes, at most one of each class waits for the writer. Within a class callers are served
//! round-robin: users by the owner of their key, operators and edges by their token.

use super::{Authorization, Error, Store, TURN_PATIENCE};
use crate::model::Actor;
use crate::net::fair_queue::{Bounds, FairQueue, Full, Permit};
use keyward_core::key::digest::Digest;
use tokio::time::timeout;

/// The permit to read or to write.
pub type QueuePermit = Permit<String>;

type Queue = FairQueue<String>;

/// The queues of one process.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    operator_reads: Queue,
    user_reads: Queue,
    key_look_ups: Queue,
    operator_writes: Queue,
    bulk_writes: Queue,
    user_writes: Queue,
    edge_writes: Queue,
}

/// One of the four connections is left for reads that precede a change.
const OPERATOR_READS: Bounds = Bounds { at_once: 3, at_once_per_caller: 2, waiting: 1024, waiting_per_caller: 256 };
const USER_READS: Bounds = Bounds { at_once: 2, at_once_per_caller: 1, waiting: 1024, waiting_per_caller: 16 };
/// Thousands of edges can share a token, and a look-up takes less than a millisecond.
const KEY_LOOK_UPS: Bounds = Bounds { at_once: 2, at_once_per_caller: 2, waiting: 2048, waiting_per_caller: 512 };
const OPERATOR_WRITES: Bounds = Bounds { at_once: 1, at_once_per_caller: 1, waiting: 4096, waiting_per_caller: 1024 };
const BULK_WRITES: Bounds = Bounds { at_once: 1, at_once_per_caller: 1, waiting: 64, waiting_per_caller: 16 };
const USER_WRITES: Bounds = Bounds { at_once: 1, at_once_per_caller: 1, waiting: 1024, waiting_per_caller: 16 };
const EDGE_WRITES: Bounds = Bounds { at_once: 1, at_once_per_caller: 1, waiting: 4096, waiting_per_caller: 1024 };

impl Queues {
    pub(super) fn new() -> Self {
        Self {
            operator_reads: Queue::new(OPERATOR_READS),
            user_reads: Queue::new(USER_READS),
            key_look_ups: Queue::new(KEY_LOOK_UPS),
            operator_writes: Queue::new(OPERATOR_WRITES),
            bulk_writes: Queue::new(BULK_WRITES),
            user_writes: Queue::new(USER_WRITES),
            edge_writes: Queue::new(EDGE_WRITES),
        }
    }

    /// Waits for the permit of an operator to write. Users and edges have theirs already, see [`Store::user_permit`] and
    /// [`Self::edge_permit`], and the server makes one change at a time.
    pub(super) async fn write(&self, by: &Authorization, is_bulk: bool) -> Result<Option<QueuePermit>, Error> {
        if !by.is_operators() {
            return Ok(None);
        }
        let queue = if is_bulk { &self.bulk_writes } else { &self.operator_writes };
        permit(queue, by.actor().to_string()).await.map(Some)
    }

    /// Waits for the permit of an edge to report usage.
    pub(super) async fn edge_permit(&self, edge: &Actor) -> Result<QueuePermit, Error> {
        // For an edge 503 is enough: it retries.
        permit(&self.edge_writes, edge.to_string()).await.map_err(as_crowded)
    }
}

fn as_crowded(error: Error) -> Error {
    match error {
        Error::TooManyOfCaller => Error::Crowded,
        other => other,
    }
}

impl Store {
    /// Waits for the permit of an operator to read; hold it until the result is there.
    pub async fn operator_read_permit(&self, operator: &Actor) -> Result<QueuePermit, Error> {
        permit(&self.queues.operator_reads, operator.to_string()).await
    }

    /// Waits for the permit of a user to read; hold it until the result is there.
    pub async fn user_read_permit(&self, owner: &str) -> Result<QueuePermit, Error> {
        permit(&self.queues.user_reads, owner.to_owned()).await
    }

    /// Waits for the permit of a user to write; hold it for the whole change.
    pub async fn user_permit(&self, owner: &str) -> Result<QueuePermit, Error> {
        permit(&self.queues.user_writes, owner.to_owned()).await
    }

    /// Waits for the permit to look up a credential. Requests with the same credential wait for each other.
    pub async fn lookup_permit(&self, credential: &[u8]) -> Result<QueuePermit, Error> {
        let digest = Digest::of_key(credential);
        permit(&self.queues.key_look_ups, hex::encode(digest.0)).await
    }

    /// The same for a verification by an edge.
    pub async fn edge_lookup_permit(&self, edge: &Actor) -> Result<QueuePermit, Error> {
        permit(&self.queues.key_look_ups, edge.to_string()).await.map_err(as_crowded)
    }
}

async fn permit(queue: &Queue, caller: String) -> Result<QueuePermit, Error> {
    match timeout(TURN_PATIENCE, queue.acquire(caller)).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(Full::OfCaller)) => Err(Error::TooManyOfCaller),
        Ok(Err(Full::OfAll)) => Err(Error::Crowded),
        Err(_) => Err(Error::Slow),
    }
}
