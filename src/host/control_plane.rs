//! Requests to the control plane, all with the same cluster and edge token, and their responses.

use crate::policy::ControlPlane;
use keyward_core::key::secret::Secret;
use keyward_core::wire::age::{FEED_AGE_HEADER, feed_age_ms};
use std::str::FromStr;

/// A request to the control plane.
pub(super) struct Call<'a> {
    pub(super) control_plane: &'a ControlPlane,
    pub(super) token: Option<&'a Secret>,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// The media type and the body, if any.
    pub(super) body: Option<(&'a str, &'a [u8])>,
    pub(super) timeout_ms: u64,
}

impl Call<'_> {
    /// Hands the header fields to `send`.
    pub(super) fn with_headers<T>(&self, send: impl FnOnce(&[(&str, &str)]) -> T) -> T {
        let authorization = self.token.map(|token| format!("Bearer {}", token.expose()));
        let mut headers =
            vec![(":method", self.method), (":path", self.path), (":authority", self.control_plane.authority.as_str())];
        if let Some(authorization) = &authorization {
            headers.push(("authorization", authorization));
        }
        if let Some((media_type, _)) = self.body {
            headers.push(("content-type", media_type));
        }
        send(&headers)
    }
}

/// The response to a call, as the host offers it.
pub(super) trait Response {
    /// Whether there is one; otherwise the call has failed.
    fn exists(&self) -> bool;

    /// The first value of a header field.
    fn header(&self, name: &str) -> Option<Vec<u8>>;

    /// The length of the body, in bytes.
    fn body_length(&self) -> usize;

    /// The body; `None` if it cannot be read.
    fn body(&self) -> Option<Vec<u8>>;
}

/// The body of a 200 within `max_body`, else the status, 0 without a response.
pub(super) fn read_answer(response: &impl Response, max_body: usize) -> Result<Vec<u8>, u32> {
    let status = if response.exists() { header(response, ":status").unwrap_or(0) } else { 0 };
    if status != 200 || response.body_length() > max_body {
        return Err(status);
    }
    response.body().ok_or(status)
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
pub(super) fn retry_after_s(response: &impl Response) -> Option<u64> {
    header(response, "retry-after")
}

/// The age of a page of the feed according to its sender; 0 from the control plane itself.
pub(super) fn feed_age(response: &impl Response) -> u64 {
    feed_age_ms(response.header(FEED_AGE_HEADER).as_deref())
}

fn header<T: FromStr>(response: &impl Response, name: &str) -> Option<T> {
    std::str::from_utf8(&response.header(name)?).ok()?.parse().ok()
}
