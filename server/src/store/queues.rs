//! In which order and how many at once callers read and write, so that none of them keeps the others from it.
//!
//! Classes of callers do not wait for each other: look-ups that guard have database connections of their own, as have the feed,
//! what operators ask, what users ask, and what takes long. Among the changes at most one of each class waits for the one
//! writer. Within a class callers are served in turn: users by the owner of their key, operators and edges by their token.

use super::{Authorization, Error, Store, TURN_PATIENCE};
use crate::model::Actor;
use crate::net::fair_queue::{Bounds, FairQueue, Full, Permit};
use keyward_core::key::digest::Digest;
use tokio::time::timeout;

/// The right to read or to write.
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

/// One of the four connections is left for what changes look up beforehand.
const OPERATOR_READS: Bounds = Bounds { at_once: 3, at_once_per_caller: 2, waiting: 1024, waiting_per_caller: 256 };
const USER_READS: Bounds = Bounds { at_once: 2, at_once_per_caller: 1, waiting: 1024, waiting_per_caller: 16 };
/// An edge's token can be that of thousands, and a key's look-up takes less than a millisecond.
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

    /// Waits for the turn among the changes of operators. Users and edges have theirs already, see [`Store::user_permit`] and
    /// [`Self::edge_permit`], and the server asks for one change at a time.
    pub(super) async fn write(&self, by: &Authorization, is_bulk: bool) -> Result<Option<QueuePermit>, Error> {
        if !by.is_operators() {
            return Ok(None);
        }
        let queue = if is_bulk { &self.bulk_writes } else { &self.operator_writes };
        turn(queue, by.actor().to_string()).await.map(Some)
    }

    /// Waits for the turn of an edge to report.
    pub(super) async fn edge_permit(&self, edge: &Actor) -> Result<QueuePermit, Error> {
        // An edge can only be told to try again.
        turn(&self.edge_writes, edge.to_string()).await.map_err(told_to_edges)
    }
}

fn told_to_edges(error: Error) -> Error {
    match error {
        Error::TooManyOfCaller => Error::Crowded,
        other => other,
    }
}

impl Store {
    /// Waits for the turn of what an operator asks; it is to be held until the answer is there.
    ///
    /// # Errors
    /// If too many wait, or others are in the way for too long.
    pub async fn operator_read_permit(&self, operator: &Actor) -> Result<QueuePermit, Error> {
        turn(&self.queues.operator_reads, operator.to_string()).await
    }

    /// Waits for the turn of what a user asks; it is to be held until the answer is there.
    ///
    /// # Errors
    /// If too many wait, or others are in the way for too long.
    pub async fn user_read_permit(&self, owner: &str) -> Result<QueuePermit, Error> {
        turn(&self.queues.user_reads, owner.to_owned()).await
    }

    /// Waits for the turn of a user's change; whatever it takes is done while this is held.
    ///
    /// # Errors
    /// If too many wait, or others are in the way for too long.
    pub async fn user_permit(&self, owner: &str) -> Result<QueuePermit, Error> {
        turn(&self.queues.user_writes, owner.to_owned()).await
    }

    /// Waits for the turn to look a key up that was shown. Whoever shows one key many times waits for itself.
    ///
    /// # Errors
    /// If too many wait, or others are in the way for too long.
    pub async fn lookup_permit(&self, credential: &[u8]) -> Result<QueuePermit, Error> {
        let digest = Digest::of_key(credential);
        turn(&self.queues.key_look_ups, hex::encode(digest.0)).await
    }

    /// The same for what an edge asks.
    ///
    /// # Errors
    /// If too many wait, or others are in the way for too long.
    pub async fn edge_lookup_permit(&self, edge: &Actor) -> Result<QueuePermit, Error> {
        turn(&self.queues.key_look_ups, edge.to_string()).await.map_err(told_to_edges)
    }
}

async fn turn(queue: &Queue, caller: String) -> Result<QueuePermit, Error> {
    match timeout(TURN_PATIENCE, queue.acquire(caller)).await {
        Ok(Ok(turn)) => Ok(turn),
        Ok(Err(Full::OfCaller)) => Err(Error::TooManyOfCaller),
        Ok(Err(Full::OfAll)) => Err(Error::Crowded),
        Err(_) => Err(Error::Slow),
    }
}
