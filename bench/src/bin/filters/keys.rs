//! The benchmark keys, and their import into control planes.

use crate::scenarios::{HotKey, LIMITS, SCOPE};
use keyward_core::dialect::Dialect;
use keyward_harness::{ControlPlane, Failure, Request, Result, http};
use serde_json::json;

/// The dialect of the benchmark.
pub(crate) const DIALECT: &str = "keyward";

/// Generates keys of the default dialect.
pub(crate) fn make(count: usize) -> Result<Vec<String>> {
    let Some(Ok(dialect)) = Dialect::built_in(DIALECT) else { return Err(Failure::new("no dialect keyward")) };
    let format = dialect.formats.first().ok_or_else(|| Failure::new("the dialect has no keys"))?;
    let key = |_| {
        let key = format.issue(getrandom::fill).map_err(|error| Failure::new(error.to_string()))?;
        Ok(key.expose().to_owned())
    };
    (0..count).map(key).collect()
}

/// The clients of the keys in Envoy's own filter and in the authorizer, with names as long as Keyward's ids.
pub(crate) fn hot(keys: &[String]) -> Vec<HotKey> {
    keys.iter().enumerate().map(|(at, key)| HotKey { client: format!("key_{at:022}"), key: key.clone() }).collect()
}

/// Imports keys, each with the scope and the limits of the benchmark.
pub(crate) async fn import(control_plane: &ControlPlane, keys: &[String]) -> Result<()> {
    let row = |key| json!({ "name": "bench", "key": key, "scopes": [SCOPE], "limits": LIMITS }).to_string() + "\n";
    let token = control_plane.admin_token()?;
    // The maximum of a request.
    for keys in keys.chunks(10_000) {
        let rows: String = keys.iter().map(row).collect();
        let request = Request::new("POST", "/v1/keys/import")
            .bearer(&token)
            .header("content-type", "application/x-ndjson")
            .body(rows.into_bytes());
        let answer = http::send(control_plane.address(), &request).await?;
        if answer.status != 200 || answer.json()["imported"] != keys.len() {
            return Err(Failure::new(format!("the import of keys: {} {}", answer.status, answer.text())));
        }
    }
    Ok(())
}
