//! The response to an allowed request, where it carries the limits of the key.

use crate::engine::credential::Header;
use crate::engine::upstream_headers::Change;
use crate::host::worker::Worker;
use crate::host::{Map, Stream};
use keyward_core::dialect::rate_limit_fields::Window;
use std::borrow::Cow;

impl Worker {
    /// Adds the key's windows to a response, in place of the upstream's own rate-limit fields. A response that Envoy does
    /// not allow to be changed is forwarded unchanged.
    pub(super) fn on_response_headers<S: Stream>(&self, stream: &S, headers: &[Header<'_>], windows: &[Window]) {
        let fields = self.config.policy.rate_limit_headers.on_allowed(windows);
        let of_upstream = |name: &str| headers.iter().any(|(theirs, _)| *theirs == name);
        let names = fields.iter().map(|(name, _)| *name);
        let replaced = names.filter(|name| of_upstream(name)).map(Change::Remove);
        let ours = fields.iter().map(|(name, value)| Change::Add(name, Cow::Borrowed(value.as_bytes())));
        let _ = stream.change(Map::ResponseHeaders, &replaced.chain(ours).collect::<Vec<_>>());
    }
}
