//! Requests to the control plane, all with the same cluster and edge token.

use crate::policy::ControlPlane;
use keyward_core::key::secret::Secret;
use keyward_core::wire::age::{FEED_AGE_HEADER, feed_age_ms};
use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType, Status};
use std::str::FromStr;
use std::time::Duration;

/// A request to the control plane.
pub(super) struct Call<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// The media type and the body, if any.
    pub(super) body: Option<(&'a str, &'a [u8])>,
    pub(super) timeout_ms: u64,
}

impl Call<'_> {
    /// Sends the request, and returns Envoy's id of the callout, with which the response arrives.
    pub(super) fn send(&self, control_plane: &ControlPlane, token: Option<&Secret>) -> Result<u32, Status> {
        let authorization = token.map(|token| format!("Bearer {}", token.expose()));
        let mut headers =
            vec![(":method", self.method), (":path", self.path), (":authority", control_plane.authority.as_str())];
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization));
        }
        if let Some((media_type, _)) = self.body {
            headers.push(("content-type", media_type));
        }
        let body = self.body.map(|(_, body)| body);
        let timeout = Duration::from_millis(self.timeout_ms);
        hostcalls::dispatch_http_call(&control_plane.cluster, headers, body, Vec::new(), timeout)
    }
}

/// The response to a call: the body of a 200 within `max_body`, else the status, 0 without a response.
pub(super) fn read_answer(headers: usize, body_size: usize, max_body: usize) -> Result<Vec<u8>, u32> {
    let status = if headers == 0 { 0 } else { response_status() };
    if status != 200 || body_size > max_body {
        return Err(status);
    }
    let body = hostcalls::get_buffer(BufferType::HttpCallResponseBody, 0, body_size).map_err(|_| status)?;
    Ok(body.unwrap_or_default())
}

/// Describes a status other than 200 for the log; 0 stands for no response.
pub(super) fn status_error(status: u32, cluster: &str) -> String {
    match status {
        0 => format!("no response, or no cluster {cluster}"),
        401 | 403 => format!("edge token rejected ({status})"),
        _ => format!("unexpected status {status}"),
    }
}

/// The `Retry-After` of the response, in seconds.
pub(super) fn retry_after_s() -> Option<u64> {
    response_header("retry-after")
}

/// The age of a page of the feed according to its sender; 0 from the control plane itself.
pub(super) fn feed_age() -> u64 {
    let field = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, FEED_AGE_HEADER).ok().flatten();
    feed_age_ms(field.as_deref())
}

fn response_status() -> u32 {
    response_header(":status").unwrap_or(0)
}

fn response_header<T: FromStr>(name: &str) -> Option<T> {
    let value = hostcalls::get_map_value_bytes(MapType::HttpCallResponseHeaders, name).ok().flatten()?;
    std::str::from_utf8(&value).ok()?.parse().ok()
}
