//! The operator, who creates and revokes keys.

use keyward_core::FEED_PATH;
use keyward_core::key::digest::Digest;
use keyward_core::wire::cursor::Cursor;
use keyward_core::wire::page::Page;
use keyward_harness::{ControlPlane, Failure, Request, Result, http};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

/// An operator of one control plane.
#[derive(Clone, Debug)]
pub(crate) struct Operator {
    address: SocketAddr,
    admin: String,
    edge: String,
}

/// A change that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) subject: Digest,
    pub(crate) sent: Instant,
    pub(crate) answered: Instant,
}

/// Rows per request.
const BATCH: usize = 10_000;

impl Operator {
    pub(crate) fn of(plane: &ControlPlane) -> Result<Self> {
        Ok(Self { address: plane.address(), admin: plane.admin_token()?, edge: plane.edge_token()? })
    }

    /// Imports this many keys, numbered from 0.
    pub(crate) async fn import(&self, keys: usize) -> Result<()> {
        for first in (0..keys).step_by(BATCH) {
            let mut rows = String::new();
            for key in first..keys.min(first + BATCH) {
                let digest = subject(key).0.iter().fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
                let _ = writeln!(rows, r#"{{"id":"{}","name":"bench","sha256":"{digest}","owner":"acme"}}"#, id(key));
            }
            let request = Request::new("POST", "/v1/keys/import")
                .bearer(&self.admin)
                .header("content-type", "application/x-ndjson")
                .body(rows.into_bytes());
            let answer = http::send(self.address, &request).await?;
            if answer.status != 200 || answer.json()["failed"] != 0 {
                return Err(Failure::new(format!("the import: {} {}", answer.status, answer.text())));
            }
        }
        Ok(())
    }

    /// Revokes the key with that number.
    pub(crate) async fn revoke(&self, key: usize) -> Result<Change> {
        let request = Request::new("DELETE", &format!("/v1/keys/{}", id(key))).bearer(&self.admin);
        let sent = Instant::now();
        let answer = http::send(self.address, &request).await?;
        let answered = Instant::now();
        if answer.status != 200 {
            return Err(Failure::new(format!("the revocation of key {key}: {} {}", answer.status, answer.text())));
        }
        Ok(Change { subject: subject(key), sent, answered })
    }

    /// The head of the history.
    pub(crate) async fn head(&self) -> Result<Cursor> {
        let answer = http::send(self.address, &Request::get(FEED_PATH).bearer(&self.edge)).await?;
        let page = Page::decode(&answer.body).map_err(|error| Failure::new(format!("{FEED_PATH}: {error}")))?;
        Ok(page.head)
    }
}

fn id(key: usize) -> String {
    format!("key_bench{key}")
}

fn subject(key: usize) -> Digest {
    Digest::of_key(format!("bench {key}").as_bytes())
}
