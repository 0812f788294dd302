//! Reads the upstream's feed into the relay's database, for as long as the relay runs.

use super::upstream::{Answer, AskError, Upstream};
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

/// How long an answer may take beyond what it was asked to wait: where the relay waits for news, so that a lost answer is soon
/// asked for again; and where it reads what is long, or the last answer did not come in time.
const ANSWER_GRACE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// The shortest and the longest pause after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often those who are in a hurry may cut a poll short.
const HURRY_INTERVAL: Duration = Duration::from_millis(500);

/// Why nothing was taken.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Ask(#[from] AskError),
    #[error("it refuses the token ({0})")]
    Token(StatusCode),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Page(WrongPage),
    #[error("the page cannot be stored: {0}")]
    Store(#[from] store::Error),
}

/// One who follows.
struct Follower<'a> {
    store: &'a Store,
    upstream: &'a Upstream,
    upstream_status: &'a UpstreamStatus,
    clock: &'a Clock,
    standing: Standing,
    from_the_start: bool,
    /// Whether the last question had an answer in time.
    was_answered: bool,
}

/// Follows until it is dropped.
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
            Err(error) => tracing::error!(%error, "the relay's own state cannot be read; it is tried again"),
        }
        sleep(BACKOFF.1).await;
    };
    let mut follower =
        Follower { store, upstream, upstream_status, clock, standing, from_the_start: false, was_answered: false };
    let (mut last_failure, mut pause) = (None, BACKOFF.0);
    let (mut is_hurried, mut last_hurry) = (false, Instant::now());
    loop {
        // Where there is more, it comes at once; a relay that has to ask first whether what it has is still so needs the time.
        let wait = if is_hurried { Duration::ZERO } else { poll_wait };
        let asked = Instant::now();
        let answer = tokio::select! {
            answer = follower.ask(wait) => answer,
            () = hurried(upstream_status, last_hurry + HURRY_INTERVAL), if !wait.is_zero() => {
                (is_hurried, last_hurry) = (true, Instant::now());
                continue;
            }
        };
        is_hurried = false;
        follower.was_answered = answer.is_ok();
        let before = follower.standing.position;
        let outcome = match answer {
            Ok(answer) => follower.take(asked, &answer).await,
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(()) => {
                pause = BACKOFF.0;
                if last_failure.take().is_some() {
                    tracing::info!(upstream = upstream.url(), "the upstream's feed can be followed again");
                }
                // One that does not wait when it is asked to is not to be asked without a pause.
                if !wait.is_zero() && follower.standing.position == before {
                    sleep_until(asked + BACKOFF.0).await;
                }
            }
            Err(failure) => {
                upstream_status.fail(match failure {
                    Failure::Token(_) => Health::RefusesToken,
                    _ => Health::Fails,
                });
                let told = failure.to_string();
                if last_failure.as_ref() != Some(&told) {
                    let upstream = upstream.url();
                    tracing::warn!(
                        upstream,
                        failure = told,
                        "the upstream's feed cannot be followed; what was known serves on"
                    );
                }
                last_failure = Some(told);
                follower.recover(&failure).await;
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

    /// Asks for the next page. It can be cancelled.
    async fn ask(&self, wait: Duration) -> Result<Answer, AskError> {
        let path = format!("{FEED_PATH}?after={}&wait={}", self.position(), wait.as_secs());
        let is_short = self.was_answered && !self.from_the_start && self.standing.is_level();
        let grace = if is_short { ANSWER_GRACE.0 } else { ANSWER_GRACE.1 };
        self.upstream.get(&path, wait + grace, MAX_PAGE_BYTES).await
    }

    /// Takes what came.
    async fn take(&mut self, asked: Instant, answer: &Answer) -> Result<(), Failure> {
        let answered = Instant::now();
        match answer.status {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => return Err(Failure::Token(status)),
            status => return Err(Failure::Status(status)),
        }
        let current = Current::new(asked, answered, age(answer));
        let at = (self.clock)().minus(current.age(Instant::now()));
        let taken = self.store.take_page(self.position(), &answer.body, at).await;
        let standing = taken.map_err(|error| match error {
            ApplyError::Page(error) => Failure::Page(error),
            ApplyError::Store(error) => Failure::Store(error),
        })?;
        self.standing = standing;
        self.from_the_start = false;
        self.upstream_status.note(&standing, standing.is_level().then_some(current));
        Ok(())
    }

    /// Finds out where it stands after a failure, and how to go on.
    async fn recover(&mut self, failure: &Failure) {
        self.from_the_start |= match failure {
            // A position that the upstream cannot read will not become readable; what cannot be followed is begun anew.
            Failure::Status(status) => *status == StatusCode::BAD_REQUEST,
            Failure::Page(WrongPage::Unreadable(
                UnreadablePage::Damaged | UnreadablePage::UnknownVersion(_) | UnreadablePage::NotAPage,
            )) => false,
            // Of what differs, too.
            Failure::Page(_) => true,
            Failure::Ask(_) | Failure::Token(_) | Failure::Store(_) => false,
        };
        if let Failure::Store(_) = failure {
            // The commit may have been one.
            let found = async {
                let standing = self.store.standing().await?;
                self.store.republish().await?;
                Ok::<_, store::Error>(standing)
            };
            match found.await {
                Ok(standing) => self.standing = standing,
                Err(error) => tracing::warn!(%error, "the relay's own state cannot be read; it is tried again"),
            }
        }
    }
}

/// Waits for somebody in a hurry, and until it is time again for that.
async fn hurried(upstream_status: &UpstreamStatus, not_before: Instant) {
    upstream_status.hurried().await;
    sleep_until(not_before).await;
}

/// How old the answer is by the upstream's own account.
fn age(answer: &Answer) -> Duration {
    // Of several fields none is believed.
    let mut fields = answer.headers.get_all(FEED_AGE_HEADER).iter();
    match (fields.next(), fields.next()) {
        (field, None) => Duration::from_millis(feed_age_ms(field.map(|value| value.as_bytes()))),
        _ => Duration::MAX,
    }
}

/// Somewhere between half of it and all.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let drawn = random::number().unwrap_or(0) % u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
    half + Duration::from_millis(drawn)
}
