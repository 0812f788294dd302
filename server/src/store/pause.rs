//! Keys that are paused and resumed. A pause ends nothing: it says nothing of a key that is revoked or expired, and resuming
//! such a key is refused.

use super::keys::{find_expected, tell};
use super::mutation::Mutation;
use super::{Authorization, KeyError, Store};
use crate::clock::Timestamp;
use crate::model::{Key, Pause, PausedBy, Target};
use serde_json::Map;

impl Store {
    /// Pauses the key. Pausing it again changes nothing, but that a pause by self-service becomes one of the operator.
    ///
    /// # Errors
    /// If it cannot be stored, or the key has another version than was expected; if it is revoked or expired.
    pub async fn pause_key(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        now: Timestamp,
    ) -> Result<Key, KeyError> {
        let target = target.into();
        self.mutate_keys(by, now, move |mutation| Box::pin(pause(mutation, target, PausedBy::Operator))).await
    }

    /// Resumes the key. Resuming a key that is not paused changes nothing.
    ///
    /// # Errors
    /// If it cannot be stored, or the key has another version than was expected; if it is revoked or expired.
    pub async fn resume_key(
        &self,
        by: impl Into<Authorization>,
        target: impl Into<Target>,
        now: Timestamp,
    ) -> Result<Key, KeyError> {
        let target = target.into();
        self.mutate_keys(by, now, move |mutation| Box::pin(resume(mutation, target, PausedBy::Operator))).await
    }
}

pub(super) async fn pause(mutation: &mut Mutation, target: Target, by: PausedBy) -> Result<Key, KeyError> {
    let now = mutation.now();
    let mut key = find_expected(mutation, &target).await?.ok_or(KeyError::NotFound)?;
    if key.state(now).has_ended() {
        return Err(KeyError::NotActive { state: key.state(now), operation: "be paused" });
    }
    let before = key.pause;
    match before {
        Some(pause) if pause.by == by || pause.by == PausedBy::Operator => return Ok(key),
        Some(pause) => key.pause = Some(Pause { by, ..pause }),
        None => key.pause = Some(Pause { at: now, by }),
    }
    store(mutation, &mut key, "key.paused").await?;
    if before.is_none() {
        tell(mutation, &key, |_| true).await?;
    }
    Ok(key)
}

pub(super) async fn resume(mutation: &mut Mutation, target: Target, by: PausedBy) -> Result<Key, KeyError> {
    let now = mutation.now();
    let mut key = find_expected(mutation, &target).await?.ok_or(KeyError::NotFound)?;
    if key.state(now).has_ended() {
        return Err(KeyError::NotActive { state: key.state(now), operation: "be resumed" });
    }
    match key.pause {
        None => return Ok(key),
        Some(Pause { by: PausedBy::Operator, .. }) if by != PausedBy::Operator => {
            return Err(KeyError::PausedByOperator);
        }
        Some(_) => key.pause = None,
    }
    store(mutation, &mut key, "key.resumed").await?;
    tell(mutation, &key, |_| true).await?;
    Ok(key)
}

async fn store(mutation: &mut Mutation, key: &mut Key, action: &'static str) -> Result<(), KeyError> {
    key.version += 1;
    sqlx::query("UPDATE keys SET paused_at = $1, paused_by = $2, version = version + 1 WHERE id = $3")
        .bind(key.pause.map(|pause| pause.at.as_stored()))
        .bind(key.pause.map(|pause| pause.by.name()))
        .bind(&key.id)
        .execute(mutation.connection())
        .await?;
    Ok(mutation.audit(action, &key.id, Map::new()).await?)
}
