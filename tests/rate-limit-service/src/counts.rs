//! Counts in Redis: a log of admissions for each, so that in any span as long as the window no more than the limit is
//! admitted, whoever asks.
//!
//! Exact and simple rather than small: a count takes as much memory as its limit. One clock, that of Redis, is everybody's.

use keyward_core::key::limit::Limit;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{RedisError, Script};
use std::time::Duration;

/// How long an answer of Redis may take.
const ANSWER: Duration = Duration::from_secs(1);

/// The counts.
pub(crate) struct Counts {
    redis: ConnectionManager,
    admit: Script,
}

impl Counts {
    /// Those in a Redis, `redis://host:port`.
    ///
    /// # Errors
    /// When the URL is none, or nobody answers there.
    pub(crate) async fn open(url: &str) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new().set_response_timeout(Some(ANSWER)).set_number_of_retries(3);
        let redis = ConnectionManager::new_with_config(redis::Client::open(url)?, config).await?;
        Ok(Self { redis, admit: Script::new(include_str!("admit.lua")) })
    }

    /// Counts a request under all of these names, or under none and tells after how long there may be room.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub(crate) async fn admit(&self, hits: u32, counts: &[(String, Limit)]) -> Result<Option<Duration>, RedisError> {
        if counts.is_empty() {
            return Ok(None);
        }
        let mut call = self.admit.prepare_invoke();
        call.arg(hits);
        for (name, limit) in counts {
            call.key(name).arg(limit.requests()).arg(limit.window_ms().get() * 1000);
        }
        let wait_us: u64 = call.invoke_async(&mut self.redis.clone()).await?;
        Ok((wait_us > 0).then(|| Duration::from_micros(wait_us)))
    }
}
