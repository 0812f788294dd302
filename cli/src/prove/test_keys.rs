//! The keys of one run: created over the API, and revoked at its end, however it ends.

use crate::CliError;
use keyward_client::{Client, escape};
use keyward_core::key::secret::Secret;
use serde_json::{Map, Value};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The keys of one run. They share a name that no other key has, by which the last of them is found even if the response to
/// its creation was lost.
pub(super) struct TestKeys<'a> {
    client: &'a Client,
    /// The name of all keys of this run.
    pub(super) name: String,
    /// The fields of every key.
    fields: Map<String, Value>,
    created: AtomicUsize,
}

/// A key of the run.
#[derive(Debug)]
pub(super) struct TestKey {
    pub(super) id: String,
    pub(super) secret: Secret,
}

/// How the removal went.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) created: usize,
    pub(super) revoked: usize,
    /// Why keys may be left.
    pub(super) error: Option<String>,
}

const ATTEMPTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// Some keys are to be refused by the gateway, such as one without permissions.
const FORCED: &str = "/v1/keys?force=true";

impl<'a> TestKeys<'a> {
    pub(super) fn new(client: &'a Client, name: String, fields: Map<String, Value>) -> Self {
        Self { client, name, fields, created: AtomicUsize::new(0) }
    }

    /// Creates a key with these fields besides those that all have.
    pub(super) fn create(&self, more: &Value) -> Result<TestKey, CliError> {
        let mut document = self.fields.clone();
        document.insert("name".to_owned(), self.name.clone().into());
        document.extend(more.as_object().cloned().unwrap_or_default());
        // Counted first: also where the response is lost, there may be a key.
        self.created.fetch_add(1, Ordering::Relaxed);
        let remedy = "the key has an expiry, and is revoked at the end of this run if the control plane answers again";
        let created = self.client.post_with_retry(FORCED, &document.into()).map_err(|error| {
            if !error.outcome_unknown {
                self.created.fetch_sub(1, Ordering::Relaxed);
            }
            CliError::of_retry(error, remedy.to_owned())
        })?;
        let text = |field: &str| created.get(field).and_then(Value::as_str).map(str::to_owned);
        match (text("id"), text("key")) {
            (Some(id), Some(key)) => Ok(TestKey { id, secret: Secret::new(key) }),
            _ => Err(CliError::Usage(
                "expected a key in the response to its creation; check the URL of the control plane",
            )),
        }
    }

    /// Revokes one key now.
    pub(super) fn revoke(&self, key: &TestKey) -> Result<(), CliError> {
        self.client.delete(&path(&key.id))?;
        Ok(())
    }

    /// Revokes all that are still active.
    pub(super) fn remove_all(&self) -> Removal {
        let created = self.created.load(Ordering::Relaxed);
        let mut removal = Removal { created, revoked: 0, error: None };
        if created == 0 {
            return removal;
        }
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                std::thread::sleep(PAUSE);
            }
            match self.revoke_active() {
                Ok(revoked) => {
                    removal.revoked += revoked;
                    removal.error = None;
                    break;
                }
                Err(error) => removal.error = Some(error.to_string()),
            }
        }
        removal
    }

    fn revoke_active(&self) -> Result<usize, CliError> {
        let filters = [("name", Some(self.name.clone())), ("state", Some("active".to_owned()))];
        let keys = self.client.list("/v1/keys", "keys", &filters)?;
        // The filter finds keys whose name contains the text.
        let ours = keys.iter().filter(|key| key.get("name").is_some_and(|name| *name == self.name.as_str()));
        let mut revoked = 0;
        for id in ours.filter_map(|key| key.get("id")?.as_str()) {
            self.client.delete(&path(id))?;
            revoked += 1;
        }
        Ok(revoked)
    }
}

fn path(id: &str) -> String {
    format!("/v1/keys/{}", escape(id))
}
