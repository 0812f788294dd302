//! What the filter and the control plane must agree on, written once: how a key is digested, whether it may do what it is
//! used for, what an entry of the feed looks like, how pages of it are framed, and what the dialects say.
//!
//! Nothing here does I/O, reads a clock or makes randomness: bytes and numbers come in, bytes and verdicts go out, so
//! the same code runs inside Envoy and in the control plane. The encoding is pinned by the golden files in
//! `core/tests/golden`.

pub mod authorize;
pub mod client_net;
pub mod dialect;
pub mod document;
pub mod key;
pub mod password_hash;
pub mod refusal;
pub mod wire;

/// The path of the feed on the control plane, relative to its root.
pub const FEED_PATH: &str = "/v1/edge/feed";

/// The path to which edges tell how keys are used, relative to the control plane's root.
pub const USAGE_PATH: &str = "/v1/edge/usage";

/// The media type of a feed page; its parameter is the version of the framing.
pub const FEED_MEDIA_TYPE: &str = "application/vnd.keyward.feed; version=2";

/// The longest page a control plane sends and an edge accepts, in bytes.
pub const MAX_PAGE_BYTES: usize = 1 << 20;

/// The longest a feed request may ask to wait, in seconds.
pub const MAX_WAIT_SECONDS: u32 = 60;
