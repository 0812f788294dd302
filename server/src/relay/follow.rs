//! Replicates the upstream's feed into the relay's database.

use super::upstream::{RequestError, Response, Upstream};
use crate::clock::Clock;
use crate::feed::upstream_status::{Current, Health, UpstreamStatus};
use crate::random;
use crate::store::{self, ApplyError, Standing, Store, WrongPage};
use axum::http::StatusCode;
use keyward_core::wire::age::{FEED_AGE_HEADER, feed_age_ms};
use keyward_core::wire::cursor::Position;
use keyward_core::wire::page::UnreadablePage;
use keyward_core::{FEED_PATH, MAX_PAGE_BYTES};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a response may take beyond the wait of the poll, while the relay is level with its upstream, so that a lost response is
/// soon requested again.
const LEVEL_GRACE: Duration = Duration::from_secs(1);
/// The same while it catches up, or after a response was late.
const CATCH_UP_GRACE: Duration = Duration::from_secs(5);
/// The shortest and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// The minimum interval between polls that readers request.
const REQUESTED_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Why a poll failed.
#[derive(Debug, thiserror::Error)]
enum PollError {
    #[error("{0}")]
    Request(#[from] RequestError),
    #[error("token refused: status {0}")]
    Token(StatusCode),
    #[error("unexpected status {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Page(WrongPage),
    #[error("cannot store page: {0}")]
    Store(#[from] store::Error),
}

struct Follower<'a> {
    store: &'a Store,
    upstream: &'a Upstream,
    upstream_status: &'a UpstreamStatus,
    clock: &'a Clock,
    standing: Standing,
    from_the_start: bool,
    /// Whether the last poll was answered in time.
    was_answered: bool,
}

/// Replicates until the future is dropped.
pub(crate) async fn follow(
    store: &Store,
    upstream: &Upstream,
    upstream_status: &UpstreamStatus,
    clock: &Clock,
    poll_wait: Duration,
) {
    let standing = loop {
        match store.standing().await {
            Ok(standing) => break standing,
            Err(error) => tracing::error!(%error, "failed to read the relay's state; will retry"),
        }
        sleep(BACKOFF.1).await;
    };
    let mut follower =
        Follower { store, upstream, upstream_status, clock, standing, from_the_start: false, was_answered: false };
    let (mut last_error, mut pause) = (None, BACKOFF.0);
    let (mut is_requested, mut last_request) = (false, Instant::now());
    loop {
        // The upstream answers at once if there is more; otherwise it has the whole wait to check that nothing is new.
        let wait = if is_requested { Duration::ZERO } else { poll_wait };
        let sent = Instant::now();
        let response = tokio::select! {
            response = follower.poll(wait) => response,
            () = poll_requested(upstream_status, last_request + REQUESTED_POLL_INTERVAL), if !wait.is_zero() => {
                (is_requested, last_request) = (true, Instant::now());
                continue;
            }
        };
        is_requested = false;
        follower.was_answered = response.is_ok();
        let before = follower.standing.position;
        let polled = match response {
            Ok(response) => follower.store(sent, &response).await,
            Err(error) => Err(error.into()),
        };
        match polled {
            Ok(()) => {
                pause = BACKOFF.0;
                if last_error.take().is_some() {
                    tracing::info!(upstream = upstream.url(), "upstream feed recovered");
                }
                // An upstream that does not wait as requested is not polled without a pause.
                if !wait.is_zero() && follower.standing.position == before {
                    sleep_until(sent + BACKOFF.0).await;
                }
            }
            Err(error) => {
                upstream_status.fail(match error {
                    PollError::Token(_) => Health::TokenRefused,
                    _ => Health::Failing,
                });
                let text = error.to_string();
                if last_error.as_ref() != Some(&text) {
                    let upstream = upstream.url();
                    tracing::warn!(upstream, error = text, "upstream feed request failed; serving last state");
                }
                last_error = Some(text);
                follower.recover(&error).await;
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}

impl Follower<'_> {
    fn position(&self) -> Position {
        if self.from_the_start { Position::Nothing } else { self.standing.position }
    }

    /// Requests the next page. It can be cancelled.
    async fn poll(&self, wait: Duration) -> Result<Response, RequestError> {
        let path = format!("{FEED_PATH}?after={}&wait={}", self.position(), wait.as_secs());
        let is_short = self.was_answered && !self.from_the_start && self.standing.is_level();
        let grace = if is_short { LEVEL_GRACE } else { CATCH_UP_GRACE };
        self.upstream.get(&path, wait + grace, MAX_PAGE_BYTES).await
    }

    /// Stores the page of a response.
    async fn store(&mut self, sent: Instant, response: &Response) -> Result<(), PollError> {
        let received = Instant::now();
        match response.status {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => return Err(PollError::Token(status)),
            status => return Err(PollError::Status(status)),
        }
        let current = Current::new(sent, received, age(response));
        let at = (self.clock)().minus(current.age(Instant::now()));
        let stored = self.store.take_page(self.position(), &response.body, at).await;
        let standing = stored.map_err(|error| match error {
            ApplyError::Page(error) => PollError::Page(error),
            ApplyError::Store(error) => PollError::Store(error),
        })?;
        self.standing = standing;
        self.from_the_start = false;
        self.upstream_status.note(&standing, standing.is_level().then_some(current));
        Ok(())
    }

    /// Decides how to continue after a failed poll.
    async fn recover(&mut self, error: &PollError) {
        self.from_the_start |= match error {
            // A position that the upstream cannot read will not become readable: start with a snapshot.
            PollError::Status(status) => *status == StatusCode::BAD_REQUEST,
            PollError::Page(WrongPage::Unreadable(
                UnreadablePage::Damaged | UnreadablePage::UnknownVersion(_) | UnreadablePage::NotAPage,
            )) => false,
            // Also if the records differ.
            PollError::Page(_) => true,
            PollError::Request(_) | PollError::Token(_) | PollError::Store(_) => false,
        };
        if let PollError::Store(_) = error {
            // The commit may have succeeded.
            let read = async {
                let standing = self.store.standing().await?;
                self.store.republish().await?;
                Ok::<_, store::Error>(standing)
            };
            match read.await {
                Ok(standing) => self.standing = standing,
                Err(error) => tracing::warn!(%error, "failed to read the relay's state; will retry"),
            }
        }
    }
}

/// Waits for a requested poll, but not less than the interval since the last one.
async fn poll_requested(upstream_status: &UpstreamStatus, not_before: Instant) {
    upstream_status.poll_requested().await;
    sleep_until(not_before).await;
}

/// The age of the response, as the upstream says.
fn age(response: &Response) -> Duration {
    // Several fields are not trusted.
    let mut fields = response.headers.get_all(FEED_AGE_HEADER).iter();
    match (fields.next(), fields.next()) {
        (field, None) => Duration::from_millis(feed_age_ms(field.map(|value| value.as_bytes()))),
        _ => Duration::MAX,
    }
}

/// A random pause between half of it and all of it.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let drawn = random::number().unwrap_or(0) % u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_millis(drawn)
}
