//! Requests to the control plane, all with the same cluster and edge token.

use crate::config::ControlPlane;
use keyward_contract::secret::Secret;
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, Status};
use std::time::Duration;

/// What is asked of the control plane.
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// JSON, where there is a body.
    pub(super) body: Option<&'a [u8]>,
    pub(super) timeout_ms: u64,
}

impl Call<'_> {
    /// Sends it, and returns Envoy's number for it, with which the answer comes.
    pub(super) fn send(&self, control_plane: &ControlPlane, token: Option<&Secret>) -> Result<u32, Status> {
        let authorization = token.map(|token| format!("Bearer {}", token.expose()));
        let mut headers =
            vec![(":method", self.method), (":path", self.path), (":authority", control_plane.authority.as_str())];
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization));
        }
        if self.body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        let timeout = Duration::from_millis(self.timeout_ms);
        hostcalls::dispatch_http_call(&control_plane.cluster, headers, self.body, Vec::new(), timeout)
    }
}

/// The answer to a call: its body if it has status 200 and is not too long, else its status, 0 if there was none.
pub(super) fn read_answer(headers: usize, body_size: usize, max_body: usize) -> Result<Vec<u8>, u32> {
    let status = if headers == 0 { 0 } else { response_status() };
    if status != 200 || body_size > max_body {
        return Err(status);
    }
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).map_err(|_| status)?;
    Ok(body.unwrap_or_default())
}

fn response_status() -> u32 {
    let status = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, ":status").ok().flatten();
    status.and_then(|status| std::str::from_utf8(&status).ok()?.parse().ok()).unwrap_or(0)
}
