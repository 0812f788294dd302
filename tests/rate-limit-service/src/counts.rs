//! Counters in Redis: a log of admissions for each, so that any span as long as the window has at most the limit,
//! across all gateways.
//!
//! Exact and simple rather than compact: a counter takes as much memory as its limit. Redis's clock is the only one.

use keyward_core::key::limit::Limit;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{RedisError, Script};
use std::time::Duration;

/// The timeout of a Redis command.
const ANSWER: Duration = Duration::from_secs(1);

/// The counters in Redis.
pub(crate) struct Counts {
    redis: ConnectionManager,
    admit: Script,
}

impl Counts {
    /// Connects to Redis at `redis://host:port`.
    pub(crate) async fn open(url: &str) -> Result<Self, RedisError> {
        let config = ConnectionManagerConfig::new().set_response_timeout(Some(ANSWER)).set_number_of_retries(3);
        let redis = ConnectionManager::new_with_config(redis::Client::open(url)?, config).await?;
        Ok(Self { redis, admit: Script::new(include_str!("admit.lua")) })
    }

    /// Counts a request under all of these names, or under none and returns the time until there may be room.
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
