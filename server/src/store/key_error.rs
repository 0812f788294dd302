//! Why an operation on keys was not carried out.

use super::mutation::Mutation;
use super::{Authorization, Error, Store};
use crate::clock::Timestamp;
use crate::model::State;
use std::pin::Pin;
use std::time::Duration;

/// Why an operation on keys was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] Error),
    /// There is no such key.
    #[error("there is no such key")]
    NotFound,
    /// The key has no such secret.
    #[error("the key has no such secret")]
    NoSuchSecret,
    /// The key has ended.
    #[error("the key is {}", state.name())]
    NotActive {
        /// What it is instead.
        state: State,
        /// What it cannot do.
        operation: &'static str,
    },
    /// An operator paused the key, and users cannot resume it.
    #[error("an operator paused the key")]
    PausedByOperator,
    /// No other secret of the key is valid.
    #[error("no other secret of the key is valid")]
    LastSecret,
    /// The key has as many secrets that are still valid as it can have.
    #[error("the key has too many valid secrets")]
    TooManySecrets,
    /// The edges know as many secrets of the key as they may.
    #[error("edges know {most} secrets of the key")]
    TooManyKnownSecrets {
        /// How many.
        most: usize,
    },
    /// The metadata of the key would have more than [`MAX_METADATA`](crate::model::MAX_METADATA) entries.
    #[error("the metadata of the key would have too many entries")]
    TooMuchMetadata,
    /// The key that asks has credits, which another key would have once more.
    #[error("the key that asks has credits")]
    HasCredits,
    /// The owner has as many keys as it can make by itself.
    #[error("the owner has too many keys")]
    TooManyKeys,
    /// The owner has made as many secrets as it can at once.
    #[error("the owner has made too many secrets")]
    TooSoon {
        /// After how long it can make the next one.
        retry_after: Duration,
    },
}

impl From<sqlx::Error> for KeyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// The future of an operation on keys inside a transaction.
pub(super) type KeyStep<'a, T> = Pin<Box<dyn Future<Output = Result<T, KeyError>> + Send + 'a>>;

impl Store {
    /// As [`Store::mutate`], for what can be refused. A refusal is committed: the steps before it may have noted something.
    pub(super) async fn mutate_keys<T, F>(
        &self,
        by: impl Into<Authorization>,
        begun: Timestamp,
        steps: F,
    ) -> Result<T, KeyError>
    where
        T: Send + 'static,
        F: for<'a> FnOnce(&'a mut Mutation) -> KeyStep<'a, T> + Send + 'static,
    {
        let outcome = self.mutate(by, begun, move |mutation| {
            Box::pin(async move {
                match steps(mutation).await {
                    Err(KeyError::Store(error)) => Err(error),
                    outcome => Ok(outcome),
                }
            })
        });
        outcome.await?
    }
}
